//! What a sequence of packets has behind it, in one word, so that it changes atomically on whatever CPU the next packet
//! comes: how many packets drew, and whether a burst is on.
//!
//! | bits | meaning |
//! | --- | --- |
//! | 0 | in a burst |
//! | 1–8 | the phase of the rule in which bit 0 was set |
//! | 9–63 | index of the next packet |

/// What is added for each packet.
pub const STEP: u64 = 1 << 9;

const IN_BURST: u64 = 1;
const PHASE: u64 = (STEP - 1) & !IN_BURST;

/// The index of the packet that finds this word.
#[inline(always)]
#[must_use]
pub const fn index(word: u64) -> u64 {
    word / STEP
}

/// Whether that packet is in a burst. A burst ends with its phase at the latest.
#[inline(always)]
#[must_use]
pub const fn in_burst(word: u64, phase: usize) -> bool {
    word & IN_BURST != 0 && (word & PHASE) >> 1 == phase as u64
}

/// The word behind that packet.
#[inline(always)]
#[must_use]
pub const fn after(word: u64, phase: usize, in_burst: bool) -> u64 {
    let index = (word & !(STEP - 1)).wrapping_add(STEP);
    index | ((phase as u64) << 1) & PHASE | in_burst as u64
}
