//! The one interpreter of actions. No choice is made here: what is to be done was decided before.

use std::sync::Arc;

use edge_api::condition::{find_condition, reasons, types};
use edge_api::{Device, DeviceStatus};
use kube::ResourceExt;
use kube::runtime::events::EventType;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::action::{Action, Ask, Notice, Question};
use crate::device::answer::{Answer, Outcome, Topic};
use crate::device::controls::{Controls, Written};
use crate::device::key::Key;
use crate::device::observe::Sight;
use crate::error::ApiError;
use crate::link::{Method, Request};
use crate::lock::lock;
use crate::record::{apply_mark, apply_status};
use crate::shared;
use crate::slots::Cause;

/// Begins what was decided for one device; gives what is to be written.
pub fn begin(controls: &Arc<Controls>, key: &Key, device: &Device, actions: Vec<Action>) -> Vec<Action> {
    let mut writes = Vec::new();
    for action in actions {
        match action {
            Action::Exchange(ask) => begin_exchange(controls, key, device, ask),
            Action::Resolve(name) => begin_lookup(controls, key, device, name),
            Action::Notify(notice) => notify(controls, device, &notice),
            Action::WriteStatus(_) | Action::Mark(_) => writes.push(action),
        }
    }
    writes
}

/// Writes what was decided for one device, when it is its turn; `false` when that is out of date by then.
///
/// # Errors
/// When it cannot be written. What comes before it in the list was.
pub async fn write(
    controls: &Controls,
    key: &Key,
    device: &Device,
    sight: &Sight,
    writes: Vec<Action>,
) -> Result<bool, ApiError> {
    controls.metrics.waiting_writes.inc();
    let waiting = scopeguard(|| controls.metrics.waiting_writes.dec());
    let _slot = controls.writers.acquire(false, Cause::Routine).await;
    drop(waiting);
    // In a place of its own: all devices of a cluster may wait at once, and few are written.
    Box::pin(async {
        for action in writes {
            if controls.shared.shutdown.is_cancelled() {
                return Ok(false);
            }
            match action {
                Action::WriteStatus(status) if doubts(&status) && has_answered(controls, key, device) => {
                    return Ok(false);
                }
                Action::WriteStatus(status) => write_status(controls, key, device, sight, *status).await?,
                Action::Mark(mark) => {
                    let marked = apply_mark(&controls.shared, device, sight.version.as_deref(), mark).await?;
                    controls.marked(key, marked.metadata.resource_version.as_deref());
                }
                Action::Exchange(_) | Action::Resolve(_) | Action::Notify(_) => {}
            }
        }
        Ok(true)
    })
    .await
}

/// Does it say that the device is silent?
fn doubts(status: &DeviceStatus) -> bool {
    find_condition(&status.conditions, types::REACHABLE)
        .is_some_and(|reachable| reasons::DOUBTED.contains(&reachable.reason.as_str()))
}

fn has_answered(controls: &Controls, key: &Key, device: &Device) -> bool {
    let uid = device.uid().unwrap_or_default();
    controls.if_known(key, &uid, |memory| memory.has_answered()) == Some(true)
}

async fn write_status(
    controls: &Controls,
    key: &Key,
    device: &Device,
    sight: &Sight,
    status: DeviceStatus,
) -> Result<(), ApiError> {
    let applied = apply_status(&controls.shared, device, sight.version.as_deref(), &status).await?;
    controls.metrics.transition(&key.namespace, sight.status.phase, status.phase);
    let written =
        Written { on: device.metadata.resource_version.clone(), version: applied.resource_version(), status };
    controls.wrote(key, written);
    Ok(())
}

fn notify(controls: &Controls, device: &Device, notice: &Notice) {
    controls.shared.events.tell(device, EventType::Warning, "Sync", notice.reason, &notice.note);
}

fn begin_exchange(controls: &Arc<Controls>, key: &Key, device: &Device, ask: Ask) {
    let ends = CancellationToken::new();
    let guard = ends.clone().drop_guard();
    let uid = device.uid().unwrap_or_default();
    let started = controls.if_known(key, &uid, |memory| match &mut memory.busy {
        Some(busy) if busy.number == ask.number => busy.guard = Some(guard),
        _ => drop(guard),
    });
    if started.is_none() {
        return;
    }
    let topic = match ask.question {
        Question::Report => Topic::State,
        Question::Command(_) => Topic::Desired,
        Question::Own(_) => Topic::Owner,
    };
    let delivery = Delivery {
        controls: controls.clone(),
        key: key.clone(),
        uid,
        number: ask.number,
        topic,
        done: false,
    };
    let generation = device.metadata.generation;
    spawn(controls, async move {
        tokio::select! {
            () = ends.cancelled() => delivery.cancelled(),
            answer = exchange(&delivery.controls, &delivery.key, &delivery.uid, generation, ask) => {
                delivery.deliver(answer).await;
            }
        }
    });
}

