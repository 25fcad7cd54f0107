//! One story each.

use edge_api::condition::find_condition;
use edge_api::condition::types::{ACCEPTED, COMPLETE, PROGRESSING, WITHIN_BUDGET};
use edge_api::{FleetPhase, OnBudgetExceeded};

use super::super::validate::{OVERLAP, TOO_MANY};
use super::story::{Fate, Story, firmware};
use super::*;

/// Batches of a quarter, a half, and all; nothing else in the way.
fn roomy() -> serde_json::Value {
    serde_json::json!({
        "batches": ["25%", "50%", "100%"], "maxInFlight": 100, "maxUnavailable": "100%",
        "failureBudget": {"percent": "20%", "minimumSample": 5}, "progressDeadline": "10m",
    })
}

#[test]
fn a_rollout_goes_from_batch_to_batch_and_then_nothing_more_is_written() {
    let mut story = Story::of(8, roomy());
    let mut told = Vec::new();
    for batch in 1..=3 {
        story.settles();
        assert_eq!((story.phase(), story.status().batch), (FleetPhase::Progressing, batch));
        assert_eq!(story.condition(PROGRESSING), "True/RollingOut");
        told.push(story.told("1"));
        story.after(10).devices_end();
    }
    assert_eq!(told, [2, 4, 8]);
    let first: Vec<usize> = story.ranked()[..2].to_vec();
    story.settles();
    assert_eq!((story.phase(), story.condition(COMPLETE).as_str()), (FleetPhase::Complete, "True/Complete"));
    let status = story.status();
    assert_eq!(
        (status.revision, status.previous_revision, status.progressed_at.clone()),
        (Some(1), None, None)
    );
    let counts = status.counts;
    assert_eq!(
        (counts.total, counts.updated, counts.in_sync, counts.failed, counts.unavailable),
        (8, 8, 8, 0, 0)
    );
    assert!(status.reserved.is_empty() && story.said.is_empty());

    let writes = story.writes;
    story.after(100_000).settles();
    assert_eq!(story.writes, writes);

    // The same devices are first in each rollout.
    story.wants("2").settles();
    let second: Vec<usize> =
        (0..8).filter(|number| story.devices[*number].desired == Some(firmware("2"))).collect();
    let sorted = |mut numbers: Vec<usize>| {
        numbers.sort_unstable();
        numbers
    };
    assert_eq!(sorted(first), second);
    assert_eq!((story.status().revision, story.status().previous_revision), (Some(2), Some(1)));
}

#[test]
fn complete_is_said_of_each_generation_that_changes_no_template() {
    let mut story = Story::complete(4, roomy());
    for paused in [true, false] {
        story.edit(|spec| spec.paused = paused).settles();
        let complete = find_condition(&story.status().conditions, COMPLETE).unwrap();
        assert_eq!(
            (complete.status.as_str(), complete.observed_generation),
            ("True", Some(story.generation))
        );
    }
    // Of a template that was not taken up yet nothing is said.
    story.refusal = Some(Refusal { reason: OVERLAP, message: "another fleet selects its devices".into() });
    story.wants("2").settles();
    let complete = find_condition(&story.status().conditions, COMPLETE).unwrap();
    assert_eq!(complete.observed_generation, Some(story.generation - 1));
}

#[test]
fn devices_are_reserved_before_they_are_changed_and_no_more_than_may_be() {
    let rollout = serde_json::json!({"batches": ["100%"], "maxInFlight": 3, "maxUnavailable": "50%"});
    let mut story = Story::of(10, rollout);
    let mut seen = 0;
    while story.look() > 0 {
        story.sees_all();
        let reserved = story.status.as_ref().map_or(0, |status| status.reserved.len());
        assert!(story.told("1") <= reserved && reserved <= 3);
        seen = seen.max(story.told("1"));
    }
    assert_eq!(seen, 3);
    story.edit(|spec| spec.rollout.max_in_flight = 100).settles();
    assert_eq!(story.told("1"), 5, "maxUnavailable is half of them");
    assert_eq!(story.status().counts.unavailable, 5);
}

