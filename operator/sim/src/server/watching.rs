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

/// A watch is told its version so often, as Kubernetes does (`bookmarkFrequency` of its `cacher` package).
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// And so long before its time is over, so that the next one begins with the latest version (`nextBookmarkTime` there).
const BEFORE_THE_END: Duration = Duration::from_secs(2);

/// A watch that is not told of all yet looks so often whether it is.
const LOOK: Duration = Duration::from_millis(100);

struct Watcher {
    store: Arc<Store>,
    around: Arc<dyn Circumstances>,
    call: Call,
    latest: watch::Receiver<u64>,
    /// Told up to here.
    position: u64,
    waiting: VecDeque<Value>,
    /// When the next bookmark is due; none to who wants none, and behind the last one.
    bookmark_at: Option<Instant>,
    ends: Instant,
    over: bool,
    /// There is more than it is told for now.
    is_held: bool,
}

/// The lines of a watch.
pub fn events(
    store: Arc<Store>,
    around: Arc<dyn Circumstances>,
    call: &Call,
    watch: Watch,
) -> impl Stream<Item = Result<Bytes, Infallible>> + Send + use<> {
    let now = Instant::now();
    let ends = now + Duration::from_secs(watch.seconds);
    let latest = store.follow();
    let position = watch.after.unwrap_or_else(|| store.version());
    let mut waiting = VecDeque::new();
    if watch.after.is_none() {
        let present = store.all(&call.kind);
        let meant = present.iter().filter(|object| call.means(object));
        waiting.extend(meant.map(|object| event("ADDED", object)));
    }
    let watcher = Watcher {
        store,
        around,
        call: call.clone(),
        latest,
        position,
        waiting,
        bookmark_at: watch.bookmarks.then(|| next_bookmark(now, ends)).flatten(),
        ends,
        over: false,
        is_held: false,
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
                    let shown = self.around.shows(&self.call);
                    let news = changes.iter().filter(|change| change.version <= shown);
                    self.waiting.extend(news.filter_map(|change| told(&self.call, change)));
                    self.is_held = shown < version;
                    self.position = self.position.max(version.min(shown));
                    self.around.told(&self.call, self.position);
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
            () = sleep(LOOK), if self.is_held => {}
            () = sleep_until(self.bookmark_at.unwrap_or(self.ends)), if self.bookmark_at.is_some() => {
                self.bookmark_at = next_bookmark(Instant::now(), self.ends);
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

fn next_bookmark(now: Instant, ends: Instant) -> Option<Instant> {
    let last = ends.checked_sub(BEFORE_THE_END)?;
    let next = (now + BOOKMARK_EVERY).min(last);
    (next > now).then_some(next)
}

/// What this watch is told of a change: an object that is selected no longer is gone for it.
fn told(call: &Call, change: &Change) -> Option<Value> {
    let before = change.before.as_deref().filter(|object| call.means(object));
    let after = change.after.as_deref().filter(|object| call.means(object));
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
