//! What all controllers share: the cluster as it is known here, and the clock and the dice, which only the shell reads.

use std::future::Future;
use std::sync::{Arc, OnceLock};

use anyhow::Result;
use edge_api::{Device, FaultPhase, FaultProfile};
use edge_protocol::network::Network;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::reflector::Store;
use kube::runtime::watcher;
use kube::{Api, Client};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::args::Args;
use crate::cache::{Cache, Cached};
use crate::clock::ServerClock;
use crate::leader::guard::Leadership;
use crate::metrics::Metrics;
use crate::record::Events;
use crate::resolve::Reach;

/// What all controllers share.
pub struct Shared {
    /// The API server; each call goes through [`crate::error::call`], for its deadline.
    pub client: Client,
    /// The way to devices.
    pub network: Arc<dyn Network>,
    /// The flags.
    pub args: Args,
    /// Whether this process may act, and its epoch. Asked before each command and each write.
    pub leadership: Leadership,
    /// The API server's time.
    pub(crate) clock: ServerClock,
    /// Every Device of the watched namespaces; of its managed fields only who owns `spec.desired`.
    pub devices: Cache<Device>,
    /// Every FaultProfile of the watched namespaces, where the fault controller is one of this process.
    pub(crate) profiles: OnceLock<Store<FaultProfile>>,
    /// Every pod of the watched namespaces, pruned to what [`prune_pod`](crate::resolve::prune_pod) leaves.
    pub pods: Cache<Pod>,
    /// Which addresses may be reached, and where they are.
    pub reach: Arc<Reach>,
    /// Tells people.
    pub events: Events,
    /// The registry, and the metrics of controllers.
    pub metrics: Arc<Metrics>,
    /// Ends everything.
    pub shutdown: CancellationToken,
}

impl Shared {
    /// Is there a fault profile in this namespace that is not over? Agents look for the addresses of its devices then.
    pub(crate) fn has_profiles(&self, namespace: &str) -> bool {
        let lasts = |profile: &FaultProfile| {
            let phase = profile.status.as_ref().map(|status| status.phase).unwrap_or_default();
            let over = matches!(phase, FaultPhase::Expired | FaultPhase::Rejected);
            !over && profile.metadata.namespace.as_deref() == Some(namespace)
        };
        self.profiles.get().is_some_and(|profiles| profiles.find(lasts).is_some())
    }

    /// The objects of a kind in the namespaces that are watched.
    pub fn watched<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        watched(&self.client, &self.args)
    }
}

pub(crate) fn watched<K>(client: &Client, args: &Args) -> Api<K>
where
    K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match &args.cluster.watch_namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// Starts a watch as a task of this process. Managed fields are removed.
pub(crate) fn watch<K: Cached>(
    api: Api<K>,
    tasks: &mut JoinSet<Result<()>>,
    shutdown: &CancellationToken,
    prune: impl Fn(&mut K) + Send + Sync + 'static,
) -> Cache<K> {
    watch_whole(api, tasks, shutdown, move |object| {
        object.meta_mut().managed_fields = None;
        prune(object);
    })
}

/// Starts a watch as a task of this process; `prune` sees the managed fields, too.
pub(crate) fn watch_whole<K: Cached>(
    api: Api<K>,
    tasks: &mut JoinSet<Result<()>>,
    shutdown: &CancellationToken,
    prune: impl Fn(&mut K) + Send + Sync + 'static,
) -> Cache<K> {
    let (cache, fill) = Cache::new(api, watcher::Config::default(), shutdown.clone(), prune);
    tasks.spawn(finish(fill));
    cache
}

pub(crate) async fn finish(future: impl Future<Output = ()>) -> Result<()> {
    future.await;
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "the shell reads the clock; decisions take it as an argument")]
pub(crate) fn wall_clock() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

/// A draw in `0.0..1.0`, for spreading what would else happen at once.
pub(crate) fn draw() -> f64 {
    rand::random()
}