#[test]
fn too_many_failures_bring_the_previous_revision_back_and_the_failed_one_is_not_tried_again() {
    let mut story = Story::complete(8, roomy());
    for number in 0..8 {
        story.fate(number, "2", Fate::Fails);
    }
    story.wants("2").settles();
    assert_eq!(story.told("2"), 2);
    story.after(10).devices_end();
    story.settles();
    assert_eq!(story.phase(), FleetPhase::RollingBack);
    assert_eq!(story.condition(WITHIN_BUDGET), "False/FailureBudgetExceeded");
    let status = story.status();
    assert_eq!(
        (status.revision, status.failed_revision, status.previous_revision),
        (Some(2), Some(2), Some(1))
    );
    assert_eq!(story.told("1"), 8);
    story.runs_until_quiet();
    assert_eq!((story.phase(), story.said.as_slice()), (FleetPhase::RolledBack, &["RollingBack"][..]));
    assert_eq!(story.condition(COMPLETE), "False/GivenUp");

    // Not by another leader, not by an edit of something else, and not when devices come and go.
    story.another_leads();
    story.edit(|spec| spec.rollout.max_in_flight = 7).device(3, |device| device.contact = Contact::Away);
    story.runs_until_quiet();
    story.returns(3);
    story.runs_until_quiet();
    assert_eq!((story.phase(), story.told("1")), (FleetPhase::RolledBack, 8));

    // Another template is, and then the same one again.
    story.wants("3").runs_until_quiet();
    assert_eq!((story.phase(), story.told("3")), (FleetPhase::Complete, 8));
    assert_eq!((story.status().revision, story.status().previous_revision), (Some(3), Some(1)));
    story.wants("2").settles();
    assert_eq!(
        (story.status().revision, story.status().previous_revision, story.told("2")),
        (Some(4), Some(3), 2)
    );
    assert!(story.revisions.len() <= 3, "{:?}", story.revisions);
}

#[test]
fn without_a_previous_revision_or_when_told_so_it_pauses_until_the_spec_changes() {
    for complete in [false, true] {
        let mut story = if complete { Story::complete(8, roomy()) } else { Story::of(8, roomy()) };
        if complete {
            story.edit(|spec| spec.rollout.on_budget_exceeded = OnBudgetExceeded::Pause);
        }
        for number in 0..8 {
            story.fate(number, "2", Fate::Fails);
        }
        story.wants("2").runs_until_quiet();
        assert_eq!((story.phase(), story.told("2")), (FleetPhase::Paused, 2));
        assert_eq!(story.said, ["FailureBudgetExceeded"]);
        assert_eq!(story.condition(PROGRESSING), "False/BudgetExceeded");
        story.another_leads();
        story.after(100_000).runs_until_quiet();
        assert_eq!(story.told("2"), 2);
        story.edit(|spec| spec.rollout.failure_budget.percent = "100%".into()).runs_until_quiet();
        assert_eq!((story.phase(), story.told("2")), (FleetPhase::Complete, 8));
        assert_eq!(story.status().counts.failed, 8);
    }
}

#[test]
fn a_device_that_a_rollout_kills_holds_the_batch_until_the_deadline_and_then_the_rest_is_rolled_back() {
    let mut story = Story::complete(8, roomy());
    let first = story.ranked()[0];
    story.fate(first, "2", Fate::Dies);
    story.wants("2").runs_until_quiet();
    assert_eq!((story.phase(), story.told("2"), story.status().batch), (FleetPhase::Progressing, 2, 1));
    assert_eq!(story.status().counts.unavailable, 1);
    let Decision::Act { wake: Some(wake), .. } = story.decide() else { panic!("no alarm is set") };
    assert!(wake > Duration::from_secs(500) && wake <= Duration::from_secs(600), "{wake:?}");
    story.after(601).runs_until_quiet();
    assert_eq!(story.condition(WITHIN_BUDGET), "False/ProgressDeadlineExceeded");
    assert_eq!(
        (story.phase(), story.told("1")),
        (FleetPhase::RolledBack, 8),
        "the lost one too, for when it is back"
    );
    assert_eq!(story.devices[first].outcome, Outcome::Lost);
    story.returns(first);
    story.runs_until_quiet();
    assert_eq!((story.status().counts.in_sync, story.status().counts.unavailable), (8, 0));
}

#[test]
fn a_device_that_finishes_begins_the_deadline_anew() {
    let mut story = Story::complete(8, roomy());
    story.wants("2").settles();
    for _ in 0..2 {
        let next = (0..8).find(|number| story.devices[*number].outcome == Outcome::Trying).unwrap();
        story.after(500).device_ends(next);
        story.settles();
        assert_eq!(story.phase(), FleetPhase::Progressing);
    }
    assert_eq!(story.status().batch, 2);
}

