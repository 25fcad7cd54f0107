//! One boot: qemu without KVM. The kernel's messages go to a file; what the test program says comes on qemu's own stdout,
//! and behind it the program's exit code.

use std::fs;
use std::io::{BufRead as _, BufReader, Read};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};

use super::kernel::Kernel;
use crate::cmd::Cmd;
use crate::{interrupt, wait};

/// The emulator.
pub const QEMU: &str = "qemu-system-x86_64";

/// What `init.sh` says before the exit code.
const ENDED: &str = "the test program ended: ";

const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How many of the console's last lines a failure shows.
const TAIL: usize = 40;

/// The machine as a command, which ends when the machine is off. Its stdout is the test program's.
///
/// # Errors
/// When the kernel has no image.
pub fn machine(kernel: &Kernel, initramfs: &Path, console: &Path) -> Result<Cmd> {
    // A panic ends the machine, and so does an oops: neither is a state to go on testing in. What guards against others costs time.
    // Whether its timer ticks it is not to find out: where the host is busy and does not let it tick for a moment, it panics ("IO-APIC +
    // timer doesn't work", `timer_irq_works` of arch/x86/kernel/apic/io_apic.c).
    let line = "console=ttyS0 quiet oops=panic panic=-1 mitigations=off init_on_alloc=0 no_timer_check";
    // One processor, since machines run beside each other, and packets keep their order. A model without fast string instructions: where
    // there are any Linux copies and clears memory with them, and they are emulated byte by byte, which makes the verifier twice as slow.
    let qemu = ["-machine", "q35", "-accel", "tcg", "-cpu", "Nehalem", "-smp", "1", "-m", "2G"];
    let nothing_else = ["-nodefaults", "-display", "none", "-no-user-config", "-no-reboot", "-nic", "none"];
    // It dies with us, however we end.
    Ok(Cmd::new("setpriv")
        .args(["--pdeathsig", "TERM", QEMU])
        .args(qemu)
        .args(nothing_else)
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .args(["-chardev", "stdio,id=tests,signal=off", "-serial", "chardev:tests"])
        .arg("-kernel")
        .arg(kernel.image()?)
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", line]))
}

/// Boots, and waits until the machine is off; `look` sees each line that the program prints. Returns all that it printed.
///
/// # Errors
/// When the machine does not start, hangs, or ends before its program does, and when the program fails.
pub fn run(machine: &Cmd, console: &Path, limit: Duration, mut look: impl FnMut(&str)) -> Result<String> {
    let mut command = machine.command();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut child = command.spawn().with_context(|| format!("starting `{machine}`"))?;
    let (lines, printed) = mpsc::sync_channel(1024);
    let reader = child.stdout.take().map(|pipe| thread::spawn(move || tell(pipe, &lines)));
    let mut output = String::new();
    let mut take = |line: String| {
        look(&line);
        output.push_str(&line);
        output.push('\n');
    };
    let ended = wait::until("the machine to be off", limit, LOOK_EVERY, || {
        printed.try_iter().for_each(&mut take);
        child.try_wait().context("waiting for qemu")
    });
    if ended.is_err() {
        let _ = child.kill();
        let _ = child.wait();
    }
    // Until the reader has come to the end of the pipe.
    printed.iter().for_each(&mut take);
    let _ = reader.map(JoinHandle::join);
    interrupt::check()?;
    let ended = end_of_program(&output, ended, console)?;
    if !ended.success() {
        bail!("the program in the machine failed ({ended}):\n{output}");
    }
    Ok(output)
}

/// Sends on each line, until the pipe ends or nobody wants more.
fn tell(pipe: impl Read, lines: &mpsc::SyncSender<String>) {
    for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
        if lines.send(line).is_err() {
            return;
        }
    }
}

/// How the test program ended, out of all that came on the machine's stdout.
///
/// # Errors
/// When the machine ended (or hung) before its test program did: with the end of its console.
pub fn end_of_program(stdout: &str, machine: Result<ExitStatus>, console: &Path) -> Result<ExitStatus> {
    let code = stdout.lines().rev().find_map(|line| line.strip_prefix(ENDED)?.trim().parse::<u8>().ok());
    let shown = |error: anyhow::Error| {
        let said = fs::read(console).unwrap_or_default();
        error.context(format!("the kernel's last words:\n{}", tail(&String::from_utf8_lossy(&said))))
    };
    let ended = machine.map_err(shown)?;
    code.map(|code| ExitStatus::from_raw(i32::from(code) << 8))
        .with_context(|| format!("the machine ended ({ended}) before its test program"))
        .map_err(|error| shown(anyhow!("{error:#}")))
}

fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(stdout: &str, machine: Result<ExitStatus>) -> Result<ExitStatus> {
        let console = tempfile::NamedTempFile::new().unwrap();
        fs::write(console.path(), "booting\nKernel panic - not syncing\n").unwrap();
        end_of_program(stdout, machine, console.path())
    }

    #[test]
    fn the_exit_code_is_the_programs() {
        let ok = ExitStatus::from_raw(0);
        assert!(end("test result: ok.\r\nthe test program ended: 0\r\n", Ok(ok)).unwrap().success());
        assert_eq!(end("the test program ended: 101\n", Ok(ok)).unwrap().code(), Some(101));
    }

    #[test]
    fn what_a_program_prints_is_seen_while_it_runs_and_is_there_at_the_end() {
        let console = tempfile::NamedTempFile::new().unwrap();
        let boot = |script: &str| {
            let mut seen = Vec::new();
            let machine = Cmd::new("sh").args(["-c", script]);
            let limit = Duration::from_secs(20);
            (run(&machine, console.path(), limit, |line| seen.push(line.to_owned())), seen)
        };
        let (output, seen) = boot("echo half; echo whole; echo 'the test program ended: 0'");
        assert_eq!(seen[..2], ["half", "whole"]);
        assert!(output.unwrap().starts_with("half\nwhole\n"));
        let failed = boot("echo why; echo 'the test program ended: 7'").0.unwrap_err();
        assert!(format!("{failed:#}").contains("why"), "{failed:#}");
    }

    #[test]
    fn a_machine_that_dies_or_hangs_shows_its_console() {
        let dead = end("running 3 tests\n", Ok(ExitStatus::from_raw(0)));
        let hung = end("test result: ok.\nthe test program ended: 0\n", Err(anyhow!("not within 5 s")));
        for (failed, why) in [(dead, "before its test program"), (hung, "not within 5 s")] {
            let said = format!("{:#}", failed.unwrap_err());
            assert!(said.contains("Kernel panic") && said.contains(why), "{said}");
        }
    }
}
