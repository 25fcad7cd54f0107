//! How many counters are made before anybody asks for them, since making many at once takes longer than a change may.

use fault_abi::counter::{Counter, TargetState};
use fault_abi::key::Direction;

/// At most: a change of a thousand targets waits for none.
const MOST: u32 = 1024;
/// At least, on a machine with however many CPUs.
const LEAST: u32 = 128;
/// Bytes that counters in use and spare ones may take together, as far as it is spare ones that take them: those of 1,000 targets
/// on 64 CPUs take 67 MiB, and all together 80 MiB.
const MEMORY: usize = 80 << 20;

/// Bytes of a target's counters and state under a profile.
const fn bytes(cpus: usize) -> usize {
    Direction::ALL.len() * size_of::<Counter>() * cpus + size_of::<TargetState>()
}

/// Spare ones beside `used`, on so many CPUs, in a table with room for `room`.
pub(super) fn spare(used: u32, cpus: usize, room: u32) -> u32 {
    let affordable = u32::try_from(MEMORY / bytes(cpus)).unwrap_or(u32::MAX);
    affordable.saturating_sub(used).clamp(LEAST, MOST).min(room / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: u32 = 131_072;

    #[test]
    fn a_machine_of_usual_size_always_has_enough_for_a_change_of_a_thousand_targets() {
        for cpus in [1, 2, 8, 16] {
            assert_eq!(spare(1_000, cpus, ROOM), MOST, "{cpus} CPUs");
        }
        assert_eq!(spare(0, 64, ROOM), MOST, "while nothing is in use");
    }

    #[test]
    fn a_thousand_targets_on_64_cpus_take_80_mib_with_their_spare_ones() {
        let all = 1_000 + spare(1_000, 64, ROOM);
        assert!(all > 1_000 + LEAST, "there is room for some");
        assert!(all as usize * bytes(64) <= MEMORY, "{all}");
    }

    #[test]
    fn some_are_spare_whatever_is_in_use_but_no_more_than_a_small_table_has_room_for() {
        assert_eq!(spare(60_000, 64, ROOM), LEAST);
        assert_eq!(spare(0, 2, 256), 64);
    }
}
