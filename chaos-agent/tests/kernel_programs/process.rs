//! A program inside a namespace, and what it said.

use std::fmt;
use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::space::Namespace;
use crate::support::time::{Beat, boot_ns, ms_here};

/// How long a program may run, in milliseconds of a real machine: all of them end by themselves long before.
const LIMIT: u64 = 45_000;

/// How a program ended.
pub(crate) struct Ran {
    line: String,
    /// Its exit code; none: a signal ended it.
    pub(crate) code: Option<i32>,
    /// How long it ran.
    pub(crate) took: Duration,
    /// What it said.
    pub(crate) stdout: String,
    stderr: String,
}

impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, code, took, stdout, stderr } = self;
        write!(f, "`{line}` ended with {code:?} after {took:?}\n{stdout}{stderr}")
    }
}

/// A program that runs; dropping it kills it, and so does the end of this thread.
pub(crate) struct Running {
    line: String,
    process: Child,
    from_ns: u64,
    took: Option<Duration>,
}

impl Running {
    /// Starts it.
    pub(crate) fn start(space: &Namespace, program: &str, arguments: &[&str]) -> Self {
        // Not by `pre_exec`, which forks: that copies the tables of this whole process, while the delay line's thread waits for any
        // page that it writes to.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", program]).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A process begins in the namespace of the thread that starts it, and ends with that thread: not with one of `run`.
        let _inside = space.enter();
        let from_ns = boot_ns();
        let process = command.spawn().expect("util-linux is needed");
        Self { line: format!("{program} {}", arguments.join(" ")), process, from_ns, took: None }
    }

    /// Whether it has ended; to be asked often, since it notes when.
    fn has_ended(&mut self) -> bool {
        if self.took.is_none() && self.process.try_wait().unwrap().is_some() {
            self.took = Some(Duration::from_nanos(boot_ns() - self.from_ns));
        }
        self.took.is_some()
    }

    fn ran(mut self) -> Ran {
        let code = self.process.wait().unwrap().code();
        let [mut stdout, mut stderr] = [String::new(), String::new()];
        self.process.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
        self.process.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        let took = self.took.unwrap_or_default();
        Ran { line: std::mem::take(&mut self.line), code, took, stdout, stderr }
    }
}

/// Waits for the end of all of them. (What these programs say fits into a pipe.)
pub(crate) fn end_all(mut running: Vec<Running>) -> Vec<Ran> {
    let (end, mut beat) = (boot_ns() + ms_here(LIMIT), Beat::new(Duration::from_millis(1)));
    // Each is asked each time.
    while running.iter_mut().map(Running::has_ended).filter(|ended| !ended).count() > 0 {
        if boot_ns() > end {
            running.iter_mut().for_each(|running| running.process.kill().unwrap());
            let all = running.into_iter().map(|running| running.ran().to_string());
            panic!("not all end in time:\n{}", all.collect::<String>());
        }
        beat.wait();
    }
    running.into_iter().map(Running::ran).collect()
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
