//! Answers that are hard to make sense of, told as stories.

use edge_api::DevicePhase::{Conflicted, Failed, InSync, Syncing, Unreachable};
use edge_protocol::BootId;

use super::super::answer::Answer;
use super::super::memory::Lookup;
use super::story::{Asked, Story, desired};
use super::*;
use crate::link::{Code, End};
use crate::slots::Cause;

const IDLE: Install = Install::Idle;

#[test]
fn a_device_that_is_of_another_boot_in_each_report_is_asked_no_faster_than_others() {
    let mut story = Story::in_sync();
    story.pass(10);
    assert_eq!(story.decide(), Asked::Report);
    let mut at_once = 0;
    for boot in 100..200 {
        let mut report = story.report("2.0.0", 1, 1, IDLE);
        report.boot_id = BootId(boot);
        let mut asked = story.hears(Answer::Report(Box::new(report)));
        if asked == Asked::Report {
            at_once += 1;
        }
        while asked == Asked::Nothing {
            story.pass(1);
            asked = story.decide();
        }
        assert_eq!(asked, Asked::Report);
    }
    assert_eq!(at_once, 1, "the first one is to be confirmed, the others are a pattern");
    let mut settled = story.report("2.0.0", 1, 1, IDLE);
    settled.boot_id = BootId(199);
    story.hears(Answer::Report(Box::new(settled)));
    assert_eq!(story.phase(), InSync);
}

#[test]
fn a_refusal_without_a_reason_means_what_its_code_means() {
    let refused = |detail| Answer::to_command(End::Response(Code(4, detail), b"no".to_vec()));
    let after = |answer| {
        let mut story = Story::in_sync();
        story.edit(|spec| spec.desired = desired("3.0.0"));
        story.decide().command();
        let asked = story.hears(answer);
        (asked, story.phase(), story.condition("Consistent"))
    };
    assert_eq!(after(refused(12)), (Asked::Report, Syncing, "True/Consistent".to_owned()));
    assert_eq!(after(refused(3)), (Asked::Nothing, Conflicted, "False/ForeignOwner".to_owned()));
    assert_eq!(after(refused(22)), (Asked::Nothing, Failed, "True/Consistent".to_owned()));
    for other in [0, 4, 8, 13, 29] {
        assert_eq!(
            after(refused(other)),
            (Asked::Nothing, Syncing, "True/Consistent".to_owned()),
            "4.{other}"
        );
    }
}

fn looked_up(story: &Story) -> &Lookup {
    story.memory.lookup.as_deref().unwrap()
}

#[test]
fn the_answer_to_a_lookup_of_the_host_before_is_not_taken_for_the_new_ones() {
    let mut story = Story::in_sync();
    let address = |last| IpAddr::from([10, 20, 0, last]);
    let (now, ttl) = (story.now, story.policy.dns_ttl);
    story.edit(|spec| spec.endpoint.host = "old.pumps".into());
    story.decide();
    story.edit(|spec| spec.endpoint.host = "new.pumps".into());
    story.decide();
    story.memory.looked_up("old.pumps", Ok(vec![address(1)]), now, ttl);
    assert!(looked_up(&story).busy && looked_up(&story).found.is_empty());
    story.memory.looked_up("new.pumps", Ok(vec![address(2)]), now, ttl);
    assert_eq!((looked_up(&story).busy, &looked_up(&story).found), (false, &vec![address(2)]));
}

#[test]
fn a_name_is_looked_up_again_in_its_time_and_what_was_found_stays_in_use_while_that_fails() {
    let mut story = Story::in_sync();
    story.edit(|spec| spec.endpoint.host = "pump-0.pumps".into());
    story.place = Place::Unknown;
    assert_eq!((story.decide(), looked_up(&story).busy), (Asked::Nothing, true));
    let found = vec![IpAddr::from([10, 20, 0, 17]), IpAddr::from([10, 20, 0, 18])];
    let ttl = story.policy.dns_ttl;
    story.memory.looked_up("pump-0.pumps", Ok(found.clone()), story.now, ttl);
    story.place = Place::At(found.iter().map(|ip| (*ip, None)).collect());
    assert_eq!(story.decide(), Asked::Report);
    assert!(!looked_up(&story).busy && story.wake <= story.policy.dns_ttl, "{:?}", story.wake);
    let first = story.memory.address_index;
    story.hears(Answer::Silence);
    assert_eq!(story.memory.address_index, first + 1, "the other address may answer");

    story.pass(30);
    story.decide();
    assert!(looked_up(&story).busy, "its time is over");
    story.memory.looked_up("pump-0.pumps", Err("no answer within 5s".into()), story.now, ttl);
    assert_eq!((&looked_up(&story).found, looked_up(&story).error.is_some()), (&found, true));
    story.reports("2.0.0", 1, 1, IDLE);
    assert_eq!((story.phase(), story.status().addresses.len()), (InSync, 2));
}

