//! A profile's spec, parsed once into what deciding needs; or the sentence why it is rejected.
//! The API server refuses malformed ones; what is judged here beyond that is reach.

use std::collections::BTreeSet;

use edge_api::FaultProfileSpec;
use edge_api::choose::Amount;
use edge_api::fault_profile::Targets;
use edge_api::quantity::Network;
use jiff::SignedDuration;
use kube::core::Selector;

use crate::refusal::{Refusal, invalid, malformed, selector};
pub(crate) use repeats::Repeats;

mod packets;
mod repeats;

/// What a profile asks for, valid and within reach.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan {
    /// Whose packets.
    pub(crate) targets: Wanted,
    /// How many of them.
    pub(crate) amount: Amount,
    /// Seed of the choice.
    pub(crate) seed: u64,
    /// How long, from the start.
    pub(crate) duration: SignedDuration,
    /// Faults lifted for now.
    pub(crate) paused: bool,
    /// How far it repeats.
    pub(crate) repeats: Repeats,
}

/// Whose packets a profile wants.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Wanted {
    /// Devices of its namespace.
    Devices(Selector),
    /// Pods of its namespace.
    Pods(Selector),
    /// Networks outside the cluster, by their canonical text, each once.
    Networks(Vec<String>),
}

/// A network lies where faults may not reach.
pub(crate) const CIDR_NOT_ALLOWED: &str = "CidrNotAllowed";

/// Parses a spec and judges its networks by `reach`, which answers with the sentence why one may not be reached.
pub(crate) fn plan(
    spec: &FaultProfileSpec,
    reach: &dyn Fn(Network) -> Result<(), String>,
) -> Result<Plan, Refusal> {
    let duration = packets::check(spec)?;
    Ok(Plan {
        targets: wanted(&spec.targets, reach)?,
        amount: amount(&spec.targets)?,
        seed: spec.seed,
        duration: SignedDuration::try_from(duration).map_err(|_| malformed("spec.duration is too long"))?,
        paused: spec.paused,
        repeats: Repeats::of(spec),
    })
}

fn wanted(targets: &Targets, reach: &dyn Fn(Network) -> Result<(), String>) -> Result<Wanted, Refusal> {
    match (&targets.devices, &targets.pods, targets.cidrs.as_slice()) {
        (Some(devices), None, []) => {
            selector("spec.targets.devices.selector", &devices.selector).map(Wanted::Devices)
        }
        (None, Some(pods), []) => selector("spec.targets.pods.selector", &pods.selector).map(Wanted::Pods),
        (None, None, cidrs @ [_, ..]) => {
            let networks: BTreeSet<Network> =
                cidrs.iter().map(|cidr| cidr.parse()).collect::<Result<_, _>>().map_err(invalid)?;
            for network in &networks {
                reach(*network).map_err(|message| Refusal { reason: CIDR_NOT_ALLOWED, message })?;
            }
            Ok(Wanted::Networks(networks.iter().map(ToString::to_string).collect()))
        }
        _ => Err(malformed("spec.targets needs exactly one of devices, pods and cidrs")),
    }
}

