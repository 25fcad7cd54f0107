//! What a run can break: each rule of the oracle has a name.

use std::fmt;

/// A rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Rule {
    /// Within a bound after the last fault all devices run what they shall, and their statuses say so.
    InSync,
    /// What status says of a device is what it went through.
    TrueStatus,
    /// Then all stay in sync, and nobody writes to the API server, not even in vain, or tells a device anything.
    Quiet,
    /// No device stores or applies a lower generation or epoch of the same owner.
    NeverLower,
    /// No status of a fleet or a profile goes back to the epoch of an earlier leader.
    EpochsRise,
    /// No command is carried out twice.
    Once,
    /// No process has more exchanges under way than it may.
    Bounds,
    /// Nor tells devices again what it told them more often.
    Retries,
    /// Nor any single one of them.
    DeviceRetries,
    /// None is overtaken more than twice by the same other one.
    Fair,
    /// No fleet has more devices under way than maxInFlight.
    InFlight,
    /// Nor more that are not in sync than maxUnavailable, without those that failed once it is complete; and those that are in sync and get
    /// lost leave less room for others.
    Unavailable,
    /// A fleet reserves a device before it changes it.
    ReservedFirst,
    /// Nobody is changed before the batches ahead have ended.
    Batches,
    /// No more are changed after too many failed than were reserved by then; once it is complete, after as many as may be unavailable.
    Failures,
    /// A rollout ends as its settings say, and says that it has ended only when its devices have what it brings.
    Ends,
    /// Of a deleted Device nothing is left: no object, and no device that obeys it.
    LetGo,
    /// The profile ends with its time.
    Expires,
}

/// A rule that was broken, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub rule: Rule,
    /// A sentence.
    pub sentence: String,
}

impl Rule {
    /// It was broken so.
    pub fn broken(self, sentence: impl Into<String>) -> Violation {
        Violation { rule: self, sentence: sentence.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.sentence)
    }
}
