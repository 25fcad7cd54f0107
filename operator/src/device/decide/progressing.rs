//! Which phases of a new device are written, told as stories.

use edge_api::DevicePhase::{Conflicted, Failed, InSync, Pending, Syncing, Unreachable};

use super::super::absorb::Note;
use super::super::answer::Answer;
use super::story::{Asked, Story, desired};
use super::tests::refused;
use super::*;
use edge_protocol::RefusalReason;

const IDLE: Install = Install::Idle;
const RUNNING: Install = Install::Running { percent: 40 };

/// A device that nobody has told anything about, under the flags' defaults.
fn new() -> Story {
    let mut story = Story::of(desired("2.0.0"));
    story.policy.progress_after = Duration::from_secs(2);
    story.budgets.progress = Bucket::new(1, 0.001);
    story
}

#[test]
fn a_new_device_that_answers_soon_costs_one_status_and_one_change_of_its_metadata() {
    let mut story = new();
    story.device.metadata.finalizers = None;
    assert_eq!(story.decide(), Asked::Report);
    assert_eq!(story.reports("1.0.0", 0, 0, IDLE), Asked::Nothing);
    assert_eq!(story.marks, [Mark::Hold]);
    story.device.metadata.finalizers = Some(vec![edge_api::device::FINALIZER.into()]);
    let held = story.decide();
    if held == Asked::Report { story.reports("1.0.0", 0, 0, IDLE) } else { held }.command();
    assert_eq!(story.hears(Answer::Stored), Asked::Report);
    story.reports("2.0.0", 1, 1, IDLE);
    assert_eq!((story.phase(), story.writes), (InSync, 1));
    assert_eq!(story.marks, [Mark::Hold]);
}

#[test]
fn what_lasts_is_told_and_it_is_looked_again_when_that_is() {
    let mut story = new();
    assert_eq!(story.decide(), Asked::Report);
    assert_eq!((story.writes, story.wake), (0, Duration::from_secs(2)));
    story.pass(2);
    story.decide();
    assert_eq!((story.phase(), story.condition("Reachable")), (Pending, "Unknown/NotContacted".to_owned()));
    assert_eq!((story.writes, story.status().addresses.len()), (1, 1));
}

#[test]
fn an_install_that_lasts_is_told() {
    let mut story = new();
    story.decide();
    story.reports("1.0.0", 0, 0, IDLE).command();
    assert_eq!(story.hears(Answer::Stored), Asked::Report);
    for _ in 0..3 {
        assert_eq!(story.reports("1.0.0", 0, 1, RUNNING), Asked::Nothing);
        story.pass(1);
        assert_eq!(story.decide(), Asked::Report);
    }
    assert_eq!((story.phase(), story.writes), (Syncing, 1));
}

#[test]
fn while_its_question_waits_here_nothing_is_told_of_a_device() {
    let mut story = new();
    story.queues = true;
    story.decide();
    for _ in 0..30 {
        story.pass(1);
        assert_eq!(story.decide(), Asked::Nothing);
    }
    story.memory.leaves_queue(0, story.now);
    story.pass(1);
    story.decide();
    assert_eq!(story.writes, 0);
    story.pass(1);
    story.decide();
    assert_eq!((story.phase(), story.writes), (Pending, 1));
}

#[test]
fn while_its_question_waits_here_a_device_is_looked_at_seldom() {
    let mut story = new();
    story.queues = true;
    let (mut looks, began) = (0, story.now);
    while story.now < began + Duration::from_secs(600) {
        story.decide();
        looks += 1;
        story.now += story.wake;
    }
    assert!((600 / 15..600 / 10).contains(&looks), "{looks} looks in ten minutes");
    story.memory.leaves_queue(0, story.now);
    for _ in 0..2 {
        assert_eq!(story.writes, 0);
        story.decide();
        story.now += story.wake;
    }
    story.decide();
    assert_eq!((story.phase(), story.writes), (Pending, 1));
}

#[test]
fn of_many_that_last_few_are_told_but_each_that_lasts_as_long_as_it_takes_to_be_lost() {
    let mut story = new();
    assert!(story.budgets.progress.take(story.now).is_ok(), "another device takes it");
    story.decide();
    story.reports("1.0.0", 0, 0, IDLE).command();
    story.hears(Answer::Stored);
    let mut seconds = 0;
    while story.writes == 0 {
        story.reports("1.0.0", 0, 1, RUNNING);
        story.pass(1);
        story.decide();
        seconds += 1;
    }
    assert!((119..=121).contains(&seconds), "{seconds} s");
    assert_eq!(story.phase(), Syncing);
    assert!(story.notes.contains(&Note::PutOff));
}

#[test]
fn what_a_person_would_act_on_is_told_at_once() {
    for (phase, answer) in
        [(Failed, refused(RefusalReason::Unsupported)), (Conflicted, refused(RefusalReason::ForeignUid))]
    {
        let mut story = new();
        story.decide();
        story.reports("1.0.0", 0, 0, IDLE).command();
        assert_eq!(story.writes, 0);
        story.hears(answer);
        assert_eq!((story.phase(), story.writes), (phase, 1));
    }
    let mut story = new();
    assert!(story.budgets.progress.take(story.now).is_ok());
    story.decide();
    story.pass(120);
    story.decide();
    assert_eq!((story.phase(), story.writes), (Unreachable, 1));
}

#[test]
fn where_a_new_device_is_is_told_at_once_when_a_fault_profile_looks_for_it() {
    let mut story = new();
    story.is_sought = true;
    story.decide();
    assert_eq!((story.phase(), story.writes, story.status().addresses.len()), (Pending, 1, 1));
    story.reports("1.0.0", 0, 0, IDLE).command();
    story.hears(Answer::Stored);
    story.reports("2.0.0", 1, 1, IDLE);
    assert_eq!((story.phase(), story.writes), (InSync, 2));
}

#[test]
fn where_a_new_device_went_is_told_at_once_when_a_fault_profile_looks_for_it() {
    let mut story = new();
    story.is_sought = true;
    story.decide();
    assert_eq!(story.writes, 1);
    story.place = Place::At(vec![("10.20.0.18".parse().unwrap(), None)]);
    story.decide();
    assert_eq!((story.phase(), story.writes), (Pending, 2));
    assert_eq!(story.status().addresses[0].ip, "10.20.0.18");
}

#[test]
fn a_change_of_a_device_that_people_know_is_told_at_once() {
    let mut story = new();
    story.decide();
    story.reports("2.0.0", 0, 0, IDLE);
    assert_eq!(story.phase(), InSync);
    story.edit(|spec| spec.desired = desired("3.0.0"));
    story.decide().command();
    assert_eq!((story.phase(), story.status().observed_generation), (Syncing, Some(2)));
}
