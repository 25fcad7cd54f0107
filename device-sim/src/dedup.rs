//! Messages that were answered already (RFC 7252 §4.5): a repeated one gets the same answer again and has
//! no second effect. Bounded in time and number, and lost with the power.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

/// How long a message id counts as the same message: EXCHANGE_LIFETIME (RFC 7252 §4.8.2).
pub const LIFETIME: Duration = Duration::from_secs(247);
/// Messages remembered by one device. Above, the oldest is forgotten, which is harmless: commands are
/// idempotent by their own id.
pub const CAPACITY: usize = 128;

/// Who sent it, and its message id.
pub type Key = (SocketAddr, u16);

/// The answers to the latest messages.
#[derive(Debug, Default)]
pub struct Dedup {
    answers: HashMap<Key, Vec<u8>>,
    order: VecDeque<(Duration, Key)>,
}

impl Dedup {
    /// The answer given to this message, if it came before.
    pub fn answer(&mut self, key: Key, now: Duration) -> Option<&[u8]> {
        self.expire(now);
        self.answers.get(&key).map(Vec::as_slice)
    }

    /// Remembers an answer; the oldest is forgotten for it when there are too many.
    pub fn remember(&mut self, key: Key, answer: Vec<u8>, now: Duration) {
        self.expire(now);
        if self.answers.insert(key, answer).is_none() {
            self.order.push_back((now + LIFETIME, key));
        }
        if self.order.len() > CAPACITY {
            self.forget_oldest();
        }
    }

    /// Messages remembered now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Is none remembered?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    fn expire(&mut self, now: Duration) {
        while self.order.front().is_some_and(|(until, _)| *until <= now) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, key)) = self.order.pop_front() {
            self.answers.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(port: u16, message: u16) -> Key {
        (SocketAddr::from(([127, 0, 0, 1], port)), message)
    }

    #[test]
    fn a_repeated_message_gets_its_answer_again_until_its_lifetime_ends() {
        let mut dedup = Dedup::default();
        dedup.remember(key(1, 7), vec![1], Duration::ZERO);
        let just_before = LIFETIME - Duration::from_millis(1);
        assert_eq!(dedup.answer(key(1, 7), just_before), Some([1].as_slice()));
        assert_eq!(dedup.answer(key(2, 7), just_before), None, "another sender");
        assert_eq!(dedup.answer(key(1, 8), just_before), None, "another message");
        assert_eq!(dedup.answer(key(1, 7), LIFETIME), None);
        assert!(dedup.is_empty());
    }

    #[test]
    fn above_its_capacity_the_oldest_is_forgotten() {
        let mut dedup = Dedup::default();
        for message in 0..u16::try_from(CAPACITY).unwrap() {
            dedup.remember(key(1, message), vec![], Duration::ZERO);
        }
        assert!(dedup.answer(key(1, 0), Duration::ZERO).is_some());
        dedup.remember(key(2, 0), vec![], Duration::ZERO);
        assert_eq!(dedup.len(), CAPACITY);
        assert_eq!(dedup.answer(key(1, 0), Duration::ZERO), None);
        assert!(dedup.answer(key(1, 1), Duration::ZERO).is_some());
    }
}
