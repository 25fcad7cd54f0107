//! Writes this node's FaultNode: at once when something changed, and as a heartbeat.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use edge_api::FaultNode;
use edge_api::fault_node::{FaultNodeStatus, RENEW_EVERY_SECONDS};
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Patch, PatchParams, ValidationDirective};
use kube::client::Body;
use kube::{Api, Client};
use serde_json::json;
use thiserror::Error;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::gap::Predecessor;
use super::{Facts, Moment, Seen, differs, make};
use crate::clock::{self, Now};
use crate::shared::Shared;
use crate::view::View;

/// Every write and read has this long.
const DEADLINE: Duration = Duration::from_secs(5);
/// Counters of profiles without evidence are looked at so often, or seldom enough that looking takes a
/// twentieth of the time.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// After a write that failed.
const RETRY: Duration = Duration::from_secs(1);
const FIELD_MANAGER: &str = "chaos-agent";

/// A call to the API server that failed.
#[derive(Debug, Error)]
enum ApiError {
    #[error("no answer within {}s", DEADLINE.as_secs())]
    Timeout,
    #[error(transparent)]
    Api(#[from] kube::Error),
}

/// What the writer works on.
pub struct Publisher {
    /// The API server.
    pub client: Client,
    /// This node.
    pub node: String,
    /// `uname -r`.
    pub kernel: String,
    /// The picture, and where the clock's offset goes.
    pub shared: Arc<Shared>,
    /// Evidence so far; nothing at first.
    pub seen: Arc<Mutex<Seen>>,
}

/// What was said once, and is not said again while it lasts.
#[derive(Debug, Default)]
struct Warned {
    /// The wall clock is far off.
    of_clock: bool,
    /// Counters cannot be read.
    of_counters: bool,
}

/// Whether it is so and was not before; takes that in.
const fn has_begun(before: &mut bool, is_so: bool) -> bool {
    let had = std::mem::replace(before, is_so);
    is_so && !had
}

impl Publisher {
    /// Runs until `shutdown`.
    ///
    /// # Errors
    /// When a clock cannot be read.
    pub async fn run(self, shutdown: CancellationToken) -> Result<()> {
        tokio::select! {
            () = shutdown.cancelled() => {}
            outcome = self.work() => return outcome,
        }
        self.farewell().await;
        Ok(())
    }

    async fn work(&self) -> Result<()> {
        let heartbeat = Duration::from_secs(RENEW_EVERY_SECONDS);
        let mut written = None::<FaultNodeStatus>;
        let mut warned = Warned::default();
        self.compare_clocks(&mut warned).await;
        let (mut next_beat, mut look_every, mut not_before) = (Instant::now(), LOOK_EVERY, Instant::now());
        loop {
            let wait_until = not_before.max(next_beat.min(Instant::now() + look_every));
            tokio::select! {
                () = self.shared.shown.notified(), if Instant::now() >= not_before => {}
                () = tokio::time::sleep_until(wait_until) => {}
            }
            if !self.shared.is_enforcing() {
                // Nothing is known yet; an empty status would take back what holds.
                not_before = Instant::now() + LOOK_EVERY;
                continue;
            }
            if written.is_none() && !self.told(self.begin().await) {
                not_before = Instant::now() + RETRY;
                continue;
            }
            let is_beat = Instant::now() >= next_beat;
            if is_beat {
                self.compare_clocks(&mut warned).await;
            }
            let started = Instant::now();
            let view = self.shared.view();
            self.look(Arc::clone(&view), &mut warned).await?;
            look_every = LOOK_EVERY.max(started.elapsed() * 20);
            let status = make(&view, &self.seen(), &self.facts()?);
            let is_news = written.as_ref().is_none_or(|old| differs(old, &status));
            if !is_beat && !is_news {
                continue;
            }
            if self.told(self.apply(&status).await) {
                next_beat = Instant::now() + heartbeat;
                written = Some(status);
            } else {
                not_before = Instant::now() + RETRY;
                written = None;
            }
        }
    }

