//! `cargo xtask test`: every test rung that this machine can run, each with what it needs, and an honest count.
//!
//! A test of a rung above `pure` is marked `#[ignore = "<rung> rung: <what it needs>"]` and lives in a file
//! `tests/<rung>_*.rs` (`control_plane_*.rs`, `kernel_*.rs`, `node_*.rs`), so that plain `cargo test` is the pure rung.
//!
//! ```text
//!  rung.rs      the rungs
//!  stage.rs     what a rung needs: installed, built, set up, removed again
//!  program.rs   the test programs that cargo builds
//!  outcome.rs   what a test program said
//!  kernels.rs   test programs under other kernels
//!  fuzz.rs      fuzz targets, each for a while
//!  foreign.rs   programs that tests run and nobody here wrote
//!  feature.rs   what a kernel may lack
//!  at_length.rs what takes minutes
//!  stall.rs     whether the machine ran us meanwhile, on each CPU
//!  why.rs       why tests failed
//! ```

mod at_length;
mod feature;
mod foreign;
mod fuzz;
mod kernels;
mod outcome;
mod program;
mod rung;
mod stage;
mod stall;
mod why;

use std::time::Duration;
use std::{fmt, thread};

use anyhow::{Result, anyhow, bail};

use self::outcome::Outcome;
use self::program::Program;
use self::rung::Rung;
pub(crate) use self::stage::control_plane;
use self::stage::{Ability, Stage};
use self::stall::{Stalls, Watch};
use crate::cmd::Cmd;
use crate::progress::Step;
use crate::{cleanup, interrupt, paths, progress};

/// What `cargo xtask test` takes.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Run this rung alone, and fail when it cannot run; can be given several times [default: all that can run, but for
    /// `kernels`, which takes some twenty minutes of a core for each kernel, and `fuzz`]
    #[arg(long = "rung", value_enum)]
    pub rungs: Vec<Rung>,
    /// Skip a rung that was asked for and cannot run here, with its reason, as one that was not asked for
    #[arg(long)]
    pub or_skip: bool,
    /// In the rung `kernels`: the newest kernel of each series that apt's sources on this machine offer, not only of the oldest and
    /// the newest, and the newest of Debian's backports. In the rung `node`: also what takes minutes
    #[arg(long)]
    pub all: bool,
    /// In the rung `kernels`: only this release, or the newest of this series, such as 6.12
    #[arg(long, value_name = "RELEASE")]
    pub kernel: Option<String>,
    /// In the rung `fuzz`: how long each target runs, in seconds
    #[arg(long, env = "EDGE_FUZZ_SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: u64,
    /// In the rung `sim`: how many seeds are run
    #[arg(long, env = "EDGE_SIM_SEEDS", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub seeds: u32,
    /// Run only tests whose names contain one of these
    pub filters: Vec<String>,
}

/// How long a seed of the simulation may take on a busy machine; in calm it is two seconds.
const PER_SEED: Duration = Duration::from_secs(15);

/// So often a test runs again during which a CPU stood still.
const TRIES: u32 = 3;

/// All that was counted.
#[derive(Debug, Default)]
struct Totals {
    passed: usize,
    /// Of those, when they ran again.
    again: usize,
    failed: usize,
    skipped: usize,
    /// What failed, a text for each.
    why: Vec<String>,
}