fn amount(targets: &Targets) -> Result<Amount, Refusal> {
    let Some(choose) = &targets.choose else { return Ok(Amount::All) };
    match (&choose.percent, choose.count.map(std::num::NonZeroU32::new)) {
        (Some(percent), None) => Ok(Amount::Share(percent.parse().map_err(invalid)?)),
        (None, Some(Some(count))) => Ok(Amount::Count(count)),
        _ => Err(malformed(
            "spec.targets.choose needs exactly one of percent and count, and a count of 1 or more",
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::refusal::INVALID;

    fn spec(change: impl FnOnce(&mut Value)) -> FaultProfileSpec {
        let mut spec = json!({
            "targets": {"devices": {"selector": {"matchLabels": {"site": "berlin"}}}},
            "faults": {"loss": {"percent": "20%"}},
            "duration": "10m",
        });
        change(&mut spec);
        serde_json::from_value(spec).unwrap()
    }

    fn everywhere(_: Network) -> Result<(), String> {
        Ok(())
    }

    fn nowhere(network: Network) -> Result<(), String> {
        Err(format!("{network} is the pods'"))
    }

    #[test]
    fn devices_need_no_reach_of_their_own() {
        let plan = plan(&spec(|_| {}), &nowhere).unwrap();
        assert!(matches!(plan.targets, Wanted::Devices(_)));
        assert_eq!(plan.duration, SignedDuration::from_mins(10));
        assert_eq!(plan.amount, Amount::All);
    }

    #[test]
    fn a_network_out_of_reach_is_rejected_with_the_sentence() {
        let spec = spec(|spec| spec["targets"] = json!({"cidrs": ["10.244.0.0/16"]}));
        let refusal = plan(&spec, &nowhere).unwrap_err();
        assert_eq!(refusal.reason, CIDR_NOT_ALLOWED);
        assert_eq!(refusal.message, "10.244.0.0/16 is the pods'");
        assert!(plan(&spec, &everywhere).is_ok());
    }

    #[test]
    fn a_network_named_twice_is_one_target() {
        let spec = spec(|spec| {
            spec["targets"] = json!({"cidrs": ["2001:db8:0::/64", "10.1.0.0/16", "2001:db8::/64"]});
        });
        let networks = Wanted::Networks(vec!["10.1.0.0/16".into(), "2001:db8::/64".into()]);
        assert_eq!(plan(&spec, &everywhere).unwrap().targets, networks);
    }

    #[test]
    fn what_went_around_the_schema_is_rejected_with_a_sentence() {
        let table: [(&str, &str, Value, &str); 11] = [
            (
                "/targets",
                "two kinds",
                json!({"pods": {"selector": {}}, "cidrs": ["10.0.0.0/8"]}),
                "exactly one",
            ),
            ("/targets", "no kind", json!({}), "exactly one"),
            ("/targets", "a bad network", json!({"cidrs": ["10.0.0.1/8"]}), "10.0.0.1/8"),
            ("/targets/choose", "both", json!({"percent": "5%", "count": 1}), "exactly one of percent"),
            ("/targets/choose", "none of them", json!({"count": 0}), "1 or more"),
            ("/faults", "no fault", json!({}), "loss: {percent"),
            ("/faults/loss", "no model", json!({}), "exactly one"),
            ("/faults/loss", "two models", json!({"percent": "1%", "every": 3}), "exactly one"),
            ("/faults/loss", "every zeroth", json!({"every": 0}), "1 or more"),
            ("/faults/loss", "a bare number", json!({"percent": "20"}), "\"20\""),
            ("/duration", "no unit", json!("10"), "\"10\""),
        ];
        for (path, case, value, sentence) in table {
            let spec = spec(|spec| {
                let (parent, key) = path.rsplit_once('/').unwrap();
                spec.pointer_mut(parent).unwrap()[key] = value;
            });
            let refusal = plan(&spec, &everywhere).expect_err(case);
            assert_eq!(refusal.reason, INVALID, "{case}");
            assert!(refusal.message.contains(sentence), "{case}: {}", refusal.message);
        }
    }

    #[test]
    fn a_timeline_is_as_long_as_its_phases_together() {
        let timeline = |phases: Value| {
            spec(|spec| {
                let spec = spec.as_object_mut().unwrap();
                spec.remove("faults");
                spec.remove("duration");
                spec.insert("timeline".to_owned(), phases);
            })
        };
        let two = timeline(json!([
            {"for": "90s", "faults": {"loss": {"percent": "5%"}}},
            {"for": "500ms", "faults": {"partition": {}}},
        ]));
        assert_eq!(plan(&two, &everywhere).unwrap().duration, SignedDuration::from_millis(90_500));
        let bad = timeline(json!([{"for": "1s", "faults": {}}]));
        assert!(plan(&bad, &everywhere).unwrap_err().message.contains("faults are empty"));
        assert!(plan(&timeline(json!([])), &everywhere).unwrap_err().message.contains("or a timeline"));
    }
}