    /// Says that nothing holds any more, so that nobody must wait for the heartbeat to grow old. What was seen stays
    /// said, for the next agent to take over.
    async fn farewell(&self) {
        let Ok(facts) = self.facts() else { return };
        if self.shared.is_enforcing() {
            let status = FaultNodeStatus {
                stopped_at: Some(MicroTime(facts.server_time)),
                ..make(&self.shared.view().without_kernel(), &self.seen(), &facts)
            };
            self.told(self.apply(&status).await);
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the counters, on a thread that nobody waits for.
    async fn look(&self, view: Arc<View>, warned: &mut Warned) -> Result<()> {
        let (seen, counters) = (Arc::clone(&self.seen), Arc::clone(&self.shared.counters));
        let line = &self.shared.line;
        let moment = Moment {
            now: std::time::Instant::now(),
            line_dropped: line.dropped(),
            splitter_dropped: line.splitter_dropped(),
        };
        let look =
            move || seen.lock().unwrap_or_else(PoisonError::into_inner).look(&view, &*counters, moment);
        let failure = tokio::task::spawn_blocking(look).await.context("counters")?.err();
        if has_begun(&mut warned.of_counters, failure.is_some())
            && let Some(error) = failure
        {
            tracing::warn!(
                %error,
                "what the kernel counts cannot be read, so profiles do not become Effective here; it is tried again, and if /metrics fails, \
                 too, start the agent again"
            );
        }
        Ok(())
    }

    fn facts(&self) -> Result<Facts> {
        let now = clock::read().context("CLOCK_BOOTTIME")?;
        let offset = *self.shared.offset();
        Ok(Facts {
            kernel: self.kernel.clone(),
            server_time: offset.server_time(now),
            clock_offset: offset.status(now),
            installed_at: self.shared.installed_at(),
            gap: self.shared.gap(),
            engine: self.shared.line.status(now.boot_ns),
            line: self.shared.line.usage(),
        })
    }

    /// Counts a write, and tells when it failed.
    fn told(&self, outcome: Result<(), ApiError>) -> bool {
        match outcome {
            Ok(()) => {
                self.shared.stats.status_written.fetch_add(1, Ordering::Relaxed);
                true
            }
            Err(error) => {
                self.shared.stats.status_failed.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(%error, node = self.node, "the FaultNode could not be written; it is tried again");
                false
            }
        }
    }

    /// Makes the object, owned by its Node so that it goes with it, and takes over what it says so far: an agent that
    /// was here before has seen things.
    async fn begin(&self) -> Result<(), ApiError> {
        let uid = self.shared.index().node_uid().map(str::to_owned);
        let owners: Vec<_> = uid
            .map(|uid| json!({"apiVersion": "v1", "kind": "Node", "name": self.node, "uid": uid}))
            .into_iter()
            .collect();
        let object = json!({
            "apiVersion": "edge-operator.dev/v1alpha1", "kind": "FaultNode",
            "metadata": {"name": self.node, "ownerReferences": owners}, "spec": {},
        });
        let old = call(self.api().patch(&self.node, &params(), &Patch::Apply(object))).await?;
        let old = old.status.unwrap_or_default();
        self.shared.meet(Predecessor::of(&old));
        self.seen().resume(&old);
        Ok(())
    }

    async fn apply(&self, status: &FaultNodeStatus) -> Result<(), ApiError> {
        let object = json!({
            "apiVersion": "edge-operator.dev/v1alpha1", "kind": "FaultNode",
            "metadata": {"name": self.node}, "status": status,
        });
        call(self.api().patch_status(&self.node, &params(), &Patch::Apply(object))).await.map(drop)
    }

    fn api(&self) -> Api<FaultNode> {
        Api::all(self.client.clone())
    }

    /// Reads the API server's clock off the `Date` of an answer.
    async fn compare_clocks(&self, warned: &mut Warned) {
        let before = self.shared.offset().ahead();
        self.measure_offset(warned).await;
        self.shared.take_clock(self.shared.offset().ahead() != before);
    }

    async fn measure_offset(&self, warned: &mut Warned) {
        match self.server_date().await {
            Ok(Some((date, sent, received))) => {
                let mut offset = self.shared.offset();
                offset.observe(date, sent, received);
                let is_large = offset.is_large(received);
                if has_begun(&mut warned.of_clock, is_large) {
                    let milliseconds = offset.status(received).map(|status| status.milliseconds);
                    tracing::warn!(
                        milliseconds,
                        "this node's clock differs from the API server's, and is corrected for: check NTP"
                    );
                }
            }
            Ok(None) => tracing::debug!("the API server's answer has no Date"),
            Err(error) => tracing::debug!(%error, "the API server's clock"),
        }
    }

    async fn server_date(&self) -> Result<Option<(Timestamp, Now, Now)>> {
        let request = http::Request::get("/version").body(Body::empty())?;
        let sent = clock::read()?;
        let answer = tokio::time::timeout(DEADLINE, self.client.send(request)).await??;
        let received = clock::read()?;
        let date = answer.headers().get(http::header::DATE).and_then(|date| date.to_str().ok());
        let date = date.and_then(|date| rfc2822::DateTimeParser::new().parse_timestamp(date).ok());
        Ok(date.map(|date| (date, sent, received)))
    }
}

fn params() -> PatchParams {
    PatchParams::apply(FIELD_MANAGER).force().validation(ValidationDirective::Strict)
}

async fn call<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, ApiError> {
    Ok(tokio::time::timeout(DEADLINE, request).await.map_err(|_| ApiError::Timeout)??)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lasts_is_said_once_and_again_when_it_comes_back() {
        let mut before = false;
        let said = [true, true, true, false, true].map(|is_so| has_begun(&mut before, is_so));
        assert_eq!(said, [true, false, false, false, true]);
    }
}
