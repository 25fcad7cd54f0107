//! The benchmark in a machine in qemu whose clock counts instructions: a nanosecond each, and none while nothing runs. So two
//! ways to do the same to a packet are compared without noise, whatever else this machine does.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use fault_rig::figures::Report;

use crate::progress::Step;
use crate::vm::initramfs::{self, Job};
use crate::vm::{self, boot, kernel};

/// One instruction is 2^0 ns, and the clock jumps over idle times instead of waiting.
const COUNTING: [&str; 2] = ["-icount", "shift=0,align=off,sleep=off"];

/// A machine that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(30 * 60);

/// Runs the program's part for machines under the newest kernel of apt's sources.
///
/// # Errors
/// When a tool or a kernel is missing and cannot be fetched; when the program fails, with what it said.
pub(super) fn run(program: &Path, engine: &str, rounds: u32) -> Result<Report> {
    vm::ensure_tools()?;
    let offer = kernel::offered()?.pop().context("apt's sources offer no kernel")?;
    let kernel = kernel::ensure(&offer)?;
    let folder = tempfile::tempdir().context("making a folder for a machine")?;
    let (packed, console) = (folder.path().join("initramfs"), folder.path().join("console"));
    let mut step = Step::start(format!("counting instructions under {}", kernel.release));
    let rounds = rounds.to_string();
    let arguments = ["machine", "--engine", engine, "--rounds", &rounds];
    let others: [PathBuf; 0] = [];
    let job = Job { program, arguments: &arguments, environment: &[], others: &others, called: &[] };
    initramfs::write(&packed, &kernel, &job)?;
    let machine = boot::machine(&kernel, &packed, &console)?.args(COUNTING);
    let output = boot::run(&machine, &console, LIMIT, |line| step.note(line))?;
    step.done("");
    let shown = || format!("the figures in\n{output}");
    Report::in_output(&output).with_context(shown)?.with_context(shown)
}
