//! Decisions about one device, told as stories.

use edge_api::DevicePhase::{Conflicted, Failed, InSync, Paused, Pending, Syncing, Unreachable};
use edge_protocol::{Refusal, RefusalReason};

use super::super::answer::Answer;
use super::story::{Asked, EPOCH, Story, desired};
use super::*;
use crate::link::Code;

const IDLE: Install = Install::Idle;
const RUNNING: Install = Install::Running { percent: 40 };

pub(super) fn refused(reason: RefusalReason) -> Answer {
    let (class, detail) = reason.code();
    let refusal = Refusal {
        reason,
        namespace: "edge-demo".into(),
        name: "pump-0".into(),
        uid: None,
        held_generation: 0,
        epoch: 0,
        boot_id: edge_protocol::BootId(9),
        sequence: 1,
        detail: None,
    };
    Answer::Refused(Code(class, detail), Some(refusal))
}

#[test]
fn an_unknown_device_is_asked_first_then_commanded_then_asked_until_it_runs_what_it_shall() {
    let mut story = Story::of(desired("2.0.0"));
    assert_eq!(story.decide(), Asked::Report);
    assert_eq!(story.phase(), Pending);
    let command = story.reports("1.0.0", 0, 0, IDLE).command();
    assert_eq!((command.generation, command.epoch, command.firmware.as_str()), (1, EPOCH, "2.0.0"));
    assert_eq!(story.phase(), Syncing);
    assert_eq!(story.hears(Answer::Stored), Asked::Report);
    assert_eq!(story.reports("1.0.0", 0, 1, RUNNING), Asked::Nothing);
    story.pass(1);
    assert_eq!(story.decide(), Asked::Report);
    assert_eq!(story.reports("2.0.0", 1, 1, IDLE), Asked::Nothing);
    assert_eq!(story.phase(), InSync);
    assert_eq!(story.condition("Ready"), "True/Ready");
}

#[test]
fn while_nothing_changes_nothing_is_written_and_nothing_but_reports_is_asked() {
    let mut story = Story::in_sync();
    let writes = story.writes;
    for _ in 0..50 {
        story.pass(10);
        assert_eq!(story.decide(), Asked::Report);
        assert_eq!(story.reports("2.0.0", 1, 1, IDLE), Asked::Nothing);
    }
    assert_eq!(story.writes, writes);
}

#[test]
fn equal_firmware_and_config_need_no_command() {
    let mut story = Story::of(desired("2.0.0"));
    story.decide();
    assert_eq!(story.reports("2.0.0", 0, 0, IDLE), Asked::Nothing);
    assert_eq!(story.phase(), InSync);
}

#[test]
fn an_edit_that_leaves_desired_alone_sends_no_command() {
    let mut story = Story::in_sync();
    story.edit(|spec| spec.liveness.lost_after = "5m".into());
    assert_eq!(story.decide(), Asked::Nothing);
    assert_eq!((story.phase(), story.status().observed_generation), (InSync, Some(2)));
}

#[test]
fn a_new_desired_state_is_commanded_at_once_even_while_a_report_is_awaited() {
    let mut story = Story::in_sync();
    story.pass(10);
    assert_eq!(story.decide(), Asked::Report);
    story.edit(|spec| spec.desired = desired("3.0.0"));
    assert_eq!(story.decide().command().firmware, "3.0.0");
    assert_eq!(story.phase(), Syncing);
}

#[test]
fn a_desired_state_taken_back_is_commanded_since_the_other_may_be_on_its_way() {
    let mut story = Story::in_sync();
    story.edit(|spec| spec.desired = desired("3.0.0"));
    story.decide().command();
    story.hears(Answer::Silence);
    story.edit(|spec| spec.desired = desired("2.0.0"));
    let back = story.decide();
    let command = if back == Asked::Report { story.reports("2.0.0", 1, 1, IDLE) } else { back }.command();
    assert_eq!((command.firmware.as_str(), command.generation), ("2.0.0", 3));
    assert_eq!(story.phase(), Syncing, "in doubt until the device has the later generation");
    story.hears(Answer::Stored);
    story.reports("2.0.0", 3, 3, IDLE);
    assert_eq!(story.phase(), InSync);
}

