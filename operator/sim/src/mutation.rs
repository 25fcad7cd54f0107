//! Faults that are put in on purpose, so that the oracle is seen to find them: for each rule one that breaks it and no other.

use std::sync::Arc;
use std::time::Duration;

use device_sim::Behaviour;
use device_sim::durable::Durable;
use device_sim::history::{Entry, What};
use edge_api::Device;
use edge_api::quantity::Share;
use serde_json::{Value, json};

use crate::happening::{FleetEdit, Happening};
use crate::plan::{Plan, has_few_retries, works};
use crate::retries::Buckets;
use crate::rollouts::FleetPlan;
use crate::rule::Rule;
use crate::server::store::Change;
use crate::world::{FEW_RETRIES, IN_FLIGHT, RETRIES};

/// Members of the fleet; one more device is nobody's.
const MEMBERS: usize = 5;
/// Nobody overtakes this one.
pub const STARVED: &str = "device-5";

impl Plan {
    /// A rollout in calm in which this rule is broken on purpose; none: in which nothing is.
    pub fn broken(rule: Option<Rule>) -> Self {
        let template = FleetEdit::Template { firmware: 2, interval: 1 };
        let mut happenings = vec![
            (24_000, Happening::Fleet { fleet: 0, edit: template }),
            (25_000, Happening::Declare { device: MEMBERS, firmware: 3, interval: 2 }),
        ];
        if matches!(rule, Some(Rule::Failures | Rule::Ends)) {
            let behaviour = Behaviour { refuse_firmware: Some("2.0".to_owned()), ..works() };
            for device in 0..2 {
                happenings.insert(
                    0,
                    (12_000, Happening::Behave { device, behaviour: Box::new(behaviour.clone()) }),
                );
            }
        }
        if matches!(rule, Some(Rule::Retries | Rule::DeviceRetries)) {
            // It has to be told again and again.
            let behaviour = Box::new(Behaviour { contradict: Share::ALL, ..works() });
            happenings.insert(0, (12_000, Happening::Behave { device: MEMBERS, behaviour }));
        }
        let happenings = happenings.into_iter().map(|(at, what)| (Duration::from_millis(at), what)).collect();
        let fleet = FleetPlan {
            name: "fleet-0".to_owned(),
            batches: if rule == Some(Rule::Batches) { json!([1, "50%", "100%"]) } else { json!(["100%"]) },
            max_in_flight: if rule == Some(Rule::Unavailable) { 3 } else { 1 },
            max_unavailable: if rule == Some(Rule::InFlight) { MEMBERS } else { 1 },
            failures: if matches!(rule, Some(Rule::Failures | Rule::Ends)) { 0 } else { 100 },
            pauses: rule == Some(Rule::Ends),
            members: (0..MEMBERS).collect(),
        };
        // Two of them may fail where that is what it is about.
        let max_unavailable = if rule == Some(Rule::Failures) { MEMBERS } else { fleet.max_unavailable };
        Self {
            seed: 0,
            devices: MEMBERS + 1,
            fleets: vec![FleetPlan { max_unavailable, ..fleet }],
            doomed: (rule == Some(Rule::LetGo)).then_some(MEMBERS),
            point: None,
            hasty: false,
            breaks: rule,
            calm_from: Duration::from_secs(45),
            happenings,
        }
    }

    /// The fleets as they are written down: another limit than the oracle knows, where that is to be found.
    pub(crate) fn written(&self) -> Vec<FleetPlan> {
        let written = |fleet: &FleetPlan| {
            let fleet = fleet.clone();
            match self.breaks {
                Some(Rule::InFlight) => FleetPlan { max_in_flight: 3, ..fleet },
                Some(Rule::Unavailable) => FleetPlan { max_unavailable: 3, ..fleet },
                Some(Rule::Batches) => FleetPlan { batches: json!(["100%"]), ..fleet },
                Some(Rule::Failures) => FleetPlan { failures: 100, ..fleet },
                Some(Rule::Ends) => FleetPlan { pauses: false, ..fleet },
                _ => fleet,
            }
        };
        self.fleets.iter().map(written).collect()
    }

    /// How long the profile lasts.
    pub(crate) fn profile_lasts(&self) -> &'static str {
        if self.breaks == Some(Rule::Expires) { "1h" } else { "40s" }
    }

    /// Exchanges at once, as the operators are told.
    pub(crate) fn in_flight(&self) -> u32 {
        if self.breaks == Some(Rule::Bounds) { 16 } else { IN_FLIGHT }
    }

    /// Retries, as the operators are told.
    pub(crate) fn retries(&self) -> Buckets {
        if has_few_retries(self.seed) { FEW_RETRIES } else { RETRIES }
    }

    /// Retries, as the oracle knows them: fewer than the operators are told, where that is to be found.
    pub(crate) fn buckets(&self) -> Buckets {
        let (given, few) = (self.retries(), (1, 0.01));
        match self.breaks {
            Some(Rule::Retries) => Buckets { process: few, ..given },
            Some(Rule::DeviceRetries) => Buckets { device: few, ..given },
            _ => given,
        }
    }

    /// How this device behaves when all is calm.
    pub(crate) fn behaves(&self, device: usize) -> Behaviour {
        let drop =
            if self.breaks == Some(Rule::InSync) && device == 0 { Share::ALL } else { Share::default() };
        Behaviour { drop, ..works() }
    }

    /// What the oracle is told that a Device says.
    pub(crate) fn reads(&self, mut device: Device) -> Device {
        if self.breaks == Some(Rule::TrueStatus)
            && let Some(reported) = device.status.as_mut().and_then(|status| status.reported.as_mut())
        {
            reported.generation = reported.generation.map(|generation| generation + 1);
        }
        device
    }
}

/// What the judge is told of a change: that a profile whose time is over is of an earlier leader.
pub(crate) fn backdate(rule: Option<Rule>, change: &Change) -> Change {
    let mut change = change.clone();
    let is_one = rule == Some(Rule::EpochsRise) && change.place.0.ends_with("/faultprofiles");
    let is_over = |object: &&mut Arc<Value>| is_one && object["status"]["phase"] == "Expired";
    if let Some(object) = change.after.as_mut().filter(is_over) {
        Arc::make_mut(object)["status"]["epoch"] = json!(1);
    }
    change
}

/// What a device is told that it went through, as it is kept: a command twice, or of a lower epoch.
pub(crate) fn falsify(rule: Option<Rule>, durable: &mut Durable) {
    let Some(last) = durable.history.entries.back().filter(|entry| entry.what == What::Applied).cloned()
    else {
        return;
    };
    match rule {
        Some(Rule::Once) => durable.history.record(last),
        Some(Rule::NeverLower) => {
            durable.history.record(Entry {
                epoch: 1,
                config_digest: edge_protocol::config_digest(&[("lower".into(), "1".into())].into()),
                ..last
            });
        }
        _ => {}
    }
}
