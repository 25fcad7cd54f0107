//! Devices that change all the time, and what that costs.

use edge_api::DevicePhase::{InSync, Syncing};
use edge_protocol::Install;

use super::super::absorb::Note;
use super::story::{Story, desired};

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
        story.now += std::time::Duration::from_millis(200);
    }
    let writes = story.writes - before;
    assert!((15..=22).contains(&writes), "{writes} statuses in a minute");
    assert!(story.notes.contains(&Note::PutOff));
    // What is true in the end is written when the pause is over, though nothing happens any more.
    story.tells("2.0.0", 1, IDLE);
    while story.phase() != InSync || story.wake < std::time::Duration::from_secs(6) {
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
