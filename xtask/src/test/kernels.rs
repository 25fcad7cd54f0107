//! The kernel rung's programs under other kernels, each in a machine of its own.

use std::num::NonZero;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, bail};

use super::foreign::{self, Lacking};
use super::outcome::{self, Outcome};
use super::program::Program;
use super::rung::Rung;
use super::{Args, broke_off, feature};
use crate::interrupt;
use crate::progress::Step;
use crate::vm::initramfs::Job;
use crate::vm::kernel::{self, Kernel, Offer};
use crate::vm::{boot, initramfs};

/// So many times slower than a real machine is an emulated one; `support/time.rs` of the tests reads it.
const SLOWER: (&str, &str) = ("EDGE_TEST_SLOWER", "5");

/// The first release with TCX. Before it, tests that have it in their names are skipped.
const TCX: (u64, u64) = (6, 6);
const TCX_TESTS: &str = "tcx";

/// What is run of a program, where nothing else is in the way.
struct Chosen<'a> {
    program: &'a Program,
    tests: Vec<String>,
    foreign: Vec<Lacking>,
}

/// Runs all programs under each kernel, as many kernels at a time as this machine has processors.
///
/// # Errors
/// When apt cannot be asked for kernels, when a program does not list its tests, and on Ctrl-C.
pub(super) fn run(args: &Args, programs: &[Program]) -> Result<Outcome> {
    let offered = kernel::offered()?;
    // Of a release that is asked for any that is offered, and not the ends alone.
    let takes_all = args.all || args.kernel.is_some();
    let mut chosen = if takes_all { offered.clone() } else { kernel::ends(&offered) };
    if args.all {
        chosen.extend(kernel::newest(&offered)?);
    }
    if let Some(release) = &args.kernel {
        chosen.retain(|offer| is_of(&offer.release, release));
        if chosen.is_empty() {
            bail!(
                "no kernel {release} is offered: see `cargo xtask test --rung kernels --help` for which are"
            );
        }
    }
    println!("kernels: {} (apt's sources here offer {})", releases(&chosen), releases(&offered));
    // What is missing is installed before machines run beside each other: apt does one thing at a time.
    let programs = choose(args, programs)?;
    let left = Mutex::new(chosen.iter());
    let at_a_time = thread::available_parallelism().map_or(1, NonZero::get).min(chosen.len());
    let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
    let worker = || {
        let mut sum = Outcome::default();
        while let Some(offer) = next().filter(|_| !interrupt::seen()) {
            sum.add(run_kernel(args, offer, &programs));
        }
        sum
    };
    let mut sum = Outcome::default();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..at_a_time).map(|_| scope.spawn(worker)).collect();
        for worker in workers {
            let bug = |_| {
                broke_off(Rung::Kernels, "what runs a kernel panicked: that is a bug of xtask".to_owned())
            };
            sum.add(worker.join().unwrap_or_else(bug));
        }
    });
    // Ctrl-C is no failure of the programs.
    interrupt::check()?;
    Ok(sum)
}

/// Whether a release is one that was asked for, or of the series that was: 6.12 is not of 6.1.
fn is_of(release: &str, asked: &str) -> bool {
    release.strip_prefix(asked).is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
}

fn releases(kernels: &[Offer]) -> String {
    kernels.iter().map(|kernel| kernel.release.as_str()).collect::<Vec<_>>().join(", ")
}

/// Of the programs with tests that the filter leaves.
fn choose<'a>(args: &Args, programs: &'a [Program]) -> Result<Vec<Chosen<'a>>> {
    let mut all = Vec::new();
    for program in programs.iter().filter(|program| Rung::Kernels.has(program)) {
        let tests = program.tests(&arguments(args))?;
        if !tests.is_empty() {
            all.push(Chosen { program, tests, foreign: foreign::lacking(program) });
        }
    }
    Ok(all)
}

fn arguments(args: &Args) -> Vec<&str> {
    Rung::Kernels.arguments().iter().copied().chain(args.filters.iter().map(String::as_str)).collect()
}

