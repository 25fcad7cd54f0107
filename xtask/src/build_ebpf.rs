//! `cargo xtask build-ebpf`.

use anyhow::{Result, bail};

/// What `cargo xtask build-ebpf` takes.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Args {}

/// Runs the verb.
///
/// # Errors
/// Always, until it is written.
pub fn run(_args: &Args) -> Result<()> {
    bail!("`cargo xtask build-ebpf` is not written yet");
}
