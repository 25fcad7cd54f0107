//! Where the message ids of a device begin. Pure but for the seed.

use edge_api::choose::rank;
use tokio::time::Instant;

use super::key::Key;

/// So often a device may be asked, in milliseconds, that the ids of one object of a name never meet those of the object before it: all
/// 65,536 of them last for 262 s, and a device may answer out of its memory for 247 s (EXCHANGE_LIFETIME, RFC 7252 §4.8.2).
const EACH_MS: u128 = 4;

/// The message ids of one process.
pub(super) struct MessageIds {
    /// A process that has the ports of the one before begins elsewhere.
    seed: u64,
    began: Instant,
}

impl MessageIds {
    /// Counted from now on.
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, began: Instant::now() }
    }

    /// The first one of a device that is remembered from now on. Another object of the same name begins where the one before it has not
    /// come to; other names begin elsewhere: perhaps they are at the same address.
    pub(super) fn first(&self, key: &Key, now: Instant) -> u16 {
        let begin = u128::from(rank(self.seed, &key.namespace, &key.name));
        let passed = now.saturating_duration_since(self.began).as_millis() / EACH_MS;
        let [low, high, ..] = (begin + passed).to_le_bytes();
        u16::from_le_bytes([low, high])
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::Duration;

    use super::*;

    fn key(name: &str) -> Key {
        Key { namespace: "demo".to_owned(), name: name.to_owned() }
    }

    #[test]
    fn an_object_made_again_does_not_use_the_ids_of_the_one_before_it_while_the_device_remembers_them() {
        for seed in [0, 1, 77, u64::MAX] {
            let ids = MessageIds::new(seed);
            let (mut used, mut age) = (HashSet::new(), Duration::ZERO);
            // Objects of one name, each asked as often as may be until the next one is in its place.
            for lives in [1_u64, 7, 100, 30_000, 120_000, 40, 90_000] {
                let first = ids.first(&key("pump"), ids.began + age);
                for id in 0..u16::try_from(lives / 4).unwrap() {
                    assert!(
                        used.insert(first.wrapping_add(id)),
                        "seed {seed}, {age:?}: {first} and {id} more"
                    );
                }
                age += Duration::from_millis(lives.next_multiple_of(4));
            }
            assert!(age < Duration::from_secs(247), "{age:?}");
        }
    }

    #[test]
    fn two_names_at_one_address_and_two_processes_begin_elsewhere() {
        let (one, other) = (MessageIds::new(1), MessageIds::new(2));
        let first = |ids: &MessageIds, name| ids.first(&key(name), ids.began);
        assert_ne!(first(&one, "pump"), first(&one, "valve"));
        assert_ne!(first(&one, "pump"), first(&other, "pump"));
    }
}
