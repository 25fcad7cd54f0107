//! What all controllers share: the cluster as it is known here, and the clock and the dice, which only the shell reads.

use std::future::Future;
use std::sync::{Arc, OnceLock};

use anyhow::Result;
use edge_api::{Device, FaultPhase, FaultProfile};
use edge_protocol::network::Network;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::reflector::Store;
use kube::{Api, Client};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::args::Args;
use crate::args::bounds::size;
use crate::cache::{Bound, Cache, Cached};
use crate::clock::ServerClock;
use crate::leader::guard::Leadership;
use crate::metrics::Metrics;
use crate::record::Events;
use crate::resolve::Reach;
use crate::retry::Retries;

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
    /// Of reconciles that failed.
    pub(crate) retries: Retries,
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

    /// What further watches are started with.
    pub(crate) fn watches(&self) -> Watches<'_> {
        Watches { args: &self.args, metrics: &self.metrics, shutdown: &self.shutdown }
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

/// What watches are started with.
#[derive(Clone, Copy)]
pub(crate) struct Watches<'a> {
    /// The flags.
    pub(crate) args: &'a Args,
    /// Where it shows how much is held.
    pub(crate) metrics: &'a Metrics,
    /// Ends them.
    pub(crate) shutdown: &'a CancellationToken,
}

impl Watches<'_> {
    /// Starts a watch as a task of this process. Managed fields are removed.
    pub(crate) fn watch<K: Cached>(
        self,
        api: Api<K>,
        tasks: &mut JoinSet<Result<()>>,
        prune: impl Fn(&mut K) + Send + Sync + 'static,
    ) -> Cache<K> {
        self.watch_whole(api, tasks, move |object| {
            object.meta_mut().managed_fields = None;
            prune(object);
        })
    }

    /// Starts a watch as a task of this process; `prune` sees the managed fields, too.
    pub(crate) fn watch_whole<K: Cached>(
        self,
        api: Api<K>,
        tasks: &mut JoinSet<Result<()>>,
        prune: impl Fn(&mut K) + Send + Sync + 'static,
    ) -> Cache<K> {
        let bounds = &self.args.bounds;
        let (plural, kind) = (K::plural(&()), K::kind(&()));
        let refused = self.metrics.objects_refused.with_label_values(&[&kind]);
        let bound = Bound { objects: size(bounds.max_objects), refused };
        let changes = size(bounds.change_ring);
        let (cache, fill) = Cache::new(api, (bound, changes), self.shutdown.clone(), prune);
        let (held, told) = (cache.store().clone(), cache.clone());
        self.metrics.bound(format!("cached_{plural}"), f64::from(bounds.max_objects), move || held.len());
        self.metrics.bound(format!("changes_{plural}"), ring(bounds.change_ring), move || told.untold());
        tasks.spawn(finish(fill));
        cache
    }
}

/// What a ring holds that is to hold so many: tokio rounds up to a power of two.
pub(crate) fn ring(most: u32) -> f64 {
    f64::from(most.next_power_of_two())
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
