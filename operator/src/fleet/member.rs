//! One device as its fleet sees it: whose its desired state is, whether it can be changed now, and what became of what it
//! was last told. All of that comes out of the Device alone.

use edge_api::condition::{find_condition, reasons, types};
use edge_api::{Desired, Device, DevicePhase, DeviceStatus};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::ResourceExt as _;

use crate::device::memory::Verdict;

/// Field manager of the desired states that fleets set; one for all fleets, so that a device can go from one to another.
pub(crate) const MANAGER: &str = "edge-fleet";

/// A device that a fleet selects.
#[derive(Clone, Debug)]
pub(crate) struct Member<'a> {
    /// Its name.
    pub(crate) name: &'a str,
    /// `metadata.uid`.
    pub(crate) uid: &'a str,
    /// The resourceVersion that all of this was read at.
    pub(crate) version: Option<&'a str>,
    /// What it shall run.
    pub(crate) desired: Option<&'a Desired>,
    /// Somebody else has set that.
    pub(crate) foreign: bool,
    /// Can it be changed?
    pub(crate) contact: Contact,
    /// What became of `desired`.
    pub(crate) outcome: Outcome,
    /// When it was given up as lost; none while it is not.
    pub(crate) lost_at: Option<Timestamp>,
    /// This process has changed it, and the cache does not show that yet.
    pub(crate) sent: bool,
}

/// Whether a device can be changed now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contact {
    /// It answers, and obeys.
    Answering,
    /// Not asked yet, or silent but not lost: one of the others in a while.
    Unclear,
    /// Lost, or not believed.
    Away,
    /// A person keeps it from the operator: paused, or its endpoint is one that may not be reached or has no address.
    Withheld,
}

/// What became of a desired state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Neither of the others.
    Trying,
    /// It runs that, by its last report; perhaps it got lost since.
    InSync,
    /// It refused that, or could not install it.
    Failed,
    /// It got lost before one of these.
    Lost,
}

impl<'a> Member<'a> {
    /// Out of the object, as the cache has it.
    pub(crate) fn of(device: &'a Device) -> Self {
        Self {
            name: device.metadata.name.as_deref().unwrap_or_default(),
            uid: device.metadata.uid.as_deref().unwrap_or_default(),
            version: device.metadata.resource_version.as_deref(),
            desired: device.spec.desired.as_ref(),
            foreign: device.managed_fields().iter().any(|entry| !is_ours(entry)),
            contact: device.status.as_ref().map_or(Contact::Unclear, contact),
            outcome: outcome(device),
            lost_at: device.status.as_ref().and_then(lost_at),
            sent: false,
        }
    }
}

fn is_ours(entry: &ManagedFieldsEntry) -> bool {
    entry.manager.as_deref() == Some(MANAGER) && entry.operation.as_deref() == Some("Apply")
}

/// Leaves of the managed fields who owns `spec.desired`, and nothing else: what a cache of Devices keeps of them.
pub(crate) fn keep_owners(device: &mut Device) {
    let Some(entries) = device.metadata.managed_fields.take() else { return };
    let owns = |entry: &ManagedFieldsEntry| {
        let fields = entry.fields_v1.as_ref().map(|fields| &fields.0);
        entry.subresource.as_deref().unwrap_or_default().is_empty()
            && fields.is_some_and(|fields| fields.pointer("/f:spec/f:desired").is_some())
    };
    let mut owners: Vec<_> = entries
        .into_iter()
        .filter(owns)
        .map(|entry| ManagedFieldsEntry {
            manager: entry.manager,
            operation: entry.operation,
            ..ManagedFieldsEntry::default()
        })
        .collect();
    // Collected in place, it would keep the room of all entries.
    owners.shrink_to_fit();
    device.metadata.managed_fields = (!owners.is_empty()).then_some(owners);
}

fn contact(status: &DeviceStatus) -> Contact {
    let reachable = find_condition(&status.conditions, types::REACHABLE);
    let (word, reason) =
        reachable.map_or(("", ""), |condition| (condition.status.as_str(), condition.reason.as_str()));
    match status.phase {
        DevicePhase::InSync | DevicePhase::Syncing | DevicePhase::Failed if word == "True" => {
            Contact::Answering
        }
        DevicePhase::InSync | DevicePhase::Syncing | DevicePhase::Failed => Contact::Unclear,
        DevicePhase::Pending if reasons::UNDECIDED.contains(&reason) || reachable.is_none() => {
            Contact::Unclear
        }
        DevicePhase::Pending | DevicePhase::Paused => Contact::Withheld,
        DevicePhase::Unreachable | DevicePhase::Conflicted => Contact::Away,
    }
}

fn lost_at(status: &DeviceStatus) -> Option<Timestamp> {
    let reachable = find_condition(&status.conditions, types::REACHABLE);
    let lost = reachable.filter(|_| status.phase == DevicePhase::Unreachable)?;
    Some(lost.last_transition_time.0)
}

