//! From what is remembered of a device to the words of its status. Pure; nothing here decides what is done.

use std::net::IpAddr;

use edge_api::condition::reasons::{LOST, NOT_CONTACTED, RESOLVING, SILENT};
use edge_api::condition::{ConditionStatus, set_condition, types};
use edge_api::{DeviceAddress, DevicePhase, DeviceStatus, Sync};
use tokio::time::Instant;

use super::adopt;
use super::decide::{Observed, Place};
use super::evidence::Foreign;
use super::memory::{Conflict, Memory, Verdict};
use super::validate::{Patience, Spec};
use crate::action::Notice;

/// How it stands with a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing may be sent.
    Pending {
        /// CamelCase.
        reason: &'static str,
        /// A sentence.
        message: String,
    },
    /// `spec.paused`.
    Paused,
    /// It was asked, and nothing came yet.
    NotContacted,
    /// Silent for longer than `lostAfter`.
    Unreachable,
    /// It is not believed; why, as a sentence.
    Conflicted(Conflict, String),
    /// Its desired state is not tried again.
    Failed(Box<Verdict>),
    /// It runs what it shall, or shall run nothing in particular.
    InSync,
    /// It does not yet run what it shall.
    Syncing,
}

impl Standing {
    /// Is its name being looked up?
    pub fn is_resolving(&self) -> bool {
        matches!(self, Self::Pending { reason: RESOLVING, .. })
    }

    /// As a phase.
    pub fn phase(&self) -> DevicePhase {
        match self {
            Self::Pending { .. } | Self::NotContacted => DevicePhase::Pending,
            Self::Paused => DevicePhase::Paused,
            Self::Unreachable => DevicePhase::Unreachable,
            Self::Conflicted(..) => DevicePhase::Conflicted,
            Self::Failed(_) => DevicePhase::Failed,
            Self::InSync => DevicePhase::InSync,
            Self::Syncing => DevicePhase::Syncing,
        }
    }

    /// What a person would act on.
    pub fn notice(&self) -> Option<Notice> {
        let (reason, note) = match self {
            Self::Pending { reason: RESOLVING, .. }
            | Self::Paused
            | Self::NotContacted
            | Self::InSync
            | Self::Syncing => return None,
            Self::Pending { reason, message } => (*reason, message.clone()),
            Self::Unreachable => {
                ("Unreachable", "the device is silent for longer than spec.liveness.lostAfter".into())
            }
            Self::Conflicted(conflict, sentence) => (conflict_reason(*conflict), sentence.clone()),
            Self::Failed(verdict) => ("Failed", verdict.message.clone()),
        };
        Some(Notice { reason, note })
    }
}

/// How long a device has been silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Contact {
    /// It never answered, and is not yet lost.
    Never,
    /// It answers.
    Answering,
    /// Longer than `suspectAfter`.
    Silent,
    /// Longer than `lostAfter`.
    Lost,
}

impl Contact {
    /// All of them, for metrics that show all.
    pub const ALL: [Self; 4] = [Self::Never, Self::Answering, Self::Silent, Self::Lost];

    /// As the metrics name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Answering => "answering",
            Self::Silent => "silent",
            Self::Lost => "lost",
        }
    }
}

/// How long a device has been silent.
pub fn contact(memory: &Memory, patience: Patience, now: Instant) -> Contact {
    let silence = memory.silence(now);
    if silence >= patience.lost {
        return Contact::Lost;
    }
    match memory.heard {
        None => Contact::Never,
        Some(_) if silence < patience.suspect => Contact::Answering,
        Some(_) => Contact::Silent,
    }
}