#[test]
fn an_unanswered_command_is_repeated_with_the_same_id_after_its_backoff_and_within_its_budget() {
    let mut story = Story::of(desired("2.0.0"));
    story.decide();
    let first = story.reports("1.0.0", 0, 0, IDLE).command();
    story.hears(Answer::Silence);
    let mut commands = Vec::new();
    for second in 1..=240 {
        story.pass(1);
        match story.decide() {
            Asked::Command(command) => {
                commands.push(second);
                assert_eq!(command, first);
                story.hears(Answer::Silence);
            }
            Asked::Report => assert_eq!(story.hears(Answer::Silence), Asked::Nothing),
            Asked::Nothing => {}
            Asked::Own(command) => panic!("{command:?}"),
        }
    }
    assert_eq!(commands, [1, 3, 7, 15, 31, 63, 123, 183]);
    assert_eq!(story.notes.iter().filter(|note| **note == Note::Retry).count(), commands.len());
    story.memory.bucket = Bucket::new(1, 0.001);
    for _ in 0..100 {
        story.pass(100);
        if story.decide() != Asked::Nothing {
            story.hears(Answer::Silence);
        }
        story.memory.failures = 1;
    }
    assert!(story.memory.attempts < 20, "{} attempts on a budget of one in 1,000 s", story.memory.attempts);
    assert!(story.notes.contains(&Note::BudgetExhausted("device")));
}

#[test]
fn a_sign_of_life_ends_the_backoff_that_silence_began_and_no_other() {
    for (answer, at_once) in [(Answer::Silence, true), (Answer::Unable(Code(5, 3)), false)] {
        let mut story = Story::of(desired("2.0.0"));
        story.decide();
        story.reports("1.0.0", 0, 0, IDLE).command();
        story.memory.failures = 5;
        story.hears(answer);
        story.pass(10);
        assert_eq!(story.decide(), Asked::Report);
        let asked = story.reports("1.0.0", 0, 0, IDLE);
        assert_eq!(matches!(asked, Asked::Command(_)), at_once);
    }
}

#[test]
fn without_a_token_of_the_process_no_device_retries_but_first_commands_go_out() {
    let mut story = Story::of(desired("2.0.0"));
    story.budgets.retries = Bucket::new(1, 0.001);
    assert!(story.budgets.retries.take(Instant::now()).is_ok());
    story.decide();
    story.reports("1.0.0", 0, 0, IDLE).command();
    story.hears(Answer::Unable(Code(5, 3)));
    story.pass(5);
    assert_eq!(story.decide(), Asked::Nothing);
    assert_eq!(story.notes.last(), Some(&Note::BudgetExhausted("process")));
    story.pass(5);
    assert_eq!(story.decide(), Asked::Report, "probes are no retries");
    assert!(!story.notes.contains(&Note::Retry));
}

#[test]
fn after_a_restart_the_status_stands_until_there_is_news_and_nothing_is_commanded_blindly() {
    let mut story = Story::in_sync();
    story.edit(|spec| spec.desired = desired("3.0.0"));
    let command = story.decide().command();
    story.hears(Answer::Stored);
    let writes = story.writes;
    story.restart();
    assert_eq!(story.decide(), Asked::Report);
    assert_eq!((story.phase(), story.writes), (Syncing, writes));
    assert_eq!(story.reports("2.0.0", 1, 2, RUNNING), Asked::Nothing, "it is at it");
    story.pass(1);
    story.decide();
    let again = story.reports("2.0.0", 1, 1, IDLE).command();
    assert_eq!(again.command_id, command.command_id, "the same attempt, whoever sends it");
}

