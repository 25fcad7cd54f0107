//! `cargo xtask bench`: what the kernel programs cost a packet, by `BPF_PROG_TEST_RUN`, beside programs that do nothing; and, each
//! by a flag of its own, what takes longer to measure. All of it as ratios to a baseline of the same run.
//!
//! ```text
//!  cases.rs      what is measured by default: a program and a frame each
//!  rigs.rs       the rigs with targets that they run on
//!  report.rs     its ratios and aims
//!  figures.rs    chaos-agent's program `figures`: packets' paths, replaced rules, the delay line's engine, and an API server
//!  machine.rs    the same program in a machine in qemu, where instructions are counted
//!  scale.rs      the operator with thousands of devices: its program `scale`
//! ```

mod cases;
mod figures;
mod machine;
mod report;
mod rigs;
mod scale;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use fault_rig::figures::Report;

use self::cases::Bench;
use self::report::Measured;
use crate::progress::Step;
use crate::{build_ebpf, cpus, interrupt, tools};

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
    #[command(flatten)]
    #[expect(missing_docs, reason = "documented at its type")]
    pub longer: Longer,
}

/// What takes longer than the kernel programs, and is measured instead of them. All of it wants the agent optimised, which takes
/// minutes to build the first time.
#[derive(Clone, Debug, Default, clap::Args)]
#[group(id = "longer", multiple = true)]
pub struct Longer {
    /// Measure real packets between namespaces: without hooks, with hooks and no match, through the splitter, through the delay
    /// line (a minute)
    #[arg(long)]
    pub paths: bool,
    /// Measure how long it takes to replace the rules of 65,536 targets, and whether a packet escapes meanwhile (a minute)
    #[arg(long)]
    pub replace: bool,
    /// Measure the delay line's userspace engine by itself: packets a second, and how late they leave it (a minute)
    #[arg(long)]
    pub line: bool,
    /// Measure the time from a write to an API server to the first packet that is hit, with 1,000 targets; builds etcd and
    /// kube-apiserver once (three minutes without that)
    #[arg(long)]
    pub cluster: bool,
    /// Count instructions beside bare interfaces and tc netem in a machine in qemu, under Debian's newest kernel that apt offers
    /// (five minutes)
    #[arg(long)]
    pub vm: bool,
    /// Measure the operator with 10,000 devices on bad lines beside a real API server: a cold start, what a device costs it, and
    /// how soon the next leader commands; builds etcd and kube-apiserver once (fifteen minutes without that)
    #[arg(long, conflicts_with_all = ["paths", "replace", "line", "cluster", "vm"])]
    pub scale: bool,
    /// With --scale: so many devices; the aims are those of 10,000
    #[arg(long, default_value_t = 10_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub devices: u32,
    /// With --scale: how often the leader is killed, and how often it ends
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=20))]
    pub changes: u32,
    /// With --line: threads that do nothing but take CPU time meanwhile, as a busy node has
    #[arg(long, default_value_t = 0, value_name = "THREADS")]
    pub busy: u32,
    /// With --paths or --vm: the delay line's engine, as chaos-agent's --engine
    #[arg(long, default_value = "auto", value_name = "ENGINE")]
    pub engine: String,
    /// With --vm: rounds through all cases; the median of a case counts
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub vm_rounds: u32,
    /// With --cluster: so many profiles are applied, one after the other
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub profiles: u32,
    /// Run this build of the benchmark (`scale` of the operator with --scale, else `figures` of chaos-agent) instead of building it
    #[arg(long, value_name = "FILE")]
    pub program: Option<PathBuf>,
}

impl Longer {
    const fn is_any(&self) -> bool {
        self.paths || self.replace || self.line || self.cluster || self.vm || self.scale
    }
}

/// Runs the verb. Prints the tables to stdout; a missed aim is shown and is no error.
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
    // Also for --scale: all benchmarks are built with the whole workspace.
    build_ebpf::run(&build_ebpf::Args::default())?;
    let reports = if args.longer.is_any() { longer(&args.longer)? } else { vec![programs(args)?] };
    if let Some(file) = &args.json {
        let text = serde_json::to_string_pretty(&reports).context("writing the figures as JSON")? + "\n";
        fs::write(file, text).with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(())
}

/// What the flags ask for, in the order of the help.
fn longer(args: &Longer) -> Result<Vec<Report>> {
    let Longer { paths, replace, line, cluster, vm, scale, engine, program, .. } = args;
    let (devices, changes) = (args.devices, args.changes);
    if *scale {
        return scale::run(program.as_deref(), devices, changes).map(|report| vec![report]);
    }
    let program = program.clone().map_or_else(|| figures::build(figures::NAME), Ok)?;
    let [profiles, busy] = [args.profiles, args.busy].map(|count| count.to_string());
    let mut reports = Vec::new();
    let mut show = |report: Report| {
        print!("{}{}", if reports.is_empty() { "" } else { "\n" }, report.table());
        reports.push(report);
    };
    if *paths {
        show(figures::run(&program, "packets between namespaces", &["paths", "--engine", engine], &[])?);
    }
    if *replace {
        show(figures::run(&program, "replacing rules", &["replace"], &[])?);
    }
    if *line {
        show(figures::run(&program, "the delay line's engine", &["line", "--busy", &busy], &[])?);
    }
    if *cluster {
        let assets = crate::test::control_plane()?;
        show(figures::run(
            &program,
            "from the API server to packets",
            &["apply", "--profiles", &profiles],
            &assets,
        )?);
    }
    if *vm {
        show(machine::run(&program, engine, args.vm_rounds)?);
    }
    Ok(reports)
}

/// By default: what the kernel programs cost.
fn programs(args: &Args) -> Result<Report> {
    let read = |path: PathBuf| fs::read(&path).with_context(|| format!("reading {}", path.display()));
    let bench = Bench::prepare(&read(build_ebpf::object())?, &read(build_ebpf::baseline())?)?;
    stay_on_one_cpu()?;
    let report = report::report(&measure(&bench, args)?, args.rounds, args.repeat)?;
    print!("{}", report.table());
    Ok(report)
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
    let allowed = cpus::allowed().context("reading which CPUs this process may use")?;
    let last = allowed.last().context("this process may use no CPU")?;
    cpus::stay_on(last).context("staying on one CPU")
}