async fn exchange(controls: &Controls, key: &Key, uid: &str, generation: Option<i64>, ask: Ask) -> Answer {
    controls.metrics.waiting.inc();
    let waiting = scopeguard(|| controls.metrics.waiting.dec());
    let _slot = controls.slots.acquire(ask.doubtful, ask.cause).await;
    drop(waiting);
    // In a place of its own: all devices of a cluster may wait at once, and few are under way.
    Box::pin(under_way(controls, key, uid, generation, ask)).await
}

async fn under_way(controls: &Controls, key: &Key, uid: &str, generation: Option<i64>, ask: Ask) -> Answer {
    controls.if_known(key, uid, |memory| memory.leaves_queue(ask.number, Instant::now()));
    if controls.shared.shutdown.is_cancelled() {
        // Who gave the slot away was ended, and so is this.
        return Answer::Abandoned;
    }
    // The wait may have been long. What was decided on is no longer so: decide again.
    let current = controls.shared.devices.store().get(&key.reference());
    let still = |device: &Device| {
        device.metadata.uid.as_deref() == Some(uid) && device.metadata.generation == generation
    };
    if !current.is_some_and(|device| still(&device)) {
        return Answer::Abandoned;
    }
    if controls.shared.leadership.check().is_err() {
        // This process is about to end; until then nothing begins.
        controls.shared.shutdown.cancelled().await;
        return Answer::Abandoned;
    }
    controls.metrics.in_flight.inc();
    let _under_way = scopeguard(|| controls.metrics.in_flight.dec());
    let (method, path, payload) = match &ask.question {
        Question::Report => (Method::Get, edge_protocol::PATH_STATE, Vec::new()),
        Question::Command(command) => (Method::Put, edge_protocol::PATH_DESIRED, command.payload.clone()),
        Question::Own(owning) => (Method::Put, edge_protocol::PATH_OWNER, owning.payload.clone()),
    };
    let observe = matches!(ask.question, Question::Report).then(|| key.subject(uid));
    let Ask { peer, message_id: id, given_up_after, .. } = ask;
    let request = Request { peer, method, path, payload, id, observe, given_up_after };
    let counters = controls.metrics.of(key);
    let end = controls.link.exchange(request, rand::random(), shared::draw(), &counters).await;
    let answer = match ask.question {
        Question::Report => Answer::to_report(end),
        Question::Command(_) | Question::Own(_) => Answer::to_command(end),
    };
    controls.metrics.ended(key, &answer);
    answer
}

/// Hands an outcome over, also when the exchange panics.
struct Delivery {
    controls: Arc<Controls>,
    key: Key,
    uid: String,
    number: u64,
    topic: Topic,
    done: bool,
}

impl Delivery {
    fn put(&mut self, answer: Answer) {
        self.done = true;
        let outcome = Outcome { number: self.number, topic: self.topic, answer };
        self.controls.if_known(&self.key, &self.uid, |memory| {
            if memory.busy.as_ref().is_some_and(|busy| busy.number == outcome.number) {
                memory.leaves_queue(outcome.number, Instant::now());
                memory.ended(outcome, Instant::now());
            }
        });
    }

    async fn deliver(mut self, answer: Answer) {
        self.put(answer);
        if self.controls.outcomes.send(self.key.reference()).await.is_err() {
            tracing::debug!(device = %self.key, "the controller has ended");
        }
    }

    fn cancelled(mut self) {
        self.done = true;
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if !self.done {
            self.put(Answer::Abandoned);
            // A full channel is no loss: the device is looked at again when it is silent for too long.
            let _full = self.controls.outcomes.try_send(self.key.reference());
        }
    }
}

fn begin_lookup(controls: &Arc<Controls>, key: &Key, device: &Device, name: String) {
    let uid = device.uid().unwrap_or_default();
    let (key, shared) = (key.clone(), controls.clone());
    spawn(controls, async move {
        let found = shared.dns.look_up(&name).await;
        let (now, ttl) = (Instant::now(), shared.policy().dns_ttl);
        shared.if_known(&key, &uid, |memory| memory.looked_up(&name, found, now, ttl));
        if shared.outcomes.send(key.reference()).await.is_err() {
            tracing::debug!(device = %key, "the controller has ended");
        }
    });
}

/// Starts a task that shutdown ends; at most two a device are alive. Those that ended are taken out here.
fn spawn(controls: &Controls, task: impl Future<Output = ()> + Send + 'static) {
    let mut tasks = lock(&controls.tasks);
    while let Some(ended) = tasks.try_join_next() {
        if let Err(error) = ended {
            tracing::error!(%error, "an exchange panicked");
        }
    }
    tasks.spawn(task);
}

/// Runs something when dropped.
fn scopeguard<F: Fn()>(undo: F) -> impl Drop {
    struct Undo<F: Fn()>(F);
    impl<F: Fn()> Drop for Undo<F> {
        fn drop(&mut self) {
            (self.0)();
        }
    }
    Undo(undo)
}

#[cfg(test)]
mod tests;
