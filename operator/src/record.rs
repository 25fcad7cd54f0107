//! Writing: a status, on the resourceVersion that it was decided on, and Events for people.

use std::fmt::Debug;
use std::sync::Mutex;

use edge_api::Device;
use edge_api::device::{ADOPT, FINALIZER};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{Patch, PatchParams, ValidationDirective};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client, Resource, ResourceExt as _};
use prometheus::IntCounter;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::action::Mark;
use crate::args::bounds::{BoundArgs, size};
use crate::budget::Bucket;
use crate::epoch::NAME;
use crate::error::{ApiError, call};
use crate::leader::guard::{Leadership, NotLeading};
use crate::lock::lock;
use crate::metrics::{Metrics, register, usage};
use crate::shared::Shared;

/// Writes the whole status of an object, and gives what the server made of it. Only a leader may.
///
/// # Errors
/// A conflict when the object is no longer at `version`; what the API server says else.
pub async fn apply_status<K>(
    shared: &Shared,
    object: &K,
    version: Option<&str>,
    status: &impl Serialize,
) -> Result<K, ApiError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let api: Api<K> = Api::namespaced(shared.client.clone(), &namespace);
    let patch = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": { "name": name, "namespace": namespace, "uid": object.meta().uid, "resourceVersion": version },
        "status": status,
    });
    let params = PatchParams {
        field_validation: Some(ValidationDirective::Strict),
        ..PatchParams::apply(NAME).force()
    };
    let what = || format!("apply status of {} {namespace}/{name}", K::kind(&()));
    shared.leadership.check().map_err(|NotLeading| ApiError::NotLeading { call: what() })?;
    call(what, api.patch_status(&name, &params, &Patch::Apply(&patch))).await
}

/// Changes a Device's metadata: our finalizer, or the annotation of an adoption; gives what the server made of it. Only a
/// leader may.
///
/// # Errors
/// A conflict when the object is no longer at `version`; what the API server says else.
pub async fn apply_mark(
    shared: &Shared,
    device: &Device,
    version: Option<&str>,
    mark: Mark,
) -> Result<Device, ApiError> {
    let (namespace, name) = (device.namespace().unwrap_or_default(), device.name_any());
    let others = device.finalizers().iter().filter(|finalizer| *finalizer != FINALIZER).cloned();
    let mut metadata = match mark {
        Mark::Hold => json!({ "finalizers": others.chain([FINALIZER.to_owned()]).collect::<Vec<_>>() }),
        Mark::LetGo => json!({ "finalizers": others.collect::<Vec<_>>() }),
        Mark::Adopted => json!({ "annotations": { ADOPT: null } }),
    };
    metadata["uid"] = json!(device.metadata.uid);
    metadata["resourceVersion"] = json!(version);
    let params = PatchParams { field_manager: Some(NAME.into()), ..PatchParams::default() };
    let api: Api<Device> = Api::namespaced(shared.client.clone(), &namespace);
    let what = || format!("{mark:?} Device {namespace}/{name}");
    shared.leadership.check().map_err(|NotLeading| ApiError::NotLeading { call: what() })?;
    call(what, api.patch(&name, &params, &Patch::Merge(json!({ "metadata": metadata })))).await
}

/// Tells Events beside the work, so that none holds a reconcile up. Above the rate, and when too many wait, they
/// are dropped and counted: the status has said the same.
pub struct Events {
    queue: mpsc::Sender<(Event, ObjectReference)>,
    bucket: Mutex<Bucket>,
    dropped: IntCounter,
}

/// What is still to be told.
pub struct Queue(mpsc::Receiver<(Event, ObjectReference)>);

