//! Who is observed (RFC 7641): which notification is whose, and whether it is newer than the last. Pure and bounded:
//! above the limit devices are probed and not observed.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::wire::Token;
use crate::budget::Bucket;

/// After so long any notification is newer than the last one (RFC 7641 §3.4).
const FRESH_FOR: Duration = Duration::from_secs(128);
/// Sequence numbers have 24 bits and wrap around; what is less than half of them ahead is newer.
const HALF: u32 = 1 << 23;
const MASK: u32 = (1 << 24) - 1;

/// What is observed: a Device object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Subject {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// A report that came by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// Whose.
    pub subject: Subject,
    /// CBOR, not looked at yet.
    pub payload: Vec<u8>,
}

/// What a notification is.
#[derive(Debug, PartialEq, Eq)]
pub enum Sight<'a> {
    /// News of this one.
    Newer(&'a Subject),
    /// It was overtaken by a later one, or came twice.
    Older,
    /// The device tells more than it may: whoever observes it asks again.
    TooMuch,
    /// Nobody asked for it: whoever sends it shall stop.
    Unasked,
}

struct Observation {
    peer: SocketAddr,
    subject: Arc<Subject>,
    last: Option<(u32, Instant)>,
    /// How much of what it tells is heeded.
    heeded: Bucket,
}

/// How many notifications of one device are heeded at once, and how many a second after that.
#[derive(Clone, Copy, Debug)]
pub struct Heed {
    /// At once.
    pub burst: u32,
    /// A second.
    pub rate: f64,
}

/// All that is observed, by token.
pub struct Observations {
    by_token: HashMap<Token, Observation>,
    tokens: HashMap<Arc<Subject>, Token>,
    limit: usize,
    heed: Heed,
}

impl Observations {
    /// At most `limit`, and of what each tells so much.
    pub fn new(limit: usize, heed: Heed) -> Self {
        Self { by_token: HashMap::new(), tokens: HashMap::new(), limit, heed }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_token.len()
    }

    /// Is nothing observed?
    pub fn is_empty(&self) -> bool {
        self.by_token.is_empty()
    }

    /// The token of a request that begins or renews the observation of `subject` at `peer`; `fresh` is random and used
    /// for a new one. None when there are too many.
    pub fn token(&mut self, subject: &Subject, peer: SocketAddr, fresh: Token) -> Option<Token> {
        if let Some(token) = self.tokens.get(subject) {
            if self.by_token.get(token).is_some_and(|observation| observation.peer == peer) {
                return Some(*token);
            }
            self.forget(subject);
        }
        if self.by_token.len() >= self.limit {
            return None;
        }
        let subject = Arc::new(subject.clone());
        self.tokens.insert(subject.clone(), fresh);
        let heeded = Bucket::new(self.heed.burst, self.heed.rate);
        self.by_token.insert(fresh, Observation { peer, subject, last: None, heeded });
        Some(fresh)
    }

    /// The device answered the request: what it sends from now on is newer than `sequence`, also after a reboot.
    pub fn begin(&mut self, token: Token, sequence: u32, now: Instant) {
        if let Some(observation) = self.by_token.get_mut(&token) {
            observation.last = Some((sequence & MASK, now));
        }
    }

    /// A notification came.
    pub fn notified(&mut self, peer: SocketAddr, token: Token, sequence: u32, now: Instant) -> Sight<'_> {
        let Some(observation) = self.by_token.get_mut(&token).filter(|it| it.peer == peer) else {
            return Sight::Unasked;
        };
        let newer = observation.last.is_none_or(|last| is_newer(last, (sequence & MASK, now)));
        if !newer {
            return Sight::Older;
        }
        observation.last = Some((sequence & MASK, now));
        match observation.heeded.take(now) {
            Ok(()) => Sight::Newer(&observation.subject),
            Err(_wait) => Sight::TooMuch,
        }
    }

    /// It is observed no longer.
    pub fn forget(&mut self, subject: &Subject) {
        if let Some(token) = self.tokens.remove(subject) {
            self.by_token.remove(&token);
        }
    }
}

