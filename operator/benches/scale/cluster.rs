//! The cluster: a real API server, the Devices of all sites in it, and how many statuses it writes a second.

use std::time::{Duration, Instant};

use control_plane::ControlPlane;
use edge_api::Device;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::plan::Site;
use crate::say;

#[path = "../../tests/rights/mod.rs"]
mod rights;

pub(crate) use rights::NAMESPACE;

/// Calls at once of who fills the cluster.
const AT_ONCE: usize = 16;
/// Objects whose statuses are written, to see how many that are a second.
const WRITTEN: usize = 64;
/// For so long.
const WRITING: Duration = Duration::from_secs(5);
/// Where they are.
const ELSEWHERE: &str = "rate";

/// The cluster, as its administrator has it.
pub(crate) struct Cluster {
    /// Ends when dropped.
    pub(crate) control_plane: ControlPlane,
    client: Client,
}

impl Cluster {
    /// A new one, with the operator's rights in it.
    pub(crate) async fn start() -> Self {
        let control_plane = ControlPlane::start().await.unwrap();
        let client = control_plane.client().unwrap();
        rights::give(client.clone()).await;
        Self { control_plane, client }
    }

    /// How the operator reaches it, with its own rights.
    pub(crate) fn kubeconfig(&self) -> String {
        self.control_plane.kubeconfig(&rights::operator())
    }

    async fn namespace(&self, name: &str) {
        let object = serde_json::from_value(json!({ "metadata": { "name": name } })).unwrap();
        Api::<Namespace>::all(self.client.clone()).create(&PostParams::default(), &object).await.unwrap();
    }

    /// Declares the Devices of all sites, each with a firmware that it does not run.
    pub(crate) async fn declare(&self, sites: &[Site]) {
        for site in sites {
            self.namespace(&site.namespace()).await;
        }
        let all = sites.iter().flat_map(|site| (0..site.devices).map(move |number| (site, number)));
        let total: usize = sites.iter().map(|site| usize::from(site.devices)).sum();
        let mut made = 0;
        let mut making = std::pin::pin!(
            stream::iter(all)
                .map(|(site, number)| {
                    let devices: Api<Device> = Api::namespaced(self.client.clone(), &site.namespace());
                    let device = device(site, number);
                    async move { devices.create(&PostParams::default(), &device).await }
                })
                .buffer_unordered(AT_ONCE)
        );
        while making.try_next().await.unwrap().is_some() {
            made += 1;
            if made % 500 == 0 {
                say(format!("{made} of {total} Devices declared"));
            }
        }
    }

    /// From now on these devices shall run this.
    pub(crate) async fn desire(&self, devices: &[(&Site, u16)], firmware: &str) {
        let patch = json!({ "spec": { "desired": { "firmware": firmware } } });
        let patching = stream::iter(devices).map(|(site, number)| {
            let api: Api<Device> = Api::namespaced(self.client.clone(), &site.namespace());
            let (name, patch) = (site.name(*number), Patch::Merge(patch.clone()));
            async move { api.patch(&name, &PatchParams::default(), &patch).await }
        });
        patching.buffer_unordered(AT_ONCE).try_for_each(|_| std::future::ready(Ok(()))).await.unwrap();
    }

    /// When the Lease was taken last.
    pub(crate) async fn taken(&self) -> Timestamp {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), NAMESPACE);
        let lease = leases.get("edge-operator").await.unwrap();
        lease.spec.unwrap().acquire_time.unwrap().0
    }

    /// Statuses that it writes a second at most, for as many writers at once as the operator has, written as the operator
    /// writes them.
    pub(crate) async fn status_rate(&self, writers: usize) -> f64 {
        self.namespace(ELSEWHERE).await;
        let client = self.control_plane.client_as(&rights::operator()).unwrap();
        let ours: Api<Device> = Api::namespaced(self.client.clone(), ELSEWHERE);
        let theirs: Api<Device> = Api::namespaced(client, ELSEWHERE);
        let site = Site { number: 0, devices: 0 };
        for number in 0..WRITTEN {
            let device = device(&site, u16::try_from(number).unwrap());
            ours.create(&PostParams::default(), &device).await.unwrap();
        }
        let begun = Instant::now();
        let writing = stream::iter(0_usize..).take_while(|_| std::future::ready(begun.elapsed() < WRITING));
        let writing = writing.map(|number| {
            let (theirs, name) = (theirs.clone(), site.name(u16::try_from(number % WRITTEN).unwrap()));
            async move {
                let patch = Patch::Apply(status(&name, number));
                let params = PatchParams::apply("edge-operator").force();
                theirs.patch_status(&name, &params, &patch).await.map(drop)
            }
        });
        let written = writing.buffer_unordered(writers).try_fold(0_u32, |n, ()| async move { Ok(n + 1) });
        let rate = f64::from(written.await.unwrap()) / begun.elapsed().as_secs_f64();
        for number in 0..WRITTEN {
            let name = site.name(u16::try_from(number).unwrap());
            ours.delete(&name, &DeleteParams::default()).await.unwrap();
        }
        rate
    }
}

fn device(site: &Site, number: u16) -> Device {
    let socket = site.socket(number);
    serde_json::from_value(json!({
        "apiVersion": "edge-operator.dev/v1alpha1", "kind": "Device",
        "metadata": { "name": site.name(number), "labels": { "site": site.namespace(), "model": "px4" } },
        "spec": {
            "endpoint": { "host": socket.ip().to_string(), "port": socket.port() },
            "desired": { "firmware": "2.4.1", "config": { "sampling-interval": "5s" } },
        },
    }))
    .unwrap()
}

/// A status of the size of one that is in sync; another each time.
fn status(name: &str, number: usize) -> Value {
    let condition = |type_: &str| {
        json!({
            "type": type_, "status": "True", "reason": "Consistent", "observedGeneration": 1,
            "message": "its reports agree with each other and with what it acknowledged",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        })
    };
    let conditions = ["Ready", "Reachable", "Synced", "Consistent"].map(condition);
    json!({
        "apiVersion": "edge-operator.dev/v1alpha1", "kind": "Device",
        "metadata": { "name": name, "namespace": ELSEWHERE },
        "status": {
            "observedGeneration": 1, "phase": "InSync", "addresses": [{ "ip": "10.77.0.2" }],
            "reported": {
                "firmware": "2.4.1", "generation": 1, "bootId": "8f0c0ffee0c0ffee", "sequence": number,
                "configDigest": format!("sha256:{:064x}", 7),
            },
            "sync": { "generation": 1, "attempts": 1 },
            "conditions": conditions,
        },
    })
}
