//! Which of several processes acts: an election by Lease, and the right that it gives.
//!
//! ```text
//!  Lease ──read, watch──► decide.rs ──what to write──► Lease
//!                            │ term: epoch, until when
//!                            ▼
//!                         guard.rs ──► asked before each command and each write
//! ```
//!
//! * [`decide`]: client-go's rules as a pure state machine, and why no two lead at once.
//! * [`record`]: what the Lease says.
//! * [`lease`]: the Lease in the API server.
//! * [`guard`]: the right to act, as all others see it.
//! * [`candidacy`]: from being ready to act until the end of the process.
//! * [`part`]: who acts, and what waits until they have ended.
//! * [`metrics`]: what is counted.
//!
//! Here: the shell, which carries the decisions out on tokio's clock. A standby watches the Lease, so that it knows of
//! a release at once. A process leads once: when it loses the Lease it ends, and what it knew ends with it.

pub mod candidacy;
pub mod decide;
pub mod guard;
pub mod lease;
pub mod metrics;
pub mod part;
pub mod record;

use futures::StreamExt as _;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use self::decide::{Action, Elector, Loss, Outcome, Purpose, Settings, Sight, Write};
use self::guard::Leadership;
use self::lease::{LeaseError, Leases, News};
use self::metrics::LeaderMetrics;
use self::record::Record;
use crate::epoch::NAME;
use crate::error::CALL_DEADLINE;
use crate::shared::{draw, wall_clock};

/// One process's part in an election.
pub struct Campaign<L> {
    leases: L,
    elector: Elector,
    leadership: Leadership,
    metrics: LeaderMetrics,
    leave: CancellationToken,
    watch: Option<News>,
    /// From where to watch, after a read.
    watch_from: Option<u64>,
    /// The last holder that was seen.
    holder: Option<String>,
}

enum Event {
    Due,
    Leave,
    News(Option<Result<Sight, LeaseError>>),
}

impl<L: Leases> Campaign<L> {
    /// Nothing is read or written before [`Campaign::run`].
    pub fn new(
        leases: L,
        settings: Settings,
        leadership: Leadership,
        metrics: LeaderMetrics,
        leave: CancellationToken,
    ) -> Self {
        let elector = Elector::new(settings);
        Self { leases, elector, leadership, metrics, leave, watch: None, watch_from: None, holder: None }
    }

    /// Stands by, then leads, until `leave`: then it gives the Lease away at once. Whoever cancels `leave` has
    /// stopped acting before.
    ///
    /// # Errors
    /// When it led and lost the Lease.
    pub async fn run(mut self) -> Result<(), Loss> {
        loop {
            match self.elector.next(Instant::now(), wall_clock()) {
                Action::Wait(until) => self.wait(until).await,
                Action::Read => self.read().await,
                Action::Write(write) => self.write(&write).await,
                Action::Leave => return Ok(()),
                Action::Lose(loss) => {
                    self.ends();
                    tracing::error!(%loss, "leads no longer");
                    return Err(loss);
                }
            }
            self.note_holder();
        }
    }

    async fn wait(&mut self, until: Instant) {
        let (leading, leaving) = (self.elector.term().is_some(), self.elector.is_leaving());
        if let (false, false, Some(version)) = (leading, leaving, self.watch_from.take()) {
            return self.open_watch(version).await;
        }
        let event = tokio::select! {
            biased;
            () = self.leave.cancelled(), if !leaving => Event::Leave,
            news = next(&mut self.watch) => Event::News(news),
            () = sleep_until(until) => Event::Due,
        };
        match event {
            Event::Due => {}
            Event::Leave => self.leave(),
            Event::News(Some(Ok(sight))) => self.elector.news(sight, Instant::now()),
            Event::News(Some(Err(error))) => self.watch_ended(Some(&error)),
            Event::News(None) => self.watch_ended(None),
        }
    }

    fn leave(&mut self) {
        self.ends();
        self.watch = None;
        self.elector.leave(Instant::now());
    }

    fn ends(&self) {
        self.leadership.end();
        self.metrics.ended();
    }

