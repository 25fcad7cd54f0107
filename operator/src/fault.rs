//! The fault controller: what a FaultProfile hits, when it starts and ends, and what the agents say of it.
//! Agents write FaultNodes and act by themselves; a profile's status is written here and nowhere else.
//!
//! ```text
//!  Devices, Pods ──► population ─┐
//!  FaultNodes ─────► agents ─────┤ world      which profiles does a change concern?
//!                                ▼
//!  FaultProfiles ─► validate ─► choice + rollup ─► decide ─► record (status, events)
//!                   may it?     whom? who says so?  pure       one write on its resourceVersion
//! ```

mod agents;
mod choice;
mod decide;
mod memory;
mod metrics;
mod notice;
mod population;
mod rollup;
mod validate;
mod world;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result};
use edge_api::fault_profile::Targets;
use edge_api::quantity::Network;
use edge_api::{FaultNode, FaultProfile};
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt as _};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::events::EventType;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt as _};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use self::choice::find;
use self::decide::{Clock, Decision, Observed, decide};
use self::memory::Memory;
use self::world::{Concerned, World};
use crate::cache::Cache;
use crate::error::ApiError;
use crate::leader::part::Part;
use crate::lock::lock;
use crate::metrics::ControllerMetrics;
use crate::queue::Permits;
use crate::record::apply_status;
use crate::refusal::{Refusal, too_many};
use crate::resolve::NotAllowed;
use crate::retry::{Failure, IN_CASE_NEWS_IS_LOST, Retries};
use crate::shared::Shared;

/// Every profile that has not ended is looked at so often, whatever was missed; also for the cluster's ranges,
/// which no watch of this controller follows.
const RESYNC: Duration = Duration::from_secs(60);

/// What reconciles share.
struct Controls {
    shared: Arc<Shared>,
    profiles: Cache<FaultProfile>,
    nodes: Cache<FaultNode>,
    world: World,
    /// Which caches left something out at the last decision.
    cut: Mutex<Cut>,
    memory: Memory,
    permits: Permits,
    metrics: Arc<ControllerMetrics>,
}

/// Which caches leave something out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cut {
    devices: bool,
    pods: bool,
    agents: bool,
}

impl Cut {
    /// Why it is not known whom these targets are, or what agents say of them: there are more than `most` of a kind.
    fn lacks(self, targets: &Targets, most: u32) -> Option<Refusal> {
        let caches = [
            ("devices", targets.devices.is_some() && self.devices),
            ("pods", targets.pods.is_some() && self.pods),
            ("agents", self.agents),
        ];
        let cut = caches.into_iter().find(|(_, is_cut)| *is_cut);
        cut.map(|(kinds, _)| too_many(kinds, most))
    }
}

fn has_started(profile: &FaultProfile) -> bool {
    profile.status.as_ref().is_some_and(|status| status.started_at.is_some())
}

/// A fault controller whose caches are filled.
pub struct Filled(Arc<Controls>);

/// Fills the caches that no other controller has, by `tasks`. What it gives is to be run, by a leader.
pub async fn fill(shared: Arc<Shared>, tasks: &mut JoinSet<Result<()>>) -> Filled {
    let profiles = shared.watches().watch(shared.watched(), tasks, |_: &mut FaultProfile| {});
    let _once = shared.profiles.set(profiles.store().clone());
    let all_nodes = Api::all(shared.client.clone());
    let nodes = shared.watches().watch(all_nodes, tasks, |_: &mut FaultNode| {});
    let metrics = shared.metrics.controller("fault");
    let controls = Arc::new(Controls {
        permits: Permits::new(shared.args.work.workers, metrics.clone()),
        metrics,
        world: World::default(),
        cut: Mutex::default(),
        memory: Memory::default(),
        profiles,
        nodes,
        shared,
    });
    tokio::join!(controls.profiles.ready(), controls.nodes.ready());
    Filled(controls)
}

