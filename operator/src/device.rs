//! The device controller: keeps each device at its desired state. The steps of a reconcile:
//!
//! ```text
//!  observe    the object from the cache, where it is, a fresh read where the cache is in doubt   (client)
//!  validate   the spec into types that cannot be wrong                                          (pure)
//!  absorb     what the last exchange taught                                                     (pure)
//!  decide     what to ask or command next, what the status shall say                            (pure)
//!  act        does it: exchanges as tasks of their own, status, events                          (client, sockets)
//! ```

pub mod absorb;
pub mod adopt;
pub mod answer;
pub mod census;
pub mod controls;
pub mod decide;
pub mod evidence;
mod fit;
pub mod key;
pub mod memory;
mod message_id;
pub mod metrics;
pub mod observe;
mod pause;
pub mod policy;
pub mod progress;
pub mod question;
pub mod release;
pub mod silence;
pub mod status;
mod table;
pub mod tally;
pub mod validate;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use edge_api::Device;
use futures::{FutureExt as _, Stream, StreamExt as _, stream};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::reflector::ObjectRef;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use self::controls::Controls;
use self::decide::decide;
pub(crate) use self::fit::fit;
use self::key::Key;
use self::observe::observe;
use crate::act;
use crate::args::bounds::size;
use crate::error::ApiError;
use crate::leader::part::Part;
use crate::lock::lock;
use crate::queue::Permit;
use crate::retry::Failure;
use crate::shared::Shared;
use crate::slots::{Cause, Passes};

/// How soon it is looked again whether there is room for a device.
const FULL: Duration = Duration::from_secs(10);
/// Target of the log of turns: a device waits for one, from whatever makes it look at on, and has one; it ends, and the device is gone. Off
/// unless asked for.
pub const TURNS: &str = "edge_operator::turns";

/// Runs until `shared.shutdown`, which ends its `part`.
///
/// # Errors
/// When it cannot start: no socket.
pub async fn run(shared: Arc<Shared>, part: Part) -> Result<()> {
    let mut tasks = JoinSet::new();
    let bounds = &shared.args.bounds;
    let (outcomes, triggers) = mpsc::channel(size(bounds.outcome_queue));
    let (news, notifications) = mpsc::channel(size(bounds.notification_queue));
    let controls = Controls::new(shared.clone(), outcomes, news).await.context("device controller")?;
    let controls = Arc::new(controls);
    let _ends_all = EndsAll(controls.clone());
    tasks.spawn(controls.clone().receive());
    tasks.spawn(controls.clone().heed(notifications));
    let store = shared.devices.store().clone();
    let changed = changes(controls.clone());
    let triggers = stream::select(changed, stream::select(named(triggers), moved(controls.clone())));
    let known = store.clone();
    let triggers = triggers.inspect(move |name| {
        if tracing::enabled!(target: TURNS, tracing::Level::TRACE) && known.get(name).is_some() {
            tracing::trace!(target: TURNS, device = %name, "waits");
        }
    });
    Controller::for_shared_stream(stream::pending(), store)
        .reconcile_on(triggers)
        .graceful_shutdown_on(shared.shutdown.clone().cancelled_owned())
        // Boxed: the table of those that run never gets smaller.
        .run(|device, controls| reconcile(device, controls).boxed(), retry, controls.clone())
        .for_each(|outcome| {
            if let Err(error) = outcome {
                tracing::debug!(%error, "device: reconcile");
            }
            std::future::ready(())
        })
        .await;
    part.ends().await;
    controls.stop().await;
    tasks.shutdown().await;
    Ok(())
}

/// Whatever ends the controller ends its exchanges and lookups, each of which holds what they all share.
struct EndsAll(Arc<Controls>);

impl Drop for EndsAll {
    fn drop(&mut self) {
        lock(&self.0.tasks).abort_all();
    }
}

/// Devices that changed, those first that shall; those that are gone are forgotten.
fn changes(controls: Arc<Controls>) -> impl Stream<Item = ObjectRef<Device>> + Send + 'static {
    let known = controls.clone();
    let shall_change =
        move |device: &Device| known.turn(&Key::of(&ObjectRef::from_obj(device)), device).0 == Cause::Change;
    controls.shared.devices.subscribe_from(shall_change).filter_map(move |name| {
        let exists = controls.shared.devices.store().get(&name).is_some();
        if !exists {
            tracing::trace!(target: TURNS, device = %name, "gone");
            controls.forget(&Key::of(&name));
        }
        std::future::ready(exists.then_some(name))
    })
}

