//! The leader is killed, or ends by itself, just before devices are to run something else: how long it takes until one of them has
//! the first command of the next leader. By the devices' own clock, which is this machine's.

use std::time::{Duration, Instant, SystemTime};

use fault_rig::figures::{Aim, Figure, Report};

use crate::cold::{World, until_in_sync};
use crate::operator::Operator;
use crate::plan::Plan;
use crate::say;
use crate::site::EPOCH;

/// Devices that shall run something else. Of several at least one answers at once, whatever the losses.
const CHANGED: u16 = 16;
/// `--leader-elect-lease-duration`'s default, in milliseconds.
const LEASE: f64 = 15_000.0;
/// `--leader-elect-retry-period`'s default.
const RENEWALS: Duration = Duration::from_secs(2);
/// Each device has been asked something by then.
const ASKED: Duration = Duration::from_secs(240);
/// So that each device has series of its own.
const PER_DEVICE: &str = "--per-device-series=100000";

/// Changes leaders so often as the plan says.
pub(crate) async fn measure(plan: &Plan, world: &mut World, first: Operator, report: &mut Report) {
    let (mut leader, mut killed, mut ended) = (first, Vec::new(), Vec::new());
    for round in 0..plan.changes {
        say(format!("killing the leader, {} of {}", round + 1, plan.changes));
        let flags: &[&str] = if round == 0 { &[PER_DEVICE] } else { &[] };
        let standby = stands_by(plan, world, &format!("after-a-death-{round}"), flags).await;
        let since = leader.killed();
        killed.push(first_command(world, since, &format!("3.0.{round}")).await);
        leader = standby;
        until_in_sync(&leader, plan).await;
        if round == 0 {
            with_metrics_of_each(plan, world, &leader, report).await;
        }
        say(format!("asking the leader to end, {} of {}", round + 1, plan.changes));
        let standby = stands_by(plan, world, &format!("after-an-end-{round}"), &[]).await;
        let since = leader.is_asked_to_end();
        ended.push(first_command(world, since, &format!("4.0.{round}")).await);
        leader.has_ended().await;
        leader = standby;
        if round + 1 < plan.changes {
            until_in_sync(&leader, plan).await;
        }
    }
    let group = "change of leader";
    let (death, end) = (median(killed), median(ended));
    let ratio = death / LEASE;
    let figure = Figure::alone(group, "killed, until the next one's first command", death / 1e3, "s");
    report.figures.push(figure.beside(LEASE / 1e3));
    report.figures.push(Figure::alone(group, "ended, until the next one's first command", end, "ms"));
    report.aims.push(Aim::at_most("leader killed → first command ≤ 1.1 × the lease", ratio, "", 1.1));
    report.aims.push(Aim::at_most("leader ended → first command < 250 ms", end, "ms", 250.0));
}

async fn stands_by(plan: &Plan, world: &World, identity: &str, flags: &[&str]) -> Operator {
    let standby = Operator::start(&world.cluster, plan, identity, flags);
    standby.is_ready().await;
    // It has seen the Lease renewed, and the leader is somewhere between two renewals.
    tokio::time::sleep(2 * RENEWALS + RENEWALS.mul_f64(rand::random())).await;
    standby
}

/// Milliseconds from `since` to the first command that a device has of the next leader.
async fn first_command(world: &mut World, since: SystemTime, firmware: &str) -> f64 {
    let site = &world.sites[0];
    let changed: Vec<_> = (0..CHANGED.min(site.devices)).map(|number| (site, number)).collect();
    let ((), said) = tokio::join!(
        world.cluster.desire(&changed, firmware),
        tokio::time::timeout(Duration::from_secs(120), world.running[0].until(EPOCH)),
    );
    let at = said.expect("a command of the next leader")[1];
    let since = since.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64() * 1e3;
    let taken = float(u64::try_from(world.cluster.taken().await.as_millisecond()).unwrap());
    say(format!(
        "the Lease was taken after {:.0} ms, a command came after {:.0} ms",
        taken - since,
        float(at) - since
    ));
    float(at) - since
}

/// What each device weighs when it has series of its own.
async fn with_metrics_of_each(plan: &Plan, world: &World, leader: &Operator, report: &mut Report) {
    let begun = Instant::now();
    say("waiting until each device has series of its own");
    while leader.scrape().await.series("edge_device_retransmissions_total") < plan.devices as usize {
        assert!(begun.elapsed() < ASKED, "not every device was asked in time");
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    let weight = (leader.bytes() - world.empty) / f64::from(plan.devices) / 1e3;
    report.figures.push(Figure::alone("memory", "a device, with metrics of its own", weight, "kB"));
    report.aims.push(Aim::at_most("memory a device, with metrics of its own ≤ 16 kB", weight, "kB", 16.0));
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 are far below 2^53")]
fn float(number: u64) -> f64 {
    number as f64
}
