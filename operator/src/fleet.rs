//! The fleet controller: brings one desired state to many devices, in batches and within budgets. It writes `spec.desired`
//! of Devices; what a device does with it, the device controller sees to.
//!
//! ```text
//!  DeviceFleets, Devices ─► observe ─► validate ─► decide ─► act ─► status, spec.desired, ControllerRevisions
//!                           whose?     may it?     pure      what is reserved is written first
//! ```
//!
//! All that a new leader needs is in the status and the ControllerRevisions. Its first write is its epoch, after which a
//! former leader reserves no more devices; then it waits until its cache of devices has what was written before.

mod act;
mod action;
mod decide;
mod field;
mod member;
mod memory;
mod metrics;
mod notice;
mod observe;
mod revision;
mod validate;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use edge_api::fleet::MAX_RESERVED;
use edge_api::{Device, DeviceFleet};
use futures::{Stream, StreamExt as _, stream};
use kube::ResourceExt as _;
use kube::runtime::controller::{Action, Controller};
use kube::runtime::reflector::{ObjectRef, Store};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use self::decide::Decision;
pub(crate) use self::member::keep_owners;
use self::memory::Memory;
use self::metrics::{Census, FleetMetrics};
use self::observe::{Sight, lacks, take_over};
use crate::cache::Cache;
use crate::error::ApiError;
use crate::leader::part::Part;
use crate::metrics::ControllerMetrics;
use crate::queue::Permits;
use crate::retry::{Failure, IN_CASE_NEWS_IS_LOST, Retries};
use crate::shared::Shared;

/// Every fleet is looked at so often, whatever was missed.
const RESYNC: Duration = Duration::from_secs(60);
/// Delay after taking a fleet over found a cache behind.
const TAKE_OVER_AGAIN: Duration = Duration::from_millis(200);

/// What looks share.
struct Controls {
    shared: Arc<Shared>,
    fleets: Cache<DeviceFleet>,
    memory: Memory,
    /// Devices that are written at once.
    writers: Arc<Semaphore>,
    permits: Permits,
    controller: Arc<ControllerMetrics>,
    metrics: FleetMetrics,
}

impl Controls {
    /// With what is told of fleets by the leader alone, so that replicas can be summed up.
    fn new(Filled { shared, fleets }: Filled) -> Result<Self> {
        let registry = shared.metrics.registry();
        let census = Census::new(fleets.store().clone())?;
        registry.register(Box::new(census)).context("metrics of the fleets")?;
        let (all, work) = (fleets.store().clone(), &shared.args.work);
        shared.metrics.bound("fleet_devices", f64::from(work.max_fleet_devices), move || largest(&all));
        let all = fleets.store().clone();
        let most = u32::try_from(MAX_RESERVED).unwrap_or(u32::MAX);
        shared.metrics.bound("fleet_reserved", f64::from(most), move || metrics::most_reserved(&all));
        let writers = Arc::new(Semaphore::new(usize::from(work.fleet_writers)));
        let (free, most) = (writers.clone(), usize::from(work.fleet_writers));
        let writing = move || most.saturating_sub(free.available_permits());
        shared.metrics.bound("fleet_writers", f64::from(work.fleet_writers), writing);
        let controller = shared.metrics.controller("fleet");
        Ok(Self {
            memory: Memory::default(),
            writers,
            permits: Permits::new(work.workers, controller.clone()),
            controller,
            metrics: FleetMetrics::new(registry, fleets.store().clone())?,
            fleets,
            shared,
        })
    }

    /// Counts a look that failed; gives how long until the next one.
    fn blame(&self, fleet: &DeviceFleet, failure: Failure) -> Duration {
        let delay = self.shared.retries.blame(&self.controller, self.memory.failed(fleet), failure);
        self.memory.rests(fleet, Retries::rests_until(delay));
        delay
    }
}

/// A fleet controller whose caches are filled.
pub struct Filled {
    shared: Arc<Shared>,
    fleets: Cache<DeviceFleet>,
}

/// Fills the cache that no other controller has, by `tasks`. What it gives is to be run, by a leader.
pub async fn fill(shared: Arc<Shared>, tasks: &mut JoinSet<Result<()>>) -> Filled {
    let fleets = shared.watches().watch(shared.watched(), tasks, |_: &mut DeviceFleet| {});
    fleets.ready().await;
    Filled { shared, fleets }
}

/// Runs until shutdown, which ends its `part`.
///
/// # Errors
/// When a metric is registered twice.
pub async fn run(filled: Filled, part: Part) -> Result<()> {
    let controls = Arc::new(Controls::new(filled)?);
    let store = controls.fleets.store().clone();
    Controller::for_shared_stream(stream::pending(), store)
        .reconcile_on(triggers(controls.clone()))
        .graceful_shutdown_on(controls.shared.shutdown.clone().cancelled_owned())
        .run(reconcile, retry, controls)
        .for_each(|outcome| {
            if let Err(error) = outcome {
                tracing::debug!(%error, "fleet: reconcile failed");
            }
            std::future::ready(())
        })
        .await;
    drop(part);
    Ok(())
}

