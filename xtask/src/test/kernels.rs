//! The kernel rung's programs under other kernels, each in a machine of its own.

use std::num::NonZero;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, bail};

use super::outcome::{self, Outcome};
use super::program::Program;
use super::rung::Rung;
use super::{Args, feature, foreign};
use crate::interrupt;
use crate::progress::Step;
use crate::vm::initramfs::Job;
use crate::vm::kernel::{self, Kernel, Offer};
use crate::vm::{boot, initramfs};

/// So many times slower than a real machine is an emulated one; `support/time.rs` of the tests reads it.
const SLOWER: (&str, &str) = ("EDGE_TEST_SLOWER", "5");

/// The first release with TCX. Before it, tests that have it in their names are skipped.
const TCX: (u64, u64) = (6, 6);

/// Runs all programs under each kernel, as many kernels at a time as this machine has processors.
///
/// # Errors
/// When apt cannot be asked for kernels, and on Ctrl-C.
pub(super) fn run(args: &Args, programs: &[Program]) -> Result<Outcome> {
    let offered = kernel::offered()?;
    let mut chosen = if args.all { offered.clone() } else { kernel::ends(&offered) };
    if args.all {
        chosen.extend(kernel::newest(&offered)?);
    }
    if let Some(release) = &args.kernel {
        chosen.retain(|offer| offer.release.starts_with(release));
        if chosen.is_empty() {
            bail!(
                "no kernel {release} is offered: see `cargo xtask test --rung kernels --help` for which are"
            );
        }
    }
    println!("kernels: {} (apt's sources here offer {})", releases(&chosen), releases(&offered));
    let left = Mutex::new(chosen.iter());
    let at_a_time = thread::available_parallelism().map_or(1, NonZero::get).min(chosen.len());
    let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
    let worker = || {
        let mut sum = Outcome::default();
        while let Some(offer) = next().filter(|_| !interrupt::seen()) {
            sum.add(run_kernel(args, offer, programs));
        }
        sum
    };
    let mut sum = Outcome::default();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..at_a_time).map(|_| scope.spawn(worker)).collect();
        for worker in workers {
            // One that panicked has failed.
            sum.add(worker.join().unwrap_or_else(|_| failed()));
        }
    });
    // Ctrl-C is no failure of the programs.
    interrupt::check()?;
    Ok(sum)
}

fn releases(kernels: &[Offer]) -> String {
    kernels.iter().map(|kernel| kernel.release.as_str()).collect::<Vec<_>>().join(", ")
}

fn run_kernel(args: &Args, offer: &Offer, programs: &[Program]) -> Outcome {
    let kernel = kernel::ensure(offer);
    let mut sum = Outcome::default();
    for program in programs.iter().filter(|program| Rung::Kernels.has(program)) {
        let name = format!("{program} under {}", offer.release);
        let ran = kernel.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"));
        let ran = ran.and_then(|kernel| run_program(args, kernel, program, &name));
        if interrupt::seen() {
            return sum;
        }
        sum.add(ran.unwrap_or_else(|error| {
            println!("{}: {name}: FAILED before its tests: {error:#}", Rung::Kernels);
            failed()
        }));
    }
    sum
}

fn failed() -> Outcome {
    Outcome { failed: 1, ..Outcome::default() }
}

fn run_program(args: &Args, kernel: &Kernel, program: &Program, name: &str) -> Result<Outcome> {
    let mut arguments = Rung::Kernels.arguments().to_vec();
    arguments.extend(args.filter.as_deref());
    let chosen = program.tests(&arguments)?;
    if foreign::is_about(program) {
        let reason = format!("{name}: what it runs is not put into these machines");
        let ignored = chosen.into_iter().map(|test| (test, reason.clone())).collect();
        return Ok(Outcome { ignored, ..Outcome::default() });
    }
    let lacks = lacks(&kernel.release);
    let skipped = skipped(&chosen, &lacks, name);
    if chosen.len() == skipped.len() {
        return Ok(Outcome { ignored: skipped, ..Outcome::default() });
    }
    arguments.extend(lacks.iter().flat_map(|(part, _)| ["--skip", *part]));
    let count = (chosen.len() - skipped.len()) as u64;
    let folder = tempfile::tempdir().context("making a folder for a machine")?;
    let (packed, console) = (folder.path().join("initramfs"), folder.path().join("console"));
    let mut step = Step::of(format!("{}: {name}", Rung::Kernels), count);
    let others = agent_beside(program);
    let job = Job { program: &program.path, arguments: &arguments, environment: &[SLOWER], others: &others };
    initramfs::write(&packed, kernel, &job)?;
    let machine = boot::machine(kernel, &packed, &console)?;
    let look = |through| step.at(through as u64, "tests");
    let end = |stdout: &str, ended| boot::end_of_program(stdout, ended, &console);
    let mut outcome = outcome::of(&machine, name, Rung::Kernels.limit(), look, end)?;
    outcome.ignored.extend(skipped);
    step.done(&outcome.to_string());
    Ok(outcome)
}

fn has_tcx(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= TCX
}

/// What the paths of stories contain that cannot be told in a machine with this kernel, with the reasons.
fn lacks(release: &str) -> Vec<(&'static str, String)> {
    let mut lacks = vec![(feature::CPUS, "these machines have one CPU".to_owned())];
    if !has_tcx(release) {
        lacks.push(("tcx", format!("TCX came with Linux {}.{}", TCX.0, TCX.1)));
    }
    lacks
}

/// Those of these tests that are skipped, with their reasons.
fn skipped(tests: &[String], lacks: &[(&str, String)], name: &str) -> Vec<(String, String)> {
    let reason = |test: &String| {
        let (_, reason) = lacks.iter().find(|(part, _)| test.contains(part))?;
        Some((test.clone(), format!("{name}: {reason}")))
    };
    tests.iter().filter_map(reason).collect()
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
    fn tcx_is_there_from_its_release_on() {
        let all = ["6.1.0-56-cloud-amd64", "6.6.1", "6.12.117+deb12-cloud-amd64", "7.0.1"].map(has_tcx);
        assert_eq!(all, [false, true, true, true]);
    }

    #[test]
    fn stories_of_two_cpus_are_skipped_and_those_of_tcx_where_there_is_none() {
        let tests = ["loss::cpus::a", "loss::a_on_tcx", "loss::b"].map(str::to_owned);
        let skipped = |release| skipped(&tests, &lacks(release), release).into_iter().map(|(test, _)| test);
        assert!(skipped("6.1.0").eq(tests[..2].iter().cloned()));
        assert!(skipped("6.12.0").eq(tests[..1].iter().cloned()));
    }
}
