//! The message ids of exchanges with a device. Pure but for the seed.

use edge_api::choose::rank;
use tokio::time::Instant;

use super::key::Key;

/// An id is used again after 65,536 times as many milliseconds, which are 262 s, whichever object of a name asks, and however often it is
/// made again: a device may answer out of its memory for 247 s (EXCHANGE_LIFETIME, RFC 7252 §4.8.2). A device is asked less often.
const EACH_MS: u128 = 4;

/// The message ids of one process.
#[derive(Debug)]
pub(super) struct MessageIds {
    /// A process that has the ports of the one before begins elsewhere.
    seed: u64,
    began: Instant,
}

/// Those of one device.
#[derive(Clone, Debug)]
pub struct DeviceIds {
    offset: u64,
    began: Instant,
    /// The last one, as if there were more than 65,536.
    last: u64,
}

impl MessageIds {
    /// Counted from now on.
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, began: Instant::now() }
    }

    /// Those of a device, whichever object of its name asks. Other names begin elsewhere: perhaps they are at the same address.
    pub(super) fn of(&self, key: &Key) -> DeviceIds {
        DeviceIds { offset: rank(self.seed, &key.namespace, &key.name), began: self.began, last: 0 }
    }
}

impl DeviceIds {
    /// The id of a question that is asked now.
    pub(super) fn next(&mut self, now: Instant) -> u16 {
        let passed = now.saturating_duration_since(self.began).as_millis() / EACH_MS;
        self.last = u64::try_from(passed).unwrap_or(u64::MAX).max(self.last + 1);
        let [low, high, ..] = self.offset.wrapping_add(self.last).to_le_bytes();
        u16::from_le_bytes([low, high])
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use super::*;

    fn key(name: &str) -> Key {
        Key { namespace: "demo".into(), name: name.into() }
    }

    #[test]
    fn no_id_comes_again_while_the_device_may_remember_it_however_often_its_object_is_made_again() {
        let ids = MessageIds::new(77);
        let mut used: HashMap<u16, Duration> = HashMap::new();
        let mut age = Duration::ZERO;
        // Objects of one name, each asked so often in so many milliseconds, the last ones as fast as they may.
        for (questions, each_ms) in [(30, 10_000), (1, 100), (500, 20), (3, 90_000), (40, 6_500), (60_000, 4)]
        {
            let mut object = ids.of(&key("pump"));
            for _ in 0..questions {
                let id = object.next(ids.began + age);
                if let Some(before) = used.insert(id, age) {
                    assert!(age - before >= Duration::from_secs(247), "{id} after {before:?} at {age:?}");
                }
                age += Duration::from_millis(each_ms);
            }
        }
        assert!(age > Duration::from_secs(600), "{age:?}");
    }

    #[test]
    fn questions_of_one_moment_have_ids_of_their_own() {
        let mut ids = MessageIds::new(1).of(&key("pump"));
        let now = ids.began + Duration::from_secs(9);
        let all = [0; 3].map(|_| ids.next(now));
        assert_eq!([all[1].wrapping_sub(all[0]), all[2].wrapping_sub(all[1])], [1, 1]);
    }

    #[test]
    fn two_names_at_one_address_and_two_processes_begin_elsewhere() {
        let (one, other) = (MessageIds::new(1), MessageIds::new(2));
        let first = |ids: &MessageIds, name| ids.of(&key(name)).next(ids.began);
        assert_ne!(first(&one, "pump"), first(&one, "valve"));
        assert_ne!(first(&one, "pump"), first(&other, "pump"));
    }
}
