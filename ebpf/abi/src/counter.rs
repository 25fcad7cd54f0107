//! What the kernel counts, and the state of targets and flows that draws are taken from.

use crate::verdict::VERDICTS;

/// Per CPU, target under a profile, and direction. What was seen is the sum over all verdicts.
///
/// Made by the agent before the first entry that refers to it; kept until the profile is deleted.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// CLOCK_BOOTTIME of the last packet that this CPU saw, in nanoseconds; 0: none yet.
    pub last_seen_ns: u64,
    /// Of the packets: super-packets (GSO or GRO frames of several segments), each counted once.
    pub gso_frames: u64,
    /// Packets by [`Verdict`](crate::verdict::Verdict).
    pub packets: [u64; VERDICTS],
    /// Bytes of those packets, the link header included, by verdict.
    pub bytes: [u64; VERDICTS],
}

impl Counter {
    /// Adds another CPU's count.
    pub fn add(&mut self, other: &Self) {
        self.last_seen_ns = self.last_seen_ns.max(other.last_seen_ns);
        self.gso_frames = self.gso_frames.wrapping_add(other.gso_frames);
        for (sum, n) in self.packets.iter_mut().zip(other.packets) {
            *sum = sum.wrapping_add(n);
        }
        for (sum, n) in self.bytes.iter_mut().zip(other.bytes) {
            *sum = sum.wrapping_add(n);
        }
    }

    /// Packets seen, whatever became of them.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.packets.iter().fold(0, |sum, n| sum.wrapping_add(*n))
    }
}

/// A target's state under a profile. Made by the agent together with the counters, changed by the programs
/// only, atomically.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TargetState {
    /// The ordinal of the next flow.
    pub next_ordinal: u64,
    /// By direction: the [`channel`](crate::channel) of all packets whose flow is not tracked.
    pub untracked: [u64; 2],
    /// By direction: the channel of all packets, for faults whose `scope` is `Target`.
    pub all: [u64; 2],
}

/// A flow of a target under a profile, changed atomically.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// How many flows this target had before under the rule.
    pub ordinal: u64,
    /// By direction: its [`channel`](crate::channel).
    pub channel: [u64; 2],
}

/// Index into the per-CPU array `GLOBAL`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Global {
    /// Packets of a target that passed since their conversation is protected.
    Protected = 0,
    /// Packets of a target that drew from the target's own counter, since `FLOWS` was full.
    Untracked = 1,
    /// Bindings skipped since their counter or state was missing: a fault of the agent, must stay 0.
    Orphaned = 2,
    /// Entries that were given to another target while they were read, and read again.
    Reread = 3,
    /// Frames that say IP but are too short for it, or have more extension headers than are followed.
    Malformed = 4,
    /// Super-packets of targets, each counted once.
    GsoFrames = 5,
    /// Packets whose draw left no trace in their channel, since other CPUs changed it each time: the next packet drew
    /// from the same state.
    Contended = 6,
}

impl Global {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::Protected,
        Self::Untracked,
        Self::Orphaned,
        Self::Reread,
        Self::Malformed,
        Self::GsoFrames,
        Self::Contended,
    ];
}

/// Entries of the array `GLOBAL`: room for more than there are now.
pub const GLOBALS: u32 = 16;

#[cfg(feature = "user")]
mod user {
    use super::{Counter, Flow, TargetState};

    // SAFETY: `repr(C)`, integers only, no padding (tests/layout.rs), every bit pattern valid.
    unsafe impl aya::Pod for Counter {}
    // SAFETY: as above.
    unsafe impl aya::Pod for TargetState {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Flow {}
}
