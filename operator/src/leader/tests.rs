//! The shell on a paused clock, against a scripted API server.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::stream;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::*;
use crate::lock::lock;
use crate::metrics::Metrics;

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Works,
    Fails,
    /// No answer, and no effect.
    Hangs,
    /// No answer, and it lands.
    LandsAndHangs,
}

#[derive(Default)]
struct State {
    version: u64,
    lease: Option<(u64, Record)>,
    /// Fates of the next calls; then all work.
    fates: VecDeque<Fate>,
    watchers: Vec<mpsc::Sender<Sight>>,
    reads: u32,
    writes: Vec<(Instant, Purpose)>,
}

/// The Lease of a scripted API server; clones share it.
#[derive(Clone, Default)]
struct Script(Arc<Mutex<State>>);

impl Script {
    fn sight(state: &State) -> Sight {
        match &state.lease {
            Some((version, record)) => Sight { version: *version, record: Some(record.clone()) },
            None => Sight { version: state.version, record: None },
        }
    }

    /// A Lease that was last written by `holder`; empty: nobody.
    fn held_by(holder: &str) -> Self {
        let script = Self::default();
        script.writes(holder);
        script
    }

    /// Somebody writes.
    fn writes(&self, holder: &str) {
        let state = &mut *lock(&self.0);
        state.version += 1;
        let record = Record::taken(None, holder, Duration::from_secs(15), Timestamp::UNIX_EPOCH);
        state.lease = Some((state.version, record));
        Self::tell(state);
    }

    fn tell(state: &mut State) {
        let sight = Self::sight(state);
        state.watchers.retain(|watcher| watcher.try_send(sight.clone()).is_ok());
    }

    fn next_are(&self, fates: &[Fate]) {
        lock(&self.0).fates.extend(fates);
    }

    fn state<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut lock(&self.0))
    }

    fn fate(&self) -> Fate {
        lock(&self.0).fates.pop_front().unwrap_or(Fate::Works)
    }
}

async fn no_answer<T>() -> Result<T, LeaseError> {
    std::future::pending().await
}

impl Leases for Script {
    async fn read(&self) -> Result<(Sight, u64), LeaseError> {
        let fate = self.fate();
        lock(&self.0).reads += 1;
        match fate {
            Fate::Works => Ok(self.state(|state| (Self::sight(state), state.version))),
            Fate::Fails => Err(LeaseError::Deadline { call: "read" }),
            Fate::Hangs | Fate::LandsAndHangs => no_answer().await,
        }
    }

    async fn write(&self, write: &Write) -> Result<u64, LeaseError> {
        let fate = self.fate();
        let outcome = self.state(|state| {
            state.writes.push((Instant::now(), write.purpose));
            if !matches!(fate, Fate::Works | Fate::LandsAndHangs) {
                return Err(LeaseError::Deadline { call: "write" });
            }
            if state.lease.as_ref().map(|(version, _)| *version) != write.on {
                return Err(LeaseError::Conflict);
            }
            state.version += 1;
            state.lease = Some((state.version, write.record.clone()));
            Self::tell(state);
            Ok(state.version)
        });
        match fate {
            Fate::Works | Fate::Fails => outcome,
            Fate::Hangs | Fate::LandsAndHangs => no_answer().await,
        }
    }

    async fn watch(&self, _version: u64) -> Result<News, LeaseError> {
        let (sender, receiver) = mpsc::channel(16);
        lock(&self.0).watchers.push(sender);
        let news = stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|sight| (Ok(sight), receiver))
        });
        Ok(news.boxed())
    }
}

/// A candidate `a` with Kubernetes' times.
struct Candidate {
    script: Script,
    leadership: Leadership,
    metrics: LeaderMetrics,
    leave: CancellationToken,
    campaign: JoinSet<Result<(), Loss>>,
    start: Instant,
}

impl Candidate {
    fn stands(script: Script) -> Self {
        let seconds = Duration::from_secs;
        let settings = Settings {
            holder: "a".into(),
            duration: seconds(15),
            renew_deadline: seconds(10),
            retry_period: seconds(2),
        };
        let metrics = LeaderMetrics::new(Metrics::new().unwrap().registry()).unwrap();
        let (leadership, leave) = (Leadership::none(), CancellationToken::new());
        let mut campaign = JoinSet::new();
        let (leads, leaves) = (leadership.clone(), leave.clone());
        campaign.spawn(Campaign::new(script.clone(), settings, leads, metrics.clone(), leaves).run());
        Self { script, leadership, metrics, leave, campaign, start: Instant::now() }
    }

    /// One that leads already, since no time.
    async fn leads() -> Self {
        let candidate = Self::stands(Script::held_by(""));
        candidate.leadership.taken().await;
        assert_eq!(candidate.start.elapsed(), Duration::ZERO);
        candidate
    }

    fn is_leading(&self) -> bool {
        self.leadership.check().is_ok()
    }

