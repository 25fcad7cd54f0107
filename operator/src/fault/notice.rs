//! What a person wants to see in `kubectl describe`: one notice a transition, none for ordinary progress.

use edge_api::condition::{find_condition, is_true, types};
use edge_api::{FaultPhase, FaultProfileStatus};

/// An event to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Notice {
    /// Something is wrong.
    pub(crate) warning: bool,
    /// CamelCase, bounded.
    pub(crate) reason: &'static str,
    /// One sentence.
    pub(crate) note: String,
}

/// The notices of a change of status; `found` is the number of targets that match.
pub(crate) fn notices(old: &FaultProfileStatus, new: &FaultProfileStatus, found: usize) -> Vec<Notice> {
    let mut notices = Vec::new();
    let mut say = |warning, reason, note: String| notices.push(Notice { warning, reason, note });
    let accepted = |status: &FaultProfileStatus| is_true(&status.conditions, types::ACCEPTED);
    if accepted(new) && !accepted(old) {
        say(false, "Accepted", message(new, types::ACCEPTED));
    }
    if let (None, Some(_), Some(end)) = (&old.started_at, &new.started_at, &new.expires_at) {
        let hit = new.targets.selected;
        say(false, "Started", format!("hits {hit} of {found} targets, until {:.3}", end.0));
    }
    if new.phase == old.phase {
        return notices;
    }
    match new.phase {
        FaultPhase::Rejected => say(true, "Rejected", message(new, types::ACCEPTED)),
        FaultPhase::Degraded => say(true, "Degraded", message(new, types::INSTALLED)),
        FaultPhase::Active if old.phase == FaultPhase::Degraded => {
            say(false, "Recovered", message(new, types::INSTALLED));
        }
        FaultPhase::Expired => say(false, "Expired", message(new, types::EFFECTIVE)),
        FaultPhase::Active | FaultPhase::Pending | FaultPhase::Paused => {}
    }
    notices
}

fn message(status: &FaultProfileStatus, condition: &str) -> String {
    find_condition(&status.conditions, condition)
        .map(|condition| condition.message.clone())
        .unwrap_or_default()
}
