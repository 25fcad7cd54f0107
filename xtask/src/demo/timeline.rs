//! What the demo does and when: the phases as data, and the fault profiles that make them. Pure.

use std::time::Duration;

use edge_api::fault_profile::{
    Direction, FaultProfile, FaultProfileSpec, Faults, Loss, Partition, TargetSelector, Targets,
};
use edge_api::quantity::{DurationString, Percent};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

/// The firmware that devices are brought to first.
pub const FIRST_FIRMWARE: &str = "1.1.0";
/// The firmware that is declared at the moment when packets begin to be lost.
pub const NEXT_FIRMWARE: &str = "1.2.0";

/// One phase of the experiment.
#[derive(Clone, Debug, PartialEq)]
pub struct Phase {
    /// Short and unique: also the name of the phase's fault profile.
    pub name: &'static str,
    /// For people.
    pub title: &'static str,
    /// When it ends.
    pub ends: Ends,
    /// Declared for all devices as it begins.
    pub firmware: Option<&'static str>,
    /// Applied as it begins.
    pub fault: Option<Fault>,
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
    /// Every packet is lost.
    Partition,
}

impl Fault {
    /// The share of packets that it asks to lose, 0 to 1.
    #[must_use]
    pub fn asked(self) -> f64 {
        match self {
            Self::Loss(percent) => f64::from(percent) / 100.0,
            Self::Partition => 1.0,
        }
    }
}

/// The demo's phases. `limit` bounds the wait for all devices to get in sync; it grows with their number.
#[must_use]
pub fn phases(limit: Duration) -> Vec<Phase> {
    vec![
        Phase {
            name: "converge",
            title: "first firmware, no faults",
            ends: Ends::InSync(limit),
            firmware: Some(FIRST_FIRMWARE),
            fault: None,
        },
        Phase {
            name: "loss",
            title: "new firmware, 20 % loss both ways",
            ends: Ends::WithFault(Duration::from_secs(30)),
            firmware: Some(NEXT_FIRMWARE),
            fault: Some(Fault::Loss(20)),
        },
        Phase {
            name: "partition",
            title: "nothing gets through",
            ends: Ends::WithFault(Duration::from_secs(20)),
            firmware: None,
            fault: Some(Fault::Partition),
        },
        Phase { name: "calm", title: "no faults", ends: Ends::InSync(limit), firmware: None, fault: None },
    ]
}

/// How long all devices may take to get in sync: a minute, and a second for every ten devices.
#[must_use]
pub fn limit(devices: u32) -> Duration {
    Duration::from_secs(60 + u64::from(devices / 10))
}

impl Phase {
    /// The profile that makes this phase, for all devices of its namespace.
    #[must_use]
    pub fn profile(&self, seed: u64) -> Option<FaultProfile> {
        let (Some(fault), Ends::WithFault(length)) = (self.fault, self.ends) else { return None };
        let faults = match fault {
            Fault::Loss(percent) => {
                let percent = Some(Percent::new(format!("{percent}%")));
                Faults { loss: Some(Loss { percent, ..Loss::default() }), ..Faults::default() }
            }
            Fault::Partition => Faults { partition: Some(Partition::default()), ..Faults::default() },
        };
        let spec = FaultProfileSpec {
            targets: Targets { devices: Some(TargetSelector { selector: everyone() }), ..Targets::default() },
            matching: None,
            direction: Direction::Both,
            faults: Some(faults),
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
    fn a_new_firmware_is_declared_at_the_moment_when_loss_begins() {
        let phases = phases(limit(50));
        let loss = phases.iter().find(|phase| phase.fault == Some(Fault::Loss(20))).unwrap();
        assert_eq!(loss.firmware, Some(NEXT_FIRMWARE));
        assert_ne!(FIRST_FIRMWARE, NEXT_FIRMWARE);
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
    }
}
