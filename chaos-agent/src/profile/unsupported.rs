//! What the API knows and this agent cannot do yet: such a profile is refused as a whole, never enforced in part.

use edge_api::fault_profile::{FaultProfileSpec, Faults, PartitionMode, Protocol};
use edge_api::quantity::QuantityError;

/// `match.protocol: ICMP`.
pub(super) const ICMP: &str = "match.protocol ICMP";

/// The first thing that a profile asks for and that this agent cannot do.
///
/// # Errors
/// With a duration that is none.
pub(super) fn first(spec: &FaultProfileSpec) -> Result<Option<&'static str>, QuantityError> {
    let matching = spec.matching.as_ref();
    let phases = spec.phases()?;
    let asks = |fault: fn(&Faults) -> bool| phases.iter().any(|phase| fault(phase.faults));
    let found = [
        (matching.is_some_and(|matching| matching.protocol == Some(Protocol::Icmp)), ICMP),
        (
            asks(|faults| {
                faults.partition.as_ref().is_some_and(|partition| partition.mode == PartitionMode::Reject)
            }),
            "partition.mode Reject",
        ),
        (asks(|faults| faults.corrupt.is_some()), "corrupt"),
        (asks(|faults| faults.duplicate.is_some()), "duplicate"),
        (asks(|faults| faults.delay.is_some()), "delay"),
        (asks(|faults| faults.reorder.is_some()), "reorder"),
        (asks(|faults| faults.rate.is_some()), "rate"),
    ];
    Ok(found.into_iter().find(|(is_asked, _)| *is_asked).map(|(_, what)| what))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::profile::tests::object;
    use crate::profile::{Profile, ProfileError};

    fn refusal(part: &Value) -> Result<Profile, ProfileError> {
        let mut spec =
            json!({"targets": {"cidrs": ["10.20.0.0/24"]}, "faults": {"partition": {}}, "duration": "10m"});
        spec.as_object_mut().unwrap().extend(part.as_object().unwrap().clone());
        Profile::parse(&object("p", &spec))
    }

    #[test]
    fn what_the_agent_cannot_do_is_refused_as_a_whole_and_named() {
        for (part, what) in [
            (json!({"faults": {"partition": {"mode": "Reject"}}}), "partition.mode Reject"),
            (json!({"faults": {"partition": {}, "corrupt": {"percent": "1%"}}}), "corrupt"),
            (json!({"faults": {"partition": {}, "duplicate": {"percent": "1%"}}}), "duplicate"),
            (json!({"faults": {"partition": {}, "delay": {"time": "1ms"}}}), "delay"),
            (json!({"faults": {"partition": {}, "reorder": {"percent": "1%", "by": "1ms"}}}), "reorder"),
            (json!({"faults": {"partition": {}, "rate": {"bitsPerSecond": "1M"}}}), "rate"),
            (json!({"match": {"protocol": "ICMP"}}), super::ICMP),
        ] {
            assert_eq!(refusal(&part), Err(ProfileError::Unsupported(what)), "{part}");
        }
        let late = json!({"faults": null, "duration": null, "timeline": [
            {"for": "1s", "faults": {"partition": {}}}, {"for": "1s", "faults": {"delay": {"time": "1ms"}}},
        ]});
        assert_eq!(refusal(&late), Err(ProfileError::Unsupported("delay")), "in a later phase");
        assert!(refusal(&json!({"match": {"protocol": "UDP", "peers": [{"cidr": "10.0.0.0/8"}]}})).is_ok());
    }
}
