//! For how long a device has been silent. Time in which it could not answer, since a question waited here, was asked too late, or had an
//! answer that nobody looked at, is no silence of its. Pure.

use std::time::Duration;

use tokio::time::Instant;

use super::answer::{Answer, Outcome};
use super::memory::Memory;
use super::validate::Patience;

impl Memory {
    /// How long nothing was heard, without the time that questions waited here.
    pub fn silence(&self, now: Instant) -> Duration {
        let queued = self.queued + self.waits(now).unwrap_or_default() + self.late(now);
        now.saturating_duration_since(self.heard.unwrap_or(self.since)).saturating_sub(queued)
    }

    /// How long a question is overdue that nobody asks, or an answer waits to be looked at.
    fn late(&self, now: Instant) -> Duration {
        match self.busy {
            Some(_) => Duration::ZERO,
            None => now.saturating_duration_since(self.next_probe.max(self.idle_since)),
        }
    }

    /// It is looked at now: that it was not before is no fault of the device.
    pub fn excuse(&mut self, now: Instant) {
        self.queued += self.late(now);
        self.idle_since = now;
    }

    /// Its exchange ended.
    pub fn ended(&mut self, outcome: Outcome, now: Instant) {
        self.busy = None;
        self.idle_since = now;
        self.inbox = Some(Box::new(outcome));
    }

    /// Has it given a sign of life that was not looked at yet?
    pub fn has_answered(&self) -> bool {
        let answered = |outcome: &Outcome| !matches!(outcome.answer, Answer::Silence | Answer::Abandoned);
        self.pushed.is_some() || self.inbox.as_deref().is_some_and(answered)
    }

    /// For how long a question that is asked now goes on without any answer, until it is given up and asked afresh: so that its first three
    /// transmissions fall before the device is suspected, not the gap of up to 24 s between the fourth and the fifth. None where
    /// it would not have gone on for as long itself: with little patience, and once it is asked afresh, so that this is once in a silence.
    pub fn goes_on_for(&self, patience: Patience, opening: Duration, now: Instant) -> Option<Duration> {
        let left = patience.suspect.saturating_sub(self.silence(now));
        left.checked_sub(opening).filter(|long| *long >= opening)
    }

    /// How long a question has been waiting to be sent, if one is.
    pub fn waits(&self, now: Instant) -> Option<Duration> {
        let busy = self.busy.as_ref().filter(|busy| !busy.sent)?;
        Some(now.saturating_duration_since(busy.asked))
    }

    /// This exchange begins, or ends unsent.
    pub fn leaves_queue(&mut self, number: u64, now: Instant) {
        let waited = self.waits(now);
        if let Some(busy) = self.busy.as_mut().filter(|busy| busy.number == number) {
            busy.sent = true;
            let waited = waited.unwrap_or_default();
            self.queued += waited;
            self.untold = self.untold.map(|since| since + waited);
        }
    }

    /// Silence is counted from now.
    pub fn begin_anew(&mut self, now: Instant) {
        self.heard = None;
        self.since = now;
        self.queued = Duration::ZERO;
        self.doubtful = false;
    }
}
