//! Whom a device obeys: deleted objects, foreign owners, restored clusters and adoptions, told as stories.

use edge_api::DevicePhase::{Conflicted, InSync, Syncing};
use edge_api::DeviceSpec;
use edge_api::condition::find_condition;
use edge_api::device::{ADOPT, FINALIZER};
use edge_protocol::{BootId, Held, OwnerChange, OwnerCommand, Refusal, RefusalReason, Report};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::super::answer::Answer;
use super::story::{Asked, EPOCH, Story, desired, wall};
use super::tests::refused;
use super::*;

const IDLE: Install = Install::Idle;

impl Asked {
    fn owner(self) -> OwnerCommand {
        match self {
            Self::Own(command) => command,
            other => panic!("a change of owner was expected, not {other:?}"),
        }
    }
}

impl Story {
    fn is_deleted(&mut self) {
        self.device.metadata.deletion_timestamp = Some(Time(wall()));
        self.device.metadata.generation = self.device.metadata.generation.map(|generation| generation + 1);
    }

    fn annotate(&mut self, value: &str) {
        self.device.metadata.annotations = Some([(ADOPT.to_owned(), value.to_owned())].into());
    }

    /// A refusal of a device that obeys `uid` and `epoch`.
    fn refuses(&mut self, reason: RefusalReason, uid: Option<&str>, epoch: u64) -> Asked {
        let Answer::Refused(code, Some(refusal)) = refused(reason) else { panic!("a refusal") };
        let refusal = Refusal { uid: uid.map(Into::into), epoch, held_generation: 7, ..refusal };
        self.hears(Answer::Refused(code, Some(refusal)))
    }

    /// A report of a device that obeys `uid` and `epoch`.
    fn owned(&mut self, uid: &str, epoch: u64, generation: u64) -> Report {
        Report { uid: Some(uid.into()), epoch, ..self.report("1.0.0", generation, generation, IDLE) }
    }

    fn message(&self) -> String {
        find_condition(&self.status().conditions, "Consistent")
            .map(|it| it.message.clone())
            .unwrap_or_default()
    }
}

#[test]
fn before_a_device_obeys_an_object_the_object_is_held_and_only_then() {
    let mut story = Story::of(desired("2.0.0"));
    story.device.metadata.finalizers = Some(vec!["somebody.else/s".into()]);
    story.decide();
    assert_eq!(story.reports("1.0.0", 0, 0, IDLE), Asked::Nothing);
    assert_eq!(story.marks, [Mark::Hold], "written before the command is sent");
    story.device.metadata.finalizers = Some(vec!["somebody.else/s".into(), FINALIZER.into()]);
    assert_eq!(story.decide().command().firmware, "2.0.0");
    assert_eq!(story.marks, [Mark::Hold]);

    let mut story = Story::of(None);
    story.device.metadata.finalizers = None;
    story.decide();
    story.reports("1.0.0", 0, 0, IDLE);
    assert_eq!((story.phase(), story.marks.len()), (InSync, 0), "a device that is only looked at needs none");
}

#[test]
fn an_object_that_a_backup_brought_back_without_its_finalizer_is_held_again_when_its_device_obeys_it() {
    let mut story = Story::of(desired("1.0.0"));
    story.device.metadata.finalizers = None;
    story.decide();
    let report = story.owned("u1", 1, 1);
    story.hears(Answer::Report(Box::new(report)));
    assert_eq!(story.marks, [Mark::Hold], "in sync, so it is not commanded, and obeys all the same");
}

#[test]
fn a_deleted_objects_device_is_released_and_then_the_object_may_go() {
    let mut story = Story::in_sync();
    let writes = story.writes;
    story.is_deleted();
    let release = story.decide().owner();
    assert_eq!((release.uid.as_str(), release.epoch, release.change), ("u1", EPOCH, OwnerChange::Release));
    assert_eq!(story.hears(Answer::Stored), Asked::Nothing);
    assert_eq!((story.marks.as_slice(), story.writes), ([Mark::LetGo].as_slice(), writes));
    story.decide();
    assert_eq!(story.marks.len(), 2, "again, should the first write have failed");
    assert_eq!(story.notes.iter().filter(|note| **note == Note::Released("released")).count(), 1);
    assert!(story.notices.is_empty());
}

