//! A cold start: the operator meets so many Devices that nobody has told anything about, and their devices, which run something else.

use std::time::{Duration, Instant};

use fault_rig::figures::{Aim, Figure, Report};

use crate::cluster::Cluster;
use crate::ideal::{Bound, Line, WRITES};
use crate::operator::{Operator, Scrape, cpu};
use crate::plan::{Plan, Site};
use crate::say;
use crate::site::Running;

/// The operator's defaults, which the bound goes by: `--ack-timeout`, `--max-retransmit`, `--max-in-flight`, `--workers`.
const ACK_TIMEOUT: f64 = 2.0;
const MAX_RETRANSMIT: u32 = 4;
/// The longest time until a third transmission may be answered (`Timing::opening`).
const OPENING: f64 = 5.0 * ACK_TIMEOUT;
const WINDOW: u32 = 2048;
const WORKERS: usize = 16;
/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// So many looks to one that is said.
const SAID: u32 = 5;
/// Then memory is what it stays, and what is written is not of the start.
const SETTLED: Duration = Duration::from_secs(10);

/// Everything but the operators.
pub(crate) struct World {
    /// Where all of it is declared.
    pub(crate) cluster: Cluster,
    /// What the devices are.
    pub(crate) sites: Vec<Site>,
    /// The devices themselves.
    pub(crate) running: Vec<Running>,
    /// Bytes of an operator that leads no device.
    pub(crate) empty: f64,
    /// Statuses a second.
    rate: f64,
}

impl World {
    /// Everything is there, and no operator.
    pub(crate) async fn set(plan: &Plan) -> Self {
        say("starting etcd and kube-apiserver");
        let cluster = Cluster::start().await;
        say("weighing an operator without devices");
        let idle = Operator::start(&cluster, plan, "idle", &[]);
        idle.is_ready().await;
        idle.leads().await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let empty = idle.bytes();
        idle.is_asked_to_end();
        idle.has_ended().await;
        say("writing statuses as fast as the API server takes them");
        let rate = cluster.status_rate(WORKERS).await;
        let sites = plan.sites();
        let mut running = Vec::new();
        for site in &sites {
            say(format!("starting {} devices of {}", site.devices, site.namespace()));
            running.push(Running::start(site, plan, cluster.control_plane.folder()).await);
        }
        cluster.declare(&sites).await;
        Self { cluster, sites, running, empty, rate }
    }

    /// Commands stored and carried out by all devices so far.
    pub(crate) async fn counts(&mut self) -> (u64, u64) {
        let mut all = (0, 0);
        for site in &mut self.running {
            let (stored, applied) = site.counts().await;
            all = (all.0 + stored, all.1 + applied);
        }
        all
    }
}

/// Starts an operator and waits until every device is in sync. Gives the operator.
pub(crate) async fn measure(plan: &Plan, world: &mut World, report: &mut Report) -> Operator {
    let servers = world.cluster.control_plane.process_ids();
    let spent = || servers.iter().map(|process| cpu(*process)).sum::<f64>();
    let before = spent();
    let operator = Operator::start(&world.cluster, plan, "first", &["--per-device-series=0"]);
    let (took, at_the_end) = until_in_sync(&operator, plan).await;
    let all = f64::from(plan.devices);
    let line = Line {
        ack_timeout: ACK_TIMEOUT,
        max_retransmit: MAX_RETRANSMIT,
        opening: OPENING,
        loss: plan.loss(),
    };
    let bound = Bound::of(&line, plan.devices, WINDOW, world.rate, &mut rand::random);
    let figures = [
        ("window and retries, at least", bound.window, "s"),
        ("the unluckiest device's retries, at least", bound.schedule, "s"),
        ("writes at the rate of the API server, at least", bound.writes, "s"),
        ("a window that is never idle", line.schedule(plan.devices, WINDOW, &mut rand::random), "s"),
        ("the API server's status writes", world.rate, "a second"),
        ("CPU of the operator", operator.cpu() / all * 1e3, "ms/device"),
        ("CPU of etcd and kube-apiserver", (spent() - before) / all * 1e3, "ms/device"),
    ];
    report.figures.push(Figure::alone("cold start", "all in sync", took, "s").beside(bound.seconds()));
    report.figures.extend(figures.map(|(name, value, unit)| Figure::alone("cold start", name, value, unit)));
    report.aims.push(Aim::at_most("cold start ≤ 1.5 × its lower bound", took / bound.seconds(), "", 1.5));
    writes(plan, &at_the_end, report);
    afterwards(plan, world, &operator, report).await;
    operator
}

