//! The delay line and the splitter as the programs see them.

/// Array of one: what there is, and how much the line may hold. All zero: nothing of it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Line {
    /// A random number of this load, never 0: the first half of [`Ticket::magic`](crate::ticket::Ticket::magic) and the
    /// mark of ours in `skb->cb`.
    pub magic: u64,
    /// Index of the device that leads into the delay line; 0: there is none.
    pub entry: u32,
    /// Index of the device that leads into the splitter; 0: there is none.
    pub splitter: u32,
    /// Packets in the line at most; this and the next three are below 2^63 − 1, since counts are compared as signed.
    pub packets: u64,
    /// Bytes in the line at most.
    pub bytes: u64,
    /// Packets of one target (under one profile) at most.
    pub target_packets: u64,
    /// Bytes of one target at most.
    pub target_bytes: u64,
    /// `LINE_*`.
    pub flags: u64,
}

/// [`Line::flags`]: the engine is `fq`. Packets go in as clones with a number, and `line_start` is at [`Line::entry`].
pub const LINE_IS_FQ: u64 = 1;

/// No packet is held longer, in nanoseconds; profiles ask for a minute at most.
pub const LONGEST_STAY_NS: u64 = 70_000_000_000;

/// How much is in the line now, changed atomically.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Packets.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The engine is taken for stopped when its last sign of life is this old.
pub const STALLED_NS: u64 = 500_000_000;

/// The sign of an engine that is the kernel itself: always fresh.
pub const KERNEL_LIVES: u64 = u64::MAX;

/// Whether the engine lives, by its last sign of life (CLOCK_BOOTTIME; 0: none yet).
#[inline(always)]
#[must_use]
pub const fn is_alive(sign_ns: u64, now_ns: u64) -> bool {
    sign_ns != 0 && now_ns < sign_ns.saturating_add(STALLED_NS)
}

#[cfg(feature = "user")]
mod user {
    use super::{Held, Line};

    // SAFETY: `repr(C)`, integers only, no padding (tests/layout.rs), every bit pattern valid.
    unsafe impl aya::Pod for Line {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Held {}
}
