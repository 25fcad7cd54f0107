//! What a device holds, counted as it comes and goes; all of it is bounded, and lost with the power.

use std::time::Duration;

use super::{Runner, count};
use crate::dedup::{self, Dedup};
use crate::observers::Observers;
use crate::outbox;

impl Runner {
    pub(super) fn lose_volatile(&mut self) {
        self.usage("remembered_messages").sub(count(self.dedup.len()));
        self.dedup = Dedup::default();
        self.observers = Observers::default();
        self.show_observers();
        self.discard_waiting();
    }

    pub(super) fn discard_waiting(&mut self) {
        self.usage("sent_answers").sub(count(self.outbox.remembered()));
        let discarded = self.outbox.clear();
        self.usage("delayed_answers").sub(count(discarded));
        self.shared.metrics.answers.with_label_values(&["discarded"]).inc_by(discarded as u64);
    }

    pub(super) fn remember(&mut self, key: dedup::Key, bytes: Vec<u8>, now: Duration) {
        let before = self.dedup.len();
        self.dedup.remember(key, bytes, now);
        self.usage("remembered_messages").add(count(self.dedup.len()) - count(before));
    }

    pub(super) fn usage(&self, name: &str) -> prometheus::IntGauge {
        self.shared.metrics.usage.with_label_values(&[name])
    }

    pub(super) fn keeps(&self, kept: Result<(), outbox::Full>) {
        match kept {
            Ok(()) => self.usage("delayed_answers").inc(),
            Err(outbox::Full) => self.count("discarded"),
        }
    }

    /// This answer was sent; gives those that it has overtaken.
    pub(super) fn was_sent(&mut self, answer: &outbox::Answer) -> Vec<outbox::Answer> {
        let before = self.outbox.remembered();
        let overtaken = self.outbox.sent(answer);
        self.usage("sent_answers").add(count(self.outbox.remembered()) - count(before));
        overtaken
    }
}
