//! What the demo does and when: the phases as data, and the fault profiles that make them. Pure.

use std::time::Duration;

use edge_api::fault_profile::{
    Delay, Direction, Distribution, FaultProfile, FaultProfileSpec, Faults, GilbertElliott, Loss, Partition,
    Reorder, TargetSelector, Targets,
};
use edge_api::quantity::{DurationString, Percent};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use super::rollout::Rollout;

/// What devices are brought to first: all at once.
const FIRST: Rollout = Rollout { firmware: "1.1.0", batches: &["100%"], of: 1 };
/// What is rolled out from the moment when packets begin to be lost on, and is under way when the leader is killed.
const NEXT: Rollout = Rollout { firmware: "1.2.0", batches: &["10%", "50%", "100%"], of: 3 };

/// One phase of the experiment.
#[derive(Clone, Debug, PartialEq)]
pub struct Phase {
    /// Short and unique: also the name of the phase's fault profile.
    pub name: &'static str,
    /// For people.
    pub title: &'static str,
    /// When it ends.
    pub ends: Ends,
    /// Rolled out from its beginning on.
    pub rollout: Option<Rollout>,
    /// Applied as it begins.
    pub fault: Option<Fault>,
    /// So long after its beginning the operator that leads is killed.
    pub kills_leader: Option<Duration>,
}

/// When a phase ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// With its fault profile, which ends in the kernel after so long.
    WithFault(Duration),
    /// When all devices are in sync; after so long the demo has failed.
    InSync(Duration),
}

/// What a phase does to the packets of every device, both ways.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// Each packet is lost with this probability, in percent.
    Loss(u8),
    /// Packets are lost in bursts.
    Bursts(Bursts),
    /// Every packet is lost.
    Partition,
    /// No packet is lost, all are late, and some later than the rest.
    Late(Late),
}

/// Loss in bursts, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bursts {
    /// Behind a packet outside of a burst one begins with this probability.
    pub enter: u16,
    /// Behind a packet inside a burst, all of which are lost, it ends with this probability.
    pub leave: u16,
}

impl Bursts {
    /// Probabilities, 0 to 1, to enter and to leave a burst.
    #[must_use]
    pub fn probabilities(self) -> (f64, f64) {
        (f64::from(self.enter) / 1000.0, f64::from(self.leave) / 1000.0)
    }
}

/// Delay and reorder, in milliseconds and percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Late {
    /// The mean of a normal distribution.
    pub time: u16,
    /// Its standard deviation.
    pub jitter: u16,
    /// So many of a hundred packets are later than that,
    pub reordered: u8,
    /// by so much.
    pub by: u16,
}

impl Late {
    /// The share of packets that it asks to reorder, 0 to 1.
    #[must_use]
    pub fn share(self) -> f64 {
        f64::from(self.reordered) / 100.0
    }

    /// The delay that a packet is given on average, seconds.
    #[must_use]
    pub fn mean(self) -> f64 {
        (f64::from(self.time) + self.share() * f64::from(self.by)) / 1000.0
    }

    /// The standard deviation of a packet's delay, seconds: of the jitter and of the reordering, which are independent.
    #[must_use]
    pub fn deviation(self) -> f64 {
        let by = f64::from(self.by) * (self.share() * (1.0 - self.share())).sqrt();
        f64::from(self.jitter).hypot(by) / 1000.0
    }
}

impl Fault {
    /// The share of packets that it asks to lose, 0 to 1.
    #[must_use]
    pub fn asked(self) -> f64 {
        match self {
            Self::Loss(percent) => f64::from(percent) / 100.0,
            Self::Bursts(bursts) => {
                let (enter, leave) = bursts.probabilities();
                enter / (enter + leave)
            }
            Self::Partition => 1.0,
            Self::Late(_) => 0.0,
        }
    }

