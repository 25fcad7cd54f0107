//! Building `status.conditions`: pure, the clock is an argument, and a condition's time changes only when its
//! status does.

use jiff::Timestamp;
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// The condition types of this project.
pub mod types {
    /// Device: in sync and reachable (without `desired`: reachable).
    pub const READY: &str = "Ready";
    /// Device: it answers.
    pub const REACHABLE: &str = "Reachable";
    /// Device: reported state equals desired state.
    pub const SYNCED: &str = "Synced";
    /// Device: its reports agree with each other and with what was acknowledged.
    pub const CONSISTENT: &str = "Consistent";
    /// FaultProfile: it may reach what it asks for. DeviceFleet: no other fleet selects its devices.
    pub const ACCEPTED: &str = "Accepted";
    /// FaultProfile: kernels hold its rules.
    pub const INSTALLED: &str = "Installed";
    /// FaultProfile: kernel counters show that the rules acted on packets.
    pub const EFFECTIVE: &str = "Effective";
    /// DeviceFleet: devices are being changed.
    pub const PROGRESSING: &str = "Progressing";
    /// DeviceFleet: not too many devices failed, and not for too long none finished.
    pub const WITHIN_BUDGET: &str = "WithinBudget";
    /// DeviceFleet: the last batch of the template has ended.
    pub const COMPLETE: &str = "Complete";
}

/// Reasons that one controller writes and another reads.
pub mod reasons {
    /// Device: its endpoint lies where the operator may not reach. FaultProfile: a selected device's does.
    pub const ENDPOINT_NOT_ALLOWED: &str = "EndpointNotAllowed";
    /// Device, Reachable: its name is being looked up.
    pub const RESOLVING: &str = "Resolving";
    /// Device, Reachable: it was asked, and nothing came yet.
    pub const NOT_CONTACTED: &str = "NotContacted";
    /// Device, Reachable: silent for longer than `suspectAfter`.
    pub const SILENT: &str = "Silent";
    /// Device, Reachable: silent for longer than `lostAfter`.
    pub const LOST: &str = "Lost";
    /// Device, Reachable: it does not answer.
    pub const DOUBTED: [&str; 2] = [SILENT, LOST];
    /// Device, Reachable: it will be known in a while.
    pub const UNDECIDED: [&str; 2] = [RESOLVING, NOT_CONTACTED];
    /// FaultProfile, Installed, and a FaultNode's profile: packets were lost since the delay line had no room for them.
    pub const LINE_FULL: &str = "LineFull";
    /// As `LineFull`: the delay line's device has lost packets.
    pub const LINE_DROPS: &str = "LineDrops";
    /// As `LineFull`: the splitter has lost packets.
    pub const SPLITTER_DROPS: &str = "SplitterDrops";
    /// As `LineFull`: more flows than are told apart draw their fates together.
    pub const FLOWS_UNTRACKED: &str = "FlowsUntracked";
    /// As `LineFull`: packets were lost, or neither flipped nor answered, where the kernel refused a step of their way.
    pub const PACKETS_STRAYED: &str = "PacketsStrayed";
    /// As `LineFull`: packets were not duplicated, since one has four copies at most, or the kernel had no room for one.
    pub const COPIES_MISSING: &str = "CopiesMissing";
    /// As `LineFull`: a node has more addresses than it has room to protect.
    pub const ADDRESSES_UNPROTECTED: &str = "AddressesUnprotected";
    /// FaultProfile: its rules are held, and its packets meet what it does not ask for. It is Degraded for as long as that goes on.
    pub const STRAINED: [&str; 7] = [
        LINE_FULL,
        LINE_DROPS,
        SPLITTER_DROPS,
        FLOWS_UNTRACKED,
        PACKETS_STRAYED,
        COPIES_MISSING,
        ADDRESSES_UNPROTECTED,
    ];
}

/// Status of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// Nobody can tell now.
    Unknown,
}

impl ConditionStatus {
    /// As the API writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for ConditionStatus {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

/// Sets the condition `type_`, in place or as a new last one. `lastTransitionTime` becomes `now` only when the
/// status differs from before.
pub fn set_condition(
    conditions: &mut Vec<Condition>,
    type_: &str,
    status: ConditionStatus,
    reason: &str,
    message: &str,
    generation: Option<i64>,
    now: Timestamp,
) {
    let mut next = Condition {
        last_transition_time: Time(now),
        message: message.to_owned(),
        observed_generation: generation,
        reason: reason.to_owned(),
        status: status.as_str().to_owned(),
        type_: type_.to_owned(),
    };
    let Some(current) = conditions.iter_mut().find(|condition| condition.type_ == type_) else {
        conditions.push(next);
        return;
    };
    if current.status == next.status {
        next.last_transition_time = current.last_transition_time.clone();
    }
    *current = next;
}

/// The condition of this type.
pub fn find_condition<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// Is the condition of this type there with status True?
pub fn is_true(conditions: &[Condition], type_: &str) -> bool {
    find_condition(conditions, type_).is_some_and(|condition| condition.status == "True")
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan as _;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + second.seconds()
    }

    fn ready(conditions: &mut Vec<Condition>, status: ConditionStatus, message: &str, now: i64) {
        set_condition(conditions, types::READY, status, "Reason", message, Some(1), at(now));
    }

    #[test]
    fn its_time_changes_with_its_status_alone() {
        let mut conditions = Vec::new();
        ready(&mut conditions, ConditionStatus::False, "one", 10);
        ready(&mut conditions, ConditionStatus::False, "two", 20);
        assert_eq!(conditions[0].message, "two");
        assert_eq!(conditions[0].last_transition_time.0, at(10));
        ready(&mut conditions, ConditionStatus::True, "two", 30);
        assert_eq!(conditions[0].last_transition_time.0, at(30));
        assert!(is_true(&conditions, types::READY));
    }

    #[test]
    fn saying_the_same_again_changes_nothing() {
        let mut conditions = Vec::new();
        ready(&mut conditions, ConditionStatus::Unknown, "silent", 10);
        let before = conditions.clone();
        ready(&mut conditions, ConditionStatus::Unknown, "silent", 99);
        assert_eq!(conditions, before);
    }

    #[test]
    fn each_type_has_one_condition_and_others_are_left_alone() {
        let mut conditions = Vec::new();
        for (type_, now) in [(types::READY, 1), (types::SYNCED, 2), (types::READY, 3)] {
            set_condition(&mut conditions, type_, true.into(), "Because", "", None, at(now));
        }
        let found: Vec<_> = conditions.iter().map(|condition| condition.type_.as_str()).collect();
        assert_eq!(found, [types::READY, types::SYNCED]);
        assert!(find_condition(&conditions, types::REACHABLE).is_none());
    }
}
