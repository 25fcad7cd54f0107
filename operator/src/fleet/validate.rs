//! A fleet's spec, parsed once into what deciding needs; or the sentence why nothing is done.
//! The API server refuses malformed ones; what other objects make of a fleet is judged by who looks at them.

use edge_api::choose::Amount;
use edge_api::quantity::Share;
use edge_api::{DeviceFleetSpec, OnBudgetExceeded};
use jiff::SignedDuration;
use kube::core::Selector;

use crate::refusal::{self, Refusal, invalid, malformed};

/// What a fleet asks for, valid.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan {
    /// Which devices.
    pub(crate) selector: Selector,
    /// Ends of the batches, in order; the last one is everybody.
    pub(crate) batches: Vec<Amount>,
    /// Devices that are changed and still trying, at most.
    pub(crate) max_in_flight: usize,
    /// Reserved devices, failed ones, and those that got lost since they were updated, at most.
    pub(crate) max_unavailable: Amount,
    /// Share of failed devices …
    pub(crate) failures: Share,
    /// … among so many at least.
    pub(crate) minimum_sample: usize,
    /// What happens when one of the two is exceeded: that share, or `deadline`.
    pub(crate) on_exceeded: OnBudgetExceeded,
    /// The longest time without a device that finishes.
    pub(crate) deadline: SignedDuration,
    /// Nothing more is changed.
    pub(crate) paused: bool,
}

/// Another fleet selects one of its devices.
pub(crate) const OVERLAP: &str = "Overlap";
/// It selects more devices than `--max-fleet-devices`.
pub(crate) const TOO_MANY: &str = "TooManyDevices";

/// Parses a spec.
pub(crate) fn plan(spec: &DeviceFleetSpec) -> Result<Plan, Refusal> {
    let rollout = &spec.rollout;
    let selector = selector(spec)?;
    let batches: Vec<Amount> =
        rollout.batches.iter().map(|batch| batch.parse()).collect::<Result<_, _>>().map_err(invalid)?;
    if batches.last() != Some(&Amount::Share(Share::ALL)) {
        return Err(malformed("spec.rollout.batches must end in \"100%\""));
    }
    let deadline = rollout.progress_deadline.parse().map_err(invalid)?;
    Ok(Plan {
        selector,
        batches,
        max_in_flight: number(rollout.max_in_flight),
        max_unavailable: rollout.max_unavailable.parse().map_err(invalid)?,
        failures: rollout.failure_budget.percent.parse().map_err(invalid)?,
        minimum_sample: number(rollout.failure_budget.minimum_sample),
        on_exceeded: rollout.on_budget_exceeded,
        deadline: SignedDuration::try_from(deadline)
            .map_err(|_| malformed("spec.rollout.progressDeadline is too long"))?,
        paused: spec.paused,
    })
}

/// The devices that a fleet selects.
pub(crate) fn selector(spec: &DeviceFleetSpec) -> Result<Selector, Refusal> {
    refusal::selector("spec.selector", &spec.selector)
}

fn number(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::refusal::INVALID;

    fn judge(rollout: Value) -> Result<Plan, Refusal> {
        let spec = json!({
            "selector": {"matchLabels": {"model": "px4"}},
            "template": {"firmware": "2.5.0"},
            "rollout": rollout,
        });
        plan(&serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn what_is_not_said_is_as_the_api_fills_it_in() {
        let plan = judge(json!({})).unwrap();
        let share = |ppm| Share::from_ppm(ppm).unwrap();
        assert_eq!(plan.batches, [50_000, 250_000, 1_000_000].map(|ppm| Amount::Share(share(ppm))));
        assert_eq!((plan.max_in_flight, plan.max_unavailable), (50, Amount::Share(share(100_000))));
        assert_eq!((plan.failures, plan.minimum_sample), (share(50_000), 20));
        assert_eq!((plan.on_exceeded, plan.deadline.as_secs()), (OnBudgetExceeded::Rollback, 600));
        assert!(!plan.paused);
    }

    #[test]
    fn what_went_around_the_schema_is_invalid_with_a_sentence() {
        for (bad, words) in [
            (json!({"batches": []}), "end in \"100%\""),
            (json!({"batches": ["100%", 3]}), "end in \"100%\""),
            (json!({"batches": [0, "100%"]}), "neither a number"),
            (json!({"maxUnavailable": "0%"}), "neither a number"),
            (json!({"failureBudget": {"percent": "5"}}), "percentage"),
            (json!({"progressDeadline": "soon"}), "duration"),
        ] {
            let refusal = judge(bad.clone()).unwrap_err();
            assert_eq!(refusal.reason, INVALID, "{bad}");
            assert!(refusal.message.contains(words), "{bad}: {}", refusal.message);
        }
    }
}
