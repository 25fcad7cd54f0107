//! `cargo xtask images`.

use anyhow::Result;

use crate::binaries::{self, Module};

/// What `cargo xtask images` takes.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Args {}

/// Runs the verb.
///
/// # Errors
/// When a build fails.
pub fn run(_args: &Args) -> Result<()> {
    for module in [Module::Node, Module::Kubernetes, Module::Coredns, Module::Prometheus] {
        binaries::ensure(module)?;
    }
    Ok(())
}
