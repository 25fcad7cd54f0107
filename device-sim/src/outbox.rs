//! Answers of one device that wait: late ones for their time, held ones until another has overtaken them. It also
//! remembers the latest that were sent, to be sent once more. Pure and bounded; `transport` does the sending.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

/// Late, repeated and held answers that one device may have waiting; above, they are discarded and counted.
pub const DELAYED_ANSWERS: usize = 64;
/// Answers that were sent and are remembered.
pub const SENT_ANSWERS: usize = 8;

/// An answer, and who it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Who it is for.
    pub peer: SocketAddr,
    /// The datagram.
    pub bytes: Vec<u8>,
}

/// The outbox is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// Answers that wait, by time and number, and those that were sent.
#[derive(Debug, Default)]
pub struct Outbox {
    waiting: BTreeMap<(Duration, u64), Waiting>,
    sent: VecDeque<Answer>,
    numbered: u64,
}

#[derive(Debug)]
struct Waiting {
    answer: Answer,
    held: bool,
}

impl Outbox {
    /// To be sent at `at`.
    ///
    /// # Errors
    /// When too many wait.
    pub fn delay(&mut self, answer: Answer, at: Duration) -> Result<(), Full> {
        self.put(Waiting { answer, held: false }, at)
    }

    /// To be sent once another answer to the same peer has overtaken it, and at `longest` in any case.
    ///
    /// # Errors
    /// When too many wait.
    pub fn hold(&mut self, answer: Answer, longest: Duration) -> Result<(), Full> {
        self.put(Waiting { answer, held: true }, longest)
    }

    fn put(&mut self, waiting: Waiting, at: Duration) -> Result<(), Full> {
        if self.waiting.len() >= DELAYED_ANSWERS {
            return Err(Full);
        }
        self.numbered += 1;
        self.waiting.insert((at, self.numbered), waiting);
        Ok(())
    }

    /// When the next answer is due.
    #[must_use]
    pub fn due_at(&self) -> Option<Duration> {
        self.waiting.keys().next().map(|(at, _)| *at)
    }

    /// An answer that is due.
    pub fn due(&mut self, now: Duration) -> Option<Answer> {
        let first = self.waiting.first_entry().filter(|entry| entry.key().0 <= now)?;
        Some(first.remove().answer)
    }

    /// This answer was sent: remembers it, and gives those that were held back until one like this came. A copy
    /// of a held one overtakes nothing.
    pub fn sent(&mut self, answer: &Answer) -> Vec<Answer> {
        if self.sent.len() >= SENT_ANSWERS {
            self.sent.pop_front();
        }
        self.sent.push_back(answer.clone());
        let overtaken = |waiting: &Waiting| {
            waiting.held && waiting.answer.peer == answer.peer && waiting.answer.bytes != answer.bytes
        };
        let keys: Vec<_> = self.waiting.iter().filter(|(_, w)| overtaken(w)).map(|(key, _)| *key).collect();
        keys.iter().filter_map(|key| self.waiting.remove(key)).map(|waiting| waiting.answer).collect()
    }

    /// An answer that was sent to this peer earlier than the last one; `draw` chooses.
    #[must_use]
    pub fn earlier(&self, peer: SocketAddr, draw: u64) -> Option<&Answer> {
        let to_peer: Vec<_> = self.sent.iter().filter(|answer| answer.peer == peer).collect();
        let (_, earlier) = to_peer.split_last()?;
        let which = usize::try_from(draw % earlier.len().max(1) as u64).unwrap_or(0);
        earlier.get(which).copied()
    }

    /// Answers that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Answers that were sent and are remembered.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.sent.len()
    }

    /// Does none wait?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Forgets all; gives how many waited.
    pub fn clear(&mut self) -> usize {
        self.sent.clear();
        std::mem::take(&mut self.waiting).len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(port: u16, byte: u8) -> Answer {
        Answer { peer: SocketAddr::from(([127, 0, 0, 1], port)), bytes: vec![byte] }
    }

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn late_answers_leave_at_their_times_in_order() {
        let mut outbox = Outbox::default();
        for (byte, at) in [(1, 3), (2, 1), (3, 1)] {
            outbox.delay(answer(1, byte), secs(at)).unwrap();
        }
        assert_eq!((outbox.due_at(), outbox.due(Duration::ZERO)), (Some(secs(1)), None));
        let left: Vec<u8> =
            std::iter::from_fn(|| outbox.due(secs(3))).map(|answer| answer.bytes[0]).collect();
        assert_eq!(left, [2, 3, 1]);
    }

    #[test]
    fn a_held_answer_leaves_behind_another_one_to_the_same_peer_or_at_its_time() {
        let mut outbox = Outbox::default();
        outbox.hold(answer(1, 1), secs(9)).unwrap();
        assert_eq!(outbox.sent(&answer(2, 5)), [], "that is another peer");
        assert_eq!(outbox.sent(&answer(1, 1)), [], "that is itself, sent again");
        assert_eq!(outbox.sent(&answer(1, 2)), [answer(1, 1)]);
        outbox.hold(answer(1, 3), secs(9)).unwrap();
        assert_eq!(outbox.due(secs(8)), None);
        assert_eq!(outbox.due(secs(9)), Some(answer(1, 3)));
    }

    #[test]
    fn the_latest_that_were_sent_can_be_sent_again_but_for_the_last() {
        let mut outbox = Outbox::default();
        outbox.sent(&answer(1, 0));
        assert_eq!(outbox.earlier(answer(1, 0).peer, 7), None);
        for byte in 1..40 {
            outbox.sent(&answer(1, byte));
        }
        for draw in 0..40 {
            let earlier = outbox.earlier(answer(1, 0).peer, draw).unwrap().bytes[0];
            assert!((32..39).contains(&earlier), "{earlier}");
        }
        assert_eq!(outbox.earlier(answer(2, 0).peer, 0), None);
    }

    #[test]
    fn above_its_capacity_nothing_more_waits() {
        let mut outbox = Outbox::default();
        for _ in 0..DELAYED_ANSWERS {
            outbox.delay(answer(1, 1), secs(1)).unwrap();
        }
        assert_eq!(outbox.hold(answer(1, 1), secs(1)), Err(Full));
        assert_eq!((outbox.clear(), outbox.is_empty()), (DELAYED_ANSWERS, true));
    }
}
