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
use prometheus::IntCounterVec;
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
use crate::metrics::{Metrics, counters, usage};
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

/// Tells Events beside the work, so that none holds a reconcile up. Those that are not told are counted, by reason: the status
/// has said the same.
pub struct Events {
    queue: mpsc::Sender<(Event, ObjectReference)>,
    bucket: Mutex<Bucket>,
    dropped: IntCounterVec,
}

/// What is still to be told.
pub struct Queue {
    waiting: mpsc::Receiver<(Event, ObjectReference)>,
    dropped: IntCounterVec,
}

/// Why an Event is not told: it is above the rate …
const RATE: &str = "rate";
/// … too many wait …
const QUEUE: &str = "queue";
/// … this process leads no longer …
const NOT_LEADING: &str = "not_leading";
/// … or the API server did not take it.
const FAILED: &str = "failed";

impl Events {
    /// Events, and the queue for [`tell_all`].
    ///
    /// # Errors
    /// When the metric's name is taken.
    pub fn new(metrics: &Metrics, bounds: &BoundArgs) -> Result<(Self, Queue), prometheus::Error> {
        let dropped = counters(
            metrics.registry(),
            "edge_events_dropped_total",
            "Events not told: above the rate, with too many waiting, since this process leads no longer, or not taken by the API server.",
            &["reason"],
        )?;
        for reason in [RATE, QUEUE, NOT_LEADING, FAILED] {
            dropped.with_label_values(&[reason]);
        }
        let (queue, waiting) = mpsc::channel(size(bounds.event_queue));
        metrics.bound("events", f64::from(bounds.event_queue), usage::waiting(&queue));
        let bucket = Mutex::new(Bucket::new(bounds.event_burst, bounds.event_rate));
        Ok((Self { queue, bucket, dropped: dropped.clone() }, Queue { waiting, dropped }))
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
        let dropped = |reason| self.dropped.with_label_values(&[reason]).inc();
        if lock(&self.bucket).take(Instant::now()).is_err() {
            return dropped(RATE);
        }
        if self.queue.try_send((event, object.object_ref(&()))).is_err() {
            dropped(QUEUE);
        }
    }
}

/// Tells what is in the queue, in the name of this instance of the operator, until shutdown. What is left when it leads
/// no longer is for the next leader to say.
pub async fn tell_all(
    Queue { waiting: mut queue, dropped }: Queue,
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
            dropped.with_label_values(&[NOT_LEADING]).inc();
            continue;
        }
        let what = || {
            let name = reference.name.as_deref().unwrap_or_default();
            format!("Event {} of {name}", event.reason)
        };
        if let Err(error) = call(what, recorder.publish(&event, &reference)).await {
            dropped.with_label_values(&[FAILED]).inc();
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
    use kube::client::Body;

    use super::*;
    use crate::args::Args;

    fn dropped(events: &Events, reason: &str) -> u64 {
        events.dropped.with_label_values(&[reason]).get()
    }

    #[tokio::test]
    async fn events_above_the_rate_are_dropped_and_counted_and_notes_are_cut() {
        let metrics = Metrics::new().unwrap();
        let bounds = Args::parse_from(["edge-operator"]).bounds;
        let (events, Queue { waiting: mut queue, .. }) = Events::new(&metrics, &bounds).unwrap();
        for _ in 0..60 {
            events.tell(&Pod::default(), EventType::Warning, "Sync", "Failed", &"ä".repeat(1000));
        }
        let mut told = 0_u32;
        while let Ok((event, _)) = queue.try_recv() {
            told += 1;
            assert!(event.note.unwrap().len() <= 1024);
        }
        assert!(told >= 50 && u64::from(told) + dropped(&events, RATE) == 60, "{told} told");
    }

    #[tokio::test]
    async fn events_that_wait_too_long_keep_out_others_which_are_counted() {
        let metrics = Metrics::new().unwrap();
        let bounds = Args::parse_from(["edge-operator", "--event-queue=2"]).bounds;
        let (events, Queue { waiting: mut queue, .. }) = Events::new(&metrics, &bounds).unwrap();
        let tell = || events.tell(&Pod::default(), EventType::Normal, "Sync", "Synced", "in sync");
        let page = || String::from_utf8(metrics.render().unwrap()).unwrap();
        (0..3).for_each(|_| tell());
        assert!(page().contains("edge_usage{name=\"events\"} 2\n"), "{}", page());
        assert_eq!(dropped(&events, QUEUE), 1, "{}", page());
        queue.recv().await.unwrap();
        tell();
        assert_eq!(dropped(&events, QUEUE), 1, "there was room again");
    }

    #[tokio::test]
    async fn events_that_a_former_leader_or_the_api_server_does_not_tell_are_counted_too() {
        let metrics = Metrics::new().unwrap();
        let bounds = Args::parse_from(["edge-operator"]).bounds;
        let (events, queue) = Events::new(&metrics, &bounds).unwrap();
        let (leadership, shutdown) = (Leadership::none(), CancellationToken::new());
        let nobody = tower::service_fn(|_: http::Request<Body>| {
            std::future::ready(Err::<http::Response<Body>, _>(std::io::Error::other("out of reach")))
        });
        let client = Client::new(nobody, "default");
        let mut telling =
            Box::pin(tell_all(queue, client, "one".to_owned(), leadership.clone(), shutdown.clone()));
        let mut until = async |reason| {
            events.tell(&Pod::default(), EventType::Normal, "Sync", "Synced", "in sync");
            while dropped(&events, reason) == 0 {
                tokio::select! {
                    () = &mut telling => panic!("it ended"),
                    () = tokio::task::yield_now() => {}
                }
            }
        };
        until(NOT_LEADING).await;
        leadership.grant_for_ever(7);
        until(FAILED).await;
        assert_eq!([RATE, QUEUE, NOT_LEADING, FAILED].map(|reason| dropped(&events, reason)), [0, 0, 1, 1]);
    }
}
