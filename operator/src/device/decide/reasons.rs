//! The reasons that a person reads while a device is not yet what it shall be, or cannot be.

use edge_api::DevicePhase::{Failed, InSync, Pending};
use edge_api::condition::{find_condition, types};

use super::super::answer::Answer;
use super::super::validate::validate;
use super::story::{Asked, Story, desired};
use super::*;

const IDLE: Install = Install::Idle;

impl Story {
    /// Type by type, `Status/Reason`.
    fn says(&self) -> [String; 4] {
        [types::READY, types::REACHABLE, types::SYNCED, types::CONSISTENT].map(|type_| self.condition(type_))
    }

    /// The sentence of a condition.
    fn sentence(&self, type_: &str) -> String {
        find_condition(&self.status().conditions, type_).unwrap().message.clone()
    }
}

#[test]
fn before_its_first_report_a_device_is_neither_in_sync_nor_out_of_it_whether_it_answers_or_not() {
    let mut story = Story::of(desired("2.0.0"));
    story.decide();
    let contact = ["False/NotContacted", "Unknown/NotContacted"];
    assert_eq!(story.says(), [contact[0], contact[1], "Unknown/NoReport", "Unknown/NoReport"]);
    story.hears(Answer::Reset);
    assert_eq!(
        story.says()[2..],
        ["Unknown/NoReport", "Unknown/NoReport"],
        "it answers, and reports nothing"
    );
    story.pass(10);
    assert_eq!(story.decide(), Asked::Report);
    story.reports("2.0.0", 0, 0, IDLE);
    assert_eq!(story.says(), ["True/Ready", "True/Answering", "True/InSync", "True/Consistent"]);
}

#[test]
fn a_spec_that_cannot_be_acted_on_is_pending_with_the_sentence_that_says_so_until_it_is_mended() {
    let mut story = Story::in_sync();
    story.edit(|spec| spec.liveness.lost_after = "1s".into());
    story.pass(60);
    assert_eq!(story.decide(), Asked::Nothing, "nothing is sent by a spec that says nothing");
    assert_eq!((story.phase(), story.status().observed_generation), (Pending, Some(2)));
    let [ready, reachable, synced, _] = story.says();
    assert_eq!(
        [ready, reachable, synced],
        ["False/InvalidSpec", "Unknown/InvalidSpec", "Unknown/InvalidSpec"]
    );
    assert_eq!(story.sentence(types::READY), validate(&story.device).unwrap_err().to_string());
    story.edit(|spec| spec.liveness.lost_after = "2m".into());
    assert_eq!(story.decide(), Asked::Report);
    story.reports("2.0.0", 1, 1, IDLE);
    assert_eq!((story.phase(), story.condition(types::READY).as_str()), (InSync, "True/Ready"));
}

#[test]
fn what_does_not_fit_into_a_command_is_failed_and_is_not_tried_again_by_the_next_process_either() {
    let mut story = Story::of(desired("2.0.0"));
    let large = |number| (format!("setting-{number}"), "x".repeat(60));
    story.edit(|spec| spec.desired.as_mut().unwrap().config = (0..20).map(large).collect());
    for process in ["the first", "the next"] {
        assert_eq!(story.decide(), Asked::Report, "{process}");
        assert_eq!(story.reports("1.0.0", 0, 0, IDLE), Asked::Nothing, "{process}");
        assert_eq!(story.phase(), Failed, "{process}");
        let not_sendable = "False/NotSendable";
        assert_eq!(
            story.says(),
            [not_sendable, "True/Answering", not_sendable, "True/Consistent"],
            "{process}"
        );
        let sentence = story.sentence(types::SYNCED);
        assert!(sentence.starts_with("the desired state cannot be sent: "), "{process}: {sentence}");
        story.restart();
    }
    story.decide();
    story.edit(|spec| spec.desired = desired("2.0.0"));
    assert_eq!(story.reports("1.0.0", 0, 0, IDLE).command().generation, 3);
}
