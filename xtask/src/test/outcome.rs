//! What a test program said: real counts, out of its own closing line.

use std::fmt;
use std::io::{BufRead as _, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::program::Program;
use super::rung::Rung;
use super::why;
use crate::cmd::Cmd;
use crate::{interrupt, progress, wait};

const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long an interrupted test program may clean up: the removal of a cluster takes seconds, on a busy machine more.
const GRACE: Duration = Duration::from_secs(90);

/// How its tests ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Tests that passed.
    pub(super) passed: usize,
    /// Tests that failed; a program that crashed or hung counts as one more.
    pub(super) failed: usize,
    /// Tests that were not run, with the reason they give.
    pub(super) ignored: Vec<(String, String)>,
    /// Those that failed, as far as the program told in a line of its own.
    pub(super) failures: Vec<Failure>,
    /// Programs that broke off, before their tests or among them, and why.
    pub(super) broken: Vec<String>,
    /// Those that passed only when they ran again.
    pub(super) again: Vec<String>,
}

/// A test that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// Its name.
    pub(super) name: String,
    /// When the test before it ended; where tests run one at a time, it began then.
    pub(super) from: Instant,
    /// When it ended.
    pub(super) to: Instant,
    /// Whose test it is, and why it failed, as far as the program told.
    pub(super) why: String,
}

impl Outcome {
    /// Adds another program's.
    pub(super) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored.extend(other.ignored);
        self.failures.extend(other.failures);
        self.broken.extend(other.broken);
        self.again.extend(other.again);
    }

    /// What failed, a text for each.
    pub(super) fn why(&self) -> impl Iterator<Item = String> {
        let tests = self.failures.iter().map(|failure| failure.why.clone());
        tests.chain(self.broken.iter().cloned())
    }

    /// These tests of those that failed were run again, with this outcome: each of them, or the first outcome stands.
    pub(super) fn corrected(mut self, names: Vec<String>, again: Self) -> Self {
        if again.passed + again.failed != names.len() || again.failures.len() != again.failed {
            return self;
        }
        self.passed += again.passed;
        self.failed -= again.passed;
        let failed = |name: &String| again.failures.iter().any(|failure| failure.name == *name);
        self.failures.retain(|failure| !names.contains(&failure.name));
        self.again.extend(names.into_iter().filter(|name| !failed(name)));
        self.failures.extend(again.failures);
        self
    }

    /// Forgets ignored tests that another rung runs and counts.
    pub(super) fn seen_in(mut self, rung: Rung, program: &Program) -> Self {
        if rung == Rung::Pure && Rung::claims(program) {
            self.ignored.clear();
        }
        self
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.ignored.is_empty() { Ok(()) } else { write!(f, ", {} skipped", self.ignored.len()) }
    }
}

/// What a line begins with that a test prints for people although it passed.
const TOLD: &str = "told: ";

/// Runs a test program (or cargo running several) and counts; when something fails its whole output is shown.
///
/// # Errors
/// When it cannot be started.
pub(super) fn of_process(command: &Cmd, name: &str, limit: Duration) -> Result<Outcome> {
    of(command, name, limit, |_| {}, |_, ended| ended)
}

/// As [`of_process`], for a program in a machine: `look` is told again and again how many tests are through, and `end` finds how
/// the program ended, out of what was printed and the end of the process.
///
/// # Errors
/// When it cannot be started.
pub(super) fn of(
    command: &Cmd,
    name: &str,
    limit: Duration,
    mut look: impl FnMut(usize),
    end: impl FnOnce(&str, Result<ExitStatus>) -> Result<ExitStatus>,
) -> Result<Outcome> {
    let mut process = command.command();
    process.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // A group of its own: Ctrl-C reaches it once, from us, and what it started with it.
    process.process_group(0);
    let mut child = process.spawn().with_context(|| format!("starting `{command}`"))?;
    let through = Arc::new(AtomicUsize::new(0));
    let stdout = child.stdout.take().map(|pipe| collect_tests(pipe, Arc::clone(&through)));
    let stderr = child.stderr.take().map(collect);
    let ended = end_of(&mut child, name, limit, || look(through.load(Ordering::Relaxed)));
    let (stdout, mut failures) = stdout.and_then(|reader| reader.join().ok()).unwrap_or_default();
    let stderr = stderr.and_then(|reader| reader.join().ok()).unwrap_or_default();
    let (mut outcome, trouble) = judge(&stdout, end(&stdout, ended));
    for failure in &mut failures {
        failure.why = format!("{name}: {}:{}", failure.name, why::of_test(&stdout, &failure.name));
    }
    outcome.failures = failures;
    if outcome.failed > 0 {
        outcome.broken.extend(trouble.iter().map(|trouble| format!("{name}: {trouble}")));
        let trouble = trouble.unwrap_or_else(|| format!("{} failed", outcome.failed));
        progress::beside(|| eprintln!("--- {name}: {trouble}\n{stderr}\n{stdout}\n--- end of {name}"));
    } else {
        progress::beside(|| told(&stdout).for_each(|line| println!("  {line}")));
    }
    Ok(outcome)
}

