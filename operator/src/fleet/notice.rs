//! What a person would act on, and nothing of ordinary progress: one notice a transition.

use edge_api::DeviceFleetStatus;
use edge_api::condition::{Condition, find_condition, types};

use super::decide::{DEADLINE, REVISION_MISSING};
use super::revision::is_given_up;
use crate::action::Notice;

/// Reasons of Accepted and Progressing that a person would act on.
const ALARMING: [&str; 2] = [DEADLINE, REVISION_MISSING];

/// The notices of a change of status.
pub(crate) fn notices(old: &DeviceFleetStatus, new: &DeviceFleetStatus) -> Vec<Notice> {
    let mut notices = Vec::new();
    let mut say = |reason: &str, note: &str| {
        notices.extend(reason_of(reason).map(|reason| Notice { reason, note: note.to_owned() }));
    };
    if let Some(refused) = newly_false(old, new, types::ACCEPTED) {
        say(&refused.reason, &refused.message);
    }
    let budget = find_condition(&new.conditions, types::WITHIN_BUDGET);
    if is_given_up(new) && !is_given_up(old) {
        say("RollingBack", budget.map_or("", |condition| &condition.message));
    } else if let Some(exceeded) = newly_false(old, new, types::WITHIN_BUDGET) {
        say(&exceeded.reason, &exceeded.message);
    }
    let stuck = |status: &DeviceFleetStatus| {
        find_condition(&status.conditions, types::PROGRESSING)
            .filter(|condition| ALARMING.contains(&condition.reason.as_str()))
            .cloned()
    };
    if let (None, Some(condition)) = (stuck(old), stuck(new)) {
        say(&condition.reason, &condition.message);
    }
    notices
}

/// The condition, if it is False now and was not, or was for another reason.
fn newly_false<'a>(
    old: &DeviceFleetStatus,
    new: &'a DeviceFleetStatus,
    type_: &str,
) -> Option<&'a Condition> {
    let condition = find_condition(&new.conditions, type_).filter(|condition| condition.status == "False")?;
    let before = find_condition(&old.conditions, type_);
    let same = before.is_some_and(|before| before.status == "False" && before.reason == condition.reason);
    (!same).then_some(condition)
}

/// Events have reasons out of a bounded set.
fn reason_of(reason: &str) -> Option<&'static str> {
    use super::decide::FAILURES;
    use super::validate::{OVERLAP, TOO_MANY};
    use crate::refusal::{INVALID, TOO_MANY_OBJECTS};

    [FAILURES, DEADLINE, REVISION_MISSING, "RollingBack", INVALID, OVERLAP, TOO_MANY, TOO_MANY_OBJECTS]
        .into_iter()
        .find(|known| *known == reason)
}
