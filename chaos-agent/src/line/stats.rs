//! What the engine counts. One thread writes, anybody reads at any time; no lock, and no atomic operation that costs
//! more than a store.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use edge_api::fault_node::Scheduling;
use fault_abi::lateness::{BUCKETS, bounds, bucket};

/// A number that one thread changes and others read.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Its value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Adds; only the engine's thread does, so nothing is lost between load and store.
    pub(super) fn add(&self, number: u64) {
        self.set(self.get().wrapping_add(number));
    }

    pub(super) fn set(&self, number: u64) {
        self.0.store(number, Ordering::Relaxed);
    }
}

/// The engine's numbers. Bytes are those of Ethernet frames, without tickets.
#[derive(Debug, Default)]
pub struct Stats {
    /// Packets that are in the line now.
    pub held_packets: Count,
    /// Their bytes.
    pub held_bytes: Count,
    /// Packets that came out of the TAP with a good ticket.
    pub in_packets: Count,
    /// Their bytes.
    pub in_bytes: Count,
    /// Packets that were written back.
    pub out_packets: Count,
    /// Their bytes.
    pub out_bytes: Count,
    /// Frames without a good ticket, or too long: dropped.
    pub malformed: Count,
    /// Packets that the TAP did not take back, or not as a whole: lost.
    pub write_failures: Count,
    /// Writes that were tried again since the kernel had no memory at that moment.
    pub write_retries: Count,
    /// Packets that hooks had counted in and that were lost before they came here: counted out by [`super::audit`].
    pub settled: Count,
    /// Turns in which frames may have had to wait in the TAP's queue, since the pool was full.
    pub full: Count,
    /// How soon the engine's thread runs when it is woken; it says so when it has begun.
    pub scheduling: OnceLock<Scheduling>,
    /// How late packets leave, in nanoseconds: from the time in the ticket to after the write, and those of a few more
    /// that were due at the same moment.
    pub lateness: Lateness,
}

/// A histogram whose buckets are an eighth of a power of two wide: what [`Figures::quantile`] says is off by 6.25 % at
/// most.
#[derive(Debug)]
pub struct Lateness {
    buckets: Box<[Count; BUCKETS]>,
    /// The sum of all numbers, in nanoseconds.
    pub sum: Count,
}

impl Default for Lateness {
    fn default() -> Self {
        Self { buckets: Box::new([const { Count(AtomicU64::new(0)) }; BUCKETS]), sum: Count::default() }
    }
}

impl Lateness {
    pub(super) fn record(&self, nanoseconds: u64) {
        self.buckets[bucket(nanoseconds)].add(1);
        self.sum.add(nanoseconds);
    }

    /// What was recorded so far.
    #[must_use]
    pub fn figures(&self) -> Figures {
        Figures { buckets: self.buckets.iter().map(Count::get).collect() }
    }
}

/// A histogram at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Figures {
    buckets: Box<[u64]>,
}

impl Figures {
    /// Those that the kernel programs have counted.
    #[must_use]
    pub const fn of(buckets: Box<[u64]>) -> Self {
        Self { buckets }
    }

    /// What came after `earlier`, which are figures of the same engine.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let pairs = self.buckets.iter().zip(&earlier.buckets);
        Self { buckets: pairs.map(|(now, then)| now.wrapping_sub(*then)).collect() }
    }

    /// How many packets.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// So many nanoseconds or fewer have `per_mille` (1 to 1000) thousandths of the packets: the middle of the bucket in
    /// which the last of those is. None where there is no packet.
    #[must_use]
    pub fn quantile(&self, per_mille: u64) -> Option<u64> {
        let rank = self.count().saturating_mul(per_mille).div_ceil(1000).max(1);
        let mut below = 0;
        let last = self.buckets.iter().position(|count| {
            below += count;
            below >= rank
        })?;
        let (low, width) = bounds(last);
        Some(low + (width - 1) / 2)
    }

    /// Packets that were late by `nanoseconds` or less, as Prometheus' buckets count; exact where `nanoseconds` is one less
    /// than a power of two.
    #[must_use]
    pub fn at_most(&self, nanoseconds: u64) -> u64 {
        self.buckets[..=bucket(nanoseconds)].iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_quantile_is_off_by_an_eighth_at_most(
            mut numbers in prop::collection::vec(0u64..10_000_000_000, 1..300), per_mille in 1u64..=1000,
        ) {
            let lateness = Lateness::default();
            numbers.iter().for_each(|number| lateness.record(*number));
            numbers.sort_unstable();
            let rank = (numbers.len() as u64 * per_mille).div_ceil(1000);
            let exact = numbers[usize::try_from(rank).unwrap() - 1];
            let said = lateness.figures().quantile(per_mille).unwrap();
            prop_assert!(said.abs_diff(exact) <= exact / 16, "{said} for {exact}");
        }
    }

    #[test]
    fn figures_tell_what_came_since_earlier_ones() {
        let lateness = Lateness::default();
        assert_eq!(lateness.figures().quantile(500), None);
        lateness.record(1_000_000);
        let earlier = lateness.figures();
        lateness.record(5);
        lateness.record(7);
        let since = lateness.figures().since(&earlier);
        assert_eq!((since.count(), since.quantile(500), since.quantile(990)), (2, Some(5), Some(7)));
        assert_eq!((since.at_most(5), since.at_most(7), lateness.figures().at_most(1 << 30)), (1, 2, 3));
    }
}
