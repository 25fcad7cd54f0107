//! The stage of these stories: a namespace, simulated devices on the loopback, their Devices with a label and without a
//! desired state, and an operator that runs the device and the fleet controller with the rights of its manifest.

#![expect(clippy::unwrap_used, reason = "a hand that slips ends the story")]

use std::time::Duration;

use control_plane::wait::WITHIN;
use control_plane::{Space, space};
use device_sim::behaviour::Span;
use device_sim::history::What;
use device_sim::{Behaviour, DeviceHandle, Sim, SimConfig};
use edge_api::{Device, DeviceFleet, DeviceFleetStatus, DevicePhase, FleetPhase};
use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::ResourceExt as _;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::wait::{await_condition, conditions};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

use crate::in_process::Operator;
use crate::referee::Referee;

const FLAGS: [&str; 3] = ["--controllers=device,fleet", "--allow-cidrs=127.0.0.1/32", "--fleet-writers=2"];

pub(crate) struct Stage {
    pub(crate) space: Space,
    pub(crate) sim: Sim,
    pub(crate) referee: Referee,
    pub(crate) operator: Operator,
    _states: TempDir,
}

impl Stage {
    /// Devices that take so long to install something, and an operator in a hurry.
    pub(crate) async fn set(story: &str, devices: usize, install_time: Duration) -> Self {
        let space = space(story).await.unwrap();
        let states = tempfile::tempdir().unwrap();
        let behaviour = Behaviour { install_time: Span::exactly(install_time), ..Behaviour::default() };
        let config = SimConfig {
            namespace: space.namespace.clone(),
            behaviour,
            ..SimConfig::on_loopback(devices, states.path().to_owned())
        };
        let sim = Sim::start(config).await.unwrap();
        let referee = Referee::watches(space.api());
        let operator = Operator::set(&space, &FLAGS, &[]).await;
        let stage = Self { space, sim, referee, operator, _states: states };
        for number in 0..devices {
            stage.declare(number, json!({"model": "px4"}), None).await;
        }
        stage
    }

    pub(crate) fn device(&self, number: usize) -> &DeviceHandle {
        &self.sim.devices()[number]
    }

    /// The object of a simulated device.
    async fn declare(&self, number: usize, labels: Value, desired: Option<Value>) {
        let device = self.device(number);
        let address = device.address();
        let object: Device = serde_json::from_value(json!({
            "apiVersion": "edge-operator.dev/v1alpha1", "kind": "Device",
            "metadata": {"name": device.name(), "labels": labels},
            "spec": {
                "endpoint": {"host": address.ip().to_string(), "port": address.port()},
                "liveness": {"probeInterval": "200ms", "suspectAfter": "20s", "lostAfter": "30s"},
                "desired": desired,
            },
        }))
        .unwrap();
        self.space.api::<Device>().create(&PostParams::default(), &object).await.unwrap();
    }

    /// A person deletes a Device, and declares it anew once it is gone.
    pub(crate) async fn make_again(&self, number: usize) {
        let (name, devices) = (self.device(number).name().to_owned(), self.space.api::<Device>());
        let uid = devices.get(&name).await.unwrap().uid().unwrap();
        devices.delete(&name, &DeleteParams::default()).await.unwrap();
        let gone = await_condition(devices, &name, conditions::is_deleted(&uid));
        timeout(WITHIN, gone).await.unwrap().unwrap();
        self.declare(number, json!({"model": "px4"}), None).await;
    }

    /// A person deletes a fleet, which holds nothing back.
    pub(crate) async fn delete_fleet(&self, name: &str) {
        self.space.api::<DeviceFleet>().delete(name, &DeleteParams::default()).await.unwrap();
        assert!(self.space.api::<DeviceFleet>().get_opt(name).await.unwrap().is_none());
        let of_it = format!("fleet=\"{name}\"");
        self.until_true("forgotten", || !self.operator.scrape().contains(&of_it)).await;
    }

    /// A person edits a device.
    pub(crate) async fn edit_device(&self, number: usize, patch: Value) {
        let name = self.device(number).name().to_owned();
        let params = PatchParams { field_manager: Some("somebody".into()), ..PatchParams::default() };
        self.space.api::<Device>().patch(&name, &params, &Patch::Merge(patch)).await.unwrap();
    }

    /// From now on silence of this device counts soon. That of the others does not: on a busy machine they may be late.
    pub(crate) async fn is_lost_soon(&self, number: usize) {
        let liveness = json!({"suspectAfter": "2s", "lostAfter": "3s"});
        self.edit_device(number, json!({"spec": {"liveness": liveness}})).await;
    }