    async fn ends(&mut self) -> Result<(), Loss> {
        self.campaign.join_next().await.unwrap().unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn a_free_lease_is_taken_at_once_renewed_every_retry_period_and_never_read_again() {
    let candidate = Candidate::leads().await;
    assert_eq!((candidate.leadership.epoch(), candidate.metrics.master.get()), (2, 1));
    tokio::time::sleep(Duration::from_secs(21)).await;
    assert!(candidate.is_leading());
    assert_eq!(candidate.leadership.epoch(), 2, "the epoch is that of the write that took it");
    let (reads, writes) = candidate.script.state(|state| (state.reads, state.writes.clone()));
    assert_eq!((reads, writes.len()), (1, 11));
    assert_eq!(candidate.metrics.slow_path.get(), 0);
    for (number, (at, _)) in writes.iter().enumerate() {
        assert_eq!(
            at.duration_since(candidate.start),
            Duration::from_secs(2) * u32::try_from(number).unwrap()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_standby_reads_once_watches_and_takes_the_lease_when_it_was_silent_for_its_duration() {
    let candidate = Candidate::stands(Script::held_by("b"));
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_secs(2)).await;
        candidate.script.writes("b");
    }
    let last = Instant::now();
    candidate.leadership.taken().await;
    let took = last.elapsed();
    assert_eq!(took, Duration::from_secs(15));
    assert_eq!(candidate.script.state(|state| (state.reads, state.writes.len())), (1, 1));
    assert_eq!(candidate.metrics.transitions.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_release_is_seen_by_the_watch_and_followed_at_once() {
    let candidate = Candidate::stands(Script::held_by("b"));
    tokio::time::sleep(Duration::from_secs(5)).await;
    candidate.script.writes("");
    let released = Instant::now();
    candidate.leadership.taken().await;
    assert_eq!(released.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_cannot_renew_stops_before_the_lease_ends_and_says_so() {
    for fate in [Fate::Fails, Fate::Hangs] {
        let mut candidate = Candidate::leads().await;
        candidate.script.next_are(&[fate; 100]);
        tokio::time::sleep(Duration::from_millis(9999)).await;
        assert!(candidate.is_leading(), "{fate:?}");
        assert_eq!(candidate.ends().await, Err(Loss::Expired));
        assert_eq!(candidate.start.elapsed(), Duration::from_secs(10), "{fate:?}");
        assert!(!candidate.is_leading());
        assert_eq!(candidate.metrics.master.get(), 0);
        assert!(candidate.metrics.slow_path.get() > 0);
    }
}

#[tokio::test(start_paused = true)]
async fn one_hanging_renewal_costs_a_leader_nothing_whether_it_landed_or_not() {
    for fate in [Fate::Hangs, Fate::LandsAndHangs] {
        let candidate = Candidate::leads().await;
        candidate.script.next_are(&[fate]);
        for _ in 0..300 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert!(candidate.is_leading(), "{fate:?} after {:?}", candidate.start.elapsed());
        }
        assert_eq!(candidate.metrics.slow_path.get(), 1);
        assert_eq!(candidate.leadership.epoch(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_lease_was_taken_ends_at_its_next_renewal() {
    let mut candidate = Candidate::leads().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    candidate.script.writes("b");
    assert_eq!(candidate.ends().await, Err(Loss::Displaced { by: "b".into() }));
    assert_eq!(candidate.start.elapsed(), Duration::from_secs(2));
    assert!(!candidate.is_leading());
    assert_eq!(candidate.script.state(|state| state.lease.clone().unwrap().1.holder), "b");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_leaves_acts_no_longer_and_empties_the_holder() {
    let mut candidate = Candidate::leads().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    candidate.leave.cancel();
    assert_eq!(candidate.ends().await, Ok(()));
    assert!(!candidate.is_leading());
    assert_eq!(candidate.start.elapsed(), Duration::from_secs(3));
    let (last, holder) = candidate
        .script
        .state(|state| (state.writes.last().unwrap().1, state.lease.clone().unwrap().1.holder));
    assert_eq!((last, holder.as_str()), (Purpose::Release, ""));
}

#[tokio::test(start_paused = true)]
async fn a_standby_leaves_at_once_also_while_the_server_is_silent_and_writes_nothing() {
    let mut candidate = Candidate::stands(Script::held_by("b"));
    candidate.script.next_are(&[Fate::Hangs; 100]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    candidate.leave.cancel();
    assert_eq!(candidate.ends().await, Ok(()));
    assert_eq!(candidate.start.elapsed(), Duration::from_secs(1));
    assert_eq!(candidate.script.state(|state| state.writes.len()), 0);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_ends_is_opened_again_after_a_read_and_loses_nothing() {
    let candidate = Candidate::stands(Script::held_by("b"));
    tokio::time::sleep(Duration::from_secs(10)).await;
    // Its last news is from the start; what it reads is the same Lease, and the count goes on.
    candidate.script.state(|state| state.watchers.clear());
    candidate.leadership.taken().await;
    assert_eq!(candidate.start.elapsed(), Duration::from_secs(15));
    assert_eq!(candidate.script.state(|state| state.reads), 2);
}

#[tokio::test(start_paused = true)]
async fn the_lease_is_taken_without_an_election_whoever_holds_it() {
    let script = Script::held_by("b");
    let settings = Settings {
        holder: "a".into(),
        duration: Duration::from_secs(15),
        renew_deadline: Duration::from_secs(10),
        retry_period: Duration::from_secs(2),
    };
    assert_eq!(take(&script, &settings).await.unwrap(), 2);
    assert_eq!(take(&Script::default(), &settings).await.unwrap(), 1, "and made where there is none");
}
