//! `cargo xtask check`.

use anyhow::{Result, bail};

/// What `cargo xtask check` takes.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Args {}

/// Runs the verb.
///
/// # Errors
/// Always, until it is written.
pub fn run(_args: &Args) -> Result<()> {
    bail!("`cargo xtask check` is not written yet");
}
