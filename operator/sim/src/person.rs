//! What people do to the objects, straight into the store: their hands are not what is simulated.

use std::collections::BTreeSet;
use std::sync::Arc;

use edge_api::device::ADOPT;
use edge_api::{Desired, Device, DeviceFleet};
use kube::ResourceExt as _;
use serde::Deserialize as _;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::happening::FleetEdit;
use crate::plan::Plan;
use crate::rollouts::FleetPlan;
use crate::server::Server;
use crate::server::change::{Target, Write};
use crate::server::store::{Written, resource};
use crate::world::FIRST_PORT;

/// The Lease of the operators.
const LEASE: &str = "edge-operator";
/// The namespace of all devices.
pub const NAMESPACE: &str = "edge";
/// The namespace of the operator.
pub const SYSTEM: &str = "edge-system";

/// Somebody with a kubectl.
#[derive(Clone)]
pub struct Person {
    /// The API server.
    pub server: Server,
    /// Where the devices are.
    pub host: String,
}

impl Person {
    fn write(&self, plural: &str, namespace: Option<&str>, name: &str, write: &Write) -> Option<Written> {
        self.write_as(("kubectl", false), plural, namespace, name, write)
    }

    fn write_as(
        &self,
        (manager, in_status): (&str, bool),
        plural: &str,
        namespace: Option<&str>,
        name: &str,
        write: &Write,
    ) -> Option<Written> {
        let kind = self.server.kind(plural)?;
        let now = self.server.now().to_string();
        let target =
            Target { kind: &kind, namespace, name, in_status, manager, strict: true, now: &now, uid: "" };
        self.server.store.write(&target, write).ok()
    }

    /// Makes the namespaces, a profile that hits nothing that has an agent, the fleets, and an object for each device.
    pub fn begins(&self, plan: &Plan) {
        for namespace in [NAMESPACE, SYSTEM] {
            self.write("namespaces", None, namespace, &Write::Create(json!({})));
        }
        let profile = json!({
            "spec": {
                "targets": { "devices": { "selector": {} }, "choose": { "count": 2 } },
                "faults": { "loss": { "percent": "20%" } },
                "duration": plan.profile_lasts(),
            },
        });
        self.write("faultprofiles", Some(NAMESPACE), "loss", &Write::Create(profile));
        for number in 0..plan.fleets.len() {
            self.makes_fleet(plan, number);
        }
        for number in 0..plan.devices {
            self.makes(plan, number);
        }
    }

    /// Makes a fleet, if there is none.
    pub fn makes_fleet(&self, plan: &Plan, number: usize) {
        if let Some(fleet) = plan.written().get(number) {
            self.write("devicefleets", Some(NAMESPACE), &fleet.name, &Write::Create(fleet.object()));
        }
    }

    /// Makes an object for a device; what a fleet selects is declared by the fleet. False: there is one.
    pub fn makes(&self, plan: &Plan, number: usize) -> bool {
        let fleets = plan.fleets.iter().filter(|fleet| fleet.members.contains(&number));
        let labels: Map<String, Value> = fleets.map(|fleet| (fleet.name.clone(), json!("yes"))).collect();
        let mut device = json!({
            "metadata": { "labels": labels },
            "spec": {
                "endpoint": { "host": self.host, "port": usize::from(FIRST_PORT) + number },
                "liveness": { "probeInterval": "2s", "suspectAfter": "6s", "lostAfter": "15s" },
            },
        });
        if device["metadata"]["labels"] == json!({}) {
            device["spec"]["desired"] = json!({ "firmware": "1.5", "config": { "interval": "1s" } });
        }
        self.write("devices", Some(NAMESPACE), &name(number), &Write::Create(device)).is_some()
    }

    /// Deletes a Device.
    pub fn deletes(&self, device: usize) {
        self.write("devices", Some(NAMESPACE), &name(device), &Write::Delete(json!({})));
    }

    /// What the status of a device says that gives it to its object, if it says so.
    fn advice(&self, device: usize) -> Option<String> {
        let conditions = self.sees(device)?.status?.conditions;
        let key = format!("{ADOPT}=");
        let value = conditions.iter().find_map(|condition| condition.message.split_once(&key))?.1;
        Some(value.split_whitespace().next()?.to_owned())
    }

    /// Does the status of a device say what gives it to its object?
    pub fn is_advised(&self, device: usize) -> bool {
        self.advice(device).is_some()
    }

    /// Does what the status of a device says that gives it to its object, if it says so. Does it?
    pub fn adopts(&self, device: usize) -> bool {
        let Some(value) = self.advice(device) else { return false };
        if self.sees(device).is_some_and(|seen| seen.annotations().get(ADOPT) == Some(&value)) {
            return false;
        }
        let patch = json!({ "metadata": { "annotations": { ADOPT: value } } });
        self.write("devices", Some(NAMESPACE), &name(device), &Write::Merge(patch)).is_some()
    }

    /// Sets a device's desired state as a fleet does, without asking it.
    pub fn passes_for_a_fleet(&self, device: usize, firmware: u64, interval: u64) {
        let config = json!({ "spec": { "desired": desired(firmware, interval) } });
        let write = Write::Apply { config, force: false };
        self.write_as(("edge-fleet", false), "devices", Some(NAMESPACE), &name(device), &write);
    }

    /// Throws the status of a device away.
    pub fn forgets_the_status(&self, device: usize) {
        let write = Write::Merge(json!({ "status": null }));
        self.write_as(("kubectl", true), "devices", Some(NAMESPACE), &name(device), &write);
    }

