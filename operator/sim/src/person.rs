//! What people do to the objects, straight into the store: their hands are not what is simulated.

use edge_api::Device;
use serde_json::{Value, json};

use crate::server::Server;
use crate::server::change::{Target, Write};
use crate::server::store::Written;

/// The namespace of all devices.
pub const NAMESPACE: &str = "edge";
/// The namespace of the operator.
pub const SYSTEM: &str = "edge-system";

/// Somebody with a kubectl.
#[derive(Clone)]
pub struct Person(pub Server);

impl Person {
    fn write(&self, plural: &str, namespace: Option<&str>, name: &str, write: &Write) -> Option<Written> {
        let kind = self.0.kind(plural)?;
        let now = self.0.now().to_string();
        let target = Target {
            kind: &kind,
            namespace,
            name,
            in_status: false,
            manager: "kubectl",
            strict: true,
            now: &now,
            uid: "",
        };
        self.0.store.write(&target, write).ok()
    }

    /// Makes the namespaces, a profile that hits nothing that has an agent, and a device object for each address.
    pub fn begins(&self, devices: usize, host: &str, first_port: u16) {
        for namespace in [NAMESPACE, SYSTEM] {
            self.write("namespaces", None, namespace, &Write::Create(json!({})));
        }
        let profile = json!({
            "spec": {
                "targets": { "devices": { "selector": {} }, "choose": { "count": 2 } },
                "faults": { "loss": { "percent": "20%" } },
                "duration": "40s",
            },
        });
        self.write("faultprofiles", Some(NAMESPACE), "loss", &Write::Create(profile));
        for number in 0..devices {
            let device = json!({
                "spec": {
                    "endpoint": { "host": host, "port": usize::from(first_port) + number },
                    "liveness": { "probeInterval": "2s", "suspectAfter": "6s", "lostAfter": "15s" },
                    "desired": { "firmware": "1.5", "config": { "interval": "1s" } },
                },
            });
            self.write("devices", Some(NAMESPACE), &name(number), &Write::Create(device));
        }
    }

    /// Edits the spec of a device.
    pub fn edits(&self, device: usize, spec: Value) {
        self.write("devices", Some(NAMESPACE), &name(device), &Write::Merge(json!({ "spec": spec })));
    }

    /// Declares what a device shall run.
    pub fn declares(&self, device: usize, firmware: u64, interval: u64) {
        let desired =
            json!({ "firmware": format!("{firmware}.0"), "config": { "interval": format!("{interval}s") } });
        self.edits(device, json!({ "desired": desired }));
    }

    /// Deletes the Lease.
    pub fn deletes_the_lease(&self) {
        self.write("leases", Some(SYSTEM), "edge-operator", &Write::Delete(json!({})));
    }

    /// The profile's phase.
    pub fn sees_the_profile(&self) -> Option<String> {
        let kind = self.0.kind("faultprofiles")?;
        let place = (crate::server::store::resource(&kind), NAMESPACE.to_owned(), "loss".to_owned());
        let profile = self.0.store.get(&place)?;
        Some(profile.pointer("/status/phase")?.as_str()?.to_owned())
    }

    /// A device, as it is now.
    pub fn sees(&self, device: usize) -> Option<Device> {
        let kind = self.0.kind("devices")?;
        let place = (crate::server::store::resource(&kind), NAMESPACE.to_owned(), name(device));
        serde_json::from_value((*self.0.store.get(&place)?).clone()).ok()
    }
}

/// The name of a device.
pub fn name(device: usize) -> String {
    format!("device-{device}")
}
