//! The fate of a packet under one rule. A verdict's number is its index in a counter.

/// How many verdicts a counter has room for; more than there are now, so that new ones move nothing.
pub const VERDICTS: usize = 16;

/// What a rule does with a packet.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// Goes on, untouched.
    Pass = 0,
    /// Dropped by `faults.loss`.
    Loss = 1,
    /// Dropped by `faults.partition`.
    Partition = 2,
}

impl Verdict {
    /// All verdicts, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Pass, Self::Loss, Self::Partition];

    /// The verdict of this number.
    #[inline(always)]
    #[must_use]
    pub const fn of(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::Pass),
            1 => Some(Self::Loss),
            2 => Some(Self::Partition),
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
        }
    }
}
