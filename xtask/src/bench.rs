//! `cargo xtask bench`: what the kernel programs cost a packet, by `BPF_PROG_TEST_RUN`, beside programs that do nothing.
//!
//! ```text
//!  cases.rs    what is measured: rigs with targets, and a program and frame each
//!  report.rs   ratios, aims, the table and the JSON
//!  line.rs     the delay line's engine instead: a program of its own
//! ```

mod cases;
mod line;
mod report;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use self::cases::Bench;
use self::report::{Measured, Report};
use crate::progress::Step;
use crate::{build_ebpf, interrupt, tools};

/// What `cargo xtask bench` takes.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Write the figures as JSON to this file, too
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Rounds through all cases; the best of a case counts, since noise only adds
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Runs of a program in a round
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub repeat: u32,
    /// Measure the delay line's userspace engine instead; builds the agent optimised, which takes minutes the first time
    #[arg(long)]
    pub line: bool,
    /// With --line: threads that do nothing but take CPU time meanwhile, as a busy node has
    #[arg(long, requires = "line", default_value_t = 0)]
    pub busy: u32,
}

/// Runs the verb. Prints the table to stdout; a missed aim is shown and is no error.
///
/// # Errors
/// Without root, when the kernel refuses the programs, or when the file cannot be written.
pub fn run(args: &Args) -> Result<()> {
    if !tools::is_root() {
        bail!(
            "bench needs root: it loads programs into the kernel, or makes interfaces. Try: sudo --preserve-env cargo xtask bench"
        );
    }
    interrupt::install()?;
    if args.line {
        return line::run(args);
    }
    build_ebpf::run(&build_ebpf::Args::default())?;
    let read = |path: PathBuf| fs::read(&path).with_context(|| format!("reading {}", path.display()));
    let bench = Bench::prepare(&read(build_ebpf::object())?, &read(build_ebpf::baseline())?)?;
    stay_on_one_cpu()?;
    let report = Report::new(measure(&bench, args)?, args.rounds, args.repeat)?;
    print!("{}", report.table());
    if let Some(file) = &args.json {
        fs::write(file, report.json()?).with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(())
}

/// All cases in turn, round after round, so that a noisy moment hits no case alone.
fn measure(bench: &Bench, args: &Args) -> Result<Vec<Measured>> {
    let cases = bench.cases();
    let mut step = Step::of("measuring", u64::from(args.rounds));
    let mut best = vec![u64::MAX; cases.len()];
    for round in 0..args.rounds {
        interrupt::check()?;
        for (case, best) in cases.iter().zip(&mut best) {
            let took = bench.run(case, args.repeat)?;
            *best = (*best).min(took);
        }
        step.at(u64::from(round) + 1, "rounds");
    }
    step.done("");
    Ok(cases.iter().zip(best).map(|(case, ns)| Measured { case: *case, ns }).collect())
}

/// Moving between CPUs costs time that is nobody's.
fn stay_on_one_cpu() -> Result<()> {
    let me = Pid::from_raw(0);
    let allowed = sched_getaffinity(me).context("reading which CPUs this process may use")?;
    let last = (0..CpuSet::count()).rev().find(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    let mut one = CpuSet::new();
    one.set(last.unwrap_or(0)).context("choosing a CPU")?;
    sched_setaffinity(me, &one).context("staying on one CPU")
}