#[test]
fn a_refused_desired_state_fails_until_desired_changes_also_over_a_restart() {
    let mut story = Story::in_sync();
    story.edit(|spec| spec.desired = desired("6.6.6"));
    story.decide().command();
    assert_eq!(story.hears(refused(RefusalReason::Unsupported)), Asked::Nothing);
    assert_eq!((story.phase(), story.condition("Synced")), (Failed, "False/Refused".to_owned()));
    story.edit(|spec| spec.liveness.lost_after = "5m".into());
    story.decide();
    for restart in [false, true] {
        if restart {
            story.restart();
        }
        story.pass(20);
        assert_eq!(story.decide(), Asked::Report);
        assert_eq!(story.reports("2.0.0", 1, 1, IDLE), Asked::Nothing);
        assert_eq!(story.phase(), Failed, "after a restart: {restart}");
    }
    assert_eq!(story.notices, ["Failed"]);
    story.edit(|spec| spec.desired = desired("3.0.0"));
    assert_eq!(story.decide().command().firmware, "3.0.0");
}

#[test]
fn a_refusal_that_arrives_after_desired_changed_is_no_verdict_on_the_new_one() {
    let mut story = Story::in_sync();
    story.edit(|spec| spec.desired = desired("6.6.6"));
    story.decide().command();
    story.edit(|spec| spec.desired = desired("3.0.0"));
    let asked = story.hears(refused(RefusalReason::Unsupported));
    assert_ne!(story.phase(), Failed, "{asked:?}");
}

#[test]
fn an_install_is_tried_three_times_each_with_an_id_of_its_own() {
    let mut story = Story::in_sync();
    story.edit(|spec| spec.desired = desired("3.0.0"));
    let mut ids = vec![story.decide().command().command_id];
    for attempts in 1..=3 {
        story.hears(Answer::Stored);
        let mut asked = story.reports("2.0.0", 1, 2, Install::Failed { attempts });
        for _ in 0..20 {
            match asked {
                Asked::Command(ref command) => {
                    ids.push(command.command_id);
                    break;
                }
                Asked::Report => {
                    asked = story.reports("2.0.0", 1, 2, Install::Failed { attempts });
                }
                Asked::Nothing => {
                    story.pass(1);
                    asked = story.decide();
                }
                Asked::Own(command) => panic!("{command:?}"),
            }
        }
    }
    assert_eq!((story.phase(), story.condition("Synced")), (Failed, "False/InstallFailed".to_owned()));
    let different: std::collections::BTreeSet<_> = ids.iter().collect();
    assert_eq!((ids.len(), different.len()), (3, 3));
}

#[test]
fn silence_makes_a_device_unknown_then_unreachable_and_an_answer_brings_it_back() {
    let mut story = Story::in_sync();
    story.pass(10);
    assert_eq!(story.decide(), Asked::Report);
    assert!(story.wake <= Duration::from_secs(20), "woken when it is to be suspected: {:?}", story.wake);
    story.pass(20);
    story.decide();
    assert_eq!((story.phase(), story.condition("Reachable")), (InSync, "Unknown/Silent".to_owned()));
    assert_eq!(story.condition("Ready"), "Unknown/Silent");
    story.pass(90);
    story.decide();
    assert_eq!((story.phase(), story.condition("Reachable")), (Unreachable, "False/Lost".to_owned()));
    assert_eq!(story.condition("Synced"), "True/InSync", "the last word on what it runs");
    let writes = story.writes;
    story.hears(Answer::Silence);
    story.pass(100);
    story.decide();
    assert_eq!(story.writes, writes);
    story.reports("2.0.0", 1, 1, IDLE);
    assert_eq!((story.phase(), story.condition("Ready")), (InSync, "True/Ready".to_owned()));
}

#[test]
fn a_device_that_never_answered_is_pending_and_then_unreachable() {
    let mut story = Story::of(desired("2.0.0"));
    story.decide();
    assert_eq!((story.phase(), story.condition("Reachable")), (Pending, "Unknown/NotContacted".to_owned()));
    story.pass(120);
    story.decide();
    assert_eq!(story.phase(), Unreachable);
}