#[test]
fn a_question_that_is_on_its_way_to_where_the_name_no_longer_leads_is_asked_at_the_new_address() {
    let mut story = Story::in_sync();
    let addresses = |all: &[u8]| all.iter().map(|last| IpAddr::from([10, 20, 0, *last])).collect::<Vec<_>>();
    let lead_to = |story: &mut Story, all: &[u8]| {
        story.memory.looked_up("pump-0.pumps", Ok(addresses(all)), story.now, story.policy.dns_ttl);
        story.place = Place::At(addresses(all).into_iter().map(|ip| (ip, None)).collect());
        story.decide()
    };
    story.edit(|spec| spec.endpoint.host = "pump-0.pumps".into());
    story.place = Place::Unknown;
    story.decide();
    assert_eq!(lead_to(&mut story, &[17]), Asked::Report);
    story.pass(3);
    assert_eq!(lead_to(&mut story, &[17, 19]), Asked::Nothing, "the one that was asked is still there");
    story.pass(3);
    assert_eq!(lead_to(&mut story, &[18, 19]), Asked::Report);
    story.reports("2.0.0", 1, 1, IDLE);
    assert_eq!((story.phase(), story.status().addresses.len()), (InSync, 2));
}

#[test]
fn the_time_for_which_a_question_waits_here_is_no_silence_of_the_device() {
    let mut story = Story::in_sync();
    story.queues = true;
    story.pass(10);
    assert_eq!(story.decide(), Asked::Report);
    for _ in 0..60 {
        story.pass(10);
        assert_eq!(story.decide(), Asked::Nothing);
        assert!(story.wake >= Duration::from_secs(1), "{:?}", story.wake);
    }
    assert_eq!((story.phase(), story.condition("Reachable").as_str()), (InSync, "True/Answering"));
    let number = story.memory.busy.as_ref().unwrap().number;
    story.memory.leaves_queue(number, story.now);
    story.pass(25);
    story.decide();
    assert_eq!(story.condition("Reachable"), "Unknown/Silent");
    story.pass(90);
    story.decide();
    assert_eq!(story.phase(), Unreachable);
}

#[test]
fn a_device_that_was_silent_is_asked_as_a_doubtful_one_until_it_answers() {
    let mut story = Story::in_sync();
    story.hears(Answer::Silence);
    assert!(story.memory.doubtful);
    story.hears(Answer::Abandoned);
    assert!(story.memory.doubtful, "nothing was learnt");
    story.reports("2.0.0", 1, 1, IDLE);
    assert!(!story.memory.doubtful);
}

#[test]
fn who_shall_change_is_asked_before_who_is_as_it_shall_be_unless_nothing_can_come_of_it() {
    let mut story = Story::of(desired("2.0.0"));
    story.decide();
    assert_eq!(story.cause, Some(Cause::Change));
    story.reports("1.0.0", 0, 0, IDLE).command();
    assert_eq!(story.hears(Answer::Stored), Asked::Report);
    assert_eq!(story.cause, Some(Cause::Change));
    story.reports("2.0.0", 1, 1, IDLE);
    story.pass(10);
    assert_eq!((story.decide(), story.cause), (Asked::Report, Some(Cause::Routine)));
    // The same for who takes over and knows of it by the status alone.
    story.restart();
    assert_eq!((story.decide(), story.cause), (Asked::Report, Some(Cause::Routine)));
    story.edit(|spec| spec.desired = desired("6.6.6"));
    story.restart();
    assert_eq!((story.decide(), story.cause), (Asked::Report, Some(Cause::Change)));
    story.reports("2.0.0", 1, 1, IDLE).command();
    story.hears(Answer::Refused(Code(4, 22), None));
    story.pass(10);
    assert_eq!((story.decide(), story.cause), (Asked::Report, Some(Cause::Routine)));
}

#[test]
fn what_this_operator_is_late_with_is_no_silence_of_the_device() {
    let mut story = Story::in_sync();
    let writes = story.writes;
    // It is busy with others for far longer than lostAfter: nobody asks.
    story.is_late(300);
    assert_eq!(story.decide(), Asked::Report);
    assert_eq!((story.phase(), story.condition("Reachable")), (InSync, "True/Answering".to_owned()));
    // That nothing comes is the device's; that nobody looks at it afterwards is not.
    story.is_late(15);
    story.exchange_ends(Answer::Silence);
    story.is_late(300);
    assert_eq!(story.decide(), Asked::Nothing);
    assert_eq!((story.phase(), story.writes), (InSync, writes));
    // Asked in time, it is silent for as long as it is.
    story.pass(10);
    assert_eq!(story.decide(), Asked::Report);
    assert_eq!(story.condition("Reachable"), "Unknown/Silent");
}