#[test]
fn an_object_without_our_finalizer_is_deleted_without_a_word_to_its_device() {
    let mut story = Story::in_sync();
    story.device.metadata.finalizers = None;
    story.is_deleted();
    story.pass(100);
    assert_eq!((story.decide(), story.marks.len()), (Asked::Nothing, 0));
}

#[test]
fn a_device_that_does_not_answer_is_asked_again_and_given_up_at_the_deadline_with_a_word_to_a_person() {
    let mut story = Story::in_sync();
    story.is_deleted();
    let mut asked = 0;
    for _ in 0..29 {
        if let Asked::Own(_) = story.decide() {
            asked += 1;
            story.hears(Answer::Silence);
        }
        assert!(story.marks.is_empty());
        story.pass(1);
    }
    assert!((3..10).contains(&asked), "asked {asked} times in 29 s");
    assert!(story.wake <= Duration::from_secs(30), "{:?}", story.wake);
    story.pass(1);
    story.decide();
    assert_eq!(story.marks, [Mark::LetGo]);
    assert_eq!(story.notices, ["NotReleased"]);
    assert!(story.notes.contains(&Note::Released("gave_up")));
}

#[test]
fn after_a_deletion_of_long_ago_a_process_that_just_started_asks_once_before_it_gives_up() {
    let mut story = Story::in_sync();
    story.is_deleted();
    let before = wall() - jiff::SignedDuration::from_secs(31);
    story.device.metadata.deletion_timestamp = Some(Time(before));
    story.restart();
    story.decide().owner();
    assert!(story.marks.is_empty());
    story.hears(Answer::Abandoned).owner();
    assert!(story.marks.is_empty(), "it was not sent: that is no chance");
    assert_eq!(story.hears(Answer::Silence), Asked::Nothing);
    assert_eq!(
        (story.marks.as_slice(), story.notices.as_slice()),
        ([Mark::LetGo].as_slice(), ["NotReleased"].as_slice())
    );
}

#[test]
fn what_there_is_nothing_to_release_of_goes_at_once() {
    for (reason, told) in [
        (RefusalReason::ForeignUid, 0),
        (RefusalReason::WrongName, 0),
        (RefusalReason::Released, 0),
        (RefusalReason::LowerEpoch, 1),
    ] {
        let mut story = Story::in_sync();
        story.is_deleted();
        story.decide().owner();
        story.refuses(reason, Some("u1"), EPOCH + 1);
        assert_eq!(
            (story.marks.as_slice(), story.notices.len()),
            ([Mark::LetGo].as_slice(), told),
            "{reason:?}"
        );
    }
    let pause = |spec: &mut DeviceSpec| spec.paused = true;
    let spoil = |spec: &mut DeviceSpec| spec.liveness.lost_after = spec.liveness.suspect_after.clone();
    for (edit, end) in [(pause as fn(&mut DeviceSpec), "paused"), (spoil, "invalid")] {
        let mut story = Story::in_sync();
        story.edit(edit);
        story.is_deleted();
        assert_eq!((story.decide(), story.marks.as_slice()), (Asked::Nothing, [Mark::LetGo].as_slice()));
        assert_eq!(
            (story.notices.as_slice(), story.notes.last()),
            (["NotReleased"].as_slice(), Some(&Note::Released(end)))
        );
    }
}

#[test]
fn a_command_under_way_is_dropped_when_the_object_is_deleted() {
    let mut story = Story::in_sync();
    story.edit(|spec| spec.desired = desired("3.0.0"));
    story.decide().command();
    story.is_deleted();
    story.decide().owner();
}