#[test]
fn a_contradiction_is_shown_and_commanded_again_under_a_new_id_and_truth_heals_it() {
    let mut story = Story::in_sync();
    story.edit(|spec| spec.desired = desired("3.0.0"));
    let first = story.decide().command();
    story.hears(Answer::Stored);
    assert_eq!(story.reports("2.0.0", 1, 1, IDLE), Asked::Nothing);
    assert_eq!((story.phase(), story.condition("Consistent")), (Conflicted, "False/LostCommand".to_owned()));
    assert_eq!(story.notices, ["LostCommand"]);
    story.pass(1);
    let again = story.decide().command();
    assert_eq!(again.generation, first.generation);
    assert_ne!(again.command_id, first.command_id);
    story.hears(Answer::Stored);
    story.reports("3.0.0", 2, 2, IDLE);
    assert_eq!((story.phase(), story.condition("Consistent")), (InSync, "True/Consistent".to_owned()));
}

#[test]
fn a_foreign_owner_and_a_later_epoch_are_never_commanded() {
    for (reason, told) in
        [(RefusalReason::ForeignUid, "ForeignOwner"), (RefusalReason::LowerEpoch, "EpochAhead")]
    {
        let mut story = Story::of(desired("2.0.0"));
        story.decide();
        story.reports("1.0.0", 0, 0, IDLE).command();
        story.hears(refused(reason));
        assert_eq!((story.phase(), story.condition("Consistent")), (Conflicted, format!("False/{told}")));
        for _ in 0..10 {
            story.pass(10);
            match story.decide() {
                asked @ (Asked::Command(_) | Asked::Own(_)) => panic!("{told}: {asked:?}"),
                Asked::Report => {
                    let mut report = story.report("1.0.0", 1, 1, IDLE);
                    match reason {
                        RefusalReason::ForeignUid => report.uid = Some("u0".into()),
                        _ => report.epoch = EPOCH + 1,
                    }
                    story.hears(Answer::Report(Box::new(report)));
                }
                Asked::Nothing => {}
            }
            assert_eq!(story.phase(), Conflicted);
        }
    }
}

#[test]
fn a_paused_device_and_one_out_of_reach_are_sent_nothing_and_their_silence_is_not_held_against_them() {
    for paused in [true, false] {
        let mut story = Story::in_sync();
        let reachable = story.place.clone();
        if paused {
            story.edit(|spec| spec.paused = true);
        } else {
            story.place = Place::NotAllowed("10.20.0.17 is not in --allow-cidrs".into());
        }
        for _ in 0..30 {
            story.pass(10);
            assert_eq!(story.decide(), Asked::Nothing);
        }
        let expected = if paused { (Paused, "False/Paused") } else { (Pending, "False/EndpointNotAllowed") };
        assert_eq!((story.phase(), story.condition("Ready").as_str()), expected);
        if paused {
            story.edit(|spec| spec.paused = false);
        }
        story.place = reachable;
        assert_eq!(story.decide(), Asked::Report);
        assert_eq!(story.phase(), InSync);
    }
}

#[test]
fn a_reboot_is_asked_again_before_it_is_believed() {
    let mut story = Story::in_sync();
    story.pass(10);
    story.decide();
    let mut rebooted = story.report("2.0.0", 1, 1, IDLE);
    rebooted.boot_id = edge_protocol::BootId(10);
    assert_eq!(story.hears(Answer::Report(Box::new(rebooted.clone()))), Asked::Report);
    assert!(story.notes.contains(&Note::Reboot));
    let writes = story.writes;
    rebooted.sequence += 1;
    story.hears(Answer::Report(Box::new(rebooted)));
    assert_eq!((story.phase(), story.writes), (InSync, writes + 1), "the new boot id is written");
}

#[test]
fn malformed_answers_are_counted_and_are_no_sign_of_life() {
    let mut story = Story::in_sync();
    for _ in 0..13 {
        story.pass(10);
        story.decide();
        story.hears(Answer::Malformed(edge_protocol::DecodeError::Version(9)));
    }
    assert_eq!(story.phase(), Unreachable);
    assert_eq!(story.notes.iter().filter(|note| **note == Note::Report("malformed")).count(), 13);
}
