//! The right to act, as everybody else in this process sees it: an epoch, and until when it is good. Asked before
//! each command to a device and each write to the API server, so it is two atomic words and no lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use thiserror::Error;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// This process does not lead, or no longer knows that it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("this process does not lead (any more): nothing is sent and nothing is written")]
pub struct NotLeading;

/// Whether this process leads. Clones share it.
#[derive(Clone, Debug)]
pub struct Leadership(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    origin: Instant,
    /// 0 before it is taken.
    epoch: AtomicU64,
    /// Nanoseconds after `origin`, on the clock that waits use; no longer good from then on.
    until: AtomicU64,
    taken: CancellationToken,
}

/// For a process that leads without an election.
const FOR_EVER: u64 = u64::MAX;

impl Leadership {
    /// Not leading yet.
    pub fn none() -> Self {
        let (epoch, until) = (AtomicU64::new(0), AtomicU64::new(0));
        Self(Arc::new(Inner { origin: Instant::now(), epoch, until, taken: CancellationToken::new() }))
    }

    /// Leads with this epoch until `until`, if nobody says more.
    pub fn grant(&self, epoch: u64, until: Instant) {
        let nanoseconds = until.saturating_duration_since(self.0.origin).as_nanos();
        self.set(epoch, u64::try_from(nanoseconds).unwrap_or(FOR_EVER));
    }

    /// Leads with this epoch until the process ends: no election.
    pub fn grant_for_ever(&self, epoch: u64) {
        self.set(epoch, FOR_EVER);
    }

    fn set(&self, epoch: u64, until: u64) {
        self.0.epoch.store(epoch, Ordering::Release);
        self.0.until.store(until, Ordering::Release);
        self.0.taken.cancel();
    }

    /// Leads no longer. The epoch stays what it was: it is the process's last one.
    pub fn end(&self) {
        self.0.until.store(0, Ordering::Release);
    }

    /// May this process act now?
    ///
    /// # Errors
    /// When it may not.
    pub fn check(&self) -> Result<(), NotLeading> {
        let until = self.0.until.load(Ordering::Acquire);
        let good = until == FOR_EVER || self.0.origin.elapsed().as_nanos() < u128::from(until);
        if good { Ok(()) } else { Err(NotLeading) }
    }

    /// Orders this leader's commands after those of the ones before it; 0 before it leads.
    pub fn epoch(&self) -> u64 {
        self.0.epoch.load(Ordering::Acquire)
    }

    /// Ends when it has led for the first time.
    pub async fn taken(&self) {
        self.0.taken.cancelled().await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_right_ends_by_the_clock_alone_and_a_longer_one_begins_where_it_is_granted() {
        let leadership = Leadership::none();
        let seen_elsewhere = leadership.clone();
        assert_eq!((seen_elsewhere.check(), seen_elsewhere.epoch()), (Err(NotLeading), 0));
        leadership.grant(7, Instant::now() + Duration::from_secs(10));
        seen_elsewhere.taken().await;
        assert_eq!((seen_elsewhere.check(), seen_elsewhere.epoch()), (Ok(()), 7));
        tokio::time::advance(Duration::from_secs(9)).await;
        assert_eq!(seen_elsewhere.check(), Ok(()));
        leadership.grant(7, Instant::now() + Duration::from_secs(10));
        tokio::time::advance(Duration::from_secs(9)).await;
        assert_eq!(seen_elsewhere.check(), Ok(()));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(seen_elsewhere.check(), Err(NotLeading));
    }

    #[tokio::test(start_paused = true)]
    async fn a_right_that_is_given_up_is_over_at_once() {
        let leadership = Leadership::none();
        leadership.grant_for_ever(3);
        tokio::time::advance(Duration::from_secs(1 << 40)).await;
        assert_eq!(leadership.check(), Ok(()));
        leadership.end();
        assert_eq!((leadership.check(), leadership.epoch()), (Err(NotLeading), 3));
    }
}