/// Waits until every device is in sync. Gives the seconds since the operator's start, and the last scrape.
pub(crate) async fn until_in_sync(operator: &Operator, plan: &Plan) -> (f64, Scrape) {
    let all = f64::from(plan.devices);
    let (begun, mut looks) = (Instant::now(), 0_u32);
    loop {
        let scrape = operator.scrape().await;
        let took = operator.age().as_secs_f64();
        let in_sync = scrape.sum("edge_devices", &[r#"phase="InSync""#]);
        if in_sync > all - 0.5 {
            return (took, scrape);
        }
        if looks.is_multiple_of(SAID) {
            say(format!(
                "{took:.0} s: {in_sync} of {all} in sync, {} under way, {} wait, {} written",
                scrape.sum("edge_inflight_exchanges", &[]),
                scrape.sum("edge_waiting_exchanges", &[]),
                scrape.writes()
            ));
        }
        looks += 1;
        assert!(begun.elapsed() < plan.patience(), "not in sync in time");
        tokio::time::sleep(LOOK).await;
    }
}

fn writes(plan: &Plan, scrape: &Scrape, report: &mut Report) {
    let all = f64::from(plan.devices);
    let code = |code: &str| scrape.sum("rest_client_requests_total", &[code]);
    for (name, value) in [
        ("writes, Events included", scrape.writes()),
        ("answers of 409 (conflict)", code(r#"code="409""#)),
        ("answers of 429 (too many requests)", code(r#"code="429""#)),
        ("phases on the way that were written, silences included", scrape.writes() - f64::from(WRITES) * all),
    ] {
        report.figures.push(Figure::alone("API server", name, value, ""));
    }
    let name = "API writes a device, Events included ≤ 2";
    report.aims.push(Aim::at_most(name, scrape.writes() / all, "", f64::from(WRITES)));
}

/// What it weighs, and what it does when there is nothing to do.
async fn afterwards(plan: &Plan, world: &mut World, operator: &Operator, report: &mut Report) {
    let all = f64::from(plan.devices);
    say("waiting until it has settled");
    tokio::time::sleep(SETTLED).await;
    let (before, begun, spent) = (operator.scrape().await.writes(), Instant::now(), operator.cpu());
    say("watching it while there is nothing to write");
    tokio::time::sleep(SETTLED).await;
    let written = operator.scrape().await.writes() - before;
    let idle = (operator.cpu() - spent) / begun.elapsed().as_secs_f64();
    report.figures.push(Figure::alone("in sync", "CPU of the operator", idle * 100.0, "%"));
    // On such lines some device is always silent for longer than its suspectAfter, and its status says so.
    report.figures.push(Figure::alone(
        "in sync",
        "writes",
        written / begun.elapsed().as_secs_f64(),
        "a second",
    ));
    let weight = (operator.bytes() - world.empty) / all / 1e3;
    report.figures.push(Figure::alone("memory", "an operator without devices", world.empty / 1e6, "MB"));
    report.figures.push(Figure::alone("memory", "a device, without metrics of its own", weight, "kB"));
    report.aims.push(Aim::at_most("memory a device, without metrics of its own ≤ 12 kB", weight, "kB", 12.0));
    let (stored, applied) = world.counts().await;
    let name = "commands stored and carried out a device = 1";
    let most = f64::max(ratio(stored, plan.devices), ratio(applied, plan.devices));
    report.aims.push(Aim::at_most(name, most, "", 1.0));
}

#[expect(clippy::cast_precision_loss, reason = "commands of a benchmark are far below 2^53")]
fn ratio(count: u64, devices: u32) -> f64 {
    count as f64 / f64::from(devices)
}