/// How it stands with a device that may be talked to.
pub fn assess(memory: &Memory, spec: &Spec, seen: &Observed<'_>) -> Standing {
    if contact(memory, spec.patience, seen.now) == Contact::Lost {
        return Standing::Unreachable;
    }
    if let Some(conflict) = memory.conflict {
        return Standing::Conflicted(conflict, conflict_sentence(conflict, memory, seen));
    }
    let Some(target) = &spec.target else {
        return if memory.heard.is_some() || memory.evidence.believed().is_some() {
            Standing::InSync
        } else {
            Standing::NotContacted
        };
    };
    if let Some(verdict) = memory.verdict.as_ref().filter(|verdict| verdict.target == *target) {
        return Standing::Failed(verdict.clone());
    }
    match memory.evidence.believed() {
        None => Standing::NotContacted,
        Some(_) if memory.meets(target) => Standing::InSync,
        Some(_) => Standing::Syncing,
    }
}

/// Is the difference worth a write? Freshness is not: the sequence of reports, and how often something was
/// tried, are written with the next transition.
pub fn is_transition(old: &DeviceStatus, new: &DeviceStatus) -> bool {
    let steady = |status: &DeviceStatus| {
        let mut status = status.clone();
        status.sync = None;
        if let Some(reported) = &mut status.reported {
            reported.sequence = 0;
        }
        status
    };
    steady(old) != steady(new)
}

/// The status that says so.
pub fn build(old: &DeviceStatus, memory: &Memory, standing: &Standing, seen: &Observed<'_>) -> DeviceStatus {
    let mut next = DeviceStatus {
        observed_generation: Some(seen.generation),
        phase: standing.phase(),
        addresses: Vec::new(),
        reported: memory.evidence.reported(),
        sync: sync(memory),
        conditions: old.conditions.clone(),
    };
    let reach = reachable(memory, standing, seen);
    let conditions = [
        (types::READY, ready(standing, &reach)),
        (types::REACHABLE, reach),
        (types::SYNCED, synced(memory, standing)),
        (types::CONSISTENT, consistent(memory, seen)),
    ];
    for (type_, Word { status, reason, message }) in conditions {
        let generation = Some(seen.generation);
        set_condition(&mut next.conditions, type_, status, &reason, &message, generation, seen.wall);
    }
    next
}

/// Where the device is. `current`: the status is of this spec.
pub fn addresses(seen: &Observed<'_>, current: bool) -> Vec<DeviceAddress> {
    match seen.place {
        Place::At(addresses) => shown(addresses).collect(),
        // Not known yet, and it was known of this spec before: faults that run there go on.
        Place::Unknown if current => seen.status.addresses.clone(),
        _ => Vec::new(),
    }
}

/// Is it somewhere else than the status says?
pub fn has_moved(status: &DeviceStatus, place: &Place) -> bool {
    matches!(place, Place::At(addresses) if !shown(addresses).eq(status.addresses.iter().cloned()))
}

fn shown(addresses: &[(IpAddr, Option<String>)]) -> impl Iterator<Item = DeviceAddress> {
    addresses.iter().map(|(ip, node)| DeviceAddress { ip: ip.to_string(), node: node.clone() })
}

fn sync(memory: &Memory) -> Option<Sync> {
    let put = memory.put.as_ref().filter(|put| Some(&put.target) == memory.target.as_ref())?;
    let generation = i64::try_from(put.generation).ok()?;
    Some(Sync { generation, attempts: memory.attempts, last_error: memory.last_error.clone() })
}

/// A condition without its time.
struct Word {
    status: ConditionStatus,
    reason: String,
    message: String,
}

fn word(status: ConditionStatus, reason: &str, message: &str) -> Word {
    Word { status, reason: reason.to_owned(), message: message.to_owned() }
}

fn reachable(memory: &Memory, standing: &Standing, seen: &Observed<'_>) -> Word {
    use ConditionStatus::{False, True, Unknown};

    match (standing, seen.spec) {
        (Standing::Pending { reason, message }, _) => word(Unknown, reason, message),
        (Standing::Paused, _) | (_, Err(_)) => word(Unknown, "Paused", "spec.paused: nothing is sent"),
        (_, Ok(spec)) => match contact(memory, spec.patience, seen.now) {
            Contact::Never => word(Unknown, NOT_CONTACTED, "no answer yet"),
            Contact::Answering => word(True, "Answering", "the device answers"),
            Contact::Silent => word(Unknown, SILENT, "silent for longer than spec.liveness.suspectAfter"),
            Contact::Lost => word(False, LOST, "silent for longer than spec.liveness.lostAfter"),
        },
    }
}