fn outcome(device: &Device) -> Outcome {
    let Some(status) = &device.status else { return Outcome::Trying };
    let lost = status.phase == DevicePhase::Unreachable;
    let unsettled = if lost { Outcome::Lost } else { Outcome::Trying };
    if status.observed_generation != device.metadata.generation {
        return unsettled;
    }
    let synced = find_condition(&status.conditions, types::SYNCED);
    let (word, reason) =
        synced.map_or(("", ""), |condition| (condition.status.as_str(), condition.reason.as_str()));
    match status.phase {
        DevicePhase::InSync => Outcome::InSync,
        _ if word == "False" && Verdict::REASONS.contains(&reason) => Outcome::Failed,
        DevicePhase::Unreachable | DevicePhase::Paused if word == "True" => Outcome::InSync,
        _ => unsettled,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn device(metadata: Value, status: Value) -> Device {
        let mut metadata = metadata;
        metadata["name"] = json!("pump-1");
        metadata["generation"] = json!(2);
        serde_json::from_value(json!({
            "apiVersion": "edge-operator.dev/v1alpha1", "kind": "Device", "metadata": metadata,
            "spec": {"endpoint": {"host": "10.20.0.17"}, "desired": {"firmware": "2.0.0"}},
            "status": status,
        }))
        .unwrap()
    }

    fn status(generation: i64, phase: &str, reachable: (&str, &str), synced: (&str, &str)) -> Value {
        let condition = |type_: &str, (status, reason): (&str, &str)| json!({"type": type_, "status": status, "reason": reason, "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        json!({
            "observedGeneration": generation, "phase": phase,
            "conditions": [condition("Reachable", reachable), condition("Synced", synced)],
        })
    }

    #[test]
    fn contact_and_outcome_are_read_off_the_status() {
        let answering = ("True", "Answering");
        let table = [
            (status(2, "InSync", answering, ("True", "InSync")), Contact::Answering, Outcome::InSync),
            (status(1, "InSync", answering, ("True", "InSync")), Contact::Answering, Outcome::Trying),
            (status(2, "Syncing", answering, ("False", "Syncing")), Contact::Answering, Outcome::Trying),
            (status(2, "Failed", answering, ("False", "InstallFailed")), Contact::Answering, Outcome::Failed),
            (status(1, "Failed", answering, ("False", "Refused")), Contact::Answering, Outcome::Trying),
            (
                status(2, "InSync", ("Unknown", "Silent"), ("True", "InSync")),
                Contact::Unclear,
                Outcome::InSync,
            ),
            (status(2, "Unreachable", ("False", "Lost"), ("False", "Syncing")), Contact::Away, Outcome::Lost),
            (status(2, "Unreachable", ("False", "Lost"), ("True", "InSync")), Contact::Away, Outcome::InSync),
            (
                status(2, "Unreachable", ("False", "Lost"), ("False", "Refused")),
                Contact::Away,
                Outcome::Failed,
            ),
            (status(1, "Unreachable", ("False", "Lost"), ("True", "InSync")), Contact::Away, Outcome::Lost),
            (
                status(2, "Paused", ("Unknown", "Paused"), ("False", "Syncing")),
                Contact::Withheld,
                Outcome::Trying,
            ),
            (
                status(2, "Pending", ("Unknown", "NotContacted"), ("Unknown", "NoReport")),
                Contact::Unclear,
                Outcome::Trying,
            ),
            (
                status(2, "Pending", ("Unknown", "EndpointNotAllowed"), ("Unknown", "EndpointNotAllowed")),
                Contact::Withheld,
                Outcome::Trying,
            ),
            (status(2, "Conflicted", answering, ("False", "Syncing")), Contact::Away, Outcome::Trying),
            (Value::Null, Contact::Unclear, Outcome::Trying),
        ];
        for (status, contact, outcome) in table {
            let device = device(json!({}), status.clone());
            let member = Member::of(&device);
            assert_eq!((member.contact, member.outcome), (contact, outcome), "{status}");
            let lost_at = (status["phase"] == "Unreachable").then(|| "2026-01-01T00:00:00Z".parse().unwrap());
            assert_eq!(member.lost_at, lost_at, "{status}");
        }
    }

    #[test]
    fn a_desired_state_is_foreign_when_somebody_else_has_set_it_too() {
        let entry = |manager: &str, operation: &str, fields: Value| json!({"manager": manager, "operation": operation, "apiVersion": "edge-operator.dev/v1alpha1", "fieldsType": "FieldsV1", "fieldsV1": fields});
        let desired = json!({"f:spec": {"f:desired": {}}});
        let endpoint = json!({"f:spec": {"f:endpoint": {"f:host": {}}}, "f:metadata": {"f:labels": {}}});
        let fleet = entry(MANAGER, "Apply", desired.clone());
        for (entries, foreign, kept) in [
            (vec![], false, 0),
            (vec![entry("device-sim", "Apply", endpoint.clone())], false, 0),
            (vec![entry("device-sim", "Apply", endpoint), fleet.clone()], false, 1),
            (vec![entry("kubectl-edit", "Update", desired.clone())], true, 1),
            (vec![fleet, entry("somebody", "Apply", desired.clone())], true, 2),
            (vec![entry(MANAGER, "Update", desired)], true, 1),
        ] {
            let mut device = device(json!({"managedFields": entries}), Value::Null);
            keep_owners(&mut device);
            let left = device.managed_fields();
            assert_eq!(left.len(), kept);
            assert!(left.iter().all(|entry| entry.fields_v1.is_none()));
            assert_eq!(Member::of(&device).foreign, foreign, "{left:?}");
        }
    }
}
