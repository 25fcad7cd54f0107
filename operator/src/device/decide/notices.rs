//! Reports that come by themselves, in time, late and out of order, told as stories.

use edge_api::DevicePhase::{Conflicted, InSync, Syncing};
use edge_protocol::{BootId, Report};

use super::super::answer::Answer;
use super::story::{Asked, Story, desired};
use super::*;

const IDLE: Install = Install::Idle;
const RUNNING: Install = Install::Running { percent: 40 };

impl Story {
    fn is_told(&mut self, report: Report) -> Asked {
        self.memory.push(Box::new(report));
        self.decide()
    }
}

/// A device that is at generation 2's install, which it acknowledged.
fn installing() -> Story {
    let mut story = Story::in_sync();
    story.edit(|spec| spec.desired = desired("3.0.0"));
    story.decide().command();
    assert_eq!(story.hears(Answer::Stored), Asked::Report);
    story.reports("2.0.0", 1, 2, RUNNING);
    assert_eq!(story.phase(), Syncing);
    story
}

#[test]
fn a_change_that_is_told_needs_no_probe() {
    let mut story = installing();
    let done = story.report("3.0.0", 2, 2, IDLE);
    assert_eq!(story.is_told(done), Asked::Nothing);
    assert_eq!((story.phase(), story.condition("Ready")), (InSync, "True/Ready".to_owned()));
}

#[test]
fn a_notification_that_is_lost_is_found_by_the_next_probe() {
    let mut story = installing();
    let _lost = story.report("3.0.0", 2, 2, IDLE);
    story.pass(1);
    assert_eq!(story.decide(), Asked::Report);
    story.reports("3.0.0", 2, 2, IDLE);
    assert_eq!(story.phase(), InSync);
}

#[test]
fn a_notification_from_before_an_acknowledged_command_accuses_nobody() {
    let mut story = Story::in_sync();
    let before = story.report("2.0.0", 1, 1, IDLE);
    story.edit(|spec| spec.desired = desired("3.0.0"));
    story.decide().command();
    assert_eq!(story.hears(Answer::Stored), Asked::Report);
    story.is_told(before);
    assert_eq!((story.phase(), story.condition("Consistent").as_str()), (Syncing, "True/Consistent"));
    story.reports("3.0.0", 2, 2, IDLE);
    assert_eq!((story.phase(), story.notices.len()), (InSync, 0));
}

#[test]
fn notifications_in_any_order_leave_the_latest_believed() {
    let mut story = installing();
    let progress = story.report("2.0.0", 1, 2, Install::Running { percent: 80 });
    let done = story.report("3.0.0", 2, 2, IDLE);
    story.is_told(done.clone());
    let writes = story.writes;
    for late in [progress, done] {
        story.is_told(late);
        assert_eq!((story.phase(), story.writes), (InSync, writes));
    }
}

#[test]
fn of_those_that_wait_the_latest_is_kept() {
    let mut story = installing();
    let progress = story.report("2.0.0", 1, 2, RUNNING);
    let done = story.report("3.0.0", 2, 2, IDLE);
    story.memory.push(Box::new(done));
    story.memory.push(Box::new(progress));
    story.decide();
    assert_eq!(story.phase(), InSync);
}

#[test]
fn an_answer_and_a_notification_are_heard_in_the_order_in_which_the_device_sent_them() {
    for swapped in [false, true] {
        let mut story = installing();
        story.pass(1);
        assert_eq!(story.decide(), Asked::Report);
        let first = story.report("2.0.0", 1, 2, Install::Running { percent: 80 });
        let second = story.report("3.0.0", 2, 2, IDLE);
        let (pushed, answer) = if swapped { (second, first) } else { (first, second) };
        story.memory.push(Box::new(pushed));
        story.hears(Answer::Report(Box::new(answer)));
        assert_eq!(story.phase(), InSync);
        assert!(!story.notes.contains(&Note::Report("stale")), "swapped: {swapped}");
    }
}

#[test]
fn what_contradicts_is_asked_before_it_counts_and_no_faster_than_a_probe() {
    let mut story = Story::in_sync();
    let mut wrong = story.report("2.0.0", 1, 1, IDLE);
    wrong.applied_generation = 9;
    assert_eq!(story.is_told(wrong.clone()), Asked::Nothing);
    assert_eq!(story.phase(), InSync);
    story.pass(1);
    assert_eq!(story.decide(), Asked::Report, "soon, and not at the next usual probe");
    wrong.sequence += 10;
    story.hears(Answer::Report(Box::new(wrong)));
    assert_eq!(story.phase(), Conflicted, "it says the same when it is asked");
}

#[test]
fn a_reboot_that_is_told_is_asked_before_it_is_believed() {
    let mut story = Story::in_sync();
    let mut rebooted = story.report("2.0.0", 1, 1, IDLE);
    rebooted.boot_id = BootId(10);
    assert_eq!(story.is_told(rebooted.clone()), Asked::Report);
    assert!(story.notes.contains(&Note::Reboot));
    rebooted.sequence += 1;
    story.hears(Answer::Report(Box::new(rebooted)));
    assert_eq!(story.phase(), InSync);
}

#[test]
fn a_stranger_at_the_address_who_tells_something_is_asked() {
    let mut story = Story::in_sync();
    let mut foreign = story.report("2.0.0", 1, 1, IDLE);
    foreign.name = "pump-9".into();
    assert_eq!(story.is_told(foreign), Asked::Nothing);
    assert_eq!(story.phase(), InSync);
    story.pass(1);
    assert_eq!(story.decide(), Asked::Report);
}

#[test]
fn a_question_that_is_answered_by_a_notification_is_over_and_accuses_nobody() {
    let mut story = installing();
    story.pass(1);
    assert_eq!(story.decide(), Asked::Report);
    let before = story.report("2.0.0", 1, 1, IDLE);
    story.hears(Answer::Pushed(Box::new(before)));
    assert_eq!((story.phase(), story.condition("Consistent").as_str()), (Syncing, "True/Consistent"));
    story.pass(1);
    assert_eq!(story.decide(), Asked::Report);
}