/// Runs the verb.
///
/// # Errors
/// When a test fails, or a rung that was asked for cannot run.
pub fn run(args: &Args) -> Result<()> {
    interrupt::install()?;
    let rungs = if args.rungs.is_empty() { Rung::DEFAULT.to_vec() } else { args.rungs.clone() };
    // What they need comes first: the kernel programs are linked into test programs.
    let able: Vec<_> = rungs.iter().map(|rung| (*rung, stage::prepare(*rung))).collect();
    interrupt::check()?;
    let programs = program::build(&rungs)?;
    let (beside, front): (Vec<_>, Vec<_>) = able.into_iter().partition(|(rung, _)| rung.is_beside());
    let run_all = |able: Vec<(Rung, Ability)>, way| {
        let mut totals = Totals::default();
        able.into_iter().try_for_each(|(rung, ability)| totals.run(rung, ability, way, args, &programs))?;
        anyhow::Ok(totals)
    };
    let way = if front.is_empty() { Way::InFront } else { Way::Beside };
    let (front, beside) = thread::scope(|scope| {
        let beside = scope.spawn(|| run_all(beside, way));
        let front = run_all(front, Way::InFront);
        (front, beside.join())
    });
    let beside =
        beside.map_err(|_| anyhow!("what runs beside the other rungs broke off: that is a bug of xtask"))?;
    let Totals { passed, again, failed, skipped, why } = front?.and(beside?);
    why.iter().for_each(|why| println!("failed: {why}"));
    let when = if again > 0 { format!(" ({again} of them when they ran again)") } else { String::new() };
    println!("{passed} passed{when}, {failed} failed, {skipped} skipped");
    if failed > 0 {
        bail!("{failed} tests failed");
    }
    if passed == 0 && skipped == 0 {
        bail!("no test was run: does a test's name contain {}?", args.filters.join(" or "));
    }
    Ok(())
}

/// How a rung runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// With all the time that it wants.
    InFront,
    /// With the time that another one leaves.
    Beside,
}

fn run_rung(rung: Rung, way: Way, args: &Args, programs: &[Program]) -> Result<Outcome> {
    match rung {
        Rung::Kernels => return kernels::run(args, programs),
        Rung::Fuzz => return fuzz::run(args),
        _ => {}
    }
    let mut sum = Outcome::default();
    for program in programs.iter().filter(|program| rung.has(program)) {
        let ran = run_program(rung, way, args, program);
        // Ctrl-C is no failure of the program.
        interrupt::check()?;
        sum.add(
            ran.unwrap_or_else(|error| broke_off(rung, format!("{program}: before its tests: {error:#}"))),
        );
    }
    if rung == Rung::Pure {
        sum.add(doc_tests(&args.filters)?);
    }
    Ok(sum)
}

/// Sets up what the program's tests find, runs it, and removes that again.
fn run_program(rung: Rung, way: Way, args: &Args, program: &Program) -> Result<Outcome> {
    let stage = Stage::enter(rung, program)?;
    let mut arguments = rung.arguments().to_vec();
    arguments.extend(args.filters.iter().map(String::as_str));
    let lacking = if rung == Rung::Kernel { foreign::lacking(program) } else { Vec::new() };
    let is_asked = matches!(rung, Rung::Kernel | Rung::Node);
    let tests = if is_asked { program.tests(&arguments)? } else { Vec::new() };
    let missing = if rung == Rung::Kernel { feature::missing(&tests) } else { Vec::new() };
    let mut skipped = foreign::skipped(&tests, &lacking);
    skipped.extend(feature::skipped(&tests, &missing));
    arguments.extend(lacking.iter().flat_map(|lack| ["--skip", lack.module]));
    arguments.extend(missing.iter().flat_map(|lack| ["--skip", lack.module]));
    if rung == Rung::Node && !args.all {
        skipped.extend(at_length::skipped(&tests));
        arguments.extend(["--skip", at_length::MODULE]);
    }
    arguments.extend(rung.order(program));
    let step = Step::start(format!("{rung}: {program}"));
    let mut environment = stage.environment().to_vec();
    let mut limit = rung.limit();
    if rung == Rung::Sim {
        environment.push(("EDGE_SIM_SEEDS".to_owned(), args.seeds.to_string().into()));
        limit = limit.max(PER_SEED * args.seeds);
    }
    let watch = is_asked.then(Watch::start);
    let run = |arguments: &[&str]| program.run(arguments, &environment, limit, way == Way::Beside);
    let ran = run(&arguments).and_then(|first| match watch {
        Some(watch) if first.failed > 0 => run_again(rung, program, watch.end(), first, run),
        _ => Ok(first),
    });
    let left = stage.leave();
    let mut outcome = match ran {
        Ok(outcome) => left.map(|()| outcome)?.seen_in(rung, program),
        Err(error) => return Err(cleanup::after(error, left)),
    };
    outcome.ignored.extend(skipped);
    step.done(&outcome.to_string());
    Ok(outcome)
}