    fn faults(self) -> Faults {
        let percent = |percent: u8| Percent::new(format!("{percent}%"));
        let thousandths = |n: u16| Percent::new(format!("{}.{}%", n / 10, n % 10));
        let milliseconds = |n: u16| DurationString::new(format!("{n}ms"));
        match self {
            Self::Loss(share) => {
                let loss = Loss { percent: Some(percent(share)), ..Loss::default() };
                Faults { loss: Some(loss), ..Faults::default() }
            }
            Self::Bursts(Bursts { enter, leave }) => {
                let bursts = GilbertElliott {
                    enter_burst: thousandths(enter),
                    leave_burst: thousandths(leave),
                    loss_in_burst: percent(100),
                    loss_outside: percent(0),
                };
                let loss = Loss { gilbert_elliott: Some(bursts), ..Loss::default() };
                Faults { loss: Some(loss), ..Faults::default() }
            }
            Self::Partition => Faults { partition: Some(Partition::default()), ..Faults::default() },
            Self::Late(Late { time, jitter, reordered, by }) => {
                let delay = Delay {
                    time: milliseconds(time),
                    jitter: Some(milliseconds(jitter)),
                    distribution: Some(Distribution::Normal),
                    ..Delay::default()
                };
                let reorder = Reorder { percent: percent(reordered), by: milliseconds(by) };
                Faults { delay: Some(delay), reorder: Some(reorder), ..Faults::default() }
            }
        }
    }
}

/// The demo's phases. `limit` bounds the wait for all devices to get in sync; it grows with their number.
#[must_use]
pub fn phases(limit: Duration) -> Vec<Phase> {
    let bursts = Fault::Bursts(Bursts { enter: 28, leave: 250 });
    let late = Fault::Late(Late { time: 80, jitter: 20, reordered: 5, by: 60 });
    vec![
        Phase::new("converge", "first firmware, no faults", Ends::InSync(limit)).rolls_out(FIRST),
        Phase {
            kills_leader: Some(Duration::from_secs(6)),
            ..Phase::under("loss", "rollout at 20 % loss, leader killed", Fault::Loss(20), 30).rolls_out(NEXT)
        },
        Phase::under("bursts", "loss in bursts", bursts, 10),
        Phase::under("delay", "80 ± 20 ms late, 5 % reordered", late, 10),
        Phase::under("partition", "nothing gets through", Fault::Partition, 16),
        Phase::new("calm", "no faults", Ends::InSync(limit)),
    ]
}

/// How long all devices may take to get in sync: a minute, and a second for every ten devices.
#[must_use]
pub fn limit(devices: u32) -> Duration {
    Duration::from_secs(60 + u64::from(devices / 10))
}

impl Phase {
    fn new(name: &'static str, title: &'static str, ends: Ends) -> Self {
        Self { name, title, ends, rollout: None, fault: None, kills_leader: None }
    }

    /// Ends with its fault, which lasts so many seconds.
    fn under(name: &'static str, title: &'static str, fault: Fault, seconds: u64) -> Self {
        let ends = Ends::WithFault(Duration::from_secs(seconds));
        Self { fault: Some(fault), ..Self::new(name, title, ends) }
    }

    fn rolls_out(self, rollout: Rollout) -> Self {
        Self { rollout: Some(rollout), ..self }
    }

    /// The profile that makes this phase, for all devices of its namespace.
    #[must_use]
    pub fn profile(&self, seed: u64) -> Option<FaultProfile> {
        let (Some(fault), Ends::WithFault(length)) = (self.fault, self.ends) else { return None };
        let spec = FaultProfileSpec {
            targets: Targets { devices: Some(TargetSelector { selector: everyone() }), ..Targets::default() },
            matching: None,
            direction: Direction::Both,
            faults: Some(fault.faults()),
            timeline: Vec::new(),
            seed,
            duration: Some(DurationString::new(format!("{}s", length.as_secs()))),
            paused: false,
        };
        Some(FaultProfile::new(self.name, spec))
    }
}

