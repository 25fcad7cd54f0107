//! The stage of these stories: a namespace, simulated devices on the loopback, and an operator that runs the
//! device controller alone with the rights of its manifest.

#![expect(clippy::unwrap_used, reason = "a hand that slips ends the story")]

use control_plane::{Space, space};
use device_sim::{DeviceHandle, Sim, SimConfig};
use edge_api::{Device, DevicePhase, DeviceStatus};
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::in_process::Operator;

const FLAGS: [&str; 3] = ["--controllers=device", "--allow-cidrs=127.0.0.1/32", "--progress-after=1ms"];

pub(crate) struct Stage {
    pub(crate) space: Space,
    pub(crate) sim: Sim,
    pub(crate) operator: Operator,
    _states: TempDir,
}

impl Stage {
    /// Devices that work, and an operator in a hurry.
    pub(crate) async fn set(story: &str, devices: usize) -> Self {
        Self::set_with(story, devices, &[]).await
    }

    pub(crate) async fn set_with(story: &str, devices: usize, flags: &[&str]) -> Self {
        let space = space(story).await.unwrap();
        let states = tempfile::tempdir().unwrap();
        let config = SimConfig {
            namespace: space.namespace.clone(),
            ..SimConfig::on_loopback(devices, states.path().to_owned())
        };
        let sim = Sim::start(config).await.unwrap();
        let operator = Operator::set(&space, &FLAGS, flags).await;
        Self { space, sim, operator, _states: states }
    }

    pub(crate) fn device(&self, number: usize) -> &DeviceHandle {
        &self.sim.devices()[number]
    }

    /// The object of a simulated device, that it shall run this firmware.
    pub(crate) async fn declare(&self, number: usize, firmware: Option<&str>) -> Device {
        let device = self.device(number);
        self.declare_as(device.name(), number, firmware).await
    }

    /// An object of some name, at the address of a simulated device.
    pub(crate) async fn declare_as(&self, name: &str, number: usize, firmware: Option<&str>) -> Device {
        let address = self.device(number).address();
        let desired = firmware.map(|firmware| json!({"firmware": firmware, "config": {"interval": "5s"}}));
        let mut spec = json!({
            "endpoint": {"host": address.ip().to_string(), "port": address.port()},
            "liveness": {"probeInterval": "200ms", "suspectAfter": "20s", "lostAfter": "30s"},
        });
        if let Some(desired) = desired {
            spec["desired"] = desired;
        }
        let object: Device = serde_json::from_value(json!({
            "apiVersion": "edge-operator.dev/v1alpha1", "kind": "Device",
            "metadata": {"name": name, "labels": {"model": "px4"}}, "spec": spec,
        }))
        .unwrap();
        self.space.api::<Device>().create(&PostParams::default(), &object).await.unwrap()
    }

    pub(crate) async fn edit(&self, name: &str, spec: Value) -> Device {
        let patch = Patch::Merge(json!({"spec": spec}));
        self.space.api::<Device>().patch(name, &PatchParams::default(), &patch).await.unwrap()
    }

    pub(crate) async fn get(&self, name: &str) -> Device {
        self.space.api::<Device>().get(name).await.unwrap()
    }

    /// Waits until the status is as described.
    pub(crate) async fn until(
        &self,
        name: &str,
        what: &str,
        holds: impl Fn(&DeviceStatus) -> bool,
    ) -> DeviceStatus {
        let holds = |device: &Device| device.status.as_ref().is_some_and(&holds);
        self.space.until(name, what, holds).await.unwrap().status.unwrap()
    }

    pub(crate) async fn until_phase(&self, name: &str, phase: DevicePhase) -> DeviceStatus {
        self.until(name, phase.as_str(), move |status| status.phase == phase).await
    }
}
