//! The stage of these stories: a namespace, simulated devices on the loopback, and an operator that runs the
//! device controller alone with the rights of its manifest.

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
use device_sim::{DeviceHandle, Sim, SimConfig};
use edge_api::condition::find_condition;
use edge_api::{Device, DevicePhase, DeviceStatus};
use edge_operator::client::{self, Clients};
use edge_operator::metrics::Metrics;
use edge_operator::{args::Args, runtime};
use k8s_openapi::api::events::v1::Event;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::runtime::wait::await_condition;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::rights;

/// Two cores with a compiler beside it take their time.
const WITHIN: Duration = Duration::from_secs(60);

pub(crate) struct Stage {
    pub(crate) space: Space,
    pub(crate) sim: Sim,
    pub(crate) metrics: Arc<Metrics>,
    operator: Option<(CancellationToken, JoinSet<anyhow::Result<()>>)>,
    flags: Vec<String>,
    _states: TempDir,
}

impl Stage {
    /// Devices that work, and an operator in a hurry.
    pub(crate) async fn set(story: &str, devices: usize) -> Self {
        Self::set_with(story, devices, &[]).await
    }

    pub(crate) async fn set_with(story: &str, devices: usize, flags: &[&str]) -> Self {
        let space = space(story).await.unwrap();
        rights::give(space.client.clone()).await;
        let states = tempfile::tempdir().unwrap();
        let config = SimConfig {
            namespace: space.namespace.clone(),
            ..SimConfig::on_loopback(devices, states.path().to_owned())
        };
        let sim = Sim::start(config).await.unwrap();
        let flags = flags.iter().map(ToString::to_string).collect();
        let metrics = Metrics::new().unwrap();
        let mut stage = Self { space, sim, metrics, operator: None, flags, _states: states };
        stage.operator_starts();
        stage
    }

    pub(crate) fn operator_starts(&mut self) {
        let hurry = [
            "edge-operator",
            "--controllers=device",
            "--leader-elect=false",
            "--listen=127.0.0.1:0",
            "--allow-cidrs=127.0.0.1/32",
            "--ack-timeout=100ms",
            "--max-retransmit=3",
            "--poll-interval=100ms",
            "--backoff-base=100ms",
            "--backoff-cap=1s",
            "--device-retry-rate=20",
            "--progress-after=1ms",
        ];
        let namespaces = [
            format!("--namespace={}", rights::NAMESPACE),
            format!("--watch-namespace={}", self.space.namespace),
        ];
        // What a story says itself comes in the place of the usual.
        let name = |flag: &str| flag.split('=').next().map(str::to_owned);
        let usual = hurry.map(str::to_owned).into_iter().chain(namespaces);
        let usual = usual.filter(|flag| !self.flags.iter().any(|own| name(own) == name(flag)));
        let flags = usual.chain(self.flags.clone());
        let args = Args::parse_from(flags);
        let shutdown = CancellationToken::new();
        let mut task = JoinSet::new();
        let config = self.space.server.config_as(&rights::operator());
        self.metrics = Metrics::new().unwrap();
        let work = client::counted(config.clone(), self.metrics.requests.clone()).unwrap();
        let election = client::counted(config, self.metrics.election_requests.clone()).unwrap();
        let clients = Clients { work, election };
        task.spawn(runtime::run_with_metrics(clients, args, self.metrics.clone(), shutdown.clone()));
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
        let outcome = tokio::time::timeout(WITHIN, task.join_next()).await.expect("it ends in time");
        outcome.expect("there is a task").expect("it did not panic").expect("it ended well");
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
            "metadata": {"name": name}, "spec": spec,
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
        holds: impl Fn(&DeviceStatus) -> bool + Clone,
    ) -> DeviceStatus {
        let holds_of =
            |device: Option<&Device>| device.and_then(|device| device.status.as_ref()).is_some_and(&holds);
        let waiting = await_condition(self.space.api::<Device>(), name, holds_of);
        match tokio::time::timeout(WITHIN, waiting).await {
            Ok(Ok(device)) => device.unwrap().status.unwrap(),
            Ok(Err(error)) => panic!("waiting for {name} to be {what}: {error}"),
            Err(_) => {
                let status = self.get(name).await.status;
                panic!("{name} is not {what} within {WITHIN:?}: {status:#?}\n{}", self.scrape())
            }
        }
    }

    pub(crate) async fn until_phase(&self, name: &str, phase: DevicePhase) -> DeviceStatus {
        self.until(name, phase.as_str(), move |status| status.phase == phase).await
    }

    /// Waits until a metric is as described.
    pub(crate) async fn until_metric(&self, series: &str, holds: impl Fn(f64) -> bool) -> f64 {
        let deadline = tokio::time::Instant::now() + WITHIN;
        loop {
            let value = self.metric(series);
            if holds(value) {
                return value;
            }
            assert!(tokio::time::Instant::now() < deadline, "{series} stays {value}\n{}", self.scrape());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The sum of the samples whose line begins so.
    pub(crate) fn metric(&self, series: &str) -> f64 {
        let text = self.scrape();
        let lines = text.lines().filter(|line| line.starts_with(series));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    pub(crate) fn scrape(&self) -> String {
        String::from_utf8(self.metrics.render().unwrap()).unwrap()
    }

    /// Waits for an Event with this reason.
    pub(crate) async fn until_event(&self, reason: &str) -> Event {
        let deadline = tokio::time::Instant::now() + WITHIN;
        loop {
            let events = self.space.api::<Event>().list(&ListParams::default()).await.unwrap();
            let reasons: Vec<_> = events.items.iter().filter_map(|event| event.reason.clone()).collect();
            if let Some(event) =
                events.items.into_iter().find(|event| event.reason.as_deref() == Some(reason))
            {
                return event;
            }
            assert!(tokio::time::Instant::now() < deadline, "no Event {reason}, only {reasons:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// `Type=Status/Reason` of a condition.
pub(crate) fn condition(status: &DeviceStatus, type_: &str) -> String {
    match find_condition(&status.conditions, type_) {
        Some(condition) => format!("{type_}={}/{}", condition.status, condition.reason),
        None => format!("{type_} is not there"),
    }
}
