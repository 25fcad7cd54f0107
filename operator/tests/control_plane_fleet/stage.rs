//! The stage of these stories: a namespace, simulated devices on the loopback, their Devices with a label and without a
//! desired state, and an operator that runs the device and the fleet controller with the rights of its manifest.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a hand that slips ends the story"
)]

use std::sync::Arc;
use std::time::Duration;

use clap::Parser as _;
use control_plane::{Space, space};
use device_sim::behaviour::Span;
use device_sim::history::What;
use device_sim::{Behaviour, DeviceHandle, Sim, SimConfig};
use edge_api::condition::find_condition;
use edge_api::{Device, DeviceFleet, DeviceFleetStatus, DevicePhase, FleetPhase};
use edge_operator::metrics::Metrics;
use edge_operator::{args::Args, runtime};
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::events::v1::Event;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::runtime::wait::await_condition;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::referee::Referee;
use crate::rights;

/// Two cores with a compiler beside it take their time.
const WITHIN: Duration = Duration::from_secs(90);

pub(crate) struct Stage {
    pub(crate) space: Space,
    pub(crate) sim: Sim,
    pub(crate) referee: Referee,
    metrics: Arc<Metrics>,
    operator: Option<(CancellationToken, JoinSet<anyhow::Result<()>>)>,
    _states: TempDir,
}

impl Stage {
    /// Devices that take so long to install something, and an operator in a hurry.
    pub(crate) async fn set(story: &str, devices: usize, install_time: Duration) -> Self {
        let space = space(story).await.unwrap();
        rights::give(space.client.clone()).await;
        let states = tempfile::tempdir().unwrap();
        let behaviour = Behaviour { install_time: Span::exactly(install_time), ..Behaviour::default() };
        let config = SimConfig {
            namespace: space.namespace.clone(),
            behaviour,
            ..SimConfig::on_loopback(devices, states.path().to_owned())
        };
        let sim = Sim::start(config).await.unwrap();
        let referee = Referee::watches(space.api());
        let metrics = Metrics::new().unwrap();
        let mut stage = Self { space, sim, referee, metrics, operator: None, _states: states };
        stage.operator_starts();
        for number in 0..devices {
            stage.declare(number, json!({"model": "px4"}), None).await;
        }
        stage
    }

    pub(crate) fn operator_starts(&mut self) {
        let hurry = [
            "edge-operator",
            "--controllers=device,fleet",
            "--leader-elect=false",
            "--listen=127.0.0.1:0",
            "--allow-cidrs=127.0.0.1/32",
            "--ack-timeout=100ms",
            "--max-retransmit=3",
            "--poll-interval=100ms",
            "--backoff-base=100ms",
            "--backoff-cap=1s",
            "--device-retry-rate=20",
            "--fleet-writers=2",
        ];
        let namespaces = [
            format!("--namespace={}", rights::NAMESPACE),
            format!("--watch-namespace={}", self.space.namespace),
        ];
        let args = Args::parse_from(hurry.map(str::to_owned).into_iter().chain(namespaces));
        let shutdown = CancellationToken::new();
        let mut task = JoinSet::new();
        let client = self.space.server.client_as(&rights::operator()).unwrap();
        self.metrics = Metrics::new().unwrap();
        task.spawn(runtime::run_with_metrics(client, args, self.metrics.clone(), shutdown.clone()));
        self.operator = Some((shutdown, task));
    }

    /// As SIGKILL would end it: between any two of its instructions.
    pub(crate) async fn operator_is_killed(&mut self) {
        let (_, mut task) = self.operator.take().expect("an operator runs");
        task.shutdown().await;
    }

    /// As SIGTERM ends it, without an error.
    pub(crate) async fn operator_ends(&mut self) {
        let (shutdown, mut task) = self.operator.take().expect("an operator runs");
        shutdown.cancel();
        let outcome = timeout(WITHIN, task.join_next()).await.expect("it ends in time");
        outcome.expect("there is a task").expect("it did not panic").expect("it ended well");
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
        let holds = |device: Option<&Device>| {
            device.and_then(|device| device.status.as_ref()).is_some_and(|status| status.phase == phase)
        };
        let waiting = await_condition(self.space.api::<Device>(), &name, holds);
        let waited = timeout(WITHIN, waiting).await;
        waited
            .unwrap_or_else(|_elapsed| panic!("{name} is not {}\n{}", phase.as_str(), self.scrape()))
            .unwrap();
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

    pub(crate) async fn status(&self, name: &str) -> DeviceFleetStatus {
        self.space.api::<DeviceFleet>().get(name).await.unwrap().status.unwrap_or_default()
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
        let holds_of = |fleet: Option<&DeviceFleet>| {
            fleet.is_some_and(|fleet| {
                fleet.status.as_ref().is_some_and(|status| {
                    status.observed_generation == fleet.metadata.generation && holds(status)
                })
            })
        };
        let waiting = await_condition(self.space.api::<DeviceFleet>(), name, holds_of);
        match timeout(WITHIN, waiting).await {
            Ok(fleet) => fleet.unwrap().unwrap().status.unwrap(),
            Err(_elapsed) => {
                let status = self.status(name).await;
                panic!("{name} is not {what} within {WITHIN:?}: {status:#?}\n{}", self.scrape())
            }
        }
    }

    pub(crate) async fn until_phase(&self, name: &str, phase: FleetPhase) -> DeviceFleetStatus {
        self.until(name, phase.as_str(), move |status| status.phase == phase).await
    }

    /// Waits until something is so that no watch tells of.
    pub(crate) async fn until_true(&self, what: &str, holds: impl Fn() -> bool) {
        let deadline = Instant::now() + WITHIN;
        while !holds() {
            assert!(Instant::now() < deadline, "not {what} within {WITHIN:?}\n{}", self.scrape());
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// The sum of the samples whose line begins so.
    pub(crate) fn metric(&self, series: &str) -> f64 {
        let text = self.scrape();
        let lines = text.lines().filter(|line| line.starts_with(series));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    fn scrape(&self) -> String {
        String::from_utf8(self.metrics.render().unwrap()).unwrap()
    }

    /// Waits for an Event with this reason about a fleet. Gives its note.
    pub(crate) async fn until_event(&self, fleet: &str, reason: &str) -> String {
        let deadline = Instant::now() + WITHIN;
        loop {
            let events = self.space.api::<Event>().list(&ListParams::default()).await.unwrap().items;
            let about = |event: &Event| event.regarding.as_ref().and_then(|about| about.name.clone());
            let mut of_fleet = events.into_iter().filter(|event| about(event).as_deref() == Some(fleet));
            if let Some(event) = of_fleet.find(|event| event.reason.as_deref() == Some(reason)) {
                return event.note.unwrap_or_default();
            }
            assert!(Instant::now() < deadline, "no Event {reason} about {fleet}");
            sleep(Duration::from_millis(50)).await;
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
        let heard = self.metric(reports);
        let more = 5.0 * self.sim.devices().len() as f64;
        self.until_true("asked five times each", || self.metric(reports) >= heard + more).await;
        assert_eq!(versions().await, before);
    }
}

/// `Type=Status/Reason` of a condition.
pub(crate) fn condition(status: &DeviceFleetStatus, type_: &str) -> String {
    match find_condition(&status.conditions, type_) {
        Some(condition) => format!("{type_}={}/{}", condition.status, condition.reason),
        None => format!("{type_} is not there"),
    }
}

pub(crate) fn message(status: &DeviceFleetStatus, type_: &str) -> String {
    find_condition(&status.conditions, type_).map(|condition| condition.message.clone()).unwrap_or_default()
}