/// Runs again what failed while a CPU stood still, which xtask itself has seen and does not infer from the failures; as often as
/// that, if one stands still then, too. What was said the first time is shown by then, and whatever passes in the end is named.
fn run_again(
    rung: Rung,
    program: &Program,
    mut stalls: Stalls,
    mut outcome: Outcome,
    run: impl Fn(&[&str]) -> Result<Outcome>,
) -> Result<Outcome> {
    for _ in 0..TRIES {
        interrupt::check()?;
        say(format_args!("{rung}: {program}: {} failed; {stalls}", outcome.failed));
        let stood_still = outcome.failures.iter().filter(|failure| stalls.any(failure.from, failure.to));
        let names: Vec<String> = stood_still.map(|failure| failure.name.clone()).collect();
        if names.is_empty() {
            break;
        }
        let mut arguments = rung.arguments().to_vec();
        arguments.push("--exact");
        arguments.extend(names.iter().map(String::as_str));
        arguments.extend(rung.order(program));
        let step = Step::start(format!("{rung}: {program}: what failed while a CPU stood still, again"));
        let watch = Watch::start();
        let again = run(&arguments)?;
        stalls = watch.end();
        step.done(&again.to_string());
        outcome = outcome.corrected(names, again);
    }
    for failure in &mut outcome.failures {
        failure.why.push_str(&format!("\n    of its program: {stalls}"));
    }
    Ok(outcome)
}

/// The examples in the documentation, which are no programs of their own.
fn doc_tests(filters: &[String]) -> Result<Outcome> {
    let step = Step::start("pure: examples in the documentation");
    let cargo = Cmd::cargo().args(["test", "--workspace", "--doc", "--quiet", "--"]).args(filters);
    let outcome =
        outcome::of_process(&cargo.dir(paths::root()), "the documentation", Duration::from_secs(1200))?;
    step.done(&outcome.to_string());
    Ok(outcome)
}

/// Something broke off, which is said at once.
fn broke_off(rung: Rung, why: String) -> Outcome {
    say(format_args!("{rung}: FAILED: {why}"));
    Outcome { failed: 1, broken: vec![why], ..Outcome::default() }
}

/// A line of the result.
fn say(line: fmt::Arguments<'_>) {
    progress::beside(|| println!("{line}"));
}

impl Totals {
    fn run(
        &mut self,
        rung: Rung,
        ability: Ability,
        way: Way,
        args: &Args,
        programs: &[Program],
    ) -> Result<()> {
        interrupt::check()?;
        match ability {
            Ability::Able => self.add(rung, &run_rung(rung, way, args, programs)?),
            Ability::Lacks(reason) if args.rungs.is_empty() || args.or_skip => {
                self.skip(rung, args, programs, &format!("{reason:#}"))?;
            }
            Ability::Lacks(reason) | Ability::Broken(reason) => {
                self.add(rung, &broke_off(rung, format!("before its tests: {reason:#}")));
            }
        }
        Ok(())
    }

    fn and(self, other: Self) -> Self {
        Self {
            passed: self.passed + other.passed,
            again: self.again + other.again,
            failed: self.failed + other.failed,
            skipped: self.skipped + other.skipped,
            why: [self.why, other.why].concat(),
        }
    }

    fn add(&mut self, rung: Rung, outcome: &Outcome) {
        say(format_args!("{rung}: {outcome}"));
        for (test, reason) in &outcome.ignored {
            say(format_args!("{rung}: skipped {test}: {reason}"));
        }
        for test in &outcome.again {
            say(format_args!("{rung}: passed only when it ran again, for a CPU had stood still: {test}"));
        }
        self.passed += outcome.passed;
        self.again += outcome.again.len();
        self.failed += outcome.failed;
        self.skipped += outcome.ignored.len();
        self.why.extend(outcome.why().map(|why| format!("{rung}: {why}")));
    }

    fn skip(&mut self, rung: Rung, args: &Args, programs: &[Program], reason: &str) -> Result<()> {
        let mut tests = if rung == Rung::Fuzz { fuzz::chosen(&args.filters)?.len() } else { 0 };
        for program in programs.iter().filter(|program| rung.has(program)) {
            tests += program.tests(rung.arguments())?.len();
        }
        say(format_args!("{rung}: {tests} skipped: {reason}"));
        self.skipped += tests;
        Ok(())
    }
}
