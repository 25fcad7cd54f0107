//! The one interpreter of actions. No choice is made here: what is to be done was decided before.

use std::sync::Arc;

use edge_api::{Device, DeviceStatus};
use kube::api::{Patch, PatchParams, ValidationDirective};
use kube::runtime::events::{Event, EventType};
use kube::{Api, Resource, ResourceExt};
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::action::{Action, Ask, Notice, Question};
use crate::device::absorb::{Answer, Outcome};
use crate::device::observe::{Controls, Key, Sight, Written, lock};
use crate::epoch::NAME;
use crate::error::{ApiError, call};
use crate::link::{Method, Request};
use crate::runtime;

/// Does what was decided for one device.
///
/// # Errors
/// When the status cannot be written. What comes before it in the list was done.
pub async fn perform(
    controls: &Arc<Controls>,
    key: &Key,
    device: &Device,
    sight: &Sight,
    actions: Vec<Action>,
) -> Result<(), ApiError> {
    for action in actions {
        match action {
            Action::Exchange(ask) => begin_exchange(controls, key, device, ask),
            Action::Resolve(name) => begin_lookup(controls, key, device, name),
            Action::Notify(notice) => notify(controls, device, notice).await,
            Action::WriteStatus(status) => write(controls, key, device, sight, *status).await?,
        }
    }
    Ok(())
}

async fn write(
    controls: &Controls,
    key: &Key,
    device: &Device,
    sight: &Sight,
    status: DeviceStatus,
) -> Result<(), ApiError> {
    let devices: Api<Device> = Api::namespaced(controls.shared.client.clone(), &key.namespace);
    let patch = json!({
        "apiVersion": Device::api_version(&()),
        "kind": Device::kind(&()),
        "metadata": {
            "name": key.name,
            "namespace": key.namespace,
            "uid": device.metadata.uid,
            "resourceVersion": sight.version,
        },
        "status": status,
    });
    let params = PatchParams {
        field_validation: Some(ValidationDirective::Strict),
        ..PatchParams::apply(NAME).force()
    };
    let patch = Patch::Apply(&patch);
    let applied = devices.patch_status(&key.name, &params, &patch);
    let applied = call(|| format!("apply status of Device {key}"), applied).await?;
    controls.metrics.transition(sight.status.phase, status.phase);
    let written =
        Written { on: device.metadata.resource_version.clone(), version: applied.resource_version(), status };
    controls.wrote(key, written);
    Ok(())
}

async fn notify(controls: &Controls, device: &Device, notice: Notice) {
    if lock(&controls.events).take(Instant::now()).is_err() {
        controls.metrics.events_dropped.inc();
        return;
    }
    let event = Event {
        type_: EventType::Warning,
        reason: notice.reason.to_owned(),
        note: Some(notice.note),
        action: "Sync".to_owned(),
        secondary: None,
    };
    let reference = device.object_ref(&());
    let published = controls.recorder.publish(&event, &reference);
    if let Err(error) = call(|| format!("Event of Device {}", device.name_any()), published).await {
        // The status says the same; an Event is a courtesy.
        tracing::debug!(%error, "Event not told");
    }
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
    let command = matches!(ask.question, Question::Command(_));
    let delivery = Delivery {
        controls: controls.clone(),
        key: key.clone(),
        uid,
        number: ask.number,
        command,
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
    let Some(_slot) = controls.slots.acquire(ask.doubtful).await else { return Answer::Abandoned };
    drop(waiting);
    controls.if_known(key, uid, |memory| memory.leaves_queue(ask.number, Instant::now()));
    // The wait may have been long. What was decided on is no longer so: decide again.
    let current = controls.shared.devices.store().get(&key.reference());
    let still = |device: &Device| {
        device.metadata.uid.as_deref() == Some(uid) && device.metadata.generation == generation
    };
    if !current.is_some_and(|device| still(&device)) {
        return Answer::Abandoned;
    }
    controls.metrics.in_flight.inc();
    let _under_way = scopeguard(|| controls.metrics.in_flight.dec());
    let (method, path, payload) = match &ask.question {
        Question::Report => (Method::Get, edge_protocol::PATH_STATE, Vec::new()),
        Question::Command(command) => (Method::Put, edge_protocol::PATH_DESIRED, command.payload.clone()),
    };
    let request = Request { peer: ask.peer, method, path, payload, id: ask.message_id };
    let counters = controls.metrics.of(key);
    let end = controls.link.exchange(request, rand::random(), runtime::draw(), &counters).await;
    let answer = match ask.question {
        Question::Report => Answer::to_report(end),
        Question::Command(_) => Answer::to_command(end),
    };
    controls.metrics.ended(key, answer.category());
    answer
}

/// Hands an outcome over, also when the exchange panics.
struct Delivery {
    controls: Arc<Controls>,
    key: Key,
    uid: String,
    number: u64,
    command: bool,
    done: bool,
}

impl Delivery {
    fn put(&mut self, answer: Answer) {
        self.done = true;
        let outcome = Outcome { number: self.number, command: self.command, answer };
        self.controls.if_known(&self.key, &self.uid, |memory| {
            if memory.busy.as_ref().is_some_and(|busy| busy.number == outcome.number) {
                memory.leaves_queue(outcome.number, Instant::now());
                memory.busy = None;
                memory.inbox = Some(outcome);
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
        let next = Instant::now() + shared.policy().dns_ttl;
        shared.if_known(&key, &uid, |memory| memory.looked_up(&name, found, next));
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
