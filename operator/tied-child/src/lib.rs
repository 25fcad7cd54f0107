//! Programs that end with whoever started them, for tests, benchmarks and tools: a killed one cleans nothing up, and what it had started
//! would go on.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::errno::Errno;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};

/// Ties what a command starts to the thread that starts it.
pub trait Tie {
    /// The program gets this signal when the *thread* that started it ends (`PR_SET_PDEATHSIG` of prctl(2)), so start it from one that
    /// lives as long as the program shall. To be called by the process that starts the program: one that is gone before the program
    /// asked to be told starts none, since no signal would come any more. Starting fails with `ESRCH` then, which nobody is left to read.
    fn tie(&mut self, signal: Signal) -> &mut Self;
}

impl Tie for Command {
    fn tie(&mut self, signal: Signal) -> &mut Self {
        let starter = Pid::this();
        // SAFETY: prctl and getppid are async-signal-safe, and the closure touches nothing of this process.
        unsafe { self.pre_exec(move || tie_to(starter, signal)) }
    }
}

/// Ties this process to `starter`, or ends in an error when that is not what started it, or not any more.
fn tie_to(starter: Pid, signal: Signal) -> io::Result<()> {
    set_pdeathsig(signal)?;
    if getppid() == starter { Ok(()) } else { Err(Errno::ESRCH.into()) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::thread;

    use super::*;

    #[test]
    fn a_program_ends_when_the_thread_that_started_it_is_gone() {
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            let start = move || Command::new("sleep").arg("600").tie(signal).spawn().unwrap();
            let ended = thread::spawn(start).join().unwrap().wait().unwrap();
            assert_eq!(ended.signal(), Some(signal as i32));
        }
    }

    #[test]
    fn a_program_does_not_begin_when_its_starter_is_gone_before_it() {
        let started_by = |pid| {
            let mut command = Command::new("true");
            // SAFETY: as in `Tie::tie`.
            unsafe { command.pre_exec(move || tie_to(pid, Signal::SIGTERM)) }.status()
        };
        assert!(started_by(Pid::this()).unwrap().success());
        let gone = started_by(Pid::from_raw(i32::MAX)).unwrap_err();
        assert_eq!(gone.raw_os_error(), Some(Errno::ESRCH as i32));
    }
}
