//! From counters to the numbers of the report: for each span of time what the kernel counted and what the operator did. Counters only
//! rise, so a phase is the difference between its ends; a profile's own counters need no ends at all.

use anyhow::Result;

use super::install::DEVICES;
use super::prometheus::{Curve, Prometheus};
use super::report::{Counted, Delayed, Phase, RoundTrips};
use super::stats::{self, Mean, Share};
use super::timeline::{self, Bursts, Ends, Fault, Late};

/// Seconds between two scrapes, as deploy/prometheus has it.
const SCRAPE: f64 = 1.0;

/// A phase that was run.
#[derive(Clone, Debug)]
pub struct Span {
    /// Which.
    pub phase: timeline::Phase,
    /// When it began, Unix seconds.
    pub from: f64,
    /// When it ended, Unix seconds.
    pub to: f64,
    /// Devices in sync when it ended.
    pub in_sync: u32,
    /// Seconds until all were.
    pub converged_after: Option<f64>,
}

/// Transmissions of confirmable messages whose fate is known.
pub fn sends(outcome: &str) -> String {
    format!(r#"edge_device_sends_total{{namespace="{DEVICES}",outcome="{outcome}"}}"#)
}

/// Retransmissions to devices.
pub fn retransmissions() -> String {
    format!(r#"edge_device_retransmissions_total{{namespace="{DEVICES}"}}"#)
}

/// Commands that were sent to devices again.
pub fn repeated() -> String {
    format!(r#"edge_device_command_retries_total{{namespace="{DEVICES}"}}"#)
}

/// Packets that met a profile's rule in one direction; `lost` picks those that it took.
pub fn packets(profile: &str, direction: &str, lost: bool) -> String {
    let verdict = if lost { r#",verdict!="pass""# } else { "" };
    format!(
        r#"edge_fault_packets_total{{namespace="{DEVICES}",profile="{profile}",direction="{direction}"{verdict}}}"#
    )
}

/// Packets that a profile's rule let pass and did this to, in one direction.
pub fn effects(profile: &str, direction: &str, effect: &str) -> String {
    format!(
        r#"edge_fault_effects_total{{namespace="{DEVICES}",profile="{profile}",direction="{direction}",effect="{effect}"}}"#
    )
}

/// The sum of the delays that a profile gave in one direction, seconds.
fn delays(profile: &str, direction: &str) -> String {
    format!(
        r#"edge_fault_delay_seconds_total{{namespace="{DEVICES}",profile="{profile}",direction="{direction}"}}"#
    )
}

/// A part of the histogram of round trips.
fn round_trips(part: &str) -> String {
    format!(r#"edge_device_round_trip_seconds_{part}{{namespace="{DEVICES}"}}"#)
}

/// The numbers of one span, with times as seconds after `zero`. `devices` is how many there are.
///
/// # Errors
/// When Prometheus cannot be asked.
pub async fn measure(
    prometheus: &Prometheus,
    span: &Span,
    devices: u32,
    zero: f64,
    end: f64,
) -> Result<Phase> {
    let name = span.phase.name;
    let mut counted = Vec::new();
    let mut delayed = Vec::new();
    if let Some(fault) = span.phase.fault {
        for direction in ["ToDevice", "FromDevice"] {
            let seen = prometheus.sum(&packets(name, direction, false), end).await?;
            let lost = prometheus.sum(&packets(name, direction, true), end).await?;
            let chains = chains(prometheus, name, direction, end).await?.max(u64::from(devices));
            if seen > 0.0 {
                counted.push(judged(direction, whole(lost), whole(seen), fault, chains));
            }
            if let Fault::Late(late) = fault {
                delayed.push(lateness(prometheus, name, direction, late, end).await?);
            }
        }
    }
    let asked = span.phase.fault.map_or(0.0, Fault::asked);
    let inside = inside(span);
    let unanswered = whole(risen(prometheus, &sends("unanswered"), &inside).await?);
    let answered = whole(risen(prometheus, &sends("answered"), &inside).await?);
    Ok(Phase {
        name: name.to_owned(),
        title: span.phase.title.to_owned(),
        from: span.from - zero,
        to: span.to - zero,
        asked,
        predicted: predicted(&counted),
        counted,
        delayed,
        round_trips: measured(prometheus, &inside).await?,
        unanswered: Share::counted(unanswered, unanswered + answered),
        retransmissions: whole(risen(prometheus, &retransmissions(), span).await?),
        repeated: whole(risen(prometheus, &repeated(), span).await?),
        in_sync: span.in_sync,
        converged_after: span.converged_after,
    })
}

/// What of a span its phase alone is answerable for. What a counter was at a time is known up to a scrape earlier, and agents act a moment
/// after a profile has started: so this begins with the second scrape. It ends with the fault, and not when somebody saw that.
fn inside(span: &Span) -> Span {
    let to = match span.phase.ends {
        Ends::WithFault(length) => span.to.min(span.from + length.as_secs_f64()),
        Ends::InSync(_) => span.to,
    };
    Span { from: span.from + 2.0 * SCRAPE, to, ..span.clone() }
}

fn judged(direction: &str, lost: u64, seen: u64, fault: Fault, chains: u64) -> Counted {
    let lost = match fault {
        Fault::Bursts(bursts) => in_bursts(lost, seen, bursts, chains),
        _ => Share::counted(lost, seen),
    };
    Counted { direction: direction.to_owned(), lost, within: lost.admits(fault.asked()) }
}

fn in_bursts(lost: u64, seen: u64, bursts: Bursts, chains: u64) -> Share {
    let (enter, leave) = bursts.probabilities();
    Share::in_bursts(lost, seen, enter, leave, chains)
}

/// How many sequences of packets have bursts of their own: one for each device on each node whose kernel saw it.
async fn chains(prometheus: &Prometheus, profile: &str, direction: &str, end: f64) -> Result<u64> {
    let each = format!("sum by (instance, device) ({}) > 0", packets(profile, direction, false));
    Ok(prometheus.at(&each, end).await?.len() as u64)
}

/// What the kernel counted of the delays in one direction.
async fn lateness(
    prometheus: &Prometheus,
    profile: &str,
    direction: &str,
    late: Late,
    end: f64,
) -> Result<Delayed> {
    let count = async |effect: &str| -> Result<u64> {
        Ok(whole(prometheus.sum(&effects(profile, direction, effect), end).await?))
    };
    let given = prometheus.sum(&delays(profile, direction), end).await?;
    let (delayed, reordered) = (count("delay").await?, count("reorder").await?);
    let undelayed = count("stalled").await? + count("line_full").await?;
    Ok(delays_of(direction, late, (delayed, reordered, undelayed), given))
}

fn delays_of(
    direction: &str,
    late: Late,
    (delayed, reordered, undelayed): (u64, u64, u64),
    given: f64,
) -> Delayed {
    let reordered = Share::counted(reordered, delayed);
    let delay = Mean::of(given, delayed, late.deviation());
    Delayed {
        direction: direction.to_owned(),
        undelayed,
        asked: late.mean(),
        within: delay.admits(late.mean()),
        delay,
        reorder_asked: late.share(),
        reorder_within: reordered.admits(late.share()),
        reordered,
    }
}

/// The round trips that the operator measured.
async fn measured(prometheus: &Prometheus, span: &Span) -> Result<Option<RoundTrips>> {
    let of = whole(risen(prometheus, &round_trips("count"), span).await?);
    if of == 0 {
        return Ok(None);
    }
    let sum = risen(prometheus, &round_trips("sum"), span).await?;
    let window = (span.to - span.from).max(1.0).ceil();
    let rises = format!("sum by (le) (increase({}[{window}s]))", round_trips("bucket"));
    let median = prometheus.sum(&format!("histogram_quantile(0.5, {rises})"), span.to).await?;
    Ok(Some(RoundTrips { of, mean: sum / stats::float(of), median }))
}

/// What the counted losses say about unanswered transmissions. A direction without packets loses nothing.
fn predicted(counted: &[Counted]) -> f64 {
    let share = |direction: &str| {
        counted
            .iter()
            .find(|counted| counted.direction == direction)
            .map_or(0.0, |counted| counted.lost.share)
    };
    stats::unanswered(share("ToDevice"), share("FromDevice"))
}

async fn risen(prometheus: &Prometheus, counter: &str, span: &Span) -> Result<f64> {
    // Each replica has its own counters, and those of one that ended are gone later on. Whole seconds, and then the end.
    let mut curves = prometheus.between(counter, span.from, span.to).await?;
    for end in prometheus.at(counter, span.to).await? {
        match curves.iter_mut().find(|curve| curve.labels == end.labels) {
            Some(curve) => curve.points.extend(end.points),
            None => curves.push(end),
        }
    }
    Ok(curves.iter().map(|curve| rise(curve, span.from)).sum())
}

/// How far a counter rose from `from` on. One that is new, or was started again, counts from nothing.
fn rise(curve: &Curve, from: f64) -> f64 {
    let known = curve.points.first().filter(|(time, _)| *time <= from + SCRAPE / 2.0);
    let mut last = known.map_or(0.0, |(_, value)| *value);
    let mut risen = 0.0;
    for (_, value) in &curve.points {
        risen += if *value < last { *value } else { value - last };
        last = *value;
    }
    risen
}

/// A count as Prometheus tells it, which is a float.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts are whole, not negative and below 2^53"
)]
pub fn whole(value: f64) -> u64 {
    value.round().max(0.0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_one_way_alone_is_all_that_a_request_meets() {
        let to = judged("ToDevice", 800, 800, Fault::Partition, 0);
        assert!((predicted(&[to]) - 1.0).abs() < 1e-9);
        let share = |direction: &str, lost, seen| judged(direction, lost, seen, Fault::Loss(20), 0);
        let both = [share("ToDevice", 20, 100), share("FromDevice", 16, 80)];
        assert!((predicted(&both) - 0.36).abs() < 1e-9);
        assert!(predicted(&[]).abs() < 1e-9);
    }

    #[test]
    fn what_comes_before_a_fault_acts_and_after_it_has_ended_is_not_its_phases() {
        for phase in timeline::phases(timeline::limit(50)) {
            let ends = phase.ends;
            let span = Span { phase, from: 100.0, to: 200.0, in_sync: 50, converged_after: None };
            let Span { from, to, .. } = inside(&span);
            let length = match ends {
                Ends::WithFault(length) => length.as_secs_f64(),
                Ends::InSync(_) => 100.0,
            };
            assert!(
                (from - 102.0).abs() < 1e-9 && (to - 100.0 - length).abs() < 1e-9,
                "{ends:?}: {from} to {to}"
            );
        }
    }

    #[test]
    fn what_was_asked_is_compared_with_what_was_counted() {
        assert!(judged("ToDevice", 200, 1000, Fault::Loss(20), 0).within);
        assert!(!judged("ToDevice", 300, 1000, Fault::Loss(20), 0).within);
        let bursts = Fault::Bursts(Bursts { enter: 28, leave: 250 });
        assert!(
            judged("ToDevice", 40, 600, bursts, 50).within,
            "each of fifty devices began outside of a burst"
        );
        assert!(!judged("ToDevice", 240, 600, bursts, 50).within);
    }

    #[test]
    fn delays_given_and_packets_reordered_are_compared_with_what_was_asked() {
        let late = Late { time: 80, jitter: 20, reordered: 5, by: 60 };
        let fine = delays_of("ToDevice", late, (1000, 52, 0), 83.4);
        assert!(fine.within && fine.reorder_within, "{fine:?}");
        let late_by_half = delays_of("ToDevice", late, (1000, 120, 0), 120.0);
        assert!(!late_by_half.within && !late_by_half.reorder_within, "{late_by_half:?}");
    }

    #[test]
    fn a_counter_of_a_new_process_and_one_of_a_process_started_again_count_from_nothing() {
        let curve = |points: &[(f64, f64)]| Curve { points: points.to_vec(), ..Curve::default() };
        let all_the_time = curve(&[(10.0, 100.0), (11.0, 104.0), (12.0, 110.0)]);
        assert!((rise(&all_the_time, 10.0) - 10.0).abs() < 1e-9);
        let new = curve(&[(11.0, 3.0), (12.0, 7.0)]);
        assert!((rise(&new, 10.0) - 7.0).abs() < 1e-9);
        let again = curve(&[(10.0, 100.0), (11.0, 102.0), (12.0, 1.0), (13.0, 4.0)]);
        assert!((rise(&again, 10.0) - 6.0).abs() < 1e-9);
        assert!(rise(&curve(&[]), 10.0).abs() < 1e-9);
    }

    #[test]
    fn the_time_between_scrapes_is_that_of_the_installation() {
        let path = crate::paths::root().join("deploy/prometheus/config.yaml");
        let config: serde_json::Value =
            serde_yaml_ng::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        assert_eq!(config["global"]["scrape_interval"], format!("{SCRAPE}s"));
    }

    #[test]
    fn the_queries_name_the_contracts_labels() {
        let lost = packets("loss", "ToDevice", true);
        let wanted = r#"edge_fault_packets_total{namespace="edge-demo",profile="loss",direction="ToDevice",verdict!="pass"}"#;
        assert_eq!(lost, wanted);
    }
}
