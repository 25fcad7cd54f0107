//! The fuzz targets, each for a while: an input that makes one panic, or take too long, is a failure and is kept.
//!
//! ```text
//!  chaos-agent/fuzz/corpus/TARGET      inputs to begin with, few, committed
//!  CACHE/fuzz/corpus/TARGET            inputs that were found here, which grow with each run
//!  chaos-agent/fuzz/artifacts/TARGET   findings: tried first in each run until they are removed
//!
//!  build.rs    the programs
//!  said.rs     what they say
//! ```

mod build;
mod said;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use self::build::Target;
use self::said::Said;
use super::outcome::{self, Outcome};
use super::{Args, Rung, broke_off};
use crate::cmd::Cmd;
use crate::progress::Step;
use crate::tools::{self, Need};
use crate::{interrupt, lock, paths};

/// Longer inputs find no more, and take longer: a frame, or some hundred fields of profiles.
const LONGEST: u32 = 2048;
/// Seconds that one input may take, on a busy machine too.
const SLOWEST: u32 = 25;
/// How long a program may take besides: to begin with what is in its corpus, and to end.
const BESIDES: Duration = Duration::from_secs(5 * 60);

/// Where a target's inputs lie.
#[derive(Debug)]
struct Places {
    /// Those that were found here.
    corpus: PathBuf,
    /// Those that are committed.
    seeds: PathBuf,
    /// Those that are findings.
    findings: PathBuf,
}

/// Makes sure that this machine can build them, as far as that can be told without building.
///
/// # Errors
/// When it cannot: what to install.
pub(super) fn check_machine() -> Result<()> {
    let need = Need { purpose: "to build libFuzzer, which comes as a source", packages: &["g++"] };
    tools::program("c++", need).map(drop)
}

/// The names of the targets that a run with these arguments takes.
///
/// # Errors
/// When cargo cannot be asked for them.
pub(super) fn chosen(filters: &[String]) -> Result<Vec<String>> {
    let mut names = build::names()?;
    names.retain(|name| filters.is_empty() || filters.iter().any(|filter| name.contains(filter)));
    Ok(names)
}

/// Builds all targets, and runs those that are chosen.
///
/// # Errors
/// On Ctrl-C, and when cargo cannot be asked for targets. What does not build has failed.
pub(super) fn run(args: &Args) -> Result<Outcome> {
    let chosen = chosen(&args.filters)?;
    if chosen.is_empty() {
        return Ok(Outcome::default());
    }
    let cache = paths::cache().join("fuzz");
    let _lock = lock::take(&cache.with_extension("lock"), "another run of the fuzz targets")?;
    let built = build::build(&cache.join("target"));
    // Ctrl-C is no failure.
    interrupt::check()?;
    let targets = match built {
        Ok(targets) => targets,
        Err(error) => {
            let all = broke_off(Rung::Fuzz, format!("before its targets: {error:#}"));
            return Ok(Outcome { failed: chosen.len(), ..all });
        }
    };
    let mut sum = Outcome::default();
    for target in targets.iter().filter(|target| chosen.contains(&target.name)) {
        let places = Places::of(&target.name, &cache);
        let ran = run_target(target, &places, Duration::from_secs(args.seconds));
        interrupt::check()?;
        sum.add(ran.unwrap_or_else(|error| broke_off(Rung::Fuzz, format!("{}: {error:#}", target.name))));
    }
    Ok(sum)
}

impl Places {
    fn of(target: &str, cache: &Path) -> Self {
        let folder = build::folder();
        Self {
            corpus: cache.join("corpus").join(target),
            seeds: folder.join("corpus").join(target),
            findings: folder.join("artifacts").join(target),
        }
    }

    /// libFuzzer takes no folder that is not there.
    fn make(&self) -> Result<()> {
        [&self.corpus, &self.seeds, &self.findings].into_iter().try_for_each(|folder| {
            fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))
        })
    }
}

fn run_target(target: &Target, places: &Places, time: Duration) -> Result<Outcome> {
    places.make()?;
    let mut step = Step::of(format!("{}: {}", Rung::Fuzz, target.name), time.as_secs());
    let (said, ended) = watch(&fuzzing(target, places, time), &target.name, time, &mut step)?;
    let trouble = said.trouble(&ended);
    step.done(&said.to_string());
    let Some(trouble) = trouble else { return Ok(Outcome { passed: 1, ..Outcome::default() }) };
    // Ctrl-C is no failure of the target.
    interrupt::check()?;
    let outcome = broke_off(Rung::Fuzz, format!("{}: {trouble}", target.name));
    eprintln!("--- {}\n{}--- end of {}", target.name, said.others(), target.name);
    if let Some(finding) = said.finding() {
        println!("{}", repeat(target, finding));
    }
    Ok(outcome)
}

