//! The stage of these stories: a namespace with a Lease of its own, one simulated device, one profile, one fleet without devices, and operators
//! as processes of their own, with the rights of the manifest.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a hand that slips ends the story")]

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use control_plane::wait::WITHIN;
use control_plane::{Space, space};
use device_sim::{DeviceHandle, Sim, SimConfig};
use edge_api::{Device, DeviceFleet, DevicePhase, FaultProfile, FaultProfileStatus};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Resource;
use kube::api::{Patch, PatchParams, PostParams};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::rights;

const LEASE: &str = include_str!("../../../deploy/operator/lease.yaml");
/// The Lease's name.
pub(crate) const NAME: &str = "edge-operator";
/// The lease's duration in these stories.
pub(crate) const DURATION: Duration = Duration::from_secs(6);
/// Within which it is renewed.
pub(crate) const RENEW_DEADLINE: Duration = Duration::from_secs(4);
/// What a busy machine may add to a lease: starting to write, to be heard, and to be seen by a test.
pub(crate) const SLACK: Duration = Duration::from_secs(5);

pub(crate) struct Stage {
    pub(crate) space: Space,
    pub(crate) sim: Sim,
    folder: TempDir,
}

/// An operator that runs. Killed when dropped.
pub(crate) struct Operator {
    name: &'static str,
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Stage {
    /// A device that works, at firmware 1.0.0; the Lease as the manifest brings it.
    pub(crate) async fn set(story: &str) -> Self {
        let space = space(story).await.unwrap();
        rights::give(space.client.clone()).await;
        let here = |mut object: Value| {
            object["metadata"]["namespace"] = json!(space.namespace);
            object
        };
        let roles = rights::documents(rights::RIGHTS)
            .filter(|object| ["Role", "RoleBinding"].contains(&object["kind"].as_str().unwrap()));
        rights::apply(space.client.clone(), roles.chain(rights::documents(LEASE)).map(here)).await;
        let folder = tempfile::tempdir().unwrap();
        let config = SimConfig {
            namespace: space.namespace.clone(),
            ..SimConfig::on_loopback(1, folder.path().to_owned())
        };
        let sim = Sim::start(config).await.unwrap();
        let stage = Self { space, sim, folder };
        stage.declare().await;
        stage
    }

    async fn declare(&self) {
        let address = self.device().address();
        let spec = json!({
            "endpoint": {"host": address.ip().to_string(), "port": address.port()},
            "liveness": {"probeInterval": "200ms", "suspectAfter": "3s", "lostAfter": "30s"},
            "desired": {"firmware": "2.0.0"},
        });
        let device: Device = serde_json::from_value(json!({
            "apiVersion": "edge-operator.dev/v1alpha1", "kind": "Device",
            "metadata": {"name": "device-0"}, "spec": spec,
        }))
        .unwrap();
        self.space.api::<Device>().create(&PostParams::default(), &device).await.unwrap();
        let profile: FaultProfile = serde_json::from_value(json!({
            "apiVersion": "edge-operator.dev/v1alpha1", "kind": "FaultProfile",
            "metadata": {"name": "cut"},
            "spec": {
                "targets": {"pods": {"selector": {"matchLabels": {"app": "none"}}}},
                "faults": {"partition": {}},
                "duration": "10m",
            },
        }))
        .unwrap();
        self.space.api::<FaultProfile>().create(&PostParams::default(), &profile).await.unwrap();
        let fleet: DeviceFleet = serde_json::from_value(json!({
            "apiVersion": "edge-operator.dev/v1alpha1", "kind": "DeviceFleet",
            "metadata": {"name": "nobodys"},
            "spec": {"selector": {"matchLabels": {"app": "none"}}, "template": {"firmware": "9.0.0"}},
        }))
        .unwrap();
        self.space.api::<DeviceFleet>().create(&PostParams::default(), &fleet).await.unwrap();
    }

    /// Starts an operator that is named so in the Lease.
    pub(crate) fn operator(&self, name: &'static str) -> Operator {
        let kubeconfig = self.folder.path().join(format!("{name}.kubeconfig"));
        std::fs::write(&kubeconfig, self.space.server.kubeconfig(&rights::operator())).unwrap();
        let namespace = &self.space.namespace;
        let mut child = Command::new(env!("CARGO_BIN_EXE_edge-operator"))
            .env("KUBECONFIG", kubeconfig)
            .args(["--listen=127.0.0.1:0", "--allow-cidrs=127.0.0.1/32", "--log-format=json"])
            .arg(format!("--leader-elect-lease-duration={}s", DURATION.as_secs()))
            .arg(format!("--leader-elect-renew-deadline={}s", RENEW_DEADLINE.as_secs()))
            .args(["--leader-elect-retry-period=1s", "--ack-timeout=100ms", "--poll-interval=100ms"])
            .args(["--backoff-base=100ms", "--backoff-cap=1s"])
            .arg(format!("--namespace={namespace}"))
            .arg(format!("--watch-namespace={namespace}"))
            .arg(format!("--identity={name}"))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let log = Arc::new(Mutex::new(Vec::new()));
        let written = log.clone();
        let reader = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                written.lock().unwrap().push(line);
            }
        });
        Operator { name, child, log, reader: Some(reader) }
    }

    pub(crate) fn device(&self) -> &DeviceHandle {
        &self.sim.devices()[0]
    }

    /// The epoch of the last command that the device obeyed.
    pub(crate) fn obeyed(&self) -> u64 {
        self.device().view().durable.held.as_ref().map_or(0, |held| held.epoch)
    }

    /// Waits for an object to be as described.
    pub(crate) async fn until<K>(&self, name: &str, what: &str, holds: impl Fn(&K) -> bool) -> K
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + DeserializeOwned
            + Send
            + 'static,
    {
        self.space.until(name, what, holds).await.unwrap()
    }

    /// Waits until this operator holds the Lease.
    pub(crate) async fn until_held_by(&self, operator: &Operator) -> Lease {
        let begins = format!("{}_", operator.name);
        let holds = |lease: &Lease| holder(lease).starts_with(&begins);
        self.until(NAME, "held by the other", holds).await
    }

    /// Edits the device's firmware and waits until it runs it. Gives the epoch of that command.
    pub(crate) async fn installs(&self, firmware: &str) -> u64 {
        let patch = Patch::Merge(json!({"spec": {"desired": {"firmware": firmware}}}));
        self.space.api::<Device>().patch("device-0", &PatchParams::default(), &patch).await.unwrap();
        self.until_runs(firmware).await
    }

    /// Waits until the device runs this and the object says so.
    pub(crate) async fn until_runs(&self, firmware: &str) -> u64 {
        let runs = |device: &Device| {
            device.status.as_ref().is_some_and(|status| {
                status.phase == DevicePhase::InSync
                    && status.observed_generation == device.metadata.generation
                    && status.reported.as_ref().is_some_and(|it| it.firmware.as_deref() == Some(firmware))
            })
        };
        self.until::<Device>("device-0", firmware, runs).await;
        self.obeyed()
    }

    /// Waits until the fleet's status has a later epoch than this.
    pub(crate) async fn until_fleet_follows(&self, epoch: u64) -> DeviceFleet {
        let later = |fleet: &DeviceFleet| {
            fleet.status.as_ref().and_then(|status| status.epoch).unwrap_or_default() > epoch
        };
        self.until("nobodys", "of a later epoch", later).await
    }

    /// Waits until the profile's status has a later epoch than this.
    pub(crate) async fn until_profile_follows(&self, epoch: u64) -> FaultProfile {
        let later = |profile: &FaultProfile| epoch_of(profile.status.as_ref()) > epoch;
        self.until("cut", "of a later epoch", later).await
    }
}

