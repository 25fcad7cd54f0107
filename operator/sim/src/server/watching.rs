//! A watch as a stream of lines: changes in the order of their versions, bookmarks, and the end.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use futures::{Stream, stream};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::Circumstances;
use super::refusal::Refusal;
use super::request::{Call, Watch};
use super::store::{Change, Store};

/// A quiet watch is told its version so often. Kubernetes does it once a minute.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);

struct Watcher {
    store: Arc<Store>,
    around: Arc<dyn Circumstances>,
    call: Call,
    latest: watch::Receiver<u64>,
    /// Told up to here.
    position: u64,
    waiting: VecDeque<Value>,
    bookmarks: bool,
    bookmark_at: Instant,
    ends: Instant,
    over: bool,
}

/// The lines of a watch.
pub fn events(
    store: Arc<Store>,
    around: Arc<dyn Circumstances>,
    call: &Call,
    watch: Watch,
) -> impl Stream<Item = Result<Bytes, Infallible>> + Send + use<> {
    let now = Instant::now();
    let latest = store.follow();
    let position = watch.after.unwrap_or_else(|| store.version());
    let mut waiting = VecDeque::new();
    if watch.after.is_none() {
        let present = store.all(&call.kind);
        let meant = present.iter().filter(|object| is_meant(call, object));
        waiting.extend(meant.map(|object| event("ADDED", object)));
    }
    let watcher = Watcher {
        store,
        around,
        call: call.clone(),
        latest,
        position,
        waiting,
        bookmarks: watch.bookmarks,
        bookmark_at: now + BOOKMARK_EVERY,
        ends: now + Duration::from_secs(watch.seconds),
        over: false,
    };
    stream::unfold(watcher, |mut watcher| async move {
        let event = watcher.next().await?;
        Some((Ok(Bytes::from(format!("{event}\n"))), watcher))
    })
}

impl Watcher {
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                let is_news = event["type"] != "BOOKMARK" && event["type"] != "ERROR";
                if is_news && !self.around.tells(&self.call) {
                    self.store.compact();
                    return None;
                }
                return Some(event);
            }
            if self.over {
                return None;
            }
            self.latest.mark_unchanged();
            match self.store.changes(&self.call.kind, self.position) {
                Ok((changes, version)) => {
                    self.waiting.extend(changes.iter().filter_map(|change| told(&self.call, change)));
                    self.position = self.position.max(version);
                }
                Err(refusal) => self.expire(&refusal),
            }
            if self.waiting.is_empty() && !self.over {
                self.wait().await;
            }
        }
    }

    fn expire(&mut self, refusal: &Refusal) {
        self.waiting.push_back(json!({ "type": "ERROR", "object": refusal.status() }));
        self.over = true;
    }

    async fn wait(&mut self) {
        tokio::select! {
            biased;
            () = sleep_until(self.ends) => self.over = true,
            changed = self.latest.changed() => {
                self.over = changed.is_err();
                sleep(self.around.lag(&self.call)).await;
            }
            () = sleep_until(self.bookmark_at), if self.bookmarks => {
                self.bookmark_at += BOOKMARK_EVERY;
                let object = json!({
                    "kind": self.call.kind.kind,
                    "apiVersion": self.call.kind.api_version(),
                    "metadata": { "resourceVersion": self.position.to_string() },
                });
                self.waiting.push_back(json!({ "type": "BOOKMARK", "object": object }));
            }
        }
    }
}

fn is_meant(call: &Call, object: &Value) -> bool {
    let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str);
    (call.namespace.is_none() || call.namespace.as_deref() == namespace)
        && call.name.as_deref().is_none_or(|name| object["metadata"]["name"] == name)
        && call.selector.holds(object)
}

/// What this watch is told of a change: an object that is selected no longer is gone for it.
fn told(call: &Call, change: &Change) -> Option<Value> {
    let before = change.before.as_deref().filter(|object| is_meant(call, object));
    let after = change.after.as_deref().filter(|object| is_meant(call, object));
    match (before, after) {
        (None, Some(after)) => Some(event("ADDED", after)),
        (Some(_), Some(after)) => Some(event("MODIFIED", after)),
        (Some(before), None) => {
            let mut last = before.clone();
            last["metadata"]["resourceVersion"] = json!(change.version.to_string());
            Some(event("DELETED", &last))
        }
        (None, None) => None,
    }
}

fn event(type_: &str, object: &Value) -> Value {
    json!({ "type": type_, "object": object })
}