/// What tests that passed want people to know.
fn told(stdout: &str) -> impl Iterator<Item = &str> {
    stdout.lines().filter_map(|line| line.strip_prefix(TOLD))
}

/// Reads a pipe to its end, beside whatever else happens.
pub(super) fn collect(mut pipe: impl Read + Send + 'static) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// As [`collect`], and counts lines about tests, each of which is written to its end when the test is through. One that failed is
/// shown at once: the others may take long.
fn collect_tests(
    pipe: impl Read + Send + 'static,
    through: Arc<AtomicUsize>,
) -> JoinHandle<(String, Vec<Failure>)> {
    thread::spawn(move || {
        let (mut text, mut failures, mut from) = (String::new(), Vec::new(), Instant::now());
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            text.push_str(&String::from_utf8_lossy(&line));
            text.push('\n');
            if line.starts_with(b"test ") {
                through.fetch_add(1, Ordering::Relaxed);
                let to = Instant::now();
                let line = String::from_utf8_lossy(line.trim_ascii_end());
                let failed = line.strip_prefix("test ").and_then(|line| line.strip_suffix(" ... FAILED"));
                if let Some(name) = failed {
                    progress::beside(|| eprintln!("{line}"));
                    failures.push(Failure { name: name.to_owned(), from, to, why: String::new() });
                }
                from = to;
            }
        }
        (text, failures)
    })
}