impl Events {
    /// Events, and the queue for [`tell_all`].
    ///
    /// # Errors
    /// When the metric's name is taken.
    pub fn new(metrics: &Metrics, bounds: &BoundArgs) -> Result<(Self, Queue), prometheus::Error> {
        let dropped = IntCounter::new("edge_events_dropped_total", "Events not told, since too many were.")?;
        let (queue, waiting) = mpsc::channel(size(bounds.event_queue));
        metrics.bound("events", f64::from(bounds.event_queue), usage::waiting(&queue));
        let bucket = Mutex::new(Bucket::new(bounds.event_burst, bounds.event_rate));
        Ok((Self { queue, bucket, dropped: register(metrics.registry(), dropped)? }, Queue(waiting)))
    }

    /// Tells people something about an object. `reason` and `action` are CamelCase.
    pub fn tell<K>(&self, object: &K, type_: EventType, action: &str, reason: &str, note: &str)
    where
        K: Resource<DynamicType = ()>,
    {
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(short(note)),
            action: action.to_owned(),
            secondary: None,
        };
        let allowed = lock(&self.bucket).take(Instant::now()).is_ok();
        if !allowed || self.queue.try_send((event, object.object_ref(&()))).is_err() {
            self.dropped.inc();
        }
    }
}

/// Tells what is in the queue, in the name of this instance of the operator, until shutdown. What is left when it leads
/// no longer is for the next leader to say.
pub async fn tell_all(
    Queue(mut queue): Queue,
    client: Client,
    instance: String,
    leadership: Leadership,
    shutdown: CancellationToken,
) {
    let recorder = Recorder::new(client, Reporter { controller: NAME.into(), instance: Some(instance) });
    loop {
        let next = tokio::select! {
            () = shutdown.cancelled() => return,
            next = queue.recv() => next,
        };
        let Some((event, reference)) = next else { return };
        if leadership.check().is_err() {
            continue;
        }
        let what = || {
            let name = reference.name.as_deref().unwrap_or_default();
            format!("Event {} of {name}", event.reason)
        };
        if let Err(error) = call(what, recorder.publish(&event, &reference)).await {
            tracing::warn!(%error, "Event lost");
        }
    }
}

/// An event's note has at most 1,024 bytes.
fn short(note: &str) -> String {
    const MOST: usize = 1000;
    if note.len() <= MOST {
        return note.to_owned();
    }
    format!("{}…", &note[..note.floor_char_boundary(MOST)])
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use k8s_openapi::api::core::v1::Pod;

    use super::*;
    use crate::args::Args;

    #[tokio::test]
    async fn events_above_the_rate_are_dropped_and_counted_and_notes_are_cut() {
        let metrics = Metrics::new().unwrap();
        let bounds = Args::parse_from(["edge-operator"]).bounds;
        let (events, Queue(mut queue)) = Events::new(&metrics, &bounds).unwrap();
        for _ in 0..60 {
            events.tell(&Pod::default(), EventType::Warning, "Sync", "Failed", &"ä".repeat(1000));
        }
        let mut told = 0_u32;
        while let Ok((event, _)) = queue.try_recv() {
            told += 1;
            assert!(event.note.unwrap().len() <= 1024);
        }
        assert!(told >= 50 && u64::from(told) + events.dropped.get() == 60, "{told} told");
    }

    #[tokio::test]
    async fn events_that_wait_too_long_keep_out_others_which_are_counted() {
        let metrics = Metrics::new().unwrap();
        let bounds = Args::parse_from(["edge-operator", "--event-queue=2"]).bounds;
        let (events, Queue(mut queue)) = Events::new(&metrics, &bounds).unwrap();
        let tell = || events.tell(&Pod::default(), EventType::Normal, "Sync", "Synced", "in sync");
        let page = || String::from_utf8(metrics.render().unwrap()).unwrap();
        (0..3).for_each(|_| tell());
        assert!(page().contains("edge_usage{name=\"events\"} 2\n"), "{}", page());
        assert_eq!(events.dropped.get(), 1, "{}", page());
        queue.recv().await.unwrap();
        tell();
        assert_eq!(events.dropped.get(), 1, "there was room again");
    }
}