fn synced(memory: &Memory, standing: &Standing) -> Word {
    use ConditionStatus::{False, True, Unknown};

    let Some(target) = &memory.target else {
        return word(True, "NothingDesired", "spec.desired is not set");
    };
    // Whatever else is true of the device: this is what a restart knows it by.
    if let Some(verdict) = memory.verdict.as_ref().filter(|verdict| verdict.target == *target) {
        return word(False, verdict.reason, &verdict.message);
    }
    match standing {
        Standing::InSync => word(True, "InSync", "the device reports what is desired"),
        Standing::Pending { reason, message } => word(Unknown, reason, message),
        _ => match memory.evidence.believed() {
            None => word(Unknown, "NoReport", "the device has not reported yet"),
            Some(_) if memory.meets(target) => {
                word(True, "InSync", "the device last reported what is desired")
            }
            Some(believed) if believed.runs(target) => word(
                False,
                "Syncing",
                "the device last reported what is desired, and something else may be on its way to it",
            ),
            Some(_) => word(
                False,
                "Syncing",
                &format!("firmware {} or its config is not yet reported", target.firmware),
            ),
        },
    }
}

fn consistent(memory: &Memory, seen: &Observed<'_>) -> Word {
    use ConditionStatus::{False, True, Unknown};

    match memory.conflict {
        Some(conflict) => word(False, conflict_reason(conflict), &conflict_sentence(conflict, memory, seen)),
        None if memory.evidence.believed().is_some() => {
            word(True, "Consistent", "its reports agree with each other and with what it acknowledged")
        }
        None => word(Unknown, "NoReport", "the device has not reported yet"),
    }
}

fn ready(standing: &Standing, reach: &Word) -> Word {
    use ConditionStatus::{False, True};

    match standing {
        Standing::Pending { reason, message } => word(False, reason, message),
        Standing::Paused => word(False, "Paused", "spec.paused: nothing is sent"),
        Standing::NotContacted => word(False, NOT_CONTACTED, "no answer yet"),
        Standing::Unreachable => word(False, "Unreachable", &reach.message),
        Standing::Conflicted(conflict, sentence) => word(False, conflict_reason(*conflict), sentence),
        Standing::Failed(verdict) => word(False, verdict.reason, &verdict.message),
        Standing::Syncing => word(False, "Syncing", "not yet as desired"),
        Standing::InSync if reach.status == True => word(True, "Ready", "as desired, and it answers"),
        Standing::InSync => word(ConditionStatus::Unknown, &reach.reason, &reach.message),
    }
}

fn conflict_reason(conflict: Conflict) -> &'static str {
    match conflict {
        Conflict::Foreign(Foreign::Name) => "ForeignName",
        Conflict::Foreign(Foreign::Owner) => "ForeignOwner",
        Conflict::Foreign(Foreign::Released) => "ReleasedBefore",
        Conflict::Contradiction(contradiction) => contradiction.reason(),
    }
}

/// The same for the same conflict, so that it is written once.
fn conflict_sentence(conflict: Conflict, memory: &Memory, seen: &Observed<'_>) -> String {
    let what = match conflict {
        Conflict::Foreign(Foreign::Name) => {
            "another device answers at spec.endpoint: was its address used again?"
        }
        Conflict::Foreign(Foreign::Owner) => {
            "the device obeys another Device object of this name, one that was deleted or is in another cluster"
        }
        Conflict::Foreign(Foreign::Released) => {
            "the device was released from this object, which was deleted then: was this cluster restored from a backup?"
        }
        Conflict::Contradiction(contradiction) => contradiction.sentence(),
    };
    match memory.holder.as_ref().filter(|_| conflict.can_be_adopted()) {
        Some(held) => format!("{what}; {}", adopt::advice(seen.device, held)),
        None => what.to_owned(),
    }
}