/// Waits for its end; a program that hangs, or that Ctrl-C ends, is interrupted, may clean up, and is killed after that.
///
/// # Errors
/// When it did not end by itself.
pub(super) fn end_of(
    child: &mut Child,
    name: &str,
    limit: Duration,
    mut look: impl FnMut(),
) -> Result<ExitStatus> {
    let waited = wait::until(&format!("{name} to end"), limit, LOOK_EVERY, || {
        look();
        child.try_wait().context("waiting for a test program")
    });
    if waited.is_err() {
        let group = Pid::from_raw(i32::try_from(child.id()).context("a process number")?);
        // One that ended meanwhile is what is wanted.
        let _ = killpg(group, Signal::SIGTERM);
        let cleaned = wait::until_done(&format!("{name} to clean up"), GRACE, LOOK_EVERY, || {
            child.try_wait().context("waiting for a test program")
        });
        if cleaned.is_err() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
    interrupt::check().and(waited)
}

/// The counts, and what is wrong with the program itself, in one line.
fn judge(stdout: &str, ended: Result<ExitStatus>) -> (Outcome, Option<String>) {
    let mut outcome = count(stdout);
    let trouble = match ended {
        Err(error) => Some(format!("{error:#}")),
        Ok(status) if !stdout.contains("test result:") && !status.success() => {
            Some(format!("it ended ({status}) before its tests did"))
        }
        Ok(status) if !status.success() && outcome.failed == 0 => Some(format!("it ended badly ({status})")),
        Ok(_) => None,
    };
    if trouble.is_some() {
        outcome.failed += 1;
    }
    (outcome, trouble)
}

fn count(stdout: &str) -> Outcome {
    let mut outcome = Outcome::default();
    let mut not_run = 0;
    for line in stdout.lines() {
        // With one thread at a time a test's own output can stand before this on its line.
        if let Some((_, result)) = line.split_once("test result: ") {
            outcome.passed += number_before(result, " passed");
            outcome.failed += number_before(result, " failed");
            not_run += number_before(result, " ignored");
        } else if let Some((test, reason)) =
            line.strip_prefix("test ").and_then(|line| line.split_once(" ... ignored"))
        {
            let reason = reason.trim_start_matches(", ");
            let reason = if reason.is_empty() { "it says no reason" } else { reason };
            outcome.ignored.push((test.to_owned(), reason.to_owned()));
        }
    }
    // The closing line counts; what it counts and no line named is not lost.
    while outcome.ignored.len() < not_run {
        outcome.ignored.push(("a test".to_owned(), "it says no reason".to_owned()));
    }
    outcome
}

fn number_before(text: &str, word: &str) -> usize {
    let before = text.split_once(word).map_or("", |(before, _)| before);
    before.rsplit(|c: char| !c.is_ascii_digit()).next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\nrunning 4 tests\n\
        test decide::a_lost_packet_is_counted ... ok\n\
        test netns::a_packet_is_lost ... ignored, kernel rung: needs root\n\
        test later ... ignored\n\
        test report ... FAILED\n\n\
        test result: FAILED. 1 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.01s\n";

    fn ran(script: &str) -> Outcome {
        let command = Cmd::new("sh").args(["-c", script]);
        of_process(&command, "a script", Duration::from_secs(20)).unwrap()
    }

    #[test]
    fn the_counts_are_those_of_the_closing_line() {
        let outcome = count(OUTPUT);
        assert_eq!((outcome.passed, outcome.failed), (1, 1));
        let reasons: Vec<_> = outcome.ignored.iter().map(|(_, reason)| reason.as_str()).collect();
        assert_eq!(reasons, ["kernel rung: needs root", "it says no reason"]);
    }

    #[test]
    fn those_that_failed_are_named_and_may_pass_when_they_run_again_if_each_of_them_does_run() {
        let said = "test a ... FAILED\ntest b::c ... FAILED\ntest d ... ok\n";
        let result = "test result: FAILED. 1 passed; 2 failed; 0 ignored";
        let first = ran(&format!("printf '{said}{result}\n'; exit 101"));
        let names: Vec<_> = first.failures.iter().map(|failure| failure.name.clone()).collect();
        assert_eq!(names, ["a", "b::c"]);
        assert!(first.failures.iter().all(|failure| failure.from <= failure.to));
        let failures = vec![first.failures[0].clone()];
        let one_failed = Outcome { passed: 1, failed: 1, failures, ..Outcome::default() };
        let both = first.clone().corrected(names.clone(), one_failed);
        let left: Vec<_> = both.failures.iter().map(|failure| failure.name.as_str()).collect();
        assert_eq!((both.passed, both.failed, left, both.again), (2, 1, vec!["a"], vec!["b::c".to_owned()]));
        for incomplete in [Outcome::default(), Outcome { passed: 1, ..Outcome::default() }] {
            assert_eq!(first.clone().corrected(names.clone(), incomplete), first);
        }
    }

    #[test]
    fn several_closing_lines_add_up() {
        let outcome = count(&OUTPUT.repeat(3));
        assert_eq!((outcome.passed, outcome.failed, outcome.ignored.len()), (3, 3, 6));
    }

    #[test]
    fn a_program_that_dies_before_its_closing_line_has_failed() {
        assert_eq!(ran("echo 'test one ... ok'; kill -SEGV $$").failed, 1);
    }

    #[test]
    fn who_waits_sees_how_many_tests_are_through() {
        let folder = tempfile::tempdir().unwrap();
        let seen = folder.path().join("seen");
        let tests = "echo 'running 2 tests'; echo 'test a ... ok'; echo 'test b ... ok'";
        let script = format!("{tests}; until [ -e {} ]; do :; done", seen.display());
        let look = |through| {
            if through == 2 {
                std::fs::write(&seen, "").unwrap();
            }
        };
        let command = Cmd::new("sh").args(["-c", &script]);
        of(&command, "a script", GRACE, look, |_, ended| ended).unwrap();
        assert!(seen.exists());
    }

    #[test]
    fn a_program_that_hangs_is_killed_and_has_failed() {
        let command = Cmd::new("sleep").arg("600");
        let outcome = of_process(&command, "a sleeper", Duration::from_millis(50)).unwrap();
        assert_eq!(outcome.failed, 1);
    }

    #[test]
    fn a_program_that_hangs_may_clean_up_before_it_is_killed() {
        let folder = tempfile::tempdir().unwrap();
        let (ready, cleaned) = (folder.path().join("ready"), folder.path().join("cleaned"));
        let script = format!(
            "trap 'echo > {}; exit 1' TERM; echo > {}; while :; do :; done",
            cleaned.display(),
            ready.display()
        );
        let mut child = Cmd::new("sh").args(["-c", &script]).command();
        let mut child = child.process_group(0).spawn().unwrap();
        wait::until("its start", GRACE, LOOK_EVERY, || Ok(ready.exists().then_some(()))).unwrap();
        end_of(&mut child, "a script", Duration::ZERO, || {}).unwrap_err();
        assert!(cleaned.exists());
    }

    #[test]
    fn a_program_that_ends_well_has_what_it_counted() {
        let outcome =
            ran("echo 'test result: ok. 7 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out'");
        assert_eq!(outcome, Outcome { passed: 7, ..Outcome::default() });
    }

    #[test]
    fn a_bad_end_after_good_tests_has_failed() {
        let outcome = ran("echo 'test result: ok. 7 passed; 0 failed; 0 ignored'; exit 3");
        assert_eq!((outcome.passed, outcome.failed), (7, 1));
    }

    #[test]
    fn what_tests_that_passed_tell_is_shown_and_nothing_else_that_they_print() {
        let said = "test a ... ok\n\nsuccesses:\n\n---- a stdout ----\nabout told: no\ntold: 7 points, 0 violations\n";
        assert_eq!(told(said).collect::<Vec<_>>(), ["7 points, 0 violations"]);
    }
}
