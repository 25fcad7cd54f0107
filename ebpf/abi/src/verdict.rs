//! What a rule does with a packet: a verdict, which says whether it goes on at all, and for those that do, effects.

/// How many verdicts a counter has room for; more than there are now, so that new ones move nothing.
pub const VERDICTS: usize = 8;
/// How many effects a counter has room for.
pub const EFFECTS: usize = 16;

/// Whether a packet goes on. Its number is its index in a counter.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// Goes on, to meet what else there is.
    Pass = 0,
    /// Dropped by `faults.loss`.
    Loss = 1,
    /// Dropped by `faults.partition`, in silence: also with the mode Reject where nothing may or can answer the packet.
    Partition = 2,
    /// Dropped by `faults.partition` with the mode Reject; its sender is told.
    Reject = 3,
}

impl Verdict {
    /// All verdicts, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Pass, Self::Loss, Self::Partition, Self::Reject];

    /// The verdict of this number.
    #[inline(always)]
    #[must_use]
    pub const fn of(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::Pass),
            1 => Some(Self::Loss),
            2 => Some(Self::Partition),
            3 => Some(Self::Reject),
            _ => None,
        }
    }

    /// Whether the packet ends here.
    #[inline(always)]
    #[must_use]
    pub const fn drops(self) -> bool {
        !matches!(self, Self::Pass)
    }

    /// Its name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Loss => "loss",
            Self::Partition => "partition",
            Self::Reject => "reject",
        }
    }
}

/// What else happened to a packet whose verdict is [`Verdict::Pass`]: several of them, or none. Its number is its index in
/// a counter.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Effect {
    /// A bit was flipped.
    Corrupt = 0,
    /// A second packet went out.
    Duplicate = 1,
    /// Delayed by `faults.delay`.
    Delay = 2,
    /// Made later than the rest by `faults.reorder`.
    Reorder = 3,
    /// Waited for its turn at `faults.rate`.
    Rate = 4,
    /// Dropped by `faults.rate`: it would have waited for too long.
    Overflow = 5,
    /// Dropped, since the delay line held as much as it may.
    LineFull = 6,
    /// Passed without its delay, since the delay line is missing or its engine has stopped.
    Stalled = 7,
    /// Was to be duplicated and was not: a packet has four copies at most, or the kernel had no room for one.
    Unduplicated = 8,
    /// Lost on its way into or out of the line or the splitter, or neither flipped nor answered: the kernel refused a step of it.
    Stray = 9,
}

impl Effect {
    /// All effects, in the order of their numbers.
    pub const ALL: [Self; 10] = [
        Self::Corrupt,
        Self::Duplicate,
        Self::Delay,
        Self::Reorder,
        Self::Rate,
        Self::Overflow,
        Self::LineFull,
        Self::Stalled,
        Self::Unduplicated,
        Self::Stray,
    ];

    /// Its bit in a set of effects.
    #[inline(always)]
    #[must_use]
    pub const fn bit(self) -> u32 {
        1 << self as u32
    }

    /// Whether the packet ended by it.
    #[must_use]
    pub const fn drops(self) -> bool {
        matches!(self, Self::Overflow | Self::LineFull)
    }

    /// Whether somebody asked for it; else it is a trouble.
    #[must_use]
    pub const fn is_asked(self) -> bool {
        !matches!(self, Self::LineFull | Self::Stalled | Self::Unduplicated | Self::Stray)
    }

    /// Its name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Corrupt => "corrupt",
            Self::Duplicate => "duplicate",
            Self::Delay => "delay",
            Self::Reorder => "reorder",
            Self::Rate => "rate",
            Self::Overflow => "overflow",
            Self::LineFull => "line_full",
            Self::Stalled => "stalled",
            Self::Unduplicated => "unduplicated",
            Self::Stray => "stray",
        }
    }
}
