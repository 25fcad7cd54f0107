//! What a profile meets that nobody asked for although its rules are held: a limit of this node's, or packets that the delay line loses. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use edge_api::condition::reasons::{
    ADDRESSES_UNPROTECTED, COPIES_MISSING, FLOWS_UNTRACKED, LINE_DROPS, LINE_FULL, PACKETS_STRAYED,
    SPLITTER_DROPS,
};
use fault_abi::counter::{Counter, Global};
use fault_abi::verdict::Effect;

use crate::table::Uid;

/// So long a profile is told to be impaired after the last packet that showed it: longer than an agent's heartbeat and what the operator
/// needs for a status, and what comes once in a while is one trouble and not many.
pub const LASTS: Duration = Duration::from_secs(60);

/// What it can be, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strain {
    /// The delay line's device has lost packets.
    Drops,
    /// The splitter has lost packets.
    SplitterDrops,
    /// The kernel refused a step of packets' way, so that they were lost, or neither flipped nor answered.
    Strays,
    /// The delay line had no room for packets.
    Full,
    /// Packets were not duplicated.
    Uncopied,
    /// Its targets have more flows than are told apart on this node.
    Untracked,
    /// The node has more addresses than it has room to protect.
    Unprotected,
}

/// How often each of [`Strain::COUNTED`] came up.
pub(super) type Counts = [u64; Strain::COUNTED.len()];

impl Strain {
    /// Those that the kernel counts by target, the worst first.
    pub(super) const COUNTED: [Self; 4] = [Self::Strays, Self::Full, Self::Uncopied, Self::Untracked];

    /// What the kernel counts of it over all targets; nothing where it does not.
    pub(super) const fn event(self) -> Option<Global> {
        match self {
            Self::Drops | Self::SplitterDrops | Self::Unprotected => None,
            Self::Strays => Some(Global::Stray),
            Self::Full => Some(Global::LineFull),
            Self::Uncopied => Some(Global::Unduplicated),
            Self::Untracked => Some(Global::Untracked),
        }
    }

    /// What a target's counter says of it.
    pub(super) const fn count(self, counter: &Counter) -> u64 {
        match self {
            Self::Drops | Self::SplitterDrops | Self::Unprotected => 0,
            Self::Strays => counter.effects[Effect::Stray as usize],
            Self::Full => counter.effects[Effect::LineFull as usize],
            Self::Uncopied => counter.effects[Effect::Unduplicated as usize],
            Self::Untracked => counter.untracked,
        }
    }

    /// A CamelCase reason, and a sentence that says what to do. Neither changes with each packet, so that no status does.
    pub(super) const fn told(self) -> (&'static str, &'static str) {
        match self {
            Self::Drops => (
                LINE_DROPS,
                "the delay line loses packets, which no profile asked for (status.engine.dropped of the FaultNode says how many): delay or send less",
            ),
            Self::SplitterDrops => (
                SPLITTER_DROPS,
                "the splitter loses packets, which no profile asked for (edge_splitter_dropped_total says how many): send less at once, or raise net.core.netdev_max_backlog on the node",
            ),
            Self::Strays => (
                PACKETS_STRAYED,
                "packets were lost, or neither corrupted nor answered, since the kernel refused a step of their way, which no profile asked for: it had no memory for it, or the splitter was removed at that moment; give the node memory, and leave edo-split alone",
            ),
            Self::Full => (
                LINE_FULL,
                "packets were lost since the delay line had no room for them, which no profile asked for: delay or send less, or start the agent with more --line-packets, --line-bytes or their --line-target-… counterparts",
            ),
            Self::Uncopied => (
                COPIES_MISSING,
                "packets were not duplicated as asked: one has four copies at most, however many profiles duplicate it, and each needs room in the kernel; let at most two profiles duplicate on one target, or give the node memory",
            ),
            Self::Untracked => (
                FLOWS_UNTRACKED,
                "its targets have more flows than are told apart on this node: those beyond draw their fates together, and may get others when all is run again; start the agent with more --max-flows",
            ),
            Self::Unprotected => (
                ADDRESSES_UNPROTECTED,
                "this node has more addresses than there is room for, so its own conversations by those that its Node does not name meet faults, too: start the agent with more --max-node-addresses",
            ),
        }
    }
}

/// Counts that only rise, by profile, and when each was last seen to have risen.
#[derive(Clone, Debug, Default)]
pub(super) struct Rising {
    known: BTreeMap<Uid, u64>,
    rose: BTreeMap<Uid, Instant>,
}

impl Rising {
    /// Counts of this profile before `count` are none of its.
    pub(super) fn begin(&mut self, uid: &Uid, count: u64) {
        self.known.entry(uid.clone()).or_insert(count);
    }

    /// Takes in a profile's count.
    pub(super) fn take(&mut self, uid: &Uid, count: u64, now: Instant) {
        let known = self.known.insert(uid.clone(), count).unwrap_or_default();
        if count > known {
            self.rose.insert(uid.clone(), now);
        }
    }

    /// Whether it has risen lately.
    pub(super) fn lasts(&self, uid: &Uid, now: Instant) -> bool {
        self.rose.get(uid).is_some_and(|at| now.saturating_duration_since(*at) < LASTS)
    }

    /// Forgets all other profiles.
    pub(super) fn retain(&mut self, exist: &BTreeSet<&Uid>) {
        self.known.retain(|uid, _| exist.contains(uid));
        self.rose.retain(|uid, _| exist.contains(uid));
    }
}

/// Packets that a device has lost, whosever they were.
#[derive(Clone, Debug, Default)]
pub(super) struct Losses {
    /// By profile that uses it.
    pub(super) of: Rising,
    /// As of the last look at it.
    last: Option<u64>,
}

impl Losses {
    /// Takes in who uses the device now, and what it has lost so far. None of a profile's is what was lost before it began, or before anybody
    /// looked.
    pub(super) fn take(&mut self, users: &BTreeSet<&Uid>, lost: u64, now: Instant) {
        let before = self.last.replace(lost).unwrap_or(lost);
        self.of.retain(users);
        for uid in users {
            self.of.begin(uid, before);
            self.of.take(uid, lost, now);
        }
    }
}
