//! One seed in a process of its own, so that it repeats exactly.

mod entropy;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use edge_sim::mutation::STARVED;
use edge_sim::plan::Plan;
use edge_sim::report::Report;
use edge_sim::rule::Rule;
use edge_sim::run::run;
use edge_sim::sweep::Point;
use edge_sim::timeline::Timeline;
use edge_sim::turns::Turns;
use nix::sys::resource::{UsageWho, getrusage};
use nix::unistd::alarm;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

/// Simulates the operator, its devices and the API server: one seed, one run.
#[derive(Debug, Parser)]
#[command(name = "edge-sim")]
struct Args {
    /// Which run: a number stands for one course of events
    #[arg(long, env = "EDGE_SIM_SEED", default_value_t = 0)]
    seed: u64,
    /// Not a seed but the sweeps' scenario, with something at the Nth moment of it, from 1: unanswered:N, after:N, lost:N,
    /// lost-lease:N, stale:N, lease-unanswered:N or lease-after:N; with 0 for N nothing happens
    #[arg(long, conflicts_with = "seed")]
    sweep: Option<Point>,
    /// Not a seed but a calm rollout in which this rule is broken on purpose, which the oracle has to find
    #[arg(long = "break", value_enum, conflicts_with_all = ["seed", "sweep"])]
    breaks: Option<Rule>,
    /// The same rollout, in which nothing is broken
    #[arg(long, conflicts_with_all = ["seed", "sweep", "breaks"])]
    unbroken: bool,
    /// Not a seed's course of events but a calm run in which the operator of this number is stopped for a while; the seed is that of how long
    /// messages take
    #[arg(long, conflicts_with_all = ["sweep", "breaks", "unbroken"])]
    stopped: Option<usize>,
    /// A run that takes longer is killed (SIGALRM), in seconds of real time
    #[arg(long, env = "EDGE_SIM_LIMIT", default_value_t = 600)]
    limit: u32,
    /// The sweep is one through a rollout that is rolled back
    #[arg(long, requires = "sweep")]
    rollout: bool,
    /// The sweep is one through Devices that are deleted, made again and adopted
    #[arg(long, requires = "sweep", conflicts_with = "rollout")]
    lives: bool,
    /// In the sweep whoever leads is told to end, twice
    #[arg(long, requires = "sweep", conflicts_with_all = ["rollout", "lives"])]
    handover: bool,
    /// In the sweep a fleet that is taken over is told nothing of what former leaders wrote, so that it does not wait for it, which the
    /// oracle has to find
    #[arg(long, requires = "rollout")]
    hasty: bool,
    /// Print what happened also when nothing is wrong
    #[arg(long, env = "EDGE_SIM_TIMELINE")]
    timeline: bool,
}

impl Args {
    fn plan(&self) -> Plan {
        match (self.sweep, self.stopped) {
            (Some(point), _) if self.rollout => {
                Plan { hasty: self.hasty, ..Plan::sweep_of_a_rollout(Some(point)) }
            }
            (Some(point), _) if self.handover => Plan::sweep_of_a_handover(Some(point)),
            (Some(point), _) if self.lives => Plan::sweep_of_lives(Some(point)),
            (Some(point), _) => Plan::sweep(Some(point)),
            (None, Some(replica)) => Plan::of_a_stopped_leader(replica),
            (None, None) if self.unbroken || self.breaks.is_some() => Plan::broken(self.breaks),
            (None, None) => Plan::of(self.seed),
        }
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Err(error) = entropy::fix_addresses() {
        eprintln!("addresses stay random, so seed {} does not repeat exactly: {error:#}", args.seed);
    }
    // A run that hangs ends so, whatever it hangs in.
    alarm::set(args.limit);
    let timeline = Timeline::default();
    let outcome = alone(args.seed, || simulate(&args.plan(), &timeline));
    let good = matches!(&outcome, Ok(report) if report.violations.is_empty());
    if args.timeline || !good {
        print!("{timeline}");
    }
    match &outcome {
        Ok(report) => tell(args.seed, report, &timeline),
        Err(error) => println!("seed {}: FAILED: {error:#}", args.seed),
    }
    tell_cost();
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// In a thread of its own, whose hash tables begin with the first of the seed's random bytes, whatever the command line needed.
fn alone(seed: u64, run: impl FnOnce() -> Result<Report> + Send) -> Result<Report> {
    entropy::seed(seed);
    std::thread::scope(|scope| scope.spawn(run).join())
        .unwrap_or_else(|_| Err(anyhow::anyhow!("the run panicked, as said above")))
}

fn simulate(plan: &Plan, timeline: &Timeline) -> Result<Report> {
    let turns = Turns::new(timeline.clone());
    let turns = if plan.breaks == Some(Rule::Fair) { turns.deaf_to(STARVED) } else { turns };
    let heard = Targets::new()
        .with_target(edge_operator::device::TURNS, LevelFilter::TRACE)
        .with_target(edge_operator::link::EXCHANGES, LevelFilter::TRACE)
        .with_target("turmoil", LevelFilter::INFO)
        .with_target("edge_operator", LevelFilter::INFO)
        .with_target("kube", LevelFilter::WARN);
    tracing_subscriber::registry().with(turns.clone().with_filter(heard)).try_init()?;
    run(plan, timeline, &turns)
}

/// Where the course of events is not: it differs from run to run.
fn tell_cost() {
    match getrusage(UsageWho::RUSAGE_SELF) {
        Ok(usage) => {
            let spent = [usage.user_time(), usage.system_time()];
            let microseconds: i64 = spent.iter().map(|time| time.tv_sec() * 1_000_000 + time.tv_usec()).sum();
            eprintln!("took {microseconds} µs of a processor");
        }
        Err(error) => eprintln!("what it took is not known: {error}"),
    }
}

fn tell(seed: u64, report: &Report, timeline: &Timeline) {
    for violation in &report.violations {
        println!("seed {seed}: VIOLATED: {violation}");
    }
    println!("seed {seed}: ends with {}", report.end);
    println!("seed {seed}: carried out {}", report.deeds);
    println!("seed {seed}: people were told {}", report.told.join(", "));
    let verdict = if report.violations.is_empty() { "ok" } else { "FAILED" };
    let converged =
        report.converged_after.map_or("never".to_owned(), |after| format!("{:.1} s", after.as_secs_f64()));
    println!(
        "seed {seed}: {verdict}; simulated {:.0} s, in sync after {converged}, {} writes, {} waits, {} refused by process buckets, {} refused by device buckets, {} effects, {} events, {} leases, {} lease events, {} old views, digest {:016x}",
        report.simulated.as_secs_f64(),
        report.writes,
        report.waits,
        report.refused.by_process,
        report.refused.by_device,
        report.moments.effects,
        report.moments.events,
        report.moments.leases,
        report.moments.lease_events,
        report.moments.old_views,
        timeline.digest()
    );
}