fn run_kernel(args: &Args, offer: &Offer, programs: &[Chosen<'_>]) -> Outcome {
    let kernel = kernel::ensure(offer);
    let mut sum = Outcome::default();
    for chosen in programs {
        let name = format!("{} under {}", chosen.program, offer.release);
        let ran = kernel.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"));
        let ran = ran.and_then(|kernel| run_program(args, kernel, chosen, &name));
        if interrupt::seen() {
            return sum;
        }
        sum.add(ran.unwrap_or_else(|error| {
            broke_off(Rung::Kernels, format!("{name}: before its tests: {error:#}"))
        }));
    }
    sum
}

fn run_program(args: &Args, kernel: &Kernel, chosen: &Chosen<'_>, name: &str) -> Result<Outcome> {
    let Chosen { program, tests, foreign } = chosen;
    let (without, ignored) = left_out(tests, foreign, &kernel.release);
    let mut arguments = arguments(args);
    arguments.extend(without.iter().flat_map(|part| ["--skip", part]));
    arguments.extend(Rung::Kernels.order(program));
    let count = tests.len() - ignored.len();
    let of_machine = |(test, reason)| (test, format!("{name}: {reason}"));
    let skipped = Outcome { ignored: ignored.into_iter().map(of_machine).collect(), ..Outcome::default() };
    if count == 0 {
        return Ok(skipped);
    }
    let folder = tempfile::tempdir().context("making a folder for a machine")?;
    let (packed, console) = (folder.path().join("initramfs"), folder.path().join("console"));
    let mut step = Step::of(format!("{}: {name}", Rung::Kernels), count as u64);
    let (others, called) = (agent_beside(program), foreign::called(program, foreign));
    let job = Job {
        program: &program.path,
        arguments: &arguments,
        environment: &[SLOWER],
        others: &others,
        called: &called,
    };
    initramfs::write(&packed, kernel, &job)?;
    let machine = boot::machine(kernel, &packed, &console)?;
    let look = |through| step.at(through as u64, "tests");
    let end = |stdout: &str, ended| boot::end_of_program(stdout, ended, &console);
    let mut outcome = outcome::of(&machine, name, Rung::Kernels.limit(), look, end)?;
    outcome.add(skipped);
    step.done(&outcome.to_string());
    Ok(outcome)
}

/// Parts of the names of tests that cannot be told there, and those of these tests, with the reason.
fn left_out(
    tests: &[String],
    foreign: &[Lacking],
    release: &str,
) -> (Vec<&'static str>, Vec<(String, String)>) {
    let mut parts: Vec<_> = foreign.iter().map(|lack| lack.module).collect();
    let mut ignored = foreign::skipped(tests, foreign);
    for (part, reason) in lacks(release) {
        let is_new = |test: &&String| test.contains(part) && ignored.iter().all(|(known, _)| known != *test);
        let about: Vec<_> = tests.iter().filter(is_new).cloned().collect();
        ignored.extend(about.into_iter().map(|test| (test, reason.clone())));
        parts.push(part);
    }
    (parts, ignored)
}

/// What the paths of stories contain that cannot be told in a machine with this kernel, with the reasons.
fn lacks(release: &str) -> Vec<(&'static str, String)> {
    let mut lacks = vec![(feature::CPUS, "these machines have one CPU".to_owned())];
    if !has_tcx(release) {
        lacks.push((TCX_TESTS, format!("TCX came with Linux {}.{}", TCX.0, TCX.1)));
    }
    lacks
}

fn has_tcx(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= TCX
}

/// The agent, which tests start by the path at which cargo built it.
fn agent_beside(program: &Program) -> Vec<PathBuf> {
    let built = program.path.ancestors().nth(2).map(|folder| folder.join("chaos-agent"));
    built.into_iter().filter(|path| path.is_file()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_that_is_asked_for_is_not_one_whose_number_begins_like_its() {
        let releases = ["6.1.0-56-cloud-amd64", "6.12.117+deb12-cloud-amd64"];
        let chosen = |asked| releases.map(|release| is_of(release, asked));
        assert_eq!(chosen("6.1"), [true, false]);
        assert_eq!(chosen("6.12"), [false, true]);
        assert_eq!((chosen("6.1.0-56-cloud-amd64"), chosen("6.2")), ([true, false], [false, false]));
    }

    #[test]
    fn tcx_is_there_from_its_release_on() {
        let all = ["6.1.0-56-cloud-amd64", "6.6.1", "6.12.117+deb12-cloud-amd64", "7.0.1"].map(has_tcx);
        assert_eq!(all, [false, true, true, true]);
    }

    #[test]
    fn what_cannot_be_told_there_is_left_out_once_with_its_reason() {
        let tests = ["a::on_tcx", "a::on_clsact", "ping::on_tcx", "a::cpus::on_clsact"].map(str::to_owned);
        let foreign = [Lacking::of("ping::", "no ping")];
        let (parts, ignored) = left_out(&tests, &foreign, "6.1.0-56-cloud-amd64");
        assert_eq!(parts, ["ping::", "::cpus::", "tcx"]);
        let [cpus, tcx] = ["these machines have one CPU", "TCX came with Linux 6.6"];
        let reasons: Vec<_> = ignored.iter().map(|(test, reason)| (test.as_str(), reason.as_str())).collect();
        assert_eq!(reasons, [("ping::on_tcx", "no ping"), ("a::cpus::on_clsact", cpus), ("a::on_tcx", tcx)]);
        let (parts, ignored) = left_out(&tests[..2], &[], "6.12.117+deb12-cloud-amd64");
        assert_eq!((parts, ignored.len()), (vec!["::cpus::"], 0));
    }
}
