//! A device that runs what a rollout told it, says so, and is lost a moment later: perhaps that was no accident.

use edge_api::FleetPhase;
use serde_json::json;

use super::story::{Fate, Story, firmware};
use super::*;

impl Story {
    /// A device gets lost, whatever became of what it was told.
    pub(super) fn leaves(&mut self, number: usize) -> &mut Self {
        let now = self.now;
        self.device(number, |device| {
            if device.contact != Contact::Away {
                device.lost_at = Some(now);
            }
            device.contact = Contact::Away;
            if device.outcome == Outcome::Trying {
                device.outcome = Outcome::Lost;
            }
        })
    }

    /// Every device that runs this gets lost.
    fn bricks(&mut self, version: &str) {
        let desired = firmware(version);
        for number in 0..self.devices.len() {
            let device = &self.devices[number];
            if device.desired.as_ref() == Some(&desired) && device.outcome == Outcome::InSync {
                self.leaves(number);
            }
        }
    }
}

/// Twenty devices, of which two may be unavailable.
fn twenty() -> serde_json::Value {
    json!({"batches": ["10%", "50%", "100%"], "maxInFlight": 20, "maxUnavailable": "10%", "progressDeadline": "10m"})
}

#[test]
fn a_firmware_that_kills_a_minute_after_its_report_reaches_those_under_way_by_then_and_nobody_else() {
    let mut story = Story::complete(20, twenty());
    story.wants("2").settles();
    for _ in 0..20 {
        story.after(10).devices_end();
        story.settles();
        story.after(60).bricks("2");
        story.settles();
    }
    assert_eq!(story.told("2") + story.told("1"), 20);
    assert_eq!(story.condition(types::WITHIN_BUDGET), "False/ProgressDeadlineExceeded");
    assert_eq!(
        (story.phase(), story.told("1")),
        (FleetPhase::RolledBack, 20),
        "also the lost ones, for when they are back"
    );
    let lost = story.devices.iter().filter(|device| device.contact == Contact::Away).count();
    assert_eq!(lost, 4, "the first two, and the two that were told before these got lost");
}

#[test]
fn as_many_as_may_be_unavailable_can_get_lost_afterwards_and_it_ends_all_the_same() {
    let mut story = Story::complete(20, twenty());
    story.wants("2").settles();
    let first = story.ranked()[0];
    story.after(10).devices_end();
    story.leaves(first);
    story.settles();
    let counts = story.status().counts;
    // It runs that as far as anybody knows, takes one of two places, and the other one is taken.
    assert_eq!((counts.in_sync, counts.unavailable, story.told("2")), (2, 2, 3));
    assert!(story.message(types::PROGRESSING).contains("1 devices are under way, 1 got lost"));
    story.runs_until_quiet();
    assert_eq!(
        (story.phase(), story.told("2"), story.status().counts.in_sync),
        (FleetPhase::Complete, 20, 20)
    );
    assert_eq!(story.status().counts.unavailable, 0, "when it is over nobody is held up by who is away");
}

#[test]
fn who_was_lost_before_the_rollout_began_counts_for_no_budget_whatever_it_was_told_before() {
    // Version 1 comes again, before most have heard of version 2; five of those that never did are away.
    let mut story = Story::complete(20, twenty());
    let order = story.ranked();
    for number in &order[15..] {
        story.leaves(*number);
    }
    story.after(5).wants("2").settles();
    story.after(5).wants("1").settles();
    assert_eq!(story.status().counts.unavailable, 2, "those that were told version 2 and go back");
    story.runs_until_quiet();
    assert_eq!(
        (story.phase(), story.told("1"), story.status().counts.in_sync),
        (FleetPhase::Complete, 20, 20)
    );
}

#[test]
fn who_comes_back_makes_room_again_and_who_is_lost_again_meanwhile_takes_it() {
    let mut story = Story::complete(20, twenty());
    let order = story.ranked();
    story.wants("2").settles();
    story.after(10).devices_end();
    story.leaves(order[0]).leaves(order[1]);
    story.settles();
    assert_eq!((story.status().counts.unavailable, story.told("2")), (2, 2));
    // Back with a state that it lost: it installs it again, and is lost on the way.
    story.returns(order[0]);
    story.device(order[0], |device| device.outcome = Outcome::Trying);
    story.leaves(order[0]);
    story.settles();
    assert_eq!((story.status().counts.unavailable, story.told("2")), (2, 2));
    assert_eq!(story.status().counts.in_sync, 1);
    story.returns(order[0]);
    story.returns(order[1]);
    story.runs_until_quiet();
    assert_eq!((story.phase(), story.status().counts.in_sync), (FleetPhase::Complete, 20));
}

#[test]
fn who_failed_within_the_budget_holds_nobody_up_who_catches_up_later_and_who_fails_beyond_it_does() {
    let rollout = |percent: &str| json!({"batches": ["100%"], "maxInFlight": 4, "maxUnavailable": 1, "failureBudget": {"percent": percent, "minimumSample": 4}});
    for (percent, told) in [("50%", 4), ("25%", 3)] {
        let mut story = Story::complete(4, rollout(percent));
        let order = story.ranked();
        for late in [order[2], order[3]] {
            story.leaves(late);
        }
        for fails in [order[1], order[2]] {
            story.fate(fails, "2", Fate::Fails);
        }
        story.wants("2").runs_until_quiet();
        assert_eq!(
            (story.phase(), story.told("2"), story.status().counts.failed),
            (FleetPhase::Complete, 2, 1)
        );
        for late in [order[2], order[3]] {
            story.returns(late);
            story.runs_until_quiet();
        }
        // Two of three are more than a quarter, and the fourth stays as it is.
        let failed = story.status().counts.failed;
        assert_eq!((story.phase(), story.told("2"), failed), (FleetPhase::Complete, told, 2), "{percent}");
        let says = story.message(types::PROGRESSING);
        assert_eq!(says.contains("nobody else is told"), told < 4, "{says}");
    }
}