/// RFC 7641 §3.4.
fn is_newer((last, then): (u32, Instant), (next, now): (u32, Instant)) -> bool {
    let ahead = next.wrapping_sub(last) & MASK;
    (ahead != 0 && ahead < HALF) || now.saturating_duration_since(then) > FRESH_FOR
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn subject(name: &str) -> Subject {
        Subject { namespace: "edge-demo".into(), name: name.into(), uid: "u1".into() }
    }

    fn observing(limit: usize) -> Observations {
        Observations::new(limit, Heed { burst: 100, rate: 1.0 })
    }

    fn peer(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 20, 0, last], 5683))
    }

    #[test]
    fn notifications_that_were_overtaken_or_come_twice_are_older() {
        let (mut observations, now) = (observing(4), Instant::now());
        let token = observations.token(&subject("a"), peer(1), [1; 8]).unwrap();
        observations.begin(token, 5, now);
        let mut came = |sequence, after| {
            let at = now + Duration::from_secs(after);
            observations.notified(peer(1), token, sequence, at) == Sight::Newer(&subject("a"))
        };
        let seen = [(7, 1), (6, 2), (7, 3), (8, 4), (3, 5)].map(|(sequence, after)| came(sequence, after));
        assert_eq!(seen, [true, false, false, true, false]);
        assert!(came(2, 4 + 129), "after 128 s any is newer");
    }

    #[test]
    fn sequences_wrap_around_at_24_bits() {
        let now = Instant::now();
        let newer = |last, next| is_newer((last, now), (next, now));
        assert!(newer(MASK, 0) && newer(MASK - 3, 2) && newer(0, HALF - 1));
        assert!(!newer(0, MASK) && !newer(0, HALF) && !newer(9, 9));
    }

    #[test]
    fn a_device_that_answers_after_a_reboot_counts_anew() {
        let (mut observations, now) = (observing(4), Instant::now());
        let token = observations.token(&subject("a"), peer(1), [1; 8]).unwrap();
        observations.begin(token, 900, now);
        observations.begin(token, 1, now);
        assert_eq!(observations.notified(peer(1), token, 2, now), Sight::Newer(&subject("a")));
    }

    #[test]
    fn a_token_is_kept_for_a_peer_and_what_comes_from_elsewhere_is_unasked() {
        let (mut observations, now) = (observing(4), Instant::now());
        let mut token = |last, fresh: u8| observations.token(&subject("a"), peer(last), [fresh; 8]);
        assert_eq!((token(1, 1), token(1, 2)), (Some([1; 8]), Some([1; 8])));
        assert_eq!(token(2, 3), Some([3; 8]), "it has moved");
        assert_eq!(observations.notified(peer(1), [1; 8], 1, now), Sight::Unasked);
        assert_eq!(observations.notified(peer(1), [3; 8], 1, now), Sight::Unasked);
        assert_eq!(observations.notified(peer(2), [3; 8], 1, now), Sight::Newer(&subject("a")));
        observations.forget(&subject("a"));
        assert_eq!(observations.notified(peer(2), [3; 8], 2, now), Sight::Unasked);
        assert!(observations.is_empty() && observations.tokens.is_empty());
    }

    #[test]
    fn of_a_device_that_tells_without_end_so_much_is_heeded_and_of_others_no_less() {
        let mut observations = Observations::new(2, Heed { burst: 5, rate: 1.0 });
        let start = Instant::now();
        observations.token(&subject("a"), peer(1), [1; 8]).unwrap();
        observations.token(&subject("b"), peer(2), [2; 8]).unwrap();
        let (mut heeded, mut sequence) = (0, 0);
        for tenths in 0..600 {
            let now = start + Duration::from_millis(100 * tenths);
            for _ in 0..10 {
                sequence += 1;
                match observations.notified(peer(1), [1; 8], sequence, now) {
                    Sight::Newer(_) => heeded += 1,
                    Sight::TooMuch => {}
                    other => panic!("{other:?}"),
                }
            }
        }
        assert!((64..=65).contains(&heeded), "{heeded} of {sequence} in a minute");
        let later = start + Duration::from_secs(60);
        assert_eq!(observations.notified(peer(2), [2; 8], 1, later), Sight::Newer(&subject("b")));
        assert_eq!(
            observations.notified(peer(1), [1; 8], 1, later),
            Sight::Older,
            "what was not heeded is known"
        );
    }

    #[test]
    fn above_the_limit_nothing_more_is_observed_until_something_is_forgotten() {
        let mut observations = observing(2);
        let mut token = |name: &str, fresh: u8| observations.token(&subject(name), peer(1), [fresh; 8]);
        assert!(token("a", 1).is_some() && token("b", 2).is_some());
        assert_eq!(token("c", 3), None);
        assert!(token("a", 4).is_some(), "that one is observed already");
        observations.forget(&subject("a"));
        assert!(observations.token(&subject("c"), peer(1), [3; 8]).is_some());
        assert_eq!((observations.len(), observations.tokens.len()), (2, 2));
    }

    proptest! {
        /// Whatever the order of arrival, within 128 s what counts as newer only moves forward.
        #[test]
        fn news_only_move_forward(sequences in prop::collection::vec(0_u32..1000, 1..50)) {
            let (mut observations, now) = (observing(1), Instant::now());
            let token = observations.token(&subject("a"), peer(1), [1; 8]).unwrap();
            let mut newest = None;
            for sequence in sequences {
                let newer = matches!(observations.notified(peer(1), token, sequence, now), Sight::Newer(_));
                prop_assert_eq!(newer, newest.is_none_or(|newest| sequence > newest));
                newest = newest.max(Some(sequence));
            }
        }
    }
}