/// Devices of the fleet that has most of them.
fn largest(fleets: &Store<DeviceFleet>) -> usize {
    let devices = |fleet: &Arc<DeviceFleet>| usize::try_from(fleet.status.as_ref()?.counts.total).ok();
    fleets.state().iter().filter_map(devices).max().unwrap_or(0)
}

/// The fleets that a change concerns: all of its namespace, since what one selects another may not.
fn triggers(controls: Arc<Controls>) -> impl Stream<Item = ObjectRef<DeviceFleet>> + Send + 'static {
    let fleets = controls.fleets.subscribe().map(|name| name.namespace);
    let devices = controls.shared.devices.subscribe().map(|name: ObjectRef<Device>| name.namespace);
    let changes = stream::select(fleets, devices).map(Some);
    let mut tick = interval(RESYNC);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let resync = stream::unfold(tick, |mut tick| async move {
        tick.tick().await;
        Some((None, tick))
    });
    stream::select(changes, resync).flat_map(move |namespace| {
        let all = controls.fleets.store().state();
        if namespace.is_none() {
            let exists = |uid: &str| all.iter().any(|fleet| fleet.metadata.uid.as_deref() == Some(uid));
            controls.memory.keep_only(exists);
        }
        let concerned = |fleet: &&Arc<DeviceFleet>| {
            namespace.as_ref().is_none_or(|namespace| fleet.metadata.namespace == *namespace)
        };
        let names: Vec<_> =
            all.iter().filter(concerned).map(|fleet| ObjectRef::from_obj(fleet.as_ref())).collect();
        stream::iter(names)
    })
}

async fn reconcile(fleet: Arc<DeviceFleet>, controls: Arc<Controls>) -> Result<Action, ApiError> {
    let permit = controls.permits.acquire().await;
    // It may have changed while this waited for its turn.
    let Some(fleet) = controls.fleets.store().get(&ObjectRef::from_obj(fleet.as_ref())) else {
        permit.finish("success");
        return Ok(Action::await_change());
    };
    match look(&controls, &fleet).await {
        Ok(action) => {
            permit.finish("requeue_after");
            Ok(action)
        }
        Err(error) if error.is_conflict() || error.is_not_found() => {
            permit.finish("requeue");
            Ok(Action::requeue(controls.blame(&fleet, Failure::Outdated)))
        }
        Err(error) => Err(error),
    }
}

/// One look at a fleet, and what comes of it.
async fn look(controls: &Controls, fleet: &DeviceFleet) -> Result<Action, ApiError> {
    if fleet.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    if controls.memory.is_outdated(fleet) {
        return Ok(Action::requeue(IN_CASE_NEWS_IS_LOST));
    }
    let pause = controls.memory.look(fleet, Instant::now());
    if !pause.is_zero() {
        return Ok(Action::requeue(pause));
    }
    let ours =
        fleet.status.as_ref().and_then(|status| status.epoch) == Some(controls.shared.leadership.epoch());
    let lacks = lacks(controls);
    let revisions = match controls.memory.revisions(fleet) {
        // A cache that leaves out devices never catches up. Such a fleet is refused, which needs no revision; it is taken over
        // when all find room.
        None if ours && lacks.is_none() => match take_over(controls, fleet).await? {
            Some(revisions) => {
                controls.memory.set_revisions(fleet, Some(revisions.clone()));
                revisions
            }
            None => return Ok(Action::requeue(TAKE_OVER_AGAIN)),
        },
        known => known.unwrap_or_default(),
    };
    let decision = Sight::of(controls, fleet, lacks, revisions).decide(fleet);
    match decision {
        Decision::StandBack { epoch } => {
            tracing::warn!(
                fleet = fleet.name_any(),
                namespace = fleet.namespace(),
                theirs = epoch,
                ours = controls.shared.leadership.epoch(),
                "a later leader has written this fleet: leaving it alone"
            );
            Ok(Action::await_change())
        }
        Decision::Act { actions, wake } => {
            act::perform(controls, fleet, actions).await?;
            controls.memory.succeeded(fleet);
            let wake = wake.unwrap_or(RESYNC).min(RESYNC);
            Ok(Action::requeue(wake.max(Duration::from_millis(1))))
        }
    }
}

fn retry(fleet: Arc<DeviceFleet>, error: &ApiError, controls: Arc<Controls>) -> Action {
    let delay = controls.blame(&fleet, Failure::Broken);
    tracing::warn!(fleet = fleet.name_any(), namespace = fleet.namespace(), %error, ?delay, "trying again");
    Action::requeue(delay)
}
