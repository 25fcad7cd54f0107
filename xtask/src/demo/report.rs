//! What the demo found, as data: written as JSON for programs (docs/report.schema.json). Pure; it is judged in
//! [`super::judge`], and the table for people is in [`super::table`].

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::stats::{Mean, Share};

/// Raised when a field changes its meaning or goes.
pub const VERSION: u32 = 1;

/// The report of one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Version of this format.
    pub version: u32,
    /// When the experiment began, RFC 3339; all other times are seconds after it.
    pub started_at: String,
    /// How many devices took part.
    pub devices: u32,
    /// Seed of the fault profiles and of the devices' behaviour.
    pub seed: u64,
    /// Where packets were lost.
    pub nodes: Vec<Node>,
    /// The phases, in their order.
    pub phases: Vec<Phase>,
    /// What the fleet brought to the devices, in the order in which it was declared.
    #[serde(default)]
    pub rollouts: Vec<Rollout>,
    /// The leader that was killed in the middle, and who followed; absent when none was.
    pub leader: Option<Leader>,
    /// Whether the demo showed what it is there to show.
    pub verdict: Verdict,
    /// What the dashboard's panels show, over the whole run.
    pub series: Vec<Series>,
}

/// A node and how its agent takes packets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its kernel's release.
    pub kernel: String,
    /// Kinds of hook and on how many interfaces, such as `XdpNative 14`.
    pub hooks: Vec<String>,
    /// Its delay line, such as `Userspace Running`.
    pub engine: String,
    /// How late packets left the delay line, since the agent's start; absent when none did.
    pub lateness: Option<Lateness>,
}

/// How much later than their time packets leave a delay line: what the fault engine itself adds to a delay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Lateness {
    /// Half of them by no more than this, such as `12us`.
    pub p50: String,
    /// 99 of a hundred by no more than this.
    pub p99: String,
}

/// The leader that was killed, and who followed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Leader {
    /// Pod of the operator that led.
    pub killed: String,
    /// Whether it was killed by a signal; else its pod was deleted without grace, and it may have given its Lease away.
    pub by_signal: bool,
    /// When, seconds.
    pub at: f64,
    /// Seconds until the Lease named another holder.
    pub leaderless: f64,
    /// Pod of the one that followed; the same one when its new process was the first.
    pub next: String,
    /// Seconds that a Lease is valid here. It is 15 where nothing else is said; the demo has a shorter one, as its phases are short.
    pub lease: u32,
    /// Changes of the holder from the beginning to the end.
    pub changes: u32,
    /// Epoch before the kill and at the end, by the operators' metrics.
    pub epochs: (u64, u64),
}

/// A firmware that was rolled out, as the operator's status told it twice a second.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rollout {
    /// Which.
    pub firmware: String,
    /// When it was declared, seconds.
    pub began: f64,
    /// Shares of the devices, one batch after the other.
    pub batches: Vec<String>,
    /// Seconds after its declaration until each batch began.
    pub batches_after: Vec<f64>,
    /// Seconds after its declaration until the last batch had ended; absent when that did not happen.
    pub complete_after: Option<f64>,
    /// The most devices that were under way at a time.
    pub in_flight: u32,
    /// How many might be.
    pub max_in_flight: u32,
    /// Devices that ran it at the end, as they last reported.
    pub in_sync: u32,
    /// Devices that had failed to install it at the end.
    pub failed: u32,
}

/// One phase.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Phase {
    /// Its name, also that of its fault profile.
    pub name: String,
    /// What happened in it.
    pub title: String,
    /// When it began, seconds.
    pub from: f64,
    /// When it ended, seconds.
    pub to: f64,
    /// The share of packets that it asked to lose, 0 to 1.
    pub asked: f64,
    /// What the kernel counted, by direction; empty without a fault.
    pub counted: Vec<Counted>,
    /// What the kernel delayed, by direction; empty where no delay was asked.
    pub delayed: Vec<Delayed>,
    /// The round trips that the operator measured, retransmissions and all; absent without any.
    pub round_trips: Option<RoundTrips>,
    /// Transmissions of confirmable messages whose fate became known in this phase, from its first scrape on, and those of them
    /// without an answer.
    pub unanswered: Share,
    /// The share of unanswered transmissions that follows from what the kernel counted.
    pub predicted: f64,
    /// Retransmissions in this phase (RFC 7252 §4.2).
    pub retransmissions: u64,
    /// Commands that were sent again in this phase.
    pub repeated: u64,
    /// Devices in sync when it ended.
    pub in_sync: u32,
    /// Seconds until all devices were in sync with what is declared for the first time; absent when they were not within the
    /// phase, or had been from its start.
    pub converged_after: Option<f64>,
}

/// What the kernel counted in one direction.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Counted {
    /// `ToDevice` or `FromDevice`.
    pub direction: String,
    /// Packets lost out of packets seen under the profile. Where they are lost in bursts the interval accounts for that.
    pub lost: Share,
    /// Whether the asked share lies within the interval.
    pub within: bool,
}

/// What the kernel delayed in one direction.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Delayed {
    /// `ToDevice` or `FromDevice`.
    pub direction: String,
    /// Packets that were to be delayed and were not, since the delay line stood still or was full.
    pub undelayed: u64,
    /// The delay asked on average, that of reordered packets included, seconds.
    pub asked: f64,
    /// The delays given, seconds.
    pub delay: Mean,
    /// Whether the asked delay lies within the interval.
    pub within: bool,
    /// The share of packets asked to be reordered, 0 to 1.
    pub reorder_asked: f64,
    /// Packets made later than the rest out of packets delayed.
    pub reordered: Share,
    /// Whether the asked share lies within the interval.
    pub reorder_within: bool,
}