    async fn open_watch(&mut self, version: u64) {
        let within = self.elector.settings().call_deadline();
        match timeout(within, self.leases.watch(version)).await {
            Ok(Ok(news)) => self.watch = Some(news),
            Ok(Err(error)) => self.watch_ended(Some(&error)),
            Err(_elapsed) => self.watch_ended(Some(&LeaseError::Deadline { call: "watch" })),
        }
    }

    fn watch_ended(&mut self, error: Option<&LeaseError>) {
        self.watch = None;
        if let Some(error) = error {
            tracing::warn!(%error, "watch of the Lease interrupted");
        }
        self.elector.doubt(Instant::now(), draw());
    }

    async fn read(&mut self) {
        let within = self.elector.settings().call_deadline();
        let leading = self.elector.term();
        if leading.is_some() {
            self.metrics.slow_path.inc();
        }
        let sent = Instant::now();
        // A leader reads no longer than it may act.
        let deadline = leading.map_or(sent + within, |term| term.until.min(sent + within));
        let may_leave = leading.is_none() && !self.elector.is_leaving();
        let answer = tokio::select! {
            biased;
            () = self.leave.cancelled(), if may_leave => return self.leave(),
            answer = tokio::time::timeout_at(deadline, self.leases.read()) => answer,
        };
        self.watch = None;
        match answer.unwrap_or(Err(LeaseError::Deadline { call: "read" })) {
            Ok((sight, version)) => {
                self.elector.read(sight, Instant::now());
                self.watch_from = Some(version);
            }
            Err(error) => {
                tracing::warn!(%error, "{}", error.advice());
                self.elector.doubt(sent, draw());
            }
        }
    }

    async fn write(&mut self, write: &Write) {
        let sent = Instant::now();
        let answer = timeout(write.within, self.leases.write(write)).await;
        let outcome = match answer.unwrap_or(Err(LeaseError::Deadline { call: "write" })) {
            Ok(version) => Outcome::Landed(version),
            Err(LeaseError::Conflict) => Outcome::Conflict,
            Err(error) => {
                tracing::warn!(%error, purpose = ?write.purpose, "what came of it is not known: reading");
                Outcome::Unknown
            }
        };
        let led = self.elector.term().is_some();
        self.elector.wrote(write, sent, outcome, Instant::now(), draw());
        let Some(term) = self.elector.term() else { return };
        self.leadership.grant(term.epoch, term.until);
        if !led {
            self.watch = None;
            self.metrics.leads(term.epoch);
            tracing::info!(epoch = term.epoch, holder = self.elector.settings().holder, "leads");
        }
    }

    /// Counts another holder than the last one, and says who it is.
    fn note_holder(&mut self) {
        let Some(holder) = self.elector.holder().filter(|holder| self.holder.as_deref() != Some(holder))
        else {
            return;
        };
        if self.holder.is_some() {
            self.metrics.transitions.inc();
        }
        if holder != self.elector.settings().holder {
            tracing::info!(holder, "stands by");
        }
        self.holder = Some(holder.to_owned());
    }
}

async fn next(watch: &mut Option<News>) -> Option<Result<Sight, LeaseError>> {
    match watch {
        Some(news) => news.next().await,
        None => std::future::pending().await,
    }
}

/// Takes the Lease whoever holds it, without an election: for a single process, or for tests. Gives the epoch.
///
/// # Errors
/// When the Lease cannot be read or written.
pub async fn take(leases: &impl Leases, settings: &Settings) -> Result<u64, LeaseError> {
    let taking = async {
        loop {
            let (sight, _) = leases.read().await?;
            let Settings { holder, duration, .. } = settings;
            let record = Record::taken(sight.record.as_ref(), holder, *duration, wall_clock());
            let on = sight.record.as_ref().map(|_| sight.version);
            let write = Write { record, on, purpose: Purpose::Take, within: CALL_DEADLINE };
            match leases.write(&write).await {
                Err(LeaseError::Conflict) => tracing::debug!("the Lease {NAME} changed meanwhile: again"),
                outcome => return outcome,
            }
        }
    };
    timeout(CALL_DEADLINE, taking).await.unwrap_or(Err(LeaseError::Deadline { call: "write" }))
}

#[cfg(test)]
mod tests;