pub(crate) fn epoch_of(status: Option<&FaultProfileStatus>) -> u64 {
    status.and_then(|status| status.epoch).unwrap_or_default()
}

pub(crate) fn holder(lease: &Lease) -> &str {
    lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default()
}

impl Operator {
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// Waits for its end.
    pub(crate) async fn ends(&mut self) -> ExitStatus {
        let deadline = Instant::now() + WITHIN;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                self.reader.take().map(JoinHandle::join);
                return status;
            }
            assert!(Instant::now() < deadline, "{} does not end", self.name);
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// What it wrote to its log.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    /// Waits until it is ready, as a standby or as a leader.
    pub(crate) async fn until_ready(&self) {
        let deadline = Instant::now() + WITHIN;
        while !self.get("/readyz").await.is_some_and(|answer| answer.contains(" 200 ")) {
            assert!(Instant::now() < deadline, "{} is not ready", self.name);
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// The metric whose line begins so.
    pub(crate) async fn metric(&self, series: &str) -> f64 {
        let answer = self.get("/metrics").await.expect("it answers");
        let line = answer.lines().find(|line| line.starts_with(series)).expect("there is such a metric");
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    async fn get(&self, path: &str) -> Option<String> {
        let address = self.log().lines().find_map(|line| {
            let line: Value = serde_json::from_str(line).ok()?;
            line["fields"]["address"].as_str().map(str::to_owned)
        })?;
        let mut stream = TcpStream::connect(address).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: it\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        Some(answer)
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        // One that has ended cannot be killed, and one that was killed ends.
        let _ended = self.child.kill();
        let _status = self.child.wait();
        self.reader.take().map(JoinHandle::join);
        if std::thread::panicking() {
            eprintln!("--- log of operator {}\n{}", self.name, self.log());
        }
    }
}
