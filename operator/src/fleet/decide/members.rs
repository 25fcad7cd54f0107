//! Devices that leave a fleet, join it, or are deleted and made again, in the middle of a rollout.

use edge_api::FleetPhase;
use edge_api::condition::types::WITHIN_BUDGET;
use serde_json::json;

use super::story::{Fate, Story, firmware};
use super::*;

impl Story {
    /// A person takes a device out of the fleet, or puts it in again. What it was told stays.
    pub(super) fn selects(&mut self, number: usize, is_in: bool) -> &mut Self {
        if self.devices[number].is_member != is_in {
            self.joined += usize::from(is_in);
            self.changed.remove(&self.devices[number].name);
            self.device(number, |device| device.is_member = is_in);
        }
        self
    }

    /// Another object is there under the name of one that was deleted.
    pub(super) fn is_made_again(&mut self, number: usize) -> &mut Self {
        let device = &self.devices[number];
        if device.contact == Contact::Away {
            self.revived.insert(device.name.clone());
        }
        self.changed.remove(&device.name);
        self.joined += usize::from(!device.is_member);
        let uid = format!("{}, made again", device.uid);
        self.device(number, |device| {
            (device.is_member, device.is_new, device.uid) = (true, true, uid);
            (device.desired, device.foreign) = (None, false);
            (device.contact, device.outcome, device.lost_at) = (Contact::Unclear, Outcome::Trying, None);
        })
    }

    /// One that is new is asked for the first time.
    pub(super) fn is_asked(&mut self, number: usize) {
        let device = &self.devices[number];
        if device.is_new && [Contact::Unclear, Contact::Answering].contains(&device.contact) {
            self.device(number, |device| {
                (device.is_new, device.contact) = (false, Contact::Answering);
                if device.desired.is_none() {
                    device.outcome = Outcome::InSync;
                }
            });
        }
    }
}

/// One of four devices at a time, of which the first has just been told "2".
fn one_is_reserved() -> (Story, usize) {
    let rollout = json!({
        "batches": ["100%"], "maxInFlight": 1, "maxUnavailable": 1, "progressDeadline": "10m",
        "failureBudget": {"percent": "0%", "minimumSample": 1},
    });
    let mut story = Story::complete(4, rollout);
    let first = story.ranked()[0];
    story.wants("2").settles();
    assert_eq!((story.told("2"), story.status().reserved.len()), (1, 1));
    assert_eq!(story.status().reserved, [story.devices[first].name.clone()]);
    (story, first)
}

#[test]
fn a_reserved_device_that_is_deleted_makes_room_and_made_again_it_is_told_what_all_shall_run() {
    let (mut story, first) = one_is_reserved();
    story.selects(first, false).settles();
    let second = story.ranked()[1];
    assert_eq!(story.status().reserved, [story.devices[second].name.clone()]);
    story.is_made_again(first).settles();
    assert_eq!(story.devices[first].desired, None, "nobody knows it, and another one is under way");
    story.runs_until_quiet();
    assert_eq!((story.phase(), story.told("2"), story.status().counts.total), (FleetPhase::Complete, 4, 4));
    assert_eq!((story.status().counts.in_sync, story.status().reserved.len()), (4, 0));
}

#[test]
fn a_reserved_device_that_is_made_again_before_anybody_sees_that_it_was_deleted_keeps_its_place() {
    let (mut story, first) = one_is_reserved();
    story.is_made_again(first);
    // What was decided on the former object is refused; what is decided on this one names its uid.
    story.look();
    assert_eq!(story.devices[first].desired, None);
    story.settles();
    assert_eq!(story.devices[first].desired, Some(firmware("2")));
    assert_eq!(story.status().reserved.len(), 1, "and nobody else begins");
    story.runs_until_quiet();
    assert_eq!((story.phase(), story.status().counts.in_sync), (FleetPhase::Complete, 4));
}

#[test]
fn a_device_that_failed_and_is_made_again_has_another_try_in_the_next_rollout() {
    let (mut story, first) = one_is_reserved();
    story.fate(first, "2", Fate::Fails);
    story.runs_until_quiet();
    assert_eq!((story.phase(), story.told("1")), (FleetPhase::RolledBack, 4));
    story.is_made_again(first).runs_until_quiet();
    assert_eq!(
        (story.phase(), story.told("1")),
        (FleetPhase::RolledBack, 4),
        "it is told what the others run"
    );
    story.wants("3").runs_until_quiet();
    assert_eq!((story.phase(), story.status().counts.in_sync), (FleetPhase::Complete, 4));
}

#[test]
fn who_leaves_while_it_is_reserved_is_waited_for_no_more_whatever_becomes_of_it() {
    for fate in [Fate::Works, Fate::Fails, Fate::Dies] {
        let (mut story, first) = one_is_reserved();
        story.fate(first, "2", fate);
        story.selects(first, false).settles();
        assert!(!story.status().reserved.contains(&story.devices[first].name));
        story.runs_until_quiet();
        story.after(601).runs_until_quiet();
        assert_eq!(story.condition(WITHIN_BUDGET), "True/WithinBudget", "{fate:?}");
        let counts = story.status().counts;
        assert_eq!((story.phase(), counts.total, counts.in_sync), (FleetPhase::Complete, 3, 3));
        assert_eq!(story.devices[first].desired, Some(firmware("2")), "it keeps what it was told");
        let writes = story.writes;
        story.after(100_000).runs_until_quiet();
        assert_eq!(story.writes, writes);
        // The rollout is over: whoever joins now is brought up, and spoils nothing.
        story.selects(first, true).returns(first);
        story.runs_until_quiet();
        let in_sync = if fate == Fate::Fails { 3 } else { 4 };
        let counts = story.status().counts;
        assert_eq!((story.phase(), counts.total, counts.in_sync), (FleetPhase::Complete, 4, in_sync));
    }
}

#[test]
fn a_fleet_that_all_leave_in_the_middle_waits_for_nobody_and_goes_on_with_whoever_joins() {
    let (mut story, _) = one_is_reserved();
    for number in 0..4 {
        story.selects(number, false);
    }
    story.runs_until_quiet();
    story.after(100_000).runs_until_quiet();
    assert_eq!(
        (story.phase(), story.condition(types::PROGRESSING).as_str()),
        (FleetPhase::Pending, "False/NoDevices")
    );
    assert_eq!((story.status().reserved.len(), story.status().progressed_at.clone()), (0, None));
    for number in 0..4 {
        story.selects(number, true);
    }
    story.runs_until_quiet();
    assert_eq!((story.phase(), story.status().counts.in_sync), (FleetPhase::Complete, 4));
}
