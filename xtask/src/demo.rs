//! `cargo xtask demo`: the whole thing on real packets, in one command. This file holds the flags and the order of steps.
//!
//! ```text
//! timeline  the phases as data                 world      the cluster, brought up and removed
//! layout    how many devices are where         install    what is installed on it
//! stats     intervals and predictions          experiment runs the phases
//! report    the result as data                 measure    counters to the phases' numbers
//! judge     whether it is as it should be      prometheus asks the installation's Prometheus
//! table     the result for people              dashboard  runs the queries of deploy/grafana
//! view      what is seen meanwhile             leader     the operator that leads, killed in the middle
//! room      what is somebody else's stays      rollout    the fleet, batch by batch
//! ```

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use kube::Client;

use self::dashboard::Query;
use self::experiment::{Experiment, Run};
use self::layout::Layout;
use self::prometheus::{Curve, Prometheus};
use self::report::{Leader, Report, Series};
use self::world::World;
use crate::{cleanup, interrupt};

pub mod dashboard;
pub mod experiment;
pub mod install;
pub mod judge;
pub mod layout;
pub mod leader;
pub mod measure;
pub mod prometheus;
pub mod report;
pub mod rollout;
pub mod room;
pub mod stats;
pub mod table;
pub mod timeline;
pub mod view;
pub mod world;

const AFTER: &str = "\
Ctrl-C removes everything; what a killed demo leaves, the next one removes. The exit code is 0 if every loss, delay and
reordering that the kernel counted admits what was asked, the rollout kept its budget, and all devices are in sync at the end.

On a cluster of yours (kind, k3s, …) load the images first, see `cargo xtask images --help`, then name its context:
  cargo xtask demo --context kind-kind";

/// What `cargo xtask demo` takes.
#[derive(Clone, Debug, clap::Args)]
#[command(after_long_help = AFTER)]
pub struct Args {
    /// How many devices; a fifth of them outside the cluster
    #[arg(long, env = "EDGE_DEVICES", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=5000))]
    devices: u32,
    /// Use the cluster of this kubeconfig context instead of one of its own; all devices are in pods then
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// The name of its own cluster; tests have one of theirs
    #[arg(long, hide = true, default_value = world::CLUSTER)]
    cluster: String,
    /// Leave everything running at the end, and say how to use it
    #[arg(long)]
    keep: bool,
    /// Write the report as JSON (docs/report.schema.json)
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Fail when a query of a dashboard in deploy/grafana shows nothing of this run
    #[arg(long)]
    check_dashboard: bool,
    /// Seed of packets' fates and of devices' behaviour
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u64).range(0..=i64::MAX as u64))]
    seed: u64,
    /// Print the JSON schema of the report, and do nothing else
    #[arg(long)]
    schema: bool,
}