/// Devices whose exchange ended.
fn named(
    triggers: mpsc::Receiver<ObjectRef<Device>>,
) -> impl Stream<Item = ObjectRef<Device>> + Send + 'static {
    stream::unfold(triggers, |mut triggers| async move { triggers.recv().await.map(|name| (name, triggers)) })
}

/// Devices whose address is that of a pod that came, went or moved.
fn moved(controls: Arc<Controls>) -> impl Stream<Item = ObjectRef<Device>> + Send + 'static {
    let moves = controls.shared.reach.moves();
    moves.flat_map(move |moved| stream::iter(controls.devices_at(moved.as_deref())))
}

async fn reconcile(device: Arc<Device>, controls: Arc<Controls>) -> Result<Action, ApiError> {
    let name = ObjectRef::from_obj(device.as_ref());
    tracing::trace!(target: TURNS, device = %name, "waits");
    let (cause, mut passes) = controls.turn(&Key::of(&name), &device);
    drop(device);
    let permit = controls.permits.acquire_for(cause, &mut passes).await;
    tracing::trace!(target: TURNS, device = %name, "begins");
    // In a place of its own: all devices of a cluster may wait at once, and few have their turn.
    let outcome = Box::pin(has_its_turn(&name, &controls, permit, passes)).await;
    tracing::trace!(target: TURNS, device = %name, "ends");
    outcome
}

async fn has_its_turn(
    name: &ObjectRef<Device>,
    controls: &Arc<Controls>,
    mut permit: Permit,
    passes: Passes,
) -> Result<Action, ApiError> {
    // The wait may have been long: what was queued is only a name.
    let Some(device) = controls.shared.devices.store().get(name) else {
        permit.finish("success");
        return Ok(Action::await_change());
    };
    if controls.shared.shutdown.is_cancelled() {
        // Who follows waits for no more than what is under way.
        permit.finish("success");
        return Ok(Action::await_change());
    }
    let key = Key::of(name);
    if !controls.admits(&key, &device) {
        permit.finish("requeue_after");
        return Ok(Action::requeue(FULL));
    }
    controls.with_entry(&key, &device, |entry| entry.passes = passes);
    let Some(sight) = observe(controls, &key, &device).await? else {
        permit.finish("requeue");
        return Ok(Action::requeue(controls.blame(&key, Failure::Outdated)));
    };
    let decision = controls.with_memory(&key, &device, |memory, budgets| {
        let decision = decide(&sight.observed(&device, controls.policy()), memory, budgets);
        controls.metrics.note(&key.namespace, &decision.notes);
        decision
    });
    let Some(decision) = decision else {
        // It is gone, or another one of its name has come: that was told.
        permit.finish("success");
        return Ok(Action::await_change());
    };
    let writes = act::begin(controls, &key, &device, decision.actions);
    let written = if writes.is_empty() {
        Ok(true)
    } else {
        permit.gives_way();
        act::write(controls, &key, &device, &sight, writes).await
    };
    match written {
        Ok(is_current) => {
            controls.forgive(&key);
            if !is_current {
                permit.finish("requeue");
                return Ok(Action::requeue(Duration::from_millis(1)));
            }
            permit.finish("requeue_after");
            Ok(Action::requeue(decision.wake.max(Duration::from_millis(1))))
        }
        Err(error) if error.is_conflict() => {
            permit.finish("requeue");
            Ok(Action::requeue(controls.blame(&key, Failure::Outdated)))
        }
        Err(error) if error.is_not_found() => {
            permit.finish("success");
            Ok(Action::await_change())
        }
        Err(error) => Err(error),
    }
}

fn retry(device: Arc<Device>, error: &ApiError, controls: Arc<Controls>) -> Action {
    let name = ObjectRef::from_obj(device.as_ref());
    let delay = controls.blame(&Key::of(&name), Failure::Broken);
    tracing::warn!(device = %name, %error, ?delay, "device: to be tried again");
    Action::requeue(delay)
}
