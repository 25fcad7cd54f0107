//! The watches on the API server: each event goes into the index, and wakes the enforcer when it matters.
//!
//! What is used of the API (the rules in `deploy/agent` say the same):
//! * `edge-operator.dev` faultprofiles, devices: list, watch
//! * core pods (field selector `spec.nodeName`), nodes (`metadata.name`): list, watch
//! * in namespace `default`: core services (`metadata.name=kubernetes`), `discovery.k8s.io` endpointslices: list, watch
//! * `edge-operator.dev` faultnodes: create, patch; faultnodes/status: patch

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use edge_api::{Device, FaultProfile};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::index::Change;
use crate::shared::Shared;

/// A watch is renewed so often, in seconds: a connection that died silently is noticed then.
const RENEW_SECONDS: u32 = 60;

/// A connection that brings nothing for so long is dead: a watch is renewed before.
pub const SILENT_AT_MOST: Duration = Duration::from_secs(90);

/// Starts all watches as tasks.
pub fn start(
    client: &Client,
    node: &str,
    shared: &Arc<Shared>,
    shutdown: &CancellationToken,
    tasks: &mut JoinSet<anyhow::Result<()>>,
) {
    let all = watcher::Config::default().timeout(RENEW_SECONDS);
    let named = |name: &str| all.clone().fields(&format!("metadata.name={name}"));
    let mut watch = Watch { shared, shutdown, tasks };
    watch.start(Api::<FaultProfile>::all(client.clone()), all.clone(), Change::Profile);
    watch.start(Api::<Device>::all(client.clone()), all.clone(), Change::Device);
    let on_node = all.clone().fields(&format!("spec.nodeName={node}"));
    watch.start(Api::<Pod>::all(client.clone()), on_node, Change::Pod);
    watch.start(Api::<Node>::all(client.clone()), named(node), Change::Node);
    let of_api_server = all.clone().labels("kubernetes.io/service-name=kubernetes");
    watch.start(Api::<EndpointSlice>::namespaced(client.clone(), "default"), of_api_server, Change::Slice);
    watch.start(Api::<Service>::namespaced(client.clone(), "default"), named("kubernetes"), Change::Service);
}

struct Watch<'a> {
    shared: &'a Arc<Shared>,
    shutdown: &'a CancellationToken,
    tasks: &'a mut JoinSet<anyhow::Result<()>>,
}

impl Watch<'_> {
    fn start<K>(&mut self, api: Api<K>, config: watcher::Config, change: fn(watcher::Event<K>) -> Change)
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let shared = Arc::clone(self.shared);
        let events =
            watcher(api, config).default_backoff().take_until(self.shutdown.clone().cancelled_owned());
        self.tasks.spawn(async move {
            let mut events = std::pin::pin!(events);
            let mut is_interrupted = false;
            while let Some(event) = events.next().await {
                match event {
                    Ok(event) => {
                        if is_interrupted {
                            tracing::info!(kind = %K::kind(&()), "watching again");
                        }
                        is_interrupted = false;
                        shared.take(change(event));
                    }
                    // The watcher tries again by itself, with backoff; told once.
                    Err(error) if !is_interrupted => {
                        is_interrupted = true;
                        let error = anyhow::Error::from(error);
                        tracing::warn!(kind = %K::kind(&()), error = format!("{error:#}"), "watch interrupted");
                    }
                    Err(_) => {}
                }
            }
            Ok(())
        });
    }
}
