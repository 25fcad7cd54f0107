//! Devices in a cluster for the devices of this pod: by server-side apply this pod owns their endpoint,
//! labels and liveness, and never touches what somebody else owns (`desired` above all).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use edge_api::{Device, Liveness};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Resource as _};
use serde_json::{Value, json};
use thiserror::Error;
use tracing::{info, warn};

use crate::sim::DeviceHandle;

/// Owner of the fields that this applies.
pub const FIELD_MANAGER: &str = "device-sim";
/// Every call ends after this.
const CALL_DEADLINE: Duration = Duration::from_secs(10);
/// First and longest wait after a call that failed.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));
/// All Devices are applied again this often: one that was deleted comes back. An apply that changes
/// nothing writes nothing.
const REPEAT: Duration = Duration::from_secs(300);

/// What the Devices of a pod have in common.
#[derive(Debug, Clone)]
pub struct Enrolment {
    /// Namespace of pod and Devices.
    pub namespace: String,
    /// Name of this pod.
    pub pod: String,
    /// Where the devices listen.
    pub host: IpAddr,
    /// Labels of the Devices.
    pub labels: BTreeMap<String, String>,
    /// Liveness of the Devices; the API's default if none.
    pub liveness: Option<Liveness>,
}

/// Why a Device was not applied.
#[derive(Debug, Error)]
pub enum EnrolError {
    /// The API server said no, or nothing that makes sense.
    #[error("{what}: {source}")]
    Api {
        /// What was asked.
        what: String,
        /// What came back.
        source: Box<kube::Error>,
    },
    /// The API server said nothing in time.
    #[error("{what}: no answer within {}s", CALL_DEADLINE.as_secs())]
    Deadline {
        /// What was asked.
        what: String,
    },
}

impl EnrolError {
    /// What a person can do, where it is known.
    fn hint(&self) -> &'static str {
        match self {
            Self::Api { source, .. } => match source.as_ref() {
                kube::Error::Api(status) if status.code == 403 => {
                    "check the Role of this pod's ServiceAccount and the policy device-sim"
                }
                kube::Error::Api(status) if status.code == 404 => "install the CRDs first",
                kube::Error::Api(status) if status.code == 409 => {
                    "somebody else owns a field of it; remove their field or delete the Device"
                }
                kube::Error::Api(_) => "read the message",
                _ => "check that the API server is reachable",
            },
            Self::Deadline { .. } => "check that the API server is reachable",
        }
    }
}

/// Keeps a Device for each device, for ever. `done` is called once all are there.
pub async fn keep(client: Client, enrolment: Enrolment, devices: Vec<DeviceHandle>, done: impl FnOnce()) {
    let owner = until_owner(&client, &enrolment).await;
    let mut done = Some(done);
    loop {
        until_all_are_applied(&client, &enrolment, owner.as_ref(), &devices).await;
        if let Some(done) = done.take() {
            info!("{} devices are enrolled", devices.len());
            done();
        }
        tokio::time::sleep(REPEAT).await;
    }
}

/// Nothing is applied before the owner is known: without it, this would take the owner of Devices away that an
/// earlier life of this pod gave them.
async fn until_owner(client: &Client, enrolment: &Enrolment) -> Option<OwnerReference> {
    let (mut wait, longest) = RETRY;
    loop {
        match owner(client, enrolment).await {
            Ok(owner) => return owner,
            Err(error) => {
                warn!(%error, hint = error.hint(), "the owner is not known yet; next try in {wait:?}");
            }
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(longest);
    }
}

/// Applies all, then those that failed again and again: none keeps the others waiting.
async fn until_all_are_applied(
    client: &Client,
    enrolment: &Enrolment,
    owner: Option<&OwnerReference>,
    devices: &[DeviceHandle],
) {
    let (mut wait, longest) = RETRY;
    let mut left: Vec<&DeviceHandle> = devices.iter().collect();
    loop {
        let mut failed = Vec::new();
        for device in left {
            let object = object(enrolment, owner, device.name(), device.address().port());
            if let Err(error) = apply(client, &enrolment.namespace, device.name(), &object).await {
                warn!(%error, hint = error.hint(), "not enrolled yet");
                failed.push(device);
            }
        }
        if failed.is_empty() {
            return;
        }
        info!("{} of {} devices are not enrolled yet; next try in {wait:?}", failed.len(), devices.len());
        left = failed;
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(longest);
    }
}

/// Devices outlive their pod, which is made anew with the same name, and go with the StatefulSet.
async fn owner(client: &Client, enrolment: &Enrolment) -> Result<Option<OwnerReference>, EnrolError> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &enrolment.namespace);
    let pod = call(format!("reading the pod {}", enrolment.pod), pods.get(&enrolment.pod)).await?;
    let owners = pod.metadata.owner_references.unwrap_or_default();
    Ok(owners.into_iter().find(|owner| owner.kind == "StatefulSet"))
}

