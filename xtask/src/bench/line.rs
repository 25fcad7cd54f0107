//! `cargo xtask bench --line`: builds and runs chaos-agent's benchmark of the delay line's userspace engine, which prints
//! its own table and aims.

use anyhow::Result;

use super::Args;
use crate::cmd::Cmd;
use crate::paths;

/// Runs it; a missed aim is shown and is no error.
///
/// # Errors
/// When it does not build, or when the kernel refuses it a TAP.
pub(super) fn run(args: &Args) -> Result<()> {
    let bench = ["bench", "--package", "chaos-agent", "--bench", "line", "--"];
    let mut command = Cmd::cargo().args(bench).dir(paths::root()).arg("--busy").arg(args.busy.to_string());
    if let Some(file) = &args.json {
        command = command.arg("--json").arg(std::path::absolute(file)?);
    }
    command.interactive()
}
