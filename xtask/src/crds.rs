//! `cargo xtask crds`.

use anyhow::{Result, bail};

/// What `cargo xtask crds` takes.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Args {}

/// Runs the verb.
///
/// # Errors
/// Always, until it is written.
pub fn run(_args: &Args) -> Result<()> {
    bail!("`cargo xtask crds` is not written yet");
}
