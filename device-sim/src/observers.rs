//! Who is told of a device's changes (RFC 7641). Bounded, volatile, and pure.

use std::net::SocketAddr;
use std::time::Duration;

/// Observers of one device; another one takes the place of the one that has not asked for longest.
pub const OBSERVERS: usize = 4;
/// An observer that has not asked again for so long is told no more (RFC 7641 §4.5 wants to know it alive each day).
pub const LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// Sequence numbers have 24 bits (RFC 7641 §3.4).
const MASK: u32 = (1 << 24) - 1;

/// One that is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observer {
    /// Where it is.
    pub peer: SocketAddr,
    /// The token of its request, and of all that it is told.
    pub token: Vec<u8>,
    asked: Duration,
    /// The message id of the last notification, which it may reset.
    last: Option<u16>,
}

/// All observers of a device.
#[derive(Debug, Default)]
pub struct Observers {
    all: Vec<Observer>,
    sequence: u32,
}

impl Observers {
    /// Asks to be told, or to be told on; gives the sequence of the answer.
    pub fn register(&mut self, peer: SocketAddr, token: &[u8], now: Duration) -> u32 {
        self.cancel(peer, token);
        if self.all.len() >= OBSERVERS {
            // The oldest is in front: each that asks goes to the end.
            self.all.remove(0);
        }
        self.all.push(Observer { peer, token: token.to_vec(), asked: now, last: None });
        self.next_sequence()
    }

    /// Asks to be told no more.
    pub fn cancel(&mut self, peer: SocketAddr, token: &[u8]) {
        self.all.retain(|observer| (observer.peer, observer.token.as_slice()) != (peer, token));
    }

    /// Does not know what a notification is about (RFC 7641 §3.6).
    pub fn reset(&mut self, peer: SocketAddr, message_id: u16) {
        self.all.retain(|observer| (observer.peer, observer.last) != (peer, Some(message_id)));
    }

    /// Who is to be told now.
    pub fn present(&mut self, now: Duration) -> Vec<Observer> {
        self.all.retain(|observer| now.saturating_sub(observer.asked) < LIFETIME);
        self.all.clone()
    }

    /// It is told by this message; gives its sequence.
    pub fn told(&mut self, observer: &Observer, message_id: u16) -> u32 {
        let same = |it: &&mut Observer| (it.peer, &it.token) == (observer.peer, &observer.token);
        if let Some(told) = self.all.iter_mut().find(same) {
            told.last = Some(message_id);
        }
        self.next_sequence()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Is there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence = (self.sequence + 1) & MASK;
        self.sequence
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn who_asks_again_with_the_same_token_is_one_observer_and_sequences_rise() {
        let mut observers = Observers::default();
        let sequences = [1, 1, 2].map(|port| observers.register(peer(port), b"t", Duration::ZERO));
        assert_eq!((sequences, observers.len()), ([1, 2, 3], 2));
        let present = observers.present(Duration::ZERO);
        assert_eq!(present.iter().map(|observer| observers.told(observer, 7)).collect::<Vec<_>>(), [4, 5]);
        observers.cancel(peer(1), b"other");
        assert_eq!(observers.len(), 2);
        observers.cancel(peer(1), b"t");
        assert_eq!(observers.len(), 1);
    }

    #[test]
    fn a_reset_of_the_last_notification_ends_it() {
        let mut observers = Observers::default();
        observers.register(peer(1), b"t", Duration::ZERO);
        let observer = observers.present(Duration::ZERO).remove(0);
        observers.told(&observer, 7);
        observers.reset(peer(2), 7);
        observers.reset(peer(1), 6);
        assert_eq!(observers.len(), 1);
        observers.reset(peer(1), 7);
        assert!(observers.is_empty());
    }

    #[test]
    fn above_the_limit_the_one_that_has_not_asked_for_longest_goes_and_all_go_after_a_day() {
        let mut observers = Observers::default();
        for port in [1, 2, 3, 4, 1, 5] {
            observers.register(peer(port), b"t", Duration::from_secs(u64::from(port)));
        }
        let ports: Vec<u16> = observers.present(Duration::ZERO).iter().map(|it| it.peer.port()).collect();
        assert_eq!(ports, [3, 4, 1, 5]);
        assert_eq!(observers.present(Duration::from_secs(3) + LIFETIME).len(), 2);
    }
}
