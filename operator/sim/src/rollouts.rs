//! The fleets of a seed: what a person asks of each rollout, and what is done to them meanwhile. Pure.

use std::time::Duration;

use device_sim::Behaviour;
use device_sim::random::Dice;
use edge_api::choose::Amount;
use edge_api::quantity::CountOrPercent;
use serde_json::{Value, json};

use crate::happening::{FleetEdit, Happening};
use crate::plan::{CALM_FROM, Plan, below, one_of, sometime, works};
use crate::sweep::Point;

/// What a person asks of a fleet.
#[derive(Clone, Debug, PartialEq)]
pub struct FleetPlan {
    /// Its name, and the label of the devices that it selects (with the value `yes`).
    pub name: String,
    /// `spec.rollout.batches`.
    pub batches: Value,
    /// `spec.rollout.maxInFlight`.
    pub max_in_flight: usize,
    /// `spec.rollout.maxUnavailable`, a number.
    pub max_unavailable: usize,
    /// `spec.rollout.failureBudget.percent`, a number.
    pub failures: u64,
    /// Does it pause when a budget is exceeded? Else it goes back.
    pub pauses: bool,
    /// The devices that it selects.
    pub members: Vec<usize>,
}

/// Longer than a device takes that works and has a bad network, and shorter than what is left of a run.
const DEADLINE: &str = "25s";

/// `spec.rollout.failureBudget.minimumSample` of all fleets.
pub const MINIMUM_SAMPLE: usize = 4;

impl FleetPlan {
    /// The object, without its name.
    pub fn object(&self) -> Value {
        json!({
            "spec": {
                "selector": { "matchLabels": { self.name.as_str(): "yes" } },
                "template": { "firmware": "1.5", "config": { "interval": "1s" } },
                "rollout": {
                    "batches": self.batches,
                    "maxInFlight": self.max_in_flight,
                    "maxUnavailable": self.max_unavailable,
                    "failureBudget": { "percent": format!("{}%", self.failures), "minimumSample": MINIMUM_SAMPLE },
                    "onBudgetExceeded": if self.pauses { "Pause" } else { "Rollback" },
                    "progressDeadline": DEADLINE,
                },
            },
        })
    }

    /// The ends of its batches.
    pub fn ends(&self) -> Vec<Amount> {
        let end = |batch: &Value| serde_json::from_value::<CountOrPercent>(batch.clone()).ok()?.parse().ok();
        let batches = self.batches.as_array().into_iter().flatten();
        batches.map(|batch| end(batch).unwrap_or(Amount::All)).collect()
    }
}

impl Plan {
    /// The scenario of the sweeps through a rollout: one template that all devices can run, and one that the second of them refuses,
    /// so that it is brought back. Nothing else goes wrong but at the chosen moment.
    pub fn sweep_of_a_rollout(point: Option<Point>) -> Self {
        let template =
            |firmware| Happening::Fleet { fleet: 0, edit: FleetEdit::Template { firmware, interval: 1 } };
        let behaviour = Behaviour { refuse_firmware: Some("3.0".to_owned()), ..works() };
        let refuses = |device| Happening::Behave { device, behaviour: Box::new(behaviour.clone()) };
        let happenings = [(11_000, refuses(1)), (16_000, template(2)), (26_000, template(3))];
        let happenings = happenings.map(|(at, happening)| (Duration::from_millis(at), happening)).to_vec();
        let fleet = FleetPlan {
            name: "fleet-0".to_owned(),
            batches: json!([1, "100%"]),
            max_in_flight: 1,
            max_unavailable: 2,
            failures: 0,
            pauses: false,
            members: vec![0, 1],
        };
        let calm_from = Duration::from_secs(40);
        Self { fleets: vec![fleet], calm_from, happenings, ..Self::sweep(point) }
    }
}

/// The fleets of so many devices, and what is done to them until all is calm.
pub fn draw(dice: &mut Dice, devices: usize, happenings: &mut Vec<(Duration, Happening)>) -> Vec<FleetPlan> {
    let count = 1 + one_of(dice, 2);
    let fleets: Vec<FleetPlan> = (0..count).map(|number| fleet(dice, number, count, devices)).collect();
    for number in 0..count {
        for _ in 0..1 + below(dice, 3) {
            let edit = FleetEdit::Template { firmware: 2 + below(dice, 4), interval: 1 + below(dice, 3) };
            happenings.push((sometime(dice), Happening::Fleet { fleet: number, edit }));
        }
        if below(dice, 3) == 0 {
            let from = sometime(dice);
            let to = (from + dice.between(Duration::from_secs(1), Duration::from_secs(20))).min(CALM_FROM);
            happenings.push((from, Happening::Fleet { fleet: number, edit: FleetEdit::Pause(true) }));
            happenings.push((to, Happening::Fleet { fleet: number, edit: FleetEdit::Pause(false) }));
        }
    }
    if below(dice, 4) == 0 {
        let (fleet, from) = (one_of(dice, count), sometime(dice));
        let to = (from + dice.between(Duration::from_millis(10), Duration::from_secs(20))).min(CALM_FROM);
        happenings.push((from, Happening::Fleet { fleet, edit: FleetEdit::Delete }));
        happenings.push((to, Happening::Fleet { fleet, edit: FleetEdit::Make }));
    }
    for _ in 0..below(dice, 3) {
        let behaviour = Behaviour { refuse_firmware: Some(format!("{}.0", 2 + below(dice, 4))), ..works() };
        let device = one_of(dice, devices);
        happenings
            .push((Duration::from_secs(1), Happening::Behave { device, behaviour: Box::new(behaviour) }));
    }
    if count > 1 && below(dice, 2) == 0 {
        let (device, fleet, from) = (0, 1, sometime(dice));
        happenings.push((from, Happening::Meet { device, fleet, meets: true }));
        if below(dice, 3) > 0 {
            let to = (from + dice.between(Duration::from_secs(1), Duration::from_secs(20))).min(CALM_FROM);
            happenings.push((to, Happening::Meet { device, fleet, meets: false }));
        }
    }
    fleets
}

fn fleet(dice: &mut Dice, number: usize, count: usize, devices: usize) -> FleetPlan {
    let batches = [json!(["100%"]), json!([1, "50%", "100%"]), json!(["40%", "100%"]), json!([2, 3, "100%"])];
    // The last device is nobody's, if there is one fleet; else each has half of them.
    let members =
        (0..devices).filter(|device| if count == 1 { device + 1 < devices } else { device % 2 == number });
    FleetPlan {
        name: format!("fleet-{number}"),
        batches: batches[one_of(dice, batches.len())].clone(),
        max_in_flight: 1 + one_of(dice, 3),
        max_unavailable: 1 + one_of(dice, 3),
        failures: [0, 20, 50, 100][one_of(dice, 4)],
        pauses: below(dice, 3) == 0,
        members: members.collect(),
    }
}