#[test]
fn a_foreign_device_says_how_it_is_adopted_and_is_adopted_by_exactly_that_and_once() {
    let mut story = Story::of(desired("2.0.0"));
    story.decide();
    let foreign = story.owned("u0", 90, 7);
    story.hears(Answer::Report(Box::new(foreign)));
    assert_eq!((story.phase(), story.condition("Consistent")), (Conflicted, "False/ForeignOwner".to_owned()));
    let how = format!("kubectl -n edge-demo annotate --overwrite device pump-0 {ADOPT}=u0:90");
    assert!(story.message().ends_with(&how), "{}", story.message());

    story.annotate("u0:89");
    assert_eq!(story.decide(), Asked::Nothing, "that is not what it holds");
    story.annotate("u0:90");
    let adoption = story.decide().owner();
    let held = Held { uid: "u0".into(), epoch: 90 };
    assert_eq!(
        (adoption.uid.as_str(), adoption.epoch, adoption.change),
        ("u1", EPOCH, OwnerChange::Adopt(held))
    );
    assert_eq!(story.hears(Answer::Stored), Asked::Report);
    assert!(story.notes.contains(&Note::Adopted));
    let ours = story.owned("u1", EPOCH, 0);
    assert_eq!(story.hears(Answer::Report(Box::new(ours))).command().generation, 1);
    assert_eq!(story.marks, [Mark::Adopted], "the annotation has done what it is for");
    story.device.metadata.annotations = None;
    story.decide();
    assert_eq!((story.phase(), story.condition("Consistent")), (Syncing, "True/Consistent".to_owned()));
}

#[test]
fn an_adoption_that_comes_too_late_is_refused_and_the_new_conflict_is_told() {
    let mut story = Story::of(desired("2.0.0"));
    story.decide();
    let foreign = story.owned("u0", 90, 7);
    story.hears(Answer::Report(Box::new(foreign)));
    story.annotate("u0:90");
    story.decide().owner();
    assert_eq!(story.refuses(RefusalReason::ForeignUid, Some("u9"), 120), Asked::Nothing);
    assert!(story.message().ends_with("=u9:120"), "{}", story.message());
    for _ in 0..5 {
        story.pass(10);
        match story.decide() {
            Asked::Report => {
                let foreign = story.owned("u9", 120, 7);
                assert_eq!(story.hears(Answer::Report(Box::new(foreign))), Asked::Nothing);
            }
            asked => assert_eq!(asked, Asked::Nothing),
        }
    }
}

#[test]
fn a_restored_cluster_with_lower_epochs_or_generations_is_told_and_may_adopt_its_own_device_again() {
    for (epoch, generation, reason) in [(EPOCH + 100, 1, "EpochAhead"), (EPOCH - 1, 40, "GenerationAhead")] {
        let mut story = Story::of(desired("2.0.0"));
        story.decide();
        let ahead = story.owned("u1", epoch, generation);
        story.hears(Answer::Report(Box::new(ahead)));
        assert_eq!((story.phase(), story.condition("Consistent")), (Conflicted, format!("False/{reason}")));
        let value = format!("u1:{epoch}");
        assert!(story.message().ends_with(&format!("={value}")), "{}", story.message());
        story.annotate(&value);
        story.pass(100);
        let mut asked = story.decide();
        for _ in 0..10 {
            match asked {
                Asked::Own(_) => break,
                Asked::Report => {
                    let ahead = story.owned("u1", epoch, generation);
                    asked = story.hears(Answer::Report(Box::new(ahead)));
                }
                Asked::Nothing => {
                    story.pass(10);
                    asked = story.decide();
                }
                Asked::Command(command) => panic!("{reason}: {command:?}"),
            }
        }
        let OwnerChange::Adopt(held) = asked.owner().change else { panic!("an adoption") };
        assert_eq!((held.uid.as_str(), held.epoch), ("u1", epoch));
        story.hears(Answer::Stored);
        let ours = story.owned("u1", EPOCH, 0);
        story.hears(Answer::Report(Box::new(ours))).command();
    }
}

#[test]
fn a_device_that_was_released_from_an_object_that_is_there_again_stays_conflicted_until_it_is_adopted() {
    let mut story = Story::of(desired("2.0.0"));
    story.decide();
    story.reports("1.0.0", 0, 0, IDLE).command();
    story.refuses(RefusalReason::Released, None, 0);
    for _ in 0..5 {
        assert_eq!(story.condition("Consistent"), "False/ReleasedBefore");
        story.pass(10);
        if story.decide() == Asked::Report {
            assert_eq!(story.reports("1.0.0", 0, 0, IDLE), Asked::Nothing);
        }
    }
    assert!(story.message().ends_with("=u1:0"), "{}", story.message());
    story.annotate("u1:0");
    story.decide().owner();
    story.hears(Answer::Stored);
    let mut ours = story.owned("u1", EPOCH, 0);
    ours.boot_id = BootId(9);
    story.hears(Answer::Report(Box::new(ours))).command();
    assert_eq!(story.marks, [Mark::Adopted]);
}
