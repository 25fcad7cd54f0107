//! What the API knows and this agent cannot do yet: such a profile is refused as a whole, never enforced in part.

use edge_api::fault_profile::{FaultProfileSpec, Faults, PartitionMode};
use edge_api::quantity::QuantityError;

/// The first thing that a profile asks for and that this agent cannot do.
///
/// # Errors
/// With a duration that is none.
pub(super) fn first(spec: &FaultProfileSpec) -> Result<Option<&'static str>, QuantityError> {
    let matching = spec.matching.as_ref();
    let peers = matching.map(|matching| matching.peers.as_slice()).unwrap_or_default();
    let phases = spec.phases()?;
    let asks = |fault: fn(&Faults) -> bool| phases.iter().any(|phase| fault(phase.faults));
    let found = [
        (peers.iter().any(|peer| peer.service.is_some()), "match.peers by service"),
        (peers.iter().any(|peer| peer.pods.is_some()), "match.peers by pods"),
        (
            asks(|faults| {
                faults.partition.as_ref().is_some_and(|partition| partition.mode == PartitionMode::Reject)
            }),
            "partition.mode Reject",
        ),
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
            (json!({"match": {"peers": [{"service": "broker"}]}}), "match.peers by service"),
            (json!({"match": {"peers": [{"pods": {"matchLabels": {"a": "b"}}}]}}), "match.peers by pods"),
        ] {
            assert_eq!(refusal(&part), Err(ProfileError::Unsupported(what)), "{part}");
        }
        let late = json!({"faults": null, "duration": null, "timeline": [
            {"for": "1s", "faults": {"partition": {}}}, {"for": "1s", "faults": {"partition": {"mode": "Reject"}}},
        ]});
        assert_eq!(
            refusal(&late),
            Err(ProfileError::Unsupported("partition.mode Reject")),
            "in a later phase"
        );
        assert!(refusal(&json!({"match": {"protocol": "UDP", "peers": [{"cidr": "10.0.0.0/8"}]}})).is_ok());
    }
}
