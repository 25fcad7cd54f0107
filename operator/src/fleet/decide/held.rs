//! A reserved device that a person pauses, or moves to where the operator may not reach: it is no failure of the rollout,
//! and no progress either.

use edge_api::FleetPhase;
use serde_json::json;

use super::story::{Fate, Story, firmware};
use super::*;

const WITHIN_BUDGET: &str = types::WITHIN_BUDGET;

impl Story {
    /// A person pauses a device, or gives it back.
    pub(super) fn withholds(&mut self, number: usize, contact: Contact) {
        self.withheld.insert(self.devices[number].name.clone());
        self.device(number, |device| (device.contact, device.lost_at) = (contact, None));
    }

    /// Whoever was lost or withheld and then was seen to have ended what it was told begins as the others do.
    pub(super) fn forgets_what_ended(&mut self) {
        for (device, seen) in self.devices.iter().zip(&self.view) {
            let has_ended = device.outcome == Outcome::InSync && device.contact == Contact::Answering;
            if has_ended && device.version == seen.version {
                self.revived.remove(&device.name);
                self.withheld.remove(&device.name);
            }
        }
    }
}

/// Two of four devices at a time, of which the first is told "2" and then paused.
fn paused_in_the_middle() -> (Story, usize) {
    let rollout =
        json!({"batches": [1, "100%"], "maxInFlight": 2, "maxUnavailable": 2, "progressDeadline": "10m"});
    let mut story = Story::complete(4, rollout);
    let first = story.ranked()[0];
    story.wants("2").settles();
    assert_eq!((story.told("2"), story.status().reserved.len()), (1, 1));
    story.withholds(first, Contact::Withheld);
    (story, first)
}

#[test]
fn a_paused_device_is_no_failure_at_the_deadline_and_the_others_go_on() {
    let (mut story, first) = paused_in_the_middle();
    story.runs_until_quiet();
    story.after(601).runs_until_quiet();
    assert_eq!(story.condition(WITHIN_BUDGET), "True/WithinBudget");
    assert_eq!((story.phase(), story.status().counts.in_sync, story.told("2")), (FleetPhase::Complete, 3, 4));
    assert_eq!(
        story.status().reserved,
        [story.devices[first].name.clone()],
        "it goes on when it is given back"
    );
    assert_eq!(story.status().counts.unavailable, 0, "and counts for no budget");
    let writes = story.writes;
    story.after(100_000).runs_until_quiet();
    assert_eq!(story.writes, writes, "and until then nothing more is written");
    story.withholds(first, Contact::Answering);
    story.runs_until_quiet();
    let status = story.status();
    assert_eq!((story.phase(), status.counts.in_sync, status.reserved.len()), (FleetPhase::Complete, 4, 0));
}

#[test]
fn a_paused_device_is_no_progress_where_it_is_all_there_is() {
    let rollout = json!({"progressDeadline": "10m"});
    let mut story = Story::complete(1, rollout);
    story.wants("2").settles();
    story.withholds(0, Contact::Withheld);
    story.settles();
    story.after(100_000).runs_until_quiet();
    assert_eq!((story.phase(), story.status().batch), (FleetPhase::Progressing, 1), "nothing is known of it");
    assert_eq!(story.status().progressed_at, None, "and no deadline runs");
    let says = story.message(types::PROGRESSING);
    assert!(says.contains("1 are paused or out of reach"), "{says}");
    // Given back, it has the whole deadline again, and no more.
    story.withholds(0, Contact::Answering);
    story.settles();
    assert_eq!(story.phase(), FleetPhase::Progressing);
    story.after(601).settles();
    assert_eq!(story.condition(WITHIN_BUDGET), "False/ProgressDeadlineExceeded");
}

#[test]
fn while_it_is_paused_it_leaves_its_place_to_another_and_takes_it_again_afterwards() {
    let (mut story, first) = paused_in_the_middle();
    story.settles();
    assert_eq!((story.told("2"), story.status().reserved.len()), (3, 3), "two others are under way");
    story.withholds(first, Contact::Answering);
    story.settles();
    assert_eq!(story.told("2"), 3, "nobody else begins meanwhile");
    story.runs_until_quiet();
    assert_eq!((story.phase(), story.status().counts.in_sync), (FleetPhase::Complete, 4));
}

#[test]
fn a_rollback_takes_back_what_a_paused_device_was_told_and_does_not_wait_for_it() {
    let (mut story, first) = paused_in_the_middle();
    let order = story.ranked();
    for number in &order[1..3] {
        story.fate(*number, "2", Fate::Fails);
    }
    story.edit(|spec| spec.rollout.failure_budget.percent = "0%".into());
    story.runs_until_quiet();
    assert_eq!((story.phase(), story.told("1")), (FleetPhase::RolledBack, 4), "{:#?}", story.status);
    assert_eq!(story.devices[first].contact, Contact::Withheld);
    story.withholds(first, Contact::Answering);
    story.runs_until_quiet();
    assert_eq!((story.phase(), story.status().counts.in_sync), (FleetPhase::RolledBack, 4));
}

#[test]
fn who_is_paused_before_a_new_template_came_waits_for_its_turn_when_it_is_given_back() {
    let rollout = json!({"maxInFlight": 1, "maxUnavailable": 1});
    let mut story = Story::complete(3, rollout);
    let first = story.ranked()[0];
    story.wants("2").settles();
    assert_eq!((story.told("2"), story.devices[first].desired.as_ref()), (1, Some(&firmware("2"))));
    story.withholds(first, Contact::Withheld);
    story.settles();
    story.wants("3").settles();
    assert_eq!((story.told("3"), story.status().reserved.len()), (1, 1), "another one took its place");
    story.withholds(first, Contact::Answering);
    story.settles();
    assert_eq!((story.told("3"), story.status().reserved.len()), (1, 1), "there is room for one");
    story.runs_until_quiet();
    assert_eq!((story.phase(), story.status().counts.in_sync), (FleetPhase::Complete, 3));
}

#[test]
fn who_ended_unseen_what_it_was_paused_in_waits_for_its_turn_when_a_new_template_comes() {
    let rollout = json!({"maxInFlight": 2, "maxUnavailable": 1});
    let mut story = Story::complete(3, rollout);
    let first = story.ranked()[0];
    story.wants("2").settles();
    story.withholds(first, Contact::Withheld);
    story.settles();
    assert_eq!(story.told("2"), 2, "another one took its place");
    story.withholds(first, Contact::Answering);
    story.device_ends(first);
    story.wants("3").settles();
    assert_eq!((story.told("3"), story.status().reserved.len()), (1, 1), "one may be unavailable");
    story.runs_until_quiet();
    assert_eq!((story.phase(), story.status().counts.in_sync), (FleetPhase::Complete, 3));
}

#[test]
fn who_ended_while_a_fleet_was_paused_is_told_the_next_template_within_the_budgets_of_then() {
    let mut story = Story::complete(5, json!({"batches": ["100%"], "maxInFlight": 5, "maxUnavailable": 5}));
    story.wants("2").settles();
    assert_eq!(story.told("2"), 5);
    story.edit(|spec| {
        (spec.paused, spec.rollout.max_in_flight) = (true, 1);
        spec.template = firmware("3");
    });
    story.settles();
    story.devices_end();
    story.edit(|spec| spec.paused = false).settles();
    assert_eq!(story.told("3"), 1, "all of them run what they were told, and one may be under way");
    story.runs_until_quiet();
    assert_eq!((story.phase(), story.status().counts.in_sync), (FleetPhase::Complete, 5));
}
