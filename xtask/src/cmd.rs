//! Running other programs: one that fails is named with its arguments and the end of what it said, and one that
//! takes long shows what it does.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use tied_child::Tie as _;

use crate::progress::Step;

/// How many lines of a failed program's output an error shows.
const TAIL: usize = 25;

/// A program to run.
#[derive(Clone, Debug)]
pub struct Cmd {
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, Option<OsString>)>,
    dir: Option<PathBuf>,
    step: Option<String>,
}

impl Cmd {
    /// `program` is looked up on PATH unless it has a slash.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self { program: program.as_ref().into(), args: Vec::new(), env: Vec::new(), dir: None, step: None }
    }

    /// The cargo that runs us.
    #[must_use]
    pub fn cargo() -> Self {
        Self::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().into()));
        self
    }

    /// Sets a variable of the program's environment.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().into(), Some(value.as_ref().into())));
        self
    }

    /// Removes a variable of the program's environment.
    #[must_use]
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().into(), None));
        self
    }

    /// Runs in this folder.
    #[must_use]
    pub fn dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.dir = Some(dir.as_ref().into());
        self
    }

    /// Gives it only the processor time that nobody else wants; without the program `chrt` it is one among the others.
    #[must_use]
    pub fn in_idle_time(self) -> Self {
        if !Self::new("chrt").arg("--version").succeeds() {
            return self;
        }
        let own = std::iter::once(self.program).chain(self.args).collect();
        let args = [vec!["--idle".into(), "0".into()], own].concat();
        Self { program: "chrt".into(), args, ..self }
    }

    /// Shows progress under this name; each line that the program prints becomes the note beside it.
    #[must_use]
    pub fn step(mut self, name: impl Into<String>) -> Self {
        self.step = Some(name.into());
        self
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// When it cannot be started or fails; the error has its arguments and the end of its output.
    pub fn run(&self) -> Result<()> {
        let mut step = self.step.as_ref().map(Step::start);
        self.lines(|line| {
            if let Some(step) = &mut step {
                step.note(line);
            }
        })?;
        if let Some(step) = step {
            step.done("");
        }
        Ok(())
    }

    /// Runs to the end and hands each line of its stderr to `seen` while it runs.
    ///
    /// # Errors
    /// As [`Cmd::run`].
    pub fn lines(&self, mut seen: impl FnMut(&str)) -> Result<()> {
        let mut child = self.spawn(Stdio::piped(), Stdio::piped())?;
        let out = child.stdout.take().map(|pipe| thread::spawn(move || tail_of(pipe, |_| {})));
        let errors = child.stderr.take().map(|pipe| tail_of(pipe, &mut seen)).unwrap_or_default();
        let output = out.and_then(|reader| reader.join().ok()).unwrap_or_default();
        let status = child.wait().with_context(|| format!("waiting for `{self}`"))?;
        self.checked(status, output.into_iter().chain(errors))
    }

    /// Runs to the end with this process's own stdin, stdout and stderr.
    ///
    /// # Errors
    /// When it cannot be started or fails.
    pub fn interactive(&self) -> Result<()> {
        let mut child = self.spawn(Stdio::inherit(), Stdio::inherit())?;
        let status = child.wait().with_context(|| format!("waiting for `{self}`"))?;
        self.checked(status, [])
    }

    /// Runs to the end and returns what it printed on stdout, without the last line feed.
    ///
    /// # Errors
    /// As [`Cmd::run`].
    pub fn read(&self) -> Result<String> {
        let output = self.command().stdin(Stdio::null()).output().with_context(|| self.not_started())?;
        let errors = String::from_utf8_lossy(&output.stderr);
        self.checked(output.status, errors.lines().map(str::to_owned))?;
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.truncate(text.trim_end().len());
        Ok(text)
    }

    /// Whether it can be started and ends well; says nothing.
    #[must_use]
    pub fn succeeds(&self) -> bool {
        let quiet = self.command().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        quiet.is_ok_and(|status| status.success())
    }

    /// The standard library's form, for callers that need more than this module offers.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args);
        for name in std::env::vars_os().map(|(name, _)| name).filter(|name| speaks_of_a_package(name)) {
            command.env_remove(name);
        }
        for (name, value) in &self.env {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        command
    }

    fn spawn(&self, stdout: Stdio, stderr: Stdio) -> Result<Child> {
        let mut command = self.command();
        // Nobody waits for it when this is killed. (The thread that starts it is the one that waits.)
        command.stdout(stdout).stderr(stderr).tie(Signal::SIGTERM);
        command.spawn().with_context(|| self.not_started())
    }

    fn not_started(&self) -> String {
        match &self.dir {
            Some(dir) if !dir.is_dir() => {
                format!("`{self}` cannot be started: the folder {} is not there", dir.display())
            }
            _ => format!("`{self}` cannot be started; is {} installed?", self.program.to_string_lossy()),
        }
    }

    fn checked(&self, status: ExitStatus, output: impl IntoIterator<Item = String>) -> Result<()> {
        if status.success() {
            return Ok(());
        }
        let mut tail = VecDeque::with_capacity(TAIL);
        for line in output {
            keep(&mut tail, line);
        }
        let said = Vec::from(tail).join("\n  ");
        bail!("`{self}` failed ({status}){}{said}", if said.is_empty() { "" } else { ":\n  " })
    }
}