#[test]
fn devices_that_are_away_catch_up_later_and_hold_nobody_up() {
    let mut story = Story::complete(8, roomy());
    let order = story.ranked();
    for number in [order[0], order[5]] {
        story.device(number, |device| device.contact = Contact::Away);
    }
    story.wants("2").runs_until_quiet();
    assert_eq!((story.phase(), story.told("2")), (FleetPhase::Complete, 6));
    assert_eq!(story.status().counts.unavailable, 0);
    story.returns(order[0]);
    story.runs_until_quiet();
    story.returns(order[5]);
    story.runs_until_quiet();
    assert_eq!((story.phase(), story.told("2"), story.status().counts.in_sync), (FleetPhase::Complete, 8, 8));
}

#[test]
fn who_was_not_asked_yet_is_waited_for_and_where_nobody_answers_nothing_is_complete() {
    let mut story = Story::of(4, roomy());
    for number in 0..4 {
        story.device(number, |device| device.contact = Contact::Unclear);
    }
    story.runs_until_quiet();
    assert_eq!((story.phase(), story.status().batch), (FleetPhase::Progressing, 1));
    for number in 0..4 {
        story.device(number, |device| device.contact = Contact::Away);
    }
    story.after(100_000).runs_until_quiet();
    assert_eq!((story.phase(), story.status().batch, story.told("1")), (FleetPhase::Progressing, 1, 0));
    assert_eq!(story.status().progressed_at, None, "and no deadline runs");
    story.returns(2);
    story.runs_until_quiet();
    assert_eq!((story.phase(), story.told("1")), (FleetPhase::Complete, 1));
}

#[test]
fn a_device_that_nobody_ever_asks_ends_the_rollout_at_its_deadline_and_is_named() {
    for previous in [false, true] {
        let mut story = if previous { Story::complete(4, roomy()) } else { Story::of(4, roomy()) };
        let first = story.ranked()[0];
        story.device(first, |device| device.contact = Contact::Unclear);
        story.wants("2").runs_until_quiet();
        assert_eq!((story.phase(), story.status().batch), (FleetPhase::Progressing, 1));
        let name = format!("(pump-{first})");
        assert!(story.message(PROGRESSING).contains(&name), "{}", story.message(PROGRESSING));
        let Decision::Act { wake: Some(wake), .. } = story.decide() else { panic!("no alarm is set") };
        assert!(wake <= Duration::from_secs(600), "{wake:?}");
        story.after(601).runs_until_quiet();
        assert_eq!(story.condition(WITHIN_BUDGET), "False/ProgressDeadlineExceeded");
        assert!(story.message(WITHIN_BUDGET).contains(&name), "{}", story.message(WITHIN_BUDGET));
        let ended = if previous { FleetPhase::RolledBack } else { FleetPhase::Paused };
        assert_eq!((story.phase(), story.told("2")), (ended, 0));
        let writes = story.writes;
        story.after(100_000).runs_until_quiet();
        assert_eq!(story.writes, writes, "and then nothing more is written");
    }
}

#[test]
fn foreign_devices_are_counted_and_left_alone() {
    let mut story = Story::of(4, roomy());
    let theirs = firmware("theirs");
    for number in [0, 2] {
        story.device(number, |device| (device.foreign, device.desired) = (true, Some(theirs.clone())));
    }
    story.runs_until_quiet();
    let counts = story.status().counts;
    assert_eq!((counts.total, counts.foreign, counts.updated), (4, 2, 2));
    assert_eq!((story.phase(), story.told("theirs")), (FleetPhase::Complete, 2));
    for number in [1, 3] {
        story.device(number, |device| device.foreign = true);
    }
    story.wants("2").runs_until_quiet();
    assert_eq!((story.phase(), story.told("2")), (FleetPhase::Pending, 0));
    assert_eq!(story.condition(PROGRESSING), "False/NoDevices");
}

#[test]
fn a_pause_stops_the_next_change_and_the_clock_and_forgets_nothing() {
    let mut story = Story::complete(8, roomy());
    story.wants("2").settles();
    story.edit(|spec| spec.paused = true).after(10).devices_end();
    story.after(100_000).runs_until_quiet();
    assert_eq!((story.phase(), story.told("2"), story.status().batch), (FleetPhase::Paused, 2, 1));
    assert_eq!(story.condition(PROGRESSING), "False/Paused");
    assert_eq!((story.status().counts.in_sync, story.status().progressed_at.clone()), (2, None));
    story.edit(|spec| spec.paused = false).runs_until_quiet();
    assert_eq!((story.phase(), story.said.len()), (FleetPhase::Complete, 0));

    // In the middle of a rollback, too.
    for number in 0..8 {
        story.fate(number, "3", Fate::Fails);
    }
    story.wants("3").edit(|spec| spec.rollout.max_in_flight = 1).settles();
    while story.status().failed_revision.is_none() {
        story.after(1).devices_end();
        story.sees_all().look();
    }
    story.edit(|spec| spec.paused = true).runs_until_quiet();
    assert_eq!(story.phase(), FleetPhase::Paused);
    story.another_leads();
    story.edit(|spec| spec.paused = false).runs_until_quiet();
    assert_eq!((story.phase(), story.told("2")), (FleetPhase::RolledBack, 8));
}