    /// From now on the devices take so long to install something.
    pub(crate) fn install_within(&self, install_time: Duration) {
        for device in self.sim.devices() {
            let behaviour = Behaviour { install_time: Span::exactly(install_time), ..Behaviour::default() };
            device.set_behaviour(behaviour);
        }
    }

    /// Waits until the operator says so of a device.
    pub(crate) async fn until_device(&self, number: usize, phase: DevicePhase) {
        let name = self.device(number).name().to_owned();
        let holds = |device: &Device| device.status.as_ref().is_some_and(|status| status.phase == phase);
        self.space.until(&name, phase.as_str(), holds).await.unwrap();
    }

    /// What each device runs, by its own account.
    pub(crate) fn running(&self) -> Vec<String> {
        self.sim.devices().iter().map(|device| device.view().durable.running.firmware.clone()).collect()
    }

    /// How often something happened to a device, by its own account.
    pub(crate) fn happened(&self, number: usize, what: What) -> usize {
        self.device(number).history().entries.iter().filter(|entry| entry.what == what).count()
    }

    /// The fleet of all devices with the label, in a hurry.
    pub(crate) async fn fleet(&self, name: &str, firmware: &str, rollout: Value) {
        let selector = json!({"matchLabels": {"model": "px4"}});
        self.fleet_of(name, &selector, firmware, rollout).await;
    }

    pub(crate) async fn fleet_of(&self, name: &str, selector: &Value, firmware: &str, rollout: Value) {
        let object: DeviceFleet = serde_json::from_value(json!({
            "apiVersion": "edge-operator.dev/v1alpha1", "kind": "DeviceFleet",
            "metadata": {"name": name},
            "spec": {"selector": selector, "template": {"firmware": firmware}, "rollout": rollout},
        }))
        .unwrap();
        self.space.api::<DeviceFleet>().create(&PostParams::default(), &object).await.unwrap();
    }

    pub(crate) async fn edit(&self, name: &str, spec: Value) -> DeviceFleet {
        let patch = Patch::Merge(json!({"spec": spec}));
        self.space.api::<DeviceFleet>().patch(name, &PatchParams::default(), &patch).await.unwrap()
    }

    pub(crate) async fn wants(&self, name: &str, firmware: &str) {
        self.edit(name, json!({"template": {"firmware": firmware}})).await;
    }

    /// Numbers of the templates that are kept, in order.
    pub(crate) async fn revisions(&self) -> Vec<i64> {
        let list = self.space.api::<ControllerRevision>().list(&ListParams::default()).await.unwrap();
        let mut numbers: Vec<i64> = list.items.into_iter().map(|revision| revision.revision).collect();
        numbers.sort_unstable();
        numbers
    }

    /// Waits until the status speaks of the present spec and is as described.
    pub(crate) async fn until(
        &self,
        name: &str,
        what: &str,
        holds: impl Fn(&DeviceFleetStatus) -> bool,
    ) -> DeviceFleetStatus {
        let holds = |fleet: &DeviceFleet| {
            fleet.status.as_ref().is_some_and(|status| {
                status.observed_generation == fleet.metadata.generation && holds(status)
            })
        };
        self.space.until(name, what, holds).await.unwrap().status.unwrap()
    }

    pub(crate) async fn until_phase(&self, name: &str, phase: FleetPhase) -> DeviceFleetStatus {
        self.until(name, phase.as_str(), move |status| status.phase == phase).await
    }

    /// Waits until something is so that no watch tells of.
    pub(crate) async fn until_true(&self, what: &str, holds: impl Fn() -> bool) {
        let deadline = Instant::now() + WITHIN;
        while !holds() {
            assert!(Instant::now() < deadline, "not {what} within {WITHIN:?}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Nothing about fleets or devices is written while devices are asked again and again.
    pub(crate) async fn is_silent(&self) {
        let versions = async || {
            let devices = self.space.api::<Device>().list(&ListParams::default()).await.unwrap();
            let fleets = self.space.api::<DeviceFleet>().list(&ListParams::default()).await.unwrap();
            let devices = devices.items.into_iter().map(|device| device.metadata.resource_version);
            devices
                .chain(fleets.items.into_iter().map(|fleet| fleet.metadata.resource_version))
                .collect::<Vec<_>>()
        };
        let before = versions().await;
        let reports = "edge_device_reports_total";
        let heard = self.operator.metric(reports);
        let more = 5.0 * self.sim.devices().len() as f64;
        self.operator.until_metric(reports, |now| now >= heard + more).await;
        assert_eq!(versions().await, before);
    }
}
