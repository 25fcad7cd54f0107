//! The watches on the API server: each event goes into the index, and wakes the enforcer when it matters.
//!
//! What is used of the API (the rules in `deploy/agent` say the same):
//! * `edge-operator.dev` faultprofiles, devices: list, watch
//! * core pods (field selector `spec.nodeName`), nodes (`metadata.name`): list, watch
//! * core services, `discovery.k8s.io` endpointslices: list, watch; in namespace `default` those of the API server, and in
//!   namespaces with a profile that names Services as peers, all. In those with one that names pods, pods of all nodes.
//! * `edge-operator.dev` faultnodes: create, patch; faultnodes/status: patch

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use edge_api::{Device, FaultProfile};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use watch_backoff::WatchBackoff;

use crate::index::Change;
use crate::peers::{Neighbour, NeighbourEvent, Source};
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
    tasks.spawn(follow_peers(client.clone(), Arc::clone(shared), shutdown.clone()));
}

/// Watches what profiles' peers are found in, as long as a profile needs it.
async fn follow_peers(
    client: Client,
    shared: Arc<Shared>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let mut wanted = shared.wanted();
    let mut running: BTreeMap<Source, CancellationToken> = BTreeMap::new();
    let mut tasks: JoinSet<Source> = JoinSet::new();
    loop {
        let sources = wanted.borrow_and_update().clone();
        running.iter().filter(|(source, _)| !sources.contains(source)).for_each(|(_, stop)| stop.cancel());
        for source in sources {
            if let Entry::Vacant(place) = running.entry(source) {
                let stop = shutdown.child_token();
                tasks.spawn(neighbours(
                    client.clone(),
                    place.key().clone(),
                    Arc::clone(&shared),
                    stop.clone(),
                ));
                place.insert(stop);
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => break,
            changed = wanted.changed() => changed.context("the index is gone")?,
            // Not before: what it said would come into the next one's list.
            Some(ended) = tasks.join_next() => {
                let source = ended.context("a watch of peers panicked")?;
                shared.forget(&source);
                running.remove(&source);
            }
        }
    }
    while let Some(ended) = tasks.join_next().await {
        ended.context("a watch of peers panicked")?;
    }
    Ok(())
}

/// Watches one kind in one namespace until it is stopped.
async fn neighbours(client: Client, source: Source, shared: Arc<Shared>, stop: CancellationToken) -> Source {
    let (namespace, config) = (source.namespace.clone(), watcher::Config::default().timeout(RENEW_SECONDS));
    tracing::debug!(namespace, kind = ?source.kind, "looking up peers");
    match source.kind {
        Neighbour::Services => {
            let change = |event| Change::Neighbour(namespace.clone(), NeighbourEvent::Service(event));
            run(Api::namespaced(client, &namespace), config, change, &shared, stop).await;
        }
        Neighbour::Slices => {
            let change = |event| Change::Neighbour(namespace.clone(), NeighbourEvent::Slice(event));
            run(Api::namespaced(client, &namespace), config, change, &shared, stop).await;
        }
        Neighbour::Pods => {
            let change = |event| Change::Neighbour(namespace.clone(), NeighbourEvent::Pod(event));
            run(Api::namespaced(client, &namespace), config, change, &shared, stop).await;
        }
    }
    source
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
        let (shared, shutdown) = (Arc::clone(self.shared), self.shutdown.clone());
        self.tasks.spawn(async move {
            run(api, config, change, &shared, shutdown).await;
            Ok(())
        });
    }
}

/// Takes in a watch's events until it is stopped.
async fn run<K>(
    api: Api<K>,
    config: watcher::Config,
    change: impl Fn(watcher::Event<K>) -> Change,
    shared: &Shared,
    stop: CancellationToken,
) where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let events = watcher(api, config).backoff(WatchBackoff::default()).take_until(stop.cancelled_owned());
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
}