async fn apply(client: &Client, namespace: &str, name: &str, object: &Value) -> Result<(), EnrolError> {
    let devices: Api<Device> = Api::namespaced(client.clone(), namespace);
    let mut params = PatchParams::apply(FIELD_MANAGER);
    params.field_validation = Some(kube::api::ValidationDirective::Strict);
    let patch = Patch::Apply(object);
    call(format!("applying the Device {name}"), devices.patch(name, &params, &patch)).await.map(drop)
}

async fn call<T>(what: String, answer: impl Future<Output = kube::Result<T>>) -> Result<T, EnrolError> {
    match tokio::time::timeout(CALL_DEADLINE, answer).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(EnrolError::Api { what, source: Box::new(source) }),
        Err(_) => Err(EnrolError::Deadline { what }),
    }
}

/// What is applied: the fields that this pod owns, and no other.
#[must_use]
pub fn object(enrolment: &Enrolment, owner: Option<&OwnerReference>, name: &str, port: u16) -> Value {
    let mut object = json!({
        "apiVersion": Device::api_version(&()),
        "kind": Device::kind(&()),
        "metadata": {"name": name, "namespace": enrolment.namespace, "labels": enrolment.labels},
        "spec": {"endpoint": {"host": enrolment.host, "port": port}},
    });
    if let Some(OwnerReference { api_version, kind, name, uid, .. }) = owner {
        object["metadata"]["ownerReferences"] =
            json!([{"apiVersion": api_version, "kind": kind, "name": name, "uid": uid}]);
    }
    if let Some(liveness) = &enrolment.liveness {
        object["spec"]["liveness"] = json!(liveness);
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enrolment() -> Enrolment {
        Enrolment {
            namespace: "edge-demo".into(),
            pod: "device-sim-0".into(),
            host: "10.244.1.7".parse().unwrap(),
            labels: BTreeMap::from([("site".into(), "berlin".into())]),
            liveness: None,
        }
    }

    #[test]
    fn only_endpoint_labels_and_liveness_are_applied() {
        let plain = object(&enrolment(), None, "device-sim-0-3", 5686);
        assert_eq!(
            plain,
            json!({
                "apiVersion": "edge-operator.dev/v1alpha1",
                "kind": "Device",
                "metadata": {
                    "name": "device-sim-0-3", "namespace": "edge-demo", "labels": {"site": "berlin"},
                },
                "spec": {"endpoint": {"host": "10.244.1.7", "port": 5686}},
            })
        );
        let liveness = Liveness { lost_after: "15s".into(), ..Liveness::default() };
        let quick = Enrolment { liveness: Some(liveness), ..enrolment() };
        assert_eq!(object(&quick, None, "d", 1)["spec"]["liveness"]["lostAfter"], "15s");
    }

    #[test]
    fn a_device_belongs_to_the_stateful_set_and_does_not_block_its_deletion() {
        let owner = OwnerReference {
            api_version: "apps/v1".into(),
            kind: "StatefulSet".into(),
            name: "device-sim".into(),
            uid: "u".into(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        };
        let owners = &object(&enrolment(), Some(&owner), "d", 1)["metadata"]["ownerReferences"];
        assert_eq!(
            *owners,
            json!([{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "device-sim", "uid": "u"}])
        );
    }
}