/// Runs the verb.
///
/// # Errors
/// With what went wrong and what to do about it; with the report's problems.
pub fn run(args: &Args) -> Result<()> {
    if args.schema {
        print!("{}", Report::schema()?);
        return Ok(());
    }
    let mut world = match &args.context {
        None => World::own(&args.cluster)?,
        Some(context) => World::other(context)?,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let mut manifests = Vec::new();
    let shown = runtime.block_on(async {
        tokio::select! {
            shown = show(args, &mut world, &mut manifests) => shown,
            () = interrupt::came() => Err(anyhow!("interrupted")),
        }
    });
    if shown.is_err() && !manifests.is_empty() && !interrupt::seen() {
        world.explain();
    }
    let removed = if args.keep && !interrupt::seen() {
        world.keep();
        Ok(())
    } else {
        world.remove(&manifests)
    };
    let report = match shown {
        Ok(report) => removed.map(|()| report)?,
        Err(error) => return Err(cleanup::after(error, removed)),
    };
    if !report.verdict.passed {
        bail!("the demo did not show what it is there to show:\n  {}", report.verdict.problems.join("\n  "));
    }
    Ok(())
}

/// Installs, runs the phases, prints the table. `manifests` tells what is to be removed, also after an error.
async fn show(args: &Args, world: &mut World, manifests: &mut Vec<PathBuf>) -> Result<Report> {
    let layout = Layout::of(args.devices, world.is_own());
    let client = world.client().await?;
    let manifest = install::manifest(world, &layout, args.seed, &world.scratch()?)?;
    room::make(world, &manifest)?;
    manifests.push(manifest.clone());
    world.choose_hooks()?;
    install::apply(world, &manifest)?;
    world.start_outside(&layout, install::DEVICES, args.seed)?;
    install::enrol_outside(&client, &layout).await?;
    let pods = install::ready(&client, &layout, Duration::from_secs(180)).await?;
    install::scraped(&client, pods + u32::from(layout.outside > 0)).await?;

    let experiment = Experiment::new(client.clone(), layout.total(), args.seed, world.weapon()).await?;
    let run = experiment.run(timeline::phases(timeline::limit(layout.total()))).await?;
    let report = collect(args, &client, &layout, &run).await?;
    println!("\n{}", table::render(&report));
    if let Some(path) = &args.report {
        let text = serde_json::to_vec_pretty(&report).context("writing the report as JSON")?;
        std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
        eprintln!("wrote {}", path.display());
    }
    Ok(report)
}

async fn collect(args: &Args, client: &Client, layout: &Layout, run: &Run) -> Result<Report> {
    let prometheus = Prometheus::new(client.clone());
    let (end, devices) = (run.end, layout.total());
    let zero = run.spans.first().map_or(end, |span| span.from);
    let mut phases = Vec::new();
    for span in &run.spans {
        phases.push(measure::measure(&prometheus, span, devices, zero, end).await?);
    }
    let answers = dashboard::run(&prometheus, zero, end).await?;
    let since_1970 = jiff::SignedDuration::try_from_secs_f64(zero).context("reading Prometheus' time")?;
    let started_at = jiff::Timestamp::from_duration(since_1970).context("reading Prometheus' time")?;
    let report = Report {
        version: report::VERSION,
        started_at: started_at.to_string(),
        devices,
        seed: args.seed,
        nodes: install::nodes(client).await?,
        phases,
        rollouts: run.rollouts.iter().map(|watched| watched.told(zero, devices)).collect(),
        leader: led(&prometheus, run, zero).await?,
        verdict: report::Verdict::default(),
        series: answers
            .iter()
            .flat_map(|(query, curves)| curves.iter().map(|curve| series(query, curve, zero)))
            .collect(),
    };
    let missing = if args.check_dashboard { dashboard::empty(&answers) } else { Vec::new() };
    Ok(report.judged(args.context.is_none(), missing))
}

/// The leader that was killed, and who followed.
async fn led(prometheus: &Prometheus, run: &Run, zero: f64) -> Result<Option<Leader>> {
    let Some((at, succession)) = &run.succession else { return Ok(None) };
    let epoch = async |time| -> Result<u64> {
        Ok(measure::whole(prometheus.sum("max(edge_leader_epoch)", time).await?))
    };
    Ok(Some(Leader {
        killed: succession.killed.pod().to_owned(),
        by_signal: succession.at_once,
        at: at - zero,
        leaderless: succession.leaderless.as_secs_f64(),
        next: succession.next.pod().to_owned(),
        lease: succession.next.lease,
        changes: run.changes,
        epochs: (epoch(*at).await?, epoch(run.end).await?),
    }))
}

fn series(query: &Query, curve: &Curve, zero: f64) -> Series {
    let labels: Vec<_> = curve.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    Series {
        name: format!("{} {}", query.place, labels.join(" ")).trim_end().to_owned(),
        query: query.expr.clone(),
        points: curve.points.iter().map(|(time, value)| (time - zero, *value)).collect(),
    }
}
