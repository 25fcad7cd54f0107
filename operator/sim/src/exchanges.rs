//! How many exchanges an operator has under way: each begins with the first datagram of a request that it sends, and ends when its link
//! says so. Neither its slots nor its gauges are asked.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The code class of requests (RFC 7252 §3); an empty message is of it, too.
const REQUEST: u8 = 0;

/// What is under way. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Exchanges(Arc<Mutex<HashMap<String, Host>>>);

#[derive(Debug, Default)]
struct Host {
    /// By their tokens.
    open: HashSet<u64>,
    most: (usize, Duration),
}

/// The token of a request; none where it is not one, or not one of an operator's, which have eight bytes.
fn token(datagram: &[u8]) -> Option<u64> {
    let [first, code, _, _, token @ ..] = datagram else { return None };
    let is_request = code >> 5 == REQUEST && *code != 0 && first & 0x0f == 8;
    let token = token.first_chunk().filter(|_| is_request)?;
    Some(u64::from_be_bytes(*token))
}

impl Exchanges {
    fn on<T>(&self, host: &str, act: impl FnOnce(&mut Host) -> T) -> T {
        let mut hosts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        act(hosts.entry(host.to_owned()).or_default())
    }

    /// This host sends a datagram.
    pub fn sent(&self, host: &str, datagram: &[u8], now: Duration) {
        let Some(token) = token(datagram) else { return };
        self.on(host, |host| {
            host.open.insert(token);
            if host.open.len() > host.most.0 {
                host.most = (host.open.len(), now);
            }
        });
    }

    /// The exchange of this token is answered or given up.
    pub fn ended(&self, host: &str, token: u64) {
        self.on(host, |host| host.open.remove(&token));
    }

    /// A process died, and its exchanges with it.
    pub fn died(&self, host: &str) {
        self.on(host, |host| host.open.clear());
    }

    /// The most that this host ever had under way at once, and when.
    pub fn most(&self, host: &str) -> (usize, Duration) {
        self.on(host, |host| host.most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exchange_is_under_way_from_its_first_datagram_until_its_end_and_until_its_process_dies() {
        const GET: u8 = 1;
        const CONTENT: u8 = 2 << 5 | 5;
        let exchanges = Exchanges::default();
        let datagram = |code, id| [0x48, code, 0, id, 0, 0, 0, 0, 0, 0, 0, id];
        let sends =
            |code, id| exchanges.sent("operator-0", &datagram(code, id), Duration::from_secs(id.into()));
        sends(GET, 1);
        sends(GET, 1);
        sends(CONTENT, 2);
        exchanges.sent("operator-0", &[0x40, 0, 0, 3], Duration::ZERO);
        exchanges.sent("operator-1", &datagram(GET, 4), Duration::ZERO);
        assert_eq!(
            exchanges.most("operator-0"),
            (1, Duration::from_secs(1)),
            "no other request than one, twice"
        );
        exchanges.ended("operator-0", 1);
        sends(GET, 5);
        assert_eq!(exchanges.most("operator-0").0, 1, "the first had ended");
        sends(GET, 6);
        assert_eq!(exchanges.most("operator-0"), (2, Duration::from_secs(6)));
        exchanges.died("operator-0");
        sends(GET, 7);
        sends(GET, 8);
        assert_eq!(exchanges.most("operator-0").0, 2, "those of a dead process had ended");
        sends(GET, 9);
        assert_eq!(exchanges.most("operator-0").0, 3);
    }
}