/// What the operator measured from the first transmission of a request to its response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RoundTrips {
    /// How many.
    pub of: u64,
    /// Their mean, seconds.
    pub mean: f64,
    /// Half took no longer, seconds; as near as the buckets of the histogram are.
    pub median: f64,
}

/// Whether the demo showed what it is there to show.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// Nothing is wrong.
    pub passed: bool,
    /// What is wrong, a sentence each.
    pub problems: Vec<String>,
}

/// A curve.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Series {
    /// Title of the panel and legend of the curve.
    pub name: String,
    /// The PromQL expression.
    pub query: String,
    /// Seconds and value.
    pub points: Vec<(f64, f64)>,
}

impl Report {
    /// The schema of the report, as docs/report.schema.json holds it.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub fn schema() -> serde_json::Result<String> {
        Ok(serde_json::to_string_pretty(&schemars::schema_for!(Self))? + "\n")
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn counted(direction: &str, lost: u64, of: u64, asked: f64) -> Counted {
        let lost = Share::counted(lost, of);
        Counted { direction: direction.to_owned(), lost, within: lost.admits(asked) }
    }

    /// 400 packets that were given so many seconds, and so many of which were reordered.
    pub(in super::super) fn delayed(direction: &str, seconds: f64, reordered: u64) -> Delayed {
        let (delay, reordered) = (Mean::of(seconds, 400, 0.024), Share::counted(reordered, 400));
        Delayed {
            direction: direction.to_owned(),
            undelayed: 0,
            asked: 0.083,
            delay,
            within: delay.admits(0.083),
            reorder_asked: 0.05,
            reordered,
            reorder_within: reordered.admits(0.05),
        }
    }

    pub(in super::super) fn node(name: &str, hook: &str) -> Node {
        Node {
            name: name.to_owned(),
            kernel: "6.18.0".to_owned(),
            hooks: vec![hook.to_owned()],
            engine: "Userspace Running".to_owned(),
            lateness: Some(Lateness { p50: "12us".to_owned(), p99: "90us".to_owned() }),
        }
    }

    pub(in super::super) fn rollout() -> Rollout {
        Rollout {
            firmware: "1.2.0".to_owned(),
            began: 8.1,
            batches: ["10%", "50%", "100%"].map(str::to_owned).into(),
            batches_after: vec![0.6, 5.2, 14.8],
            complete_after: Some(25.3),
            in_flight: 16,
            max_in_flight: 17,
            in_sync: 50,
            failed: 0,
        }
    }

    pub(in super::super) fn sample() -> Report {
        let phase = |name: &str, from: f64, to: f64| Phase {
            name: name.to_owned(),
            title: format!("the phase {name}"),
            from,
            to,
            in_sync: 50,
            ..Phase::default()
        };
        let converge = Phase { converged_after: Some(6.2), ..phase("converge", 0.0, 8.0) };
        let loss = Phase {
            asked: 0.2,
            counted: vec![counted("ToDevice", 202, 1000, 0.2), counted("FromDevice", 155, 798, 0.2)],
            unanswered: Share::counted(357, 1000),
            predicted: 0.357,
            retransmissions: 340,
            repeated: 3,
            converged_after: Some(17.5),
            ..phase("loss", 8.0, 38.0)
        };
        let partition = Phase {
            asked: 1.0,
            counted: vec![counted("ToDevice", 800, 800, 1.0), counted("FromDevice", 2, 2, 1.0)],
            in_sync: 0,
            ..phase("partition", 38.0, 58.0)
        };
        let both = ["ToDevice", "FromDevice"];
        let delay = Phase {
            counted: both.map(|direction| counted(direction, 0, 400, 0.0)).into(),
            delayed: both.map(|direction| delayed(direction, 33.2, 21)).into(),
            round_trips: Some(RoundTrips { of: 390, mean: 0.171, median: 0.166 }),
            ..phase("delay", 58.0, 73.0)
        };
        let calm = Phase { converged_after: Some(4.0), ..phase("calm", 73.0, 77.0) };
        Report {
            version: VERSION,
            started_at: "2026-01-01T00:00:00Z".to_owned(),
            devices: 50,
            seed: 7,
            nodes: vec![node("node1", "XdpNative 3"), node("node2", "TcxIngress 3")],
            phases: vec![converge, loss, partition, delay, calm],
            rollouts: vec![rollout()],
            leader: Some(Leader {
                killed: "edge-operator-1".to_owned(),
                by_signal: true,
                at: 20.1,
                leaderless: 5.3,
                next: "edge-operator-2".to_owned(),
                lease: 6,
                changes: 1,
                epochs: (900, 1200),
            }),
            verdict: Verdict::default(),
            series: vec![Series {
                name: "in sync".to_owned(),
                query: "up".to_owned(),
                points: vec![(0.0, 1.0)],
            }],
        }
    }

    #[test]
    fn what_is_written_can_be_read_again() {
        let report = sample().judged(true, Vec::new());
        let text = serde_json::to_string(&report).unwrap();
        let read: Report = serde_json::from_str(&text).unwrap();
        assert_eq!(read.phases.len(), report.phases.len());
        assert_eq!(read.verdict, report.verdict);
    }
}