/// Runs until shutdown, which ends its `part`.
///
/// # Errors
/// When a metric is registered twice.
pub async fn run(Filled(controls): Filled, part: Part) -> Result<()> {
    // Told by the leader alone, so that replicas can be summed up.
    let phases = metrics::Phases::new(controls.profiles.store().clone())?;
    let registry = controls.shared.metrics.registry();
    registry.register(Box::new(phases)).context("metric of the profiles' phases")?;
    // Complete before the first decision: a choice among some of the targets would be another choice.
    controls.refill();
    reconcile_all(controls).await;
    drop(part);
    Ok(())
}

async fn reconcile_all(controls: Arc<Controls>) {
    let store = controls.profiles.store().clone();
    let changed = controls.profiles.subscribe().filter_map({
        let store = store.clone();
        move |name| std::future::ready(store.get(&name))
    });
    Controller::for_shared_stream(changed, store)
        .reconcile_on(triggers(controls.clone()))
        .graceful_shutdown_on(controls.shared.shutdown.clone().cancelled_owned())
        .run(reconcile, retry, controls)
        .for_each(|outcome| {
            if let Err(error) = outcome {
                tracing::debug!(%error, "fault profile: reconcile failed");
            }
            std::future::ready(())
        })
        .await;
}

/// The profiles that changes of other objects concern.
fn triggers(controls: Arc<Controls>) -> impl Stream<Item = ObjectRef<FaultProfile>> + Send + 'static {
    let (on_device, on_pod, on_node) = (controls.clone(), controls.clone(), controls.clone());
    let devices = controls.shared.devices.subscribe();
    let pods = controls.shared.pods.subscribe();
    let nodes = controls.nodes.subscribe();
    let sources: [BoxStream<'static, Concerned>; 3] = [
        devices.map(move |name| on_device.world.device(&name, on_device.shared.devices.store())).boxed(),
        pods.map(move |name| on_pod.world.pod(&name, on_pod.shared.pods.store())).boxed(),
        nodes.map(move |name| on_node.world.agent(&name, on_node.nodes.store(), on_node.clock())).boxed(),
    ];
    let resync = stream::unfold((controls.clone(), interval(RESYNC)), |(controls, mut tick)| async move {
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tick.tick().await;
        Some((stream::iter(controls.refill()), (controls, tick)))
    });
    stream::select(stream::select_all(sources), resync.flatten())
        .flat_map(move |concerned| stream::iter(concerned.names(controls.profiles.store())))
}

impl Controls {
    /// Counts a reconcile that failed; gives how long until the next one.
    fn blame(&self, profile: &FaultProfile, failure: Failure) -> Duration {
        let delay = self.shared.retries.blame(&self.metrics, self.memory.failed(profile), failure);
        self.memory.rests(profile, Retries::rests_until(delay));
        delay
    }

    fn clock(&self) -> Clock {
        Clock { wall: self.shared.clock.now(), own: Instant::now() }
    }

    fn refill(&self) -> Vec<Concerned> {
        let (devices, pods) = (self.shared.devices.store(), self.shared.pods.store());
        let concerned = self.world.refill(devices, pods, self.nodes.store(), self.clock());
        let profiles = self.profiles.store().state();
        self.memory
            .keep_only(|uid| profiles.iter().any(|profile| profile.metadata.uid.as_deref() == Some(uid)));
        concerned
    }

    /// Which caches leave something out. When none does any more, what decisions are made on is taken anew out of them first: a
    /// choice among those that were there before would be another choice.
    fn cut(&self) -> Cut {
        let devices = self.shared.devices.leaves_out();
        let cut = Cut { devices, pods: self.shared.pods.leaves_out(), agents: self.nodes.leaves_out() };
        let mut last = lock(&self.cut);
        if *last != cut {
            if *last != Cut::default() {
                self.refill();
            }
            *last = cut;
        }
        cut
    }

    /// May this profile reach that network? What began stays within reach while it is not known what is not.
    fn may_reach(&self, profile: &FaultProfile, network: Network) -> Result<(), String> {
        match self.shared.reach.network(network) {
            Err(NotAllowed::RangesUnknown(_)) if has_started(profile) => Ok(()),
            judged => judged.map_err(|refused| refused.to_string()),
        }
    }

