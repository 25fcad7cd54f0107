//! Which ControllerRevision holds a fleet's template, and which of them are kept. Pure.

use std::collections::BTreeMap;

use edge_api::condition::{is_true, types};
use edge_api::{Desired, DeviceFleetStatus};

/// So many are kept.
const KEPT: usize = 3;

/// The templates of a fleet, by number; none where what is kept is not understood, but its number is taken.
pub(crate) type Revisions = BTreeMap<i64, Option<Desired>>;

/// What to do about the template of the spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Adoption {
    /// It is that of `status.revision`.
    Current,
    /// It is that of this one, which was made and is not yet in the status.
    Next(i64),
    /// It is new: make this one.
    Make(i64),
}

/// Compares the template with the revisions. A template of before, too, is a new revision: what failed may be tried again
/// when the template has changed in between.
pub(crate) fn adoption(status: &DeviceFleetStatus, template: &Desired, revisions: &Revisions) -> Adoption {
    let current = status.revision.unwrap_or_default();
    if readable(revisions, current) == Some(template) {
        return Adoption::Current;
    }
    let later = revisions.range(current + 1..).rev().find(|(_, made)| made.as_ref() == Some(template));
    if let Some((number, _)) = later {
        return Adoption::Next(*number);
    }
    let last = revisions.last_key_value().map_or(current, |(last, _)| current.max(*last));
    Adoption::Make(last + 1)
}

/// The template of this number, where there is one that is understood.
pub(crate) fn readable(revisions: &Revisions, number: i64) -> Option<&Desired> {
    revisions.get(&number)?.as_ref()
}

/// The revision that a rollback from the next one would bring back: the last one that was complete.
pub(crate) fn last_good(status: &DeviceFleetStatus) -> Option<i64> {
    if is_given_up(status) || !is_true(&status.conditions, types::COMPLETE) {
        status.previous_revision
    } else {
        status.revision
    }
}

/// Was the present revision given up?
pub(crate) fn is_given_up(status: &DeviceFleetStatus) -> bool {
    status.revision.is_some() && status.failed_revision == status.revision
}

/// The ones that are kept no longer: all but the two that the status names, and the latest. What is not understood is left to
/// whoever wrote it.
pub(crate) fn outdated(status: &DeviceFleetStatus, revisions: &Revisions) -> Vec<i64> {
    let named = [status.revision, status.previous_revision];
    let ours = || revisions.iter().filter(|(_, made)| made.is_some()).map(|(number, _)| number);
    let in_use = ours().filter(|number| named.contains(&Some(**number))).count();
    let others = ours().rev().filter(|number| !named.contains(&Some(**number)));
    others.skip(KEPT.saturating_sub(in_use)).copied().collect()
}

#[cfg(test)]
mod tests {
    use edge_api::set_condition;

    use super::*;

    fn firmware(version: &str) -> Desired {
        Desired { firmware: version.into(), config: BTreeMap::new() }
    }

    fn revisions(made: &[(i64, &str)]) -> Revisions {
        made.iter().map(|(number, version)| (*number, Some(firmware(version)))).collect()
    }

    fn status(revision: i64, previous: i64) -> DeviceFleetStatus {
        let some = |number: i64| (number > 0).then_some(number);
        DeviceFleetStatus {
            revision: some(revision),
            previous_revision: some(previous),
            ..DeviceFleetStatus::default()
        }
    }

    #[test]
    fn a_template_is_current_or_made_already_or_new() {
        let made = revisions(&[(1, "a"), (2, "b")]);
        let judge = |revision, template| adoption(&status(revision, 0), &firmware(template), &made);
        assert_eq!(adoption(&status(0, 0), &firmware("a"), &Revisions::new()), Adoption::Make(1));
        assert_eq!(judge(1, "a"), Adoption::Current);
        assert_eq!(judge(1, "b"), Adoption::Next(2), "made by a leader that died before it wrote the status");
        assert_eq!(judge(2, "a"), Adoption::Make(3), "that of before is new");
        assert_eq!(judge(2, "c"), Adoption::Make(3));
        assert_eq!(judge(7, "c"), Adoption::Make(8), "its own was deleted by a person");
    }

    #[test]
    fn the_number_of_a_revision_that_is_not_understood_is_not_taken_again_and_the_revision_is_left_alone() {
        let mut made = revisions(&[(1, "a"), (2, "b"), (3, "c"), (4, "d"), (5, "e")]);
        made.insert(6, None);
        made.insert(2, None);
        assert_eq!(adoption(&status(5, 0), &firmware("f"), &made), Adoption::Make(7));
        assert_eq!(
            adoption(&status(6, 5), &firmware("e"), &made),
            Adoption::Make(7),
            "what it is, is not known"
        );
        assert_eq!(outdated(&status(6, 5), &made), [1]);
    }

    #[test]
    fn a_rollback_goes_to_the_last_one_that_was_complete() {
        let mut status = status(5, 3);
        assert_eq!(last_good(&status), Some(3));
        set_condition(
            &mut status.conditions,
            types::COMPLETE,
            true.into(),
            "Complete",
            "",
            None,
            jiff::Timestamp::UNIX_EPOCH,
        );
        assert_eq!(last_good(&status), Some(5));
        status.failed_revision = Some(5);
        assert_eq!(last_good(&status), Some(3));
    }

    #[test]
    fn three_are_kept_and_among_them_those_that_the_status_names() {
        let five = revisions(&[(1, "a"), (2, "b"), (3, "c"), (4, "d"), (5, "e")]);
        assert_eq!(outdated(&status(5, 2), &five), [3, 1]);
        assert_eq!(outdated(&status(5, 4), &five), [2, 1]);
        assert_eq!(outdated(&status(1, 0), &revisions(&[(1, "a")])), Vec::<i64>::new());
        assert_eq!(outdated(&status(3, 0), &revisions(&[(1, "a"), (2, "b"), (3, "c")])), Vec::<i64>::new());
    }
}