impl std::fmt::Display for Cmd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.program.to_string_lossy())?;
        for arg in &self.args {
            let arg = arg.to_string_lossy();
            if arg.is_empty() || arg.contains(char::is_whitespace) {
                write!(f, " '{arg}'")?;
            } else {
                write!(f, " {arg}")?;
            }
        }
        Ok(())
    }
}

fn tail_of(pipe: impl Read, mut seen: impl FnMut(&str)) -> Vec<String> {
    let mut tail = VecDeque::with_capacity(TAIL);
    for line in BufReader::new(pipe).split(b'\n') {
        let Ok(line) = line else { break };
        let line = String::from_utf8_lossy(&line).into_owned();
        seen(&line);
        keep(&mut tail, line);
    }
    tail.into()
}

/// Whether cargo sets this variable to describe the package that it runs (`cargo xtask`, a test). Handed on to another
/// cargo, it would make build scripts that read it (ring's does) run again, and all that depends on them be built again.
fn speaks_of_a_package(variable: &OsStr) -> bool {
    let name = variable.to_string_lossy();
    name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
}

fn keep(tail: &mut VecDeque<String>, line: String) {
    if tail.len() == TAIL {
        tail.pop_front();
    }
    tail.push_back(line);
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    #[test]
    fn a_failing_program_is_named_with_its_arguments_and_the_end_of_its_output() {
        let failed = Cmd::new("sh").args(["-c", "echo one; echo two words >&2; exit 3"]).run().unwrap_err();
        let text = format!("{failed:#}");
        for part in ["sh -c", "exit status: 3", "one", "two words"] {
            assert!(text.contains(part), "{part} is missing in: {text}");
        }
    }

    #[test]
    fn a_program_ends_when_the_thread_that_waits_for_it_is_gone() {
        let start = || Cmd::new("sleep").arg("600").spawn(Stdio::null(), Stdio::null()).unwrap();
        let ended = thread::spawn(start).join().unwrap().wait().unwrap();
        assert_eq!(ended.signal(), Some(Signal::SIGTERM as i32));
    }

    #[test]
    fn a_missing_program_is_named() {
        let failed = Cmd::new("no-such-program").arg("x").read().unwrap_err();
        assert!(format!("{failed:#}").contains("is no-such-program installed?"));
    }

    #[test]
    fn a_missing_folder_is_named_and_the_program_is_not_blamed() {
        let failed = Cmd::new("sh").dir("/no/such/folder").run().unwrap_err();
        assert!(format!("{failed:#}").contains("the folder /no/such/folder is not there"), "{failed:#}");
    }

    #[test]
    fn a_program_in_idle_time_is_scheduled_behind_all_others_and_is_otherwise_the_same() {
        // proc_pid_stat(5): the policy is field 41, and the name, which ends with a bracket, is field 2; SCHED_IDLE is 5.
        let script = "cat /proc/self/stat; echo $0 $EDGE_SAID";
        let cmd = Cmd::new("sh").args(["-c", script, "an argument"]).env("EDGE_SAID", "yes").in_idle_time();
        let said = cmd.read().unwrap();
        let (stat, words) = said.split_once('\n').unwrap();
        assert_eq!(words, "an argument yes");
        let policy = stat.rsplit(") ").next().unwrap().split(' ').nth(38);
        let has_chrt = Cmd::new("chrt").arg("--version").succeeds();
        assert_eq!(policy, Some(if has_chrt { "5" } else { "0" }), "{stat}");
    }

    #[test]
    fn a_program_does_not_learn_which_package_cargo_runs() {
        for handed_on in ["PATH", "CARGO", "CARGO_HOME", "CARGO_TARGET_DIR"] {
            assert!(!speaks_of_a_package(OsStr::new(handed_on)), "{handed_on}");
        }
        for kept_back in ["CARGO_PKG_NAME", "CARGO_PKG_VERSION_MAJOR", "CARGO_MANIFEST_DIR"] {
            assert!(speaks_of_a_package(OsStr::new(kept_back)), "{kept_back}");
        }
        let name = "CARGO_PKG_NAME";
        let seen = Cmd::new("sh").args(["-c", &format!("echo ${name}")]).read().unwrap();
        assert_eq!(seen, "");
    }

    #[test]
    fn the_output_comes_without_the_last_line_feed() {
        assert_eq!(Cmd::new("echo").arg("a b").read().unwrap(), "a b");
    }
}
