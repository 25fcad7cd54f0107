//! What a sequence of packets with later faults has behind it, in one word, as [`channel`](crate::channel) has for loss:
//! how many they were, and how far from the mean the last delay was.
//!
//! | bits | meaning |
//! | --- | --- |
//! | 0–19 | the last deviation, as a normal one, in 2⁻¹⁶ standard deviations, plus 2¹⁹ |
//! | 20–25 | the phase of the rule in which it was drawn |
//! | 26 | there is one |
//! | 27–63 | index of the next packet |

/// What is added for each packet where nothing is correlated.
pub const STEP: u64 = 1 << 27;

const OFFSET: i32 = 1 << 19;
const DEVIATION: u64 = (1 << 20) - 1;
const PHASE: u32 = 20;
const IS_THERE: u64 = 1 << 26;

/// The index of the packet that finds this word.
#[inline(always)]
#[must_use]
pub const fn index(word: u64) -> u64 {
    word / STEP
}

/// The deviation before that packet's; none for the first one of a phase.
#[inline(always)]
#[must_use]
pub const fn last(word: u64, phase: usize) -> Option<i32> {
    if word & IS_THERE == 0 || (word >> PHASE) & 0x3f != phase as u64 {
        return None;
    }
    Some((word & DEVIATION) as i32 - OFFSET)
}

/// The word behind that packet.
#[inline(always)]
#[must_use]
pub const fn after(word: u64, phase: usize, deviation: i32) -> u64 {
    let index = (word & !(STEP - 1)).wrapping_add(STEP);
    let phase = (phase as u64 & 0x3f) << PHASE;
    index | IS_THERE | phase | (deviation + OFFSET) as u64 & DEVIATION
}