/// A label that no device of the demo has: the API server refuses an empty selector, which may be a mistake.
fn everyone() -> LabelSelector {
    let spared = LabelSelectorRequirement {
        key: "edge-operator.dev/spared".to_owned(),
        operator: "DoesNotExist".to_owned(),
        values: None,
    };
    LabelSelector { match_expressions: Some(vec![spared]), match_labels: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_new_firmware_is_rolled_out_in_batches_from_the_moment_when_loss_begins() {
        let phases = phases(limit(50));
        let loss = phases.iter().find(|phase| phase.fault == Some(Fault::Loss(20))).unwrap();
        assert_eq!(loss.rollout, Some(NEXT));
        assert!(NEXT.batches.len() > 1 && NEXT.in_flight(50) < 50, "{NEXT:?}");
        assert_ne!(FIRST.firmware, NEXT.firmware);
    }

    #[test]
    fn phases_with_a_fault_end_with_it_and_the_last_ends_in_sync() {
        let phases = phases(limit(50));
        for phase in &phases {
            assert_eq!(phase.fault.is_some(), matches!(phase.ends, Ends::WithFault(_)), "{}", phase.name);
        }
        assert!(matches!(phases.last().unwrap().ends, Ends::InSync(_)));
    }

    #[test]
    fn the_profile_says_what_the_phase_says() {
        let phases = phases(limit(50));
        let spec = |name: &str| {
            let phase = phases.iter().find(|phase| phase.name == name).unwrap();
            phase.profile(7).map(|profile| serde_json::to_value(profile.spec).unwrap())
        };
        let loss = spec("loss").unwrap();
        assert_eq!(loss["faults"], json!({"loss": {"percent": "20%"}}));
        assert_eq!(loss["direction"], "Both");
        assert_eq!(loss["duration"], "30s");
        let everyone = json!([{"key": "edge-operator.dev/spared", "operator": "DoesNotExist"}]);
        assert_eq!(loss["targets"]["devices"]["selector"]["matchExpressions"], everyone);
        assert_eq!(spec("partition").unwrap()["faults"], json!({"partition": {"mode": "Drop"}}));
        assert_eq!(spec("calm"), None);
        let bursts = json!({"loss": {"gilbertElliott": {
            "enterBurst": "2.8%", "leaveBurst": "25.0%", "lossInBurst": "100%", "lossOutside": "0%"}}});
        assert_eq!(spec("bursts").unwrap()["faults"], bursts);
        let delay = json!({"delay": {"time": "80ms", "jitter": "20ms", "distribution": "Normal"},
            "reorder": {"percent": "5%", "by": "60ms"}});
        assert_eq!(spec("delay").unwrap()["faults"], delay);
    }

    #[test]
    fn what_is_asked_on_average_follows_from_what_is_written() {
        let bursts = Fault::Bursts(Bursts { enter: 25, leave: 225 });
        assert!((bursts.asked() - 0.1).abs() < 1e-9);
        let late = Late { time: 80, jitter: 20, reordered: 50, by: 60 };
        assert!((late.mean() - 0.11).abs() < 1e-9);
        // 20 ms, and 60 ms by the toss of a coin: 30 ms.
        assert!((late.deviation() - 0.001 * 1300_f64.sqrt()).abs() < 1e-9);
    }

    #[test]
    fn the_leader_is_killed_once_while_a_rollout_is_under_way_and_the_fault_outlasts_it() {
        let phases = phases(limit(50));
        let killing: Vec<_> = phases.iter().filter(|phase| phase.kills_leader.is_some()).collect();
        assert_eq!(killing.len(), 1);
        assert_eq!(killing[0].rollout, Some(NEXT));
        assert!(
            matches!(killing[0].ends, Ends::WithFault(length) if length > 2 * killing[0].kills_leader.unwrap())
        );
    }
}
