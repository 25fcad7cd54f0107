//! Devices that change all the time, and what that costs.

use std::time::Duration;

use edge_api::DevicePhase::{InSync, Syncing};
use edge_protocol::Install;

use super::super::absorb::Note;
use super::story::{Asked, Story, desired};

const IDLE: Install = Install::Idle;
const RUNNING: Install = Install::Running { percent: 50 };

impl Story {
    /// The device says by itself that it installs, or that it does not.
    fn tells(&mut self, firmware: &str, held: u64, install: Install) {
        let report = self.report(firmware, held, held, install);
        self.memory.push(Box::new(report));
        self.decide();
    }
}

#[test]
fn a_device_that_changes_all_the_time_costs_a_burst_of_statuses_and_then_one_each_five_seconds() {
    let mut story = Story::in_sync();
    let before = story.writes;
    for _ in 0..300 {
        story.tells("2.0.0", 1, RUNNING);
        story.tells("2.0.0", 1, IDLE);
        story.now += Duration::from_millis(200);
    }
    let writes = story.writes - before;
    assert!((15..=22).contains(&writes), "{writes} statuses in a minute");
    assert!(story.notes.contains(&Note::PutOff));
    // What is true in the end is written when the pause is over, though nothing happens any more.
    story.tells("2.0.0", 1, IDLE);
    while story.phase() != InSync || story.wake < Duration::from_secs(6) {
        story.now += story.wake;
        story.reports("2.0.0", 1, 1, IDLE);
    }
    assert_eq!(story.phase(), InSync);
}

#[test]
fn what_a_person_declares_is_told_at_once_also_of_such_a_device() {
    let mut story = Story::in_sync();
    while !story.notes.contains(&Note::PutOff) {
        story.tells("2.0.0", 1, RUNNING);
        story.tells("2.0.0", 1, IDLE);
    }
    for firmware in ["3.0.0", "4.0.0", "5.0.0"] {
        let before = story.writes;
        story.edit(|spec| spec.desired = desired(firmware));
        story.decide();
        assert_eq!((story.phase(), story.writes - before), (Syncing, 1));
    }
}

#[test]
fn a_device_that_is_declared_anew_now_and_then_is_never_put_off() {
    let mut story = Story::in_sync();
    for generation in 2..40 {
        let firmware = format!("{generation}.1.0");
        story.edit(|spec| spec.desired = desired(&firmware));
        story.decide().command();
        story.hears(super::super::answer::Answer::Stored);
        story.reports(&firmware, generation, generation, IDLE);
        assert_eq!(story.phase(), InSync);
        story.pass(10);
    }
    assert!(!story.notes.contains(&Note::PutOff));
}

#[test]
fn what_is_declared_anew_of_a_device_that_was_not_asked_yet_is_written_with_the_command_or_a_third_of_a_second_later()
 {
    let anew = || {
        let mut story = Story::in_sync();
        story.edit(|spec| spec.desired = desired("3.0.0"));
        story.restart();
        let before = story.writes;
        assert_eq!((story.decide(), story.writes), (Asked::Report, before));
        assert!(story.wake <= Duration::from_millis(300), "{:?}", story.wake);
        (story, before)
    };
    let (mut story, before) = anew();
    story.now += Duration::from_millis(290);
    assert_eq!((story.decide(), story.writes), (Asked::Nothing, before));
    // The command is on its way when the write begins.
    assert_eq!(story.reports("2.0.0", 1, 1, IDLE).command().generation, 2);
    assert_eq!((story.phase(), story.writes), (Syncing, before + 1));

    // The device takes its time.
    let (mut story, before) = anew();
    story.now += Duration::from_millis(301);
    assert_eq!(
        (story.decide(), story.writes, story.status().observed_generation),
        (Asked::Nothing, before + 1, Some(2))
    );

    // It runs that already: one write is enough.
    let (mut story, before) = anew();
    assert_eq!(story.reports("3.0.0", 1, 1, IDLE), Asked::Nothing);
    assert_eq!((story.phase(), story.writes), (InSync, before + 1));
}