/// The program with the corpus that grows, which comes first, and what else it begins with.
fn fuzzing(target: &Target, places: &Places, time: Duration) -> Cmd {
    let findings = format!("-artifact_prefix={}/", places.findings.display());
    program(target)
        .args([&places.corpus, &places.seeds, &places.findings])
        .arg(findings)
        .arg(format!("-max_total_time={}", time.as_secs()))
        .args([format!("-max_len={LONGEST}"), format!("-timeout={SLOWEST}")])
        // Long inputs from the beginning: short ones of `compile` describe next to nothing.
        .arg("-len_control=0")
        // Programs here leak nothing that lasts, and some containers do not let a process look for leaks.
        .arg("-detect_leaks=0")
}

fn program(target: &Target) -> Cmd {
    // As cargo-fuzz has it: crates that are linked twice are no finding.
    Cmd::new(&target.program).env("ASAN_OPTIONS", "detect_odr_violation=0:detect_leaks=0")
}

/// How to see a finding again.
fn repeat(target: &Target, finding: &Path) -> String {
    format!(
        "repeat it with: {} {}\nonce it is mended, `cargo xtask test --rung fuzz {}` builds, and tries it first; then remove the file",
        target.program.display(),
        finding.display(),
        target.name
    )
}

/// Runs it to its end, showing what it does; how it ended is told apart from what it said.
fn watch(command: &Cmd, name: &str, time: Duration, step: &mut Step) -> Result<(Said, Result<ExitStatus>)> {
    let mut process = command.command();
    // A group of its own: Ctrl-C reaches it once, from us.
    process.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
    let mut child = process.spawn().with_context(|| format!("starting `{command}`"))?;
    let said = Arc::new(Mutex::new(Said::default()));
    let reader = child.stderr.take().map(|pipe| {
        let said = Arc::clone(&said);
        thread::spawn(move || {
            for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                of(&said, |said| said.hear(&String::from_utf8_lossy(&line)));
            }
        })
    });
    let started = Instant::now();
    let ended = outcome::end_of(&mut child, name, time + BESIDES, || {
        step.at(started.elapsed().min(time).as_secs(), &of(&said, |said| said.to_string()));
    });
    if let Some(reader) = reader {
        // It ends with the pipe, and cannot panic.
        let _ = reader.join();
    }
    Ok((of(&said, |said| said.clone()), ended))
}

fn of<T>(said: &Mutex<Said>, look: impl FnOnce(&mut Said) -> T) -> T {
    look(&mut said.lock().unwrap_or_else(PoisonError::into_inner))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a script in the place of a target.
    fn ran(script: &str) -> (Outcome, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        // Written by another process: one that a test starts meanwhile has a copy of what this process has open, and what is
        // open for writing cannot be run.
        let write = "printf '#!/bin/sh\\n%s\\n' \"$1\" > \"$2\" && chmod +x \"$2\"";
        Cmd::new("sh").args(["-c", write, "sh", script]).arg(&program).run().unwrap();
        let [corpus, seeds, findings] = ["corpus", "seeds", "findings"].map(|name| folder.path().join(name));
        let target = Target { name: "script".to_owned(), program };
        let outcome =
            run_target(&target, &Places { corpus, seeds, findings }, Duration::from_secs(1)).unwrap();
        (outcome, folder)
    }

    #[test]
    fn a_target_that_ran_its_time_has_passed_and_found_its_folders() {
        let (outcome, _) = ran("[ -d \"$1\" ] && [ -d \"$2\" ] && [ -d \"$3\" ] || exit 1\n\
             case \"$1\" in */corpus) ;; *) exit 1;; esac\n\
             echo 'Done 5 runs in 1 second(s)' >&2");
        assert_eq!(outcome, Outcome { passed: 1, ..Outcome::default() });
    }

    #[test]
    fn a_target_with_a_finding_or_an_early_end_has_failed() {
        for script in ["echo 'Test unit written to /x' >&2; exit 77", "exit 0", "kill -SEGV $$"] {
            let (outcome, _) = ran(script);
            assert_eq!((outcome.passed, outcome.failed, outcome.why().count()), (0, 1, 1), "{script}");
        }
    }

    #[test]
    fn how_to_repeat_a_finding_names_program_input_and_target() {
        let target = Target { name: "parser".to_owned(), program: "/built/parser".into() };
        let said = repeat(&target, Path::new("/found/crash-1"));
        assert!(
            said.contains("/built/parser /found/crash-1") && said.contains("--rung fuzz parser"),
            "{said}"
        );
    }

    #[test]
    fn a_part_of_a_name_chooses_targets() {
        let all = chosen(&[]).unwrap();
        assert!(all.contains(&"parser".to_owned()) && all.contains(&"compile".to_owned()), "{all:?}");
        assert_eq!(chosen(&["pars", "no such target"].map(str::to_owned)).unwrap(), ["parser"]);
        assert_eq!(chosen(&["no such target".to_owned()]).unwrap(), Vec::<String>::new());
    }
}
