//! How far what happens to packets repeats when a profile is run again with the same seed. Pure.

use edge_api::fault_profile::{FaultProfileSpec, Faults, Scope};

/// How far it repeats, the farthest first. A profile repeats as far as the fault of it that repeats the least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Repeats {
    /// Each packet's fate depends on its number in its flow, and on nothing else.
    Flow,
    /// It depends on the packets of the target before it, too, whosever they were.
    Order,
    /// It depends on when packets come.
    Time,
}

impl Repeats {
    /// Of all phases of a profile.
    pub(super) fn of(spec: &FaultProfileSpec) -> Self {
        let phases = spec.faults.iter().chain(spec.timeline.iter().map(|phase| &phase.faults));
        // Which phase is on says the time.
        let switches = if spec.timeline.len() > 1 { Self::Time } else { Self::Flow };
        phases.map(Self::of_faults).max().unwrap_or(Self::Flow).max(switches)
    }

    fn of_faults(faults: &Faults) -> Self {
        let is_of_target = |scope: Option<Scope>| scope.unwrap_or_default() == Scope::Target;
        let loss = faults.loss.as_ref().filter(|loss| loss.percent.is_none());
        let delay = faults.delay.as_ref().filter(|delay| delay.correlation.is_some());
        if faults.rate.is_some() {
            Self::Time
        } else if loss.is_some_and(|loss| is_of_target(loss.scope))
            || delay.is_some_and(|delay| is_of_target(delay.scope))
        {
            Self::Order
        } else {
            Self::Flow
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of(spec: &Value) -> Repeats {
        let mut whole = json!({"targets": {"devices": {"selector": {}}}});
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        Repeats::of(&serde_json::from_value(whole).unwrap())
    }

    #[test]
    fn it_repeats_as_far_as_the_fault_that_repeats_the_least() {
        let bursts = json!({"enterBurst": "5%", "leaveBurst": "25%"});
        let correlated = json!({"time": "9ms", "jitter": "1ms", "correlation": "25%"});
        for (faults, expected) in [
            (json!({"partition": {}}), Repeats::Flow),
            (json!({"loss": {"percent": "20%"}, "corrupt": {"percent": "1%"}}), Repeats::Flow),
            (
                json!({"duplicate": {"percent": "1%"}, "reorder": {"percent": "1%", "by": "9ms"}}),
                Repeats::Flow,
            ),
            (json!({"delay": {"time": "9ms", "jitter": "1ms"}}), Repeats::Flow),
            (json!({"loss": {"every": 10}}), Repeats::Order),
            (json!({"loss": {"every": 10, "scope": "Flow"}}), Repeats::Flow),
            (json!({"loss": {"gilbertElliott": bursts}}), Repeats::Order),
            (json!({"loss": {"gilbertElliott": bursts, "scope": "Flow"}}), Repeats::Flow),
            (json!({"delay": correlated}), Repeats::Order),
            (json!({"loss": {"every": 10}, "rate": {"bitsPerSecond": "1M"}}), Repeats::Time),
        ] {
            assert_eq!(of(&json!({"faults": faults, "duration": "1m"})), expected, "{faults}");
        }
    }

    #[test]
    fn phases_follow_each_other_by_time() {
        let phase = |faults: Value| json!({"for": "9s", "faults": faults});
        let (loss, every) = (json!({"loss": {"percent": "5%"}}), json!({"loss": {"every": 5}}));
        assert_eq!(of(&json!({"timeline": [phase(loss.clone())]})), Repeats::Flow);
        assert_eq!(of(&json!({"timeline": [phase(every)]})), Repeats::Order);
        assert_eq!(of(&json!({"timeline": [phase(loss.clone()), phase(loss)]})), Repeats::Time);
    }
}