#[test]
fn an_overlap_pauses_and_undoes_nothing() {
    let mut story = Story::complete(8, roomy());
    story.wants("2").settles();
    let refusal =
        Refusal { reason: OVERLAP, message: "device pump-1 is also selected by fleet other".into() };
    story.refusal = Some(refusal);
    story.after(10).devices_end();
    story.after(100_000).runs_until_quiet();
    assert_eq!((story.phase(), story.told("2"), story.told("1")), (FleetPhase::Paused, 2, 6));
    assert_eq!(
        (story.condition(ACCEPTED).as_str(), story.said.as_slice()),
        ("False/Overlap", &["Overlap"][..])
    );
    story.refusal = None;
    story.runs_until_quiet();
    assert_eq!((story.phase(), story.told("2")), (FleetPhase::Complete, 8));
}

#[test]
fn who_is_reserved_stays_so_while_a_fleet_has_too_many_devices_to_look_at() {
    let mut story = Story::complete(8, roomy());
    story.wants("2").settles();
    let before = story.status().clone();
    assert_eq!(before.reserved.len(), 2);
    story.refusal = Some(Refusal { reason: TOO_MANY, message: "the selector matches 10001 devices".into() });
    story.sees_nobody();
    story.look();
    assert_eq!(
        (story.phase(), story.condition(ACCEPTED).as_str()),
        (FleetPhase::Paused, "False/TooManyDevices")
    );
    assert_eq!((&story.status().reserved, story.status().counts), (&before.reserved, before.counts));
}

#[test]
fn another_template_in_the_middle_of_a_rollout_goes_to_those_under_way_first() {
    let mut story = Story::complete(8, roomy());
    story.wants("2").settles();
    story.wants("3").settles();
    assert_eq!((story.told("2"), story.told("3"), story.told("1")), (0, 2, 6));
    assert_eq!((story.status().revision, story.status().previous_revision), (Some(3), Some(1)));
    story.runs_until_quiet();
    assert_eq!((story.phase(), story.told("3")), (FleetPhase::Complete, 8));
}

#[test]
fn a_revision_that_is_gone_is_not_made_up() {
    let mut story = Story::complete(8, roomy());
    for number in 0..8 {
        story.fate(number, "2", Fate::Fails);
    }
    story.edit(|spec| spec.rollout.max_in_flight = 1).wants("2").settles();
    while story.status().failed_revision.is_none() {
        story.after(1).devices_end();
        story.sees_all().look();
    }
    story.revisions.remove(&1);
    story.runs_until_quiet();
    assert_eq!(
        (story.phase(), story.condition(PROGRESSING).as_str()),
        (FleetPhase::Paused, "False/RevisionMissing")
    );
    story.wants("3").runs_until_quiet();
    assert_eq!((story.phase(), story.told("3")), (FleetPhase::Complete, 8));
}

#[test]
fn what_can_wait_is_not_written_at_once_and_nobody_is_changed_before_it_is() {
    let rollout = serde_json::json!({"batches": ["100%"], "maxInFlight": 4, "maxUnavailable": "100%"});
    let mut story = Story::of(8, rollout);
    story.settles();
    assert_eq!(story.told("1"), 4);
    story.write_in = Duration::from_millis(700);
    let writes = story.writes;
    let first = story.ranked()[0];
    story.after(1).device_ends(first);
    story.settles();
    assert_eq!((story.writes, story.told("1")), (writes, 4));
    assert!(matches!(story.decide(), Decision::Act { wake: Some(wake), .. } if wake <= story.write_in));
    story.write_in = Duration::ZERO;
    story.settles();
    assert_eq!(story.told("1"), 5);
}

#[test]
fn a_former_leader_stands_back_and_a_new_one_first_says_that_it_is_there() {
    let mut story = Story::complete(4, roomy());
    story.wants("2");
    let later = DeviceFleetStatus { epoch: Some(9), ..story.status().clone() };
    story.status = Some(later);
    assert_eq!(story.decide(), Decision::StandBack { epoch: 9 });
    story.epoch = 10;
    let Decision::Act { actions, .. } = story.decide() else { panic!("it stands back") };
    let expected = DeviceFleetStatus { epoch: Some(10), ..story.status().clone() };
    assert_eq!(actions, [Action::WriteStatus(Box::new(expected))]);
}
