//! What the demo found, as data: written as JSON for programs (docs/report.schema.json) and judged. Pure; the table for
//! people is in [`super::table`].

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::stats::Share;

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
    /// Packets lost out of packets seen under the profile.
    pub lost: Share,
    /// Whether the asked share lies within the interval.
    pub within: bool,
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
    /// Judges: every counted loss within its interval and counted at all, all devices in sync at the end, and, with `both_hooks`, one
    /// node with XDP in the driver and one without any. `problems` are those that others found.
    #[must_use]
    pub fn judged(mut self, both_hooks: bool, mut problems: Vec<String>) -> Self {
        let native =
            self.nodes.iter().filter(|node| node.hooks.iter().any(|hook| hook.starts_with("Xdp"))).count();
        if both_hooks && (native == 0 || native == self.nodes.len()) {
            let all = self.nodes.len();
            problems.push(format!(
                "{native} of {all} agents use XDP; one and not all should, see `kubectl get faultnodes`"
            ));
        }
        for phase in self.phases.iter().filter(|phase| phase.asked > 0.0) {
            problems.extend(doubts(phase));
        }
        if let Some(last) = self.phases.last().filter(|last| last.in_sync < self.devices) {
            let (in_sync, all) = (last.in_sync, self.devices);
            problems.push(format!(
                "{in_sync} of {all} devices are in sync at the end; see `kubectl describe device` for the others"
            ));
        }
        if self.phases.is_empty() {
            problems.push("no phase was run".to_owned());
        }
        self.verdict = Verdict { passed: problems.is_empty(), problems };
        self
    }

    /// The schema of the report, as docs/report.schema.json holds it.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub fn schema() -> serde_json::Result<String> {
        Ok(serde_json::to_string_pretty(&schemars::schema_for!(Self))? + "\n")
    }
}

fn doubts(phase: &Phase) -> Vec<String> {
    let mut doubts = Vec::new();
    for direction in ["ToDevice", "FromDevice"] {
        let Some(counted) = phase.counted.iter().find(|counted| counted.direction == direction) else {
            // Who hears no request sends no answer, so a partition may see none.
            if phase.asked >= 1.0 && direction == "FromDevice" {
                continue;
            }
            doubts.push(format!("phase {}: the kernel counted no packet {direction}", phase.name));
            continue;
        };
        if !counted.within {
            let Share { share, low, high, .. } = counted.lost;
            doubts.push(format!(
                "phase {}: asked to lose {:.2} % {direction}, but the kernel counted {:.2} %, whose 99.9 % interval is {:.2} to \
                 {:.2} % (one run of 1,000 misses by chance; run it again)",
                phase.name,
                phase.asked * 100.0,
                share * 100.0,
                low * 100.0,
                high * 100.0
            ));
        }
    }
    doubts
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::paths;

    fn counted(direction: &str, lost: u64, of: u64, asked: f64) -> Counted {
        let lost = Share::counted(lost, of);
        Counted { direction: direction.to_owned(), lost, within: lost.admits(asked) }
    }

    fn node(name: &str, hook: &str) -> Node {
        Node { name: name.to_owned(), kernel: "6.18.0".to_owned(), hooks: vec![hook.to_owned()] }
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
        let calm = Phase { converged_after: Some(4.0), ..phase("calm", 58.0, 62.0) };
        Report {
            version: VERSION,
            started_at: "2026-01-01T00:00:00Z".to_owned(),
            devices: 50,
            seed: 7,
            nodes: vec![node("node1", "XdpNative 3"), node("node2", "TcxIngress 3")],
            phases: vec![converge, loss, partition, calm],
            verdict: Verdict::default(),
            series: vec![Series {
                name: "in sync".to_owned(),
                query: "up".to_owned(),
                points: vec![(0.0, 1.0)],
            }],
        }
    }

    #[test]
    fn a_run_as_it_should_be_passes() {
        let report = sample().judged(true, Vec::new());
        assert!(report.verdict.passed, "{:?}", report.verdict.problems);
    }

    #[test]
    fn a_loss_outside_its_interval_fails_the_run() {
        let mut report = sample();
        report.phases[1].counted[0] = counted("ToDevice", 300, 1000, 0.2);
        let verdict = report.judged(true, Vec::new()).verdict;
        assert!(!verdict.passed);
        assert!(
            verdict.problems[0].starts_with("phase loss: asked to lose 20.00 % ToDevice"),
            "{:?}",
            verdict.problems
        );
    }

    #[test]
    fn a_direction_without_packets_fails_the_run() {
        let mut report = sample();
        report.phases[1].counted.pop();
        let problems = report.judged(true, Vec::new()).verdict.problems;
        assert_eq!(problems, ["phase loss: the kernel counted no packet FromDevice"]);
    }

    #[test]
    fn silent_devices_behind_a_partition_are_no_failure_but_requests_that_pass_it_are() {
        let mut report = sample();
        report.phases[2].counted.pop();
        assert!(report.clone().judged(true, Vec::new()).verdict.passed);
        report.phases[2].counted.clear();
        assert_eq!(
            report.judged(true, Vec::new()).verdict.problems,
            ["phase partition: the kernel counted no packet ToDevice"]
        );
    }

    #[test]
    fn a_device_out_of_sync_at_the_end_fails_the_run() {
        let mut report = sample();
        report.phases[3].in_sync = 49;
        let problems = report.judged(true, Vec::new()).verdict.problems;
        assert!(problems[0].starts_with("49 of 50 devices are in sync"), "{problems:?}");
    }

    #[test]
    fn both_ways_to_take_a_packet_must_have_been_used() {
        let mut report = sample();
        report.nodes[0] = node("node1", "TcxIngress 3");
        assert!(report.clone().judged(false, Vec::new()).verdict.passed);
        assert!(report.judged(true, Vec::new()).verdict.problems[0].starts_with("0 of 2 agents use XDP"));
    }

    #[test]
    fn what_others_found_fails_the_run_too() {
        let verdict = sample().judged(true, vec!["a panel is empty".to_owned()]).verdict;
        assert_eq!(verdict, Verdict { passed: false, problems: vec!["a panel is empty".to_owned()] });
    }

    #[test]
    fn what_is_written_can_be_read_again() {
        let report = sample().judged(true, Vec::new());
        let text = serde_json::to_string(&report).unwrap();
        let read: Report = serde_json::from_str(&text).unwrap();
        assert_eq!(read.phases.len(), report.phases.len());
        assert_eq!(read.verdict, report.verdict);
    }

    #[test]
    fn the_schema_in_the_repository_is_that_of_the_report() {
        let path = paths::root().join("docs/report.schema.json");
        let wanted = Report::schema().unwrap();
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            kept == wanted,
            "docs/report.schema.json is not up to date: `cargo xtask demo --schema > docs/report.schema.json` writes it"
        );
    }
}