    /// What shall become of this profile's status.
    fn decide(&self, profile: &FaultProfile) -> Decision {
        let lacks = self.cut().lacks(&profile.spec.targets, self.shared.args.bounds.max_objects);
        let plan = validate::plan(&profile.spec, &|network| self.may_reach(profile, network));
        let world = self.world.read();
        let found = match &plan {
            Ok(plan) => find(plan, &profile.namespace().unwrap_or_default(), &world.population),
            Err(_) => choice::Found::default(),
        };
        let clock = self.clock();
        decide(&Observed {
            uid: profile.metadata.uid.as_deref().unwrap_or_default(),
            generation: profile.metadata.generation.unwrap_or_default(),
            status: profile.status.as_ref(),
            plan: plan.as_ref(),
            lacks: lacks.as_ref(),
            found: &found,
            agents: &world.agents,
            epoch: self.shared.leadership.epoch(),
            clock,
            pace: self.memory.pace(profile, clock.own),
        })
    }

    async fn act(&self, profile: &FaultProfile, decision: Decision) -> Result<Action, ApiError> {
        match decision {
            Decision::Done => Ok(Action::await_change()),
            Decision::StandBack { epoch } => {
                tracing::warn!(
                    profile = profile.name_any(),
                    namespace = profile.namespace(),
                    theirs = epoch,
                    ours = self.shared.leadership.epoch(),
                    "a later leader has written this profile: leaving it alone"
                );
                Ok(Action::await_change())
            }
            Decision::Keep { wake } => Ok(Action::requeue(wake.unwrap_or(RESYNC).min(RESYNC))),
            Decision::Write { status, notices, wake } => {
                let version = profile.metadata.resource_version.as_deref();
                apply_status(&self.shared, profile, version, &status).await?;
                let moved = profile.status.as_ref().map(|old| old.cutoff) != Some(status.cutoff);
                self.memory.wrote(profile, moved, self.clock().own);
                for notice in &notices {
                    let type_ = if notice.warning { EventType::Warning } else { EventType::Normal };
                    self.shared.events.tell(profile, type_, "Reconcile", notice.reason, &notice.note);
                }
                Ok(Action::requeue(wake.unwrap_or(RESYNC).min(RESYNC)))
            }
        }
    }
}

async fn reconcile(profile: Arc<FaultProfile>, controls: Arc<Controls>) -> Result<Action, ApiError> {
    let permit = controls.permits.acquire().await;
    // It may have changed while this waited for its turn.
    let Some(profile) = controls.profiles.store().get(&ObjectRef::from_obj(profile.as_ref())) else {
        permit.finish("success");
        return Ok(Action::await_change());
    };
    if controls.memory.is_outdated(&profile) {
        permit.finish("success");
        return Ok(Action::requeue(IN_CASE_NEWS_IS_LOST));
    }
    let rest = controls.memory.rest(&profile, Instant::now());
    if !rest.is_zero() {
        permit.finish("requeue_after");
        return Ok(Action::requeue(rest));
    }
    let decision = controls.decide(&profile);
    match controls.act(&profile, decision).await {
        Ok(action) => {
            controls.memory.succeeded(&profile);
            permit.finish("requeue_after");
            Ok(action)
        }
        Err(error) if error.is_conflict() || error.is_not_found() => {
            permit.finish("requeue");
            Ok(Action::requeue(controls.blame(&profile, Failure::Outdated)))
        }
        Err(error) => Err(error),
    }
}

fn retry(profile: Arc<FaultProfile>, error: &ApiError, controls: Arc<Controls>) -> Action {
    let delay = controls.blame(&profile, Failure::Broken);
    tracing::warn!(profile = profile.name_any(), namespace = profile.namespace(), %error, ?delay, "trying again");
    Action::requeue(delay)
}

#[cfg(test)]
pub(crate) mod tests;
