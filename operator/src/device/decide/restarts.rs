//! What a restart of the operator must not change, told as stories.

use edge_api::DevicePhase::{Failed, InSync, Paused, Unreachable};

use super::super::answer::Answer;
use super::story::{Asked, Story, desired};
use super::*;
use crate::link::Code;

const IDLE: Install = Install::Idle;

#[test]
fn a_lost_device_stays_unreachable_until_it_answers() {
    let mut story = Story::in_sync();
    story.pass(130);
    story.decide();
    story.hears(Answer::Silence);
    assert_eq!(story.phase(), Unreachable);
    story.restart();
    let writes = story.writes;
    for _ in 0..20 {
        if story.decide() == Asked::Report {
            story.hears(Answer::Silence);
        }
        assert_eq!((story.phase(), story.writes), (Unreachable, writes));
        story.pass(10);
    }
    assert_eq!(story.decide(), Asked::Report);
    story.reports("2.0.0", 1, 1, IDLE);
    assert_eq!(story.phase(), InSync);
}

#[test]
fn a_device_in_sync_is_asked_within_its_probe_interval_and_one_that_shall_change_at_once() {
    let mut story = Story::in_sync();
    story.restart_by(0.5);
    let writes = story.writes;
    assert_eq!((story.decide(), story.phase(), story.writes), (Asked::Nothing, InSync, writes));
    story.pass(4);
    assert_eq!(story.decide(), Asked::Nothing);
    story.pass(1);
    assert_eq!(story.decide(), Asked::Report);

    // Changed while nobody led.
    let mut story = Story::in_sync();
    story.edit(|spec| spec.desired = desired("3.0.0"));
    story.restart_by(0.5);
    assert_eq!(story.decide(), Asked::Report);

    // Changed before it was asked.
    let mut story = Story::in_sync();
    story.restart_by(0.5);
    assert_eq!(story.decide(), Asked::Nothing);
    story.edit(|spec| spec.desired = desired("3.0.0"));
    assert_eq!(story.decide(), Asked::Report);
    story.reports("2.0.0", 1, 1, IDLE).command();
}

#[test]
fn a_lost_device_is_not_called_synced_while_something_else_may_be_on_its_way_to_it() {
    let mut story = Story::in_sync();
    story.edit(|spec| spec.desired = desired("3.0.0"));
    story.decide().command();
    story.edit(|spec| spec.desired = desired("2.0.0"));
    story.pass(130);
    story.decide();
    story.hears(Answer::Silence);
    assert_eq!((story.phase(), story.condition("Synced")), (Unreachable, "False/Syncing".to_owned()));
    story.restart();
    story.decide();
    assert_eq!((story.phase(), story.condition("Synced")), (Unreachable, "False/Syncing".to_owned()));
}

#[test]
fn the_addresses_of_a_device_with_a_name_stay_until_the_name_is_looked_up() {
    for paused in [false, true] {
        let mut story = Story::in_sync();
        story.edit(|spec| {
            spec.endpoint.host = "pump-0.pumps".into();
            spec.paused = paused;
        });
        story.decide();
        let (before, known) = (story.status(), story.place.clone());
        assert_eq!(before.addresses.len(), 1);
        story.restart();
        story.place = Place::Unknown;
        for _ in 0..3 {
            assert_eq!(story.decide(), Asked::Nothing);
            assert_eq!(story.status(), before);
            story.pass(1);
        }
        story.place = known;
        assert_eq!(story.decide(), if paused { Asked::Nothing } else { Asked::Report });
        assert_eq!(story.status(), before);
    }
}

#[test]
fn a_new_name_takes_the_old_addresses_away() {
    let mut story = Story::in_sync();
    story.edit(|spec| spec.endpoint.host = "pump-0.pumps".into());
    story.place = Place::Unknown;
    story.decide();
    assert_eq!((story.status().addresses.len(), story.condition("Ready").as_str()), (0, "False/Resolving"));
}

#[test]
fn a_verdict_is_remembered_also_while_the_device_is_lost_or_paused() {
    for phase in [Unreachable, Paused] {
        let mut story = Story::in_sync();
        story.edit(|spec| spec.desired = desired("6.6.6"));
        story.decide().command();
        story.hears(Answer::Refused(Code(4, 22), None));
        assert_eq!(story.phase(), Failed);
        match phase {
            Paused => story.edit(|spec| spec.paused = true),
            _ => story.pass(130),
        }
        story.decide();
        assert_eq!((story.phase(), story.condition("Synced").as_str()), (phase, "False/Refused"));
        story.restart();
        story.edit(|spec| spec.paused = false);
        story.device.metadata.generation = story.status().observed_generation;
        let asked = story.decide();
        assert_eq!(asked, Asked::Report);
        assert_eq!(story.reports("2.0.0", 1, 1, IDLE), Asked::Nothing, "after {phase:?}");
        assert_eq!(story.phase(), Failed);
    }
}
