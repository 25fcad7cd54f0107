//! The draw is SipHash-1-3, and happens as often as was asked.

use std::hash::Hasher as _;

use fault_abi::draw::{Draw, Kind, Position, siphash13};
use fault_abi::key::Direction;
use fault_abi::rule::ALWAYS;
use proptest::prelude::*;
use siphasher::sip::SipHasher13;

fn draw(ordinal: u64, index: u64) -> Draw {
    Draw {
        direction: Direction::ToDevice,
        protocol: 17,
        target_port: 5683,
        position: Position { ordinal, index },
        copy: 0,
    }
}

proptest! {
    #[test]
    fn the_hash_is_siphash_1_3(key: [u64; 2], words: [u64; 3]) {
        let mut reference = SipHasher13::new_with_keys(key[0], key[1]);
        for word in words {
            reference.write(&word.to_le_bytes());
        }
        prop_assert_eq!(siphash13(key, words), reference.finish());
    }

    #[test]
    fn never_never_happens_and_always_always_does(key: [u64; 2], ordinal: u64, index: u64) {
        prop_assert!(!draw(ordinal, index).happens(key, Kind::Loss, 0));
        prop_assert!(draw(ordinal, index).happens(key, Kind::Loss, ALWAYS));
    }

    #[test]
    fn what_happens_at_a_threshold_happens_at_each_higher_one(key: [u64; 2], index: u64, a in 0..=ALWAYS, b in 0..=ALWAYS) {
        let (low, high) = (a.min(b), a.max(b));
        let draw = draw(0, index);
        prop_assert!(!draw.happens(key, Kind::Loss, low) || draw.happens(key, Kind::Loss, high));
    }

    #[test]
    fn each_part_of_a_draw_changes_it(key: [u64; 2], ordinal in 0_u64..1 << 40, index in 0_u64..1 << 40) {
        let one = draw(ordinal, index);
        let others = [
            Draw { direction: Direction::FromDevice, ..one },
            Draw { protocol: 6, ..one },
            Draw { target_port: 5684, ..one },
            draw(ordinal + 1, index),
            draw(ordinal, index + 1),
            Draw { copy: 1, ..one },
        ];
        for other in others {
            prop_assert_ne!(one.bits(key, Kind::Loss), other.bits(key, Kind::Loss));
        }
    }
}

/// Known answers: a change here changes the fate of every packet of every seed.
#[test]
fn the_fates_of_a_seed_are_what_they_always_were() {
    let fates: String = (0..64)
        .map(|index| if draw(0, index).happens([7, 11], Kind::Loss, ALWAYS / 5) { 'x' } else { '.' })
        .collect();
    assert_eq!(fates, ".....x.............x...x................x.................x.x.x.");
}
