//! `cargo xtask images`.

use anyhow::{Result, bail};

/// What `cargo xtask images` takes.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Args {}

/// Runs the verb.
///
/// # Errors
/// Always, until it is written.
pub fn run(_args: &Args) -> Result<()> {
    bail!("`cargo xtask images` is not written yet");
}
