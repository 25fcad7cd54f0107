//! What the kernel counts, and the state of targets and flows that draws are taken from.

use crate::verdict::{EFFECTS, VERDICTS};

/// Buckets of [`Counter::delays`].
pub const DELAY_BUCKETS: usize = 32;

/// The bucket of a delay: bucket n has those from 2ⁿ × 1.024 µs up, bucket 0 shorter ones too.
#[inline(always)]
#[must_use]
pub const fn delay_bucket(delay_ns: u64) -> usize {
    let bucket = (delay_ns >> 10 | 1).ilog2() as usize;
    if bucket < DELAY_BUCKETS { bucket } else { DELAY_BUCKETS - 1 }
}

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
    /// Packets by [`Effect`](crate::verdict::Effect); duplicates meet some of their own.
    pub effects: [u64; EFFECTS],
    /// Packets (and duplicates) that went into the delay line, by [`delay_bucket`] of the time that this profile gave them.
    pub delays: [u64; DELAY_BUCKETS],
    /// The sum of those times, in nanoseconds.
    pub delay_ns: u64,
    /// Packets that the rule leaves alone for their peer only, which is an address of this node. (Its probes of a pod are
    /// none of them.) They are not among `packets`.
    pub node_misses: u64,
    /// Draws of packets whose flow is not tracked, since `FLOWS` was full: one where a packet drew for loss, one where it did for
    /// later faults.
    pub untracked: u64,
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
        for (sum, n) in self.effects.iter_mut().zip(other.effects) {
            *sum = sum.wrapping_add(n);
        }
        for (sum, n) in self.delays.iter_mut().zip(other.delays) {
            *sum = sum.wrapping_add(n);
        }
        self.delay_ns = self.delay_ns.wrapping_add(other.delay_ns);
        self.node_misses = self.node_misses.wrapping_add(other.node_misses);
        self.untracked = self.untracked.wrapping_add(other.untracked);
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
    /// As `untracked`, of those that met later faults than loss.
    pub untracked_later: [u64; 2],
    /// As `all`, of those that met later faults than loss.
    pub all_later: [u64; 2],
    /// By direction: when the last packet that `faults.rate` let go has left, CLOCK_BOOTTIME in nanoseconds.
    pub departure: [u64; 2],
    /// Packets of the target in the delay line.
    pub line_packets: u64,
    /// And their bytes.
    pub line_bytes: u64,
}

/// A flow of a target under a profile, changed atomically.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// How many flows this target had before under the rule.
    pub ordinal: u64,
    /// By direction: its [`channel`](crate::channel).
    pub channel: [u64; 2],
    /// As `channel`, of those packets that met later faults than loss.
    pub later: [u64; 2],
    /// The [`tick`] of its last packet.
    pub seen: u64,
}

/// The time as flows remember it: CLOCK_BOOTTIME in units of 2³⁰ ns, so that a busy flow is written to about once a second.
#[inline(always)]
#[must_use]
pub const fn tick(now_ns: u64) -> u64 {
    now_ns >> 30
}

/// Index into the per-CPU array `GLOBAL`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Global {
    /// Packets of a target that passed since their conversation is protected.
    Protected = 0,
    /// What [`Counter::untracked`] counts, over all profiles and targets.
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
    /// Packets that passed without their delay, since the line is missing or its engine has stopped.
    EngineStalled = 7,
    /// Packets dropped since the line held as many, or as many bytes, as it may.
    LineFull = 8,
    /// Duplicates that were not made, since a packet has four copies at most, or the kernel had no room for one.
    Unduplicated = 9,
    /// Packets lost on their way into or out of the line or the splitter, or neither flipped nor answered: the kernel refused a step of it.
    Stray = 10,
    /// Super-packets, or packets to be corrupted or rejected, that were not split, since there is no splitter.
    Unsplit = 11,
    /// Frames at the end of line or splitter that no hook has sent there: what the node says of itself on each interface.
    Foreign = 12,
    /// Packets that the line's queue refused: must stay 0.
    LineRefused = 13,
    /// Packets that were lost in the line and have been counted out of it, so that they take no room any more.
    LineSettled = 14,
}

impl Global {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 15] = [
        Self::Protected,
        Self::Untracked,
        Self::Orphaned,
        Self::Reread,
        Self::Malformed,
        Self::GsoFrames,
        Self::Contended,
        Self::EngineStalled,
        Self::LineFull,
        Self::Unduplicated,
        Self::Stray,
        Self::Unsplit,
        Self::Foreign,
        Self::LineRefused,
        Self::LineSettled,
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
