//! The stage of these stories: a namespace with an operator that runs the fault controller alone, and hands that
//! play the agents, the kubelet and the device controller. The operator has the rights that its manifest gives it.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a hand that slips ends the story"
)]

use std::fmt::Debug;
use std::time::Duration;

use control_plane::wait::WITHIN;
use control_plane::{Space, space};
use edge_api::condition::find_condition;
use edge_api::{Device, FaultNode, FaultPhase, FaultProfile, FaultProfileStatus};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};

use crate::in_process::Operator;

pub(crate) struct Stage {
    pub(crate) space: Space,
    pub(crate) operator: Operator,
}

impl Stage {
    pub(crate) async fn set(story: &str) -> Self {
        let space = space(story).await.unwrap();
        let operator = Operator::set(&space, &["--controllers=fault"], &[]).await;
        Self { space, operator }
    }

    /// A node's name that no other story uses.
    pub(crate) fn node(&self, name: &str) -> String {
        format!("{}.{name}", self.space.namespace)
    }

    pub(crate) async fn profile(&self, name: &str, spec: Value) {
        let object: FaultProfile = serde_json::from_value(json!({
            "apiVersion": "edge-operator.dev/v1alpha1", "kind": "FaultProfile",
            "metadata": {"name": name}, "spec": spec,
        }))
        .unwrap();
        self.space.api::<FaultProfile>().create(&PostParams::default(), &object).await.unwrap();
    }

    pub(crate) async fn edit(&self, name: &str, spec: Value) -> Result<FaultProfile, kube::Error> {
        let patch = Patch::Merge(json!({"spec": spec}));
        self.space.api::<FaultProfile>().patch(name, &PatchParams::default(), &patch).await
    }

    /// A running pod with the label `app: x`.
    pub(crate) async fn pod(&self, name: &str, node: &str, ip: &str) {
        let pods = self.space.api::<Pod>();
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {"app": "x"}},
            "spec": {"nodeName": self.node(node), "containers": [{"name": "c", "image": "localhost/none:dev"}]},
        }))
        .unwrap();
        pods.create(&PostParams::default(), &pod).await.unwrap();
        let status = json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}});
        pods.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    }

    pub(crate) async fn pod_goes(&self, name: &str) {
        let now = DeleteParams::default().grace_period(0);
        self.space.api::<Pod>().delete(name, &now).await.unwrap();
    }

    /// A device with the label `app: x` and this status, as the device controller would write it.
    pub(crate) async fn device(&self, name: &str, status: Value) {
        let devices = self.space.api::<Device>();
        let device: Device = serde_json::from_value(json!({
            "apiVersion": "edge-operator.dev/v1alpha1", "kind": "Device",
            "metadata": {"name": name, "labels": {"app": "x"}},
            "spec": {"endpoint": {"host": "192.168.77.1", "port": 5683}},
        }))
        .unwrap();
        devices.create(&PostParams::default(), &device).await.unwrap();
        self.device_status(name, status).await;
    }

    pub(crate) async fn device_status(&self, name: &str, status: Value) {
        let patch = Patch::Merge(json!({"status": status}));
        self.space.api::<Device>().patch_status(name, &PatchParams::default(), &patch).await.unwrap();
    }

    /// The agent of a node writes its FaultNode: a heartbeat of that age, and entries for profiles.
    pub(crate) async fn agent(&self, node: &str, heartbeat_age: Duration, entries: &[(&str, Value)]) {
        let nodes: Api<FaultNode> = Api::all(self.space.client.clone());
        let name = self.node(node);
        let head = json!({
            "apiVersion": "edge-operator.dev/v1alpha1", "kind": "FaultNode", "metadata": {"name": name}, "spec": {},
        });
        let force = PatchParams::apply("chaos-agent").force();
        nodes.patch(&name, &force, &Patch::Apply(&head)).await.unwrap();
        let mut profiles = Vec::new();
        for (profile, entry) in entries {
            let object = self.space.api::<FaultProfile>().get(profile).await.unwrap();
            let mut whole = json!({
                "namespace": self.space.namespace, "name": profile, "uid": object.uid(),
                "observedGeneration": object.metadata.generation,
            });
            let fields = entry.as_object().unwrap().clone();
            whole.as_object_mut().unwrap().extend(fields);
            profiles.push(whole);
        }
        let renewed = now() - heartbeat_age;
        let mut whole = head;
        whole["status"] =
            json!({"renewedAt": format!("{renewed:.6}"), "kernel": "6.18.5", "profiles": profiles});
        nodes.patch_status(&name, &force, &Patch::Apply(&whole)).await.unwrap();
    }

    /// Waits until the status of a profile is as told; fails with the status that it had instead.
    pub(crate) async fn until(
        &self,
        name: &str,
        what: &str,
        holds: impl Fn(&FaultProfileStatus) -> bool,
    ) -> FaultProfileStatus {
        let holds = |profile: &FaultProfile| profile.status.as_ref().is_some_and(&holds);
        self.space.until(name, what, holds).await.unwrap().status.unwrap()
    }

    pub(crate) async fn until_phase(&self, name: &str, phase: FaultPhase) -> FaultProfileStatus {
        self.until(name, phase.as_str(), |status| status.phase == phase).await
    }

    /// Reasons of the events about a profile, oldest first, once the last one is there.
    pub(crate) async fn events_up_to(&self, name: &str, last: &str) -> Vec<String> {
        let events = self.space.api::<Event>();
        let fields = ListParams::default();
        let deadline = tokio::time::Instant::now() + WITHIN;
        loop {
            let mut list = events.list(&fields).await.unwrap().items;
            list.retain(|event| {
                event.regarding.as_ref().and_then(|about| about.name.as_deref()) == Some(name)
            });
            list.sort_by_key(|event| event.event_time.as_ref().map(|time| time.0));
            let reasons: Vec<String> = list.into_iter().filter_map(|event| event.reason).collect();
            if reasons.iter().any(|reason| reason == last) {
                return reasons;
            }
            assert!(tokio::time::Instant::now() < deadline, "no event {last} in {reasons:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// When a condition changed last; whole seconds.
pub(crate) fn transition(status: &FaultProfileStatus, type_: &str) -> Timestamp {
    find_condition(&status.conditions, type_).unwrap().last_transition_time.0
}

/// All pods with the label, for so long, with every packet lost.
pub(crate) fn partition_of_pods(duration: &str) -> Value {
    json!({
        "targets": {"pods": {"selector": {"matchLabels": {"app": "x"}}}},
        "faults": {"partition": {}},
        "duration": duration,
    })
}

pub(crate) fn refused(outcome: Result<impl Debug, kube::Error>) -> String {
    match outcome.expect_err("the API server should have refused it") {
        kube::Error::Api(status) => status.message.clone(),
        other => panic!("{other}"),
    }
}

#[expect(clippy::disallowed_methods, reason = "plays an agent, whose heartbeat is the time")]
pub(crate) fn now() -> Timestamp {
    Timestamp::now()
}