    /// Has something else to do before a device may go.
    pub fn holds_back(&self, device: usize) {
        let finalizers = json!(["example.com/other"]);
        let write = Write::Merge(json!({ "metadata": { "finalizers": finalizers } }));
        self.write("devices", Some(NAMESPACE), &name(device), &write);
    }

    /// Edits a fleet, deletes it, or makes it again.
    pub fn edits_fleet(&self, plan: &Plan, number: usize, edit: &FleetEdit) {
        let Some(FleetPlan { name: fleet, .. }) = plan.fleets.get(number) else { return };
        let spec = match edit {
            FleetEdit::Make => return self.makes_fleet(plan, number),
            FleetEdit::Delete => {
                self.write("devicefleets", Some(NAMESPACE), fleet, &Write::Delete(json!({})));
                return;
            }
            FleetEdit::Template { firmware, interval } => {
                json!({ "template": desired(*firmware, *interval) })
            }
            FleetEdit::Pause(paused) => json!({ "paused": paused }),
        };
        self.write("devicefleets", Some(NAMESPACE), fleet, &Write::Merge(json!({ "spec": spec })));
    }

    /// Puts a fleet's label on a device, or takes it off.
    pub fn labels(&self, device: usize, fleet: &str, is_one: bool) {
        let value = if is_one { json!("yes") } else { Value::Null };
        let patch = json!({ "metadata": { "labels": { fleet: value } } });
        self.write("devices", Some(NAMESPACE), &name(device), &Write::Merge(patch));
    }

    /// Edits the spec of a device.
    pub fn edits(&self, device: usize, spec: Value) {
        self.write("devices", Some(NAMESPACE), &name(device), &Write::Merge(json!({ "spec": spec })));
    }

    /// Declares what a device shall run.
    pub fn declares(&self, device: usize, firmware: u64, interval: u64) {
        self.edits(device, json!({ "desired": desired(firmware, interval) }));
    }

    /// Deletes the Lease.
    pub fn deletes_the_lease(&self) {
        self.write("leases", Some(SYSTEM), LEASE, &Write::Delete(json!({})));
    }

    /// Takes the leader for dead, and the Lease from it.
    pub fn empties_the_lease(&self) {
        let patch = json!({ "spec": { "holderIdentity": "" } });
        self.write("leases", Some(SYSTEM), LEASE, &Write::Merge(patch));
    }

    fn get<K: DeserializeOwned>(&self, plural: &str, namespace: &str, name: &str) -> Option<K> {
        let kind = self.server.kind(plural)?;
        let place = (resource(&kind), namespace.to_owned(), name.to_owned());
        K::deserialize(&*self.server.store.get(&place)?).ok()
    }

    /// The profile.
    pub fn sees_the_profile_whole(&self) -> Option<Value> {
        self.get("faultprofiles", NAMESPACE, "loss")
    }

    /// The profile's phase.
    pub fn sees_the_profile(&self) -> Option<String> {
        let profile = self.sees_the_profile_whole()?;
        Some(profile.pointer("/status/phase")?.as_str()?.to_owned())
    }

    /// Who holds the Lease.
    pub fn sees_the_leader(&self) -> Option<String> {
        let lease: Value = self.get("leases", SYSTEM, LEASE)?;
        Some(lease.pointer("/spec/holderIdentity")?.as_str()?.to_owned())
    }

    /// All devices.
    pub fn sees_devices(&self) -> Vec<Device> {
        let kind = self.server.kind("devices");
        let all = kind.map(|kind| self.server.store.all(&kind)).unwrap_or_default();
        all.iter().filter_map(|object| Device::deserialize(&**object).ok()).collect()
    }

    /// A device, as it is now.
    pub fn sees(&self, device: usize) -> Option<Device> {
        self.get("devices", NAMESPACE, &name(device))
    }

    /// Is there an Event of this reason about a device?
    pub fn was_told(&self, device: usize, reason: &str) -> bool {
        let Some(kind) = self.server.kind("events") else { return false };
        let all = self.server.store.all(&kind);
        all.iter().any(|event| event["reason"] == reason && event["regarding"]["name"] == name(device))
    }

    /// What people were told, and of whom: `device-0 NotReleased`.
    pub fn sees_events(&self) -> BTreeSet<String> {
        let kind = self.server.kind("events");
        let all = kind.map(|kind| self.server.store.all(&kind)).unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        all.iter()
            .map(|one| format!("{} {}", text(&one["regarding"]["name"]), text(&one["reason"])))
            .collect()
    }

    /// A fleet, as it is now.
    pub fn sees_fleet(&self, fleet: &str) -> Option<DeviceFleet> {
        self.get("devicefleets", NAMESPACE, fleet)
    }

    /// What a revision of a fleet holds.
    pub fn sees_revision(&self, fleet: &DeviceFleet, number: i64) -> Option<Desired> {
        let kind = self.server.kind("controllerrevisions")?;
        let all = self.server.store.all(&kind);
        let uid = fleet.metadata.uid.as_deref();
        let is_it = |one: &&Arc<Value>| {
            one["revision"] == number
                && one.pointer("/metadata/ownerReferences/0/uid").and_then(Value::as_str) == uid
        };
        Desired::deserialize(&all.iter().find(is_it)?["data"]).ok()
    }
}

fn desired(firmware: u64, interval: u64) -> Value {
    json!({ "firmware": format!("{firmware}.0"), "config": { "interval": format!("{interval}s") } })
}

/// The name of a device.
pub fn name(device: usize) -> String {
    format!("device-{device}")
}
