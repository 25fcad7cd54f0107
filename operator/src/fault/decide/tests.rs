//! Stories of profiles, from Pending to Expired.

use edge_api::ProfileOnNode;
use edge_api::choose::{self, MAX_RANK};

use super::super::population::NoTarget;
use super::super::validate::{Repeats, Wanted};
use super::story::{SECOND, Story, active, acts, holds, reaches, two};
use super::*;

#[test]
fn without_a_target_it_is_accepted_and_pending_and_its_clock_stands() {
    let mut story = Story::begin();
    story.look();
    assert_eq!(story.phase(), FaultPhase::Pending);
    assert_eq!(story.condition("Accepted"), "Accepted=True/Accepted");
    assert_eq!(story.condition("Installed"), "Installed=False/NoTargets");
    assert_eq!(story.condition("Effective"), "Effective=False/NoTargets");
    assert_eq!(story.now_is().started_at, None);
    assert_eq!(story.said, ["Accepted"]);
    assert_eq!(story.look(), Decision::Keep { wake: None });
}

#[test]
fn its_first_target_starts_it_and_sets_its_end() {
    let mut story = Story::begin();
    story.look();
    story.after(SECOND * 30).pod("a", "n1").look();
    let status = story.now_is();
    let (start, end) = (status.started_at.clone().unwrap().0, status.expires_at.clone().unwrap().0);
    assert_eq!(end.duration_since(start), jiff::SignedDuration::from_mins(10));
    assert_eq!(status.cutoff, Some(MAX_RANK));
    assert_eq!(story.said, ["Accepted", "Started", "Degraded"], "and there is no agent on its node");
    assert_eq!(story.problems(), ["n1/AgentLost"]);
}

#[test]
fn it_is_active_when_every_kernel_holds_it_and_effective_when_one_counted_a_packet() {
    let mut story = Story::begin();
    story.agent("n1", None).agent("n2", None).pod("a", "n1").pod("b", "n2").look();
    assert_eq!((story.phase(), story.counts()), (FaultPhase::Pending, (2, 0)));
    assert_eq!(story.condition("Installed"), "Installed=Unknown/Installing");
    story.agent("n1", holds(1)).look();
    assert_eq!((story.phase(), story.counts()), (FaultPhase::Pending, (2, 1)));
    story.agent("n2", holds(1)).look();
    assert_eq!((story.phase(), story.counts()), (FaultPhase::Active, (2, 2)));
    assert_eq!(story.condition("Installed"), "Installed=True/Installed");
    assert_eq!(story.condition("Effective"), "Effective=False/NoPacketYet");
    story.agent("n2", acts(1)).look();
    assert_eq!(story.condition("Effective"), "Effective=True/ActedOnPackets");
    assert_eq!(story.said, ["Accepted", "Started"]);
}

#[test]
fn when_nothing_changes_nothing_is_written() {
    let mut story = active();
    let writes = story.writes;
    for _ in 0..30 {
        story.after(SECOND * 10).agent("n1", holds(1)).agent("n2", holds(1)).look();
    }
    assert_eq!(story.writes, writes);
}

#[test]
fn it_expires_exactly_at_its_end_and_is_never_touched_again() {
    let mut story = active();
    story.agent("n1", acts(1)).look();
    let minutes = |minutes| SECOND * 60 * minutes;
    story.after(minutes(10) - SECOND * 5).agent("n1", acts(1)).agent("n2", acts(1));
    assert_eq!(story.wake(), Some(SECOND * 5), "its end is the next thing to happen");
    assert_eq!(story.phase(), FaultPhase::Active);
    story.after(SECOND * 5).look();
    assert_eq!((story.phase(), story.counts()), (FaultPhase::Expired, (2, 0)));
    assert_eq!(story.condition("Installed"), "Installed=False/Expired");
    assert_eq!(story.condition("Effective"), "Effective=True/Expired", "what it did stays readable");
    assert_eq!(story.said.last(), Some(&"Expired"));
    story.epoch += 1;
    story.pod("c", "n3");
    assert_eq!(story.after(minutes(60)).look(), Decision::Done);
}

#[test]
fn what_an_agent_saw_last_is_not_lost_when_it_expires_before_that_is_written() {
    let mut story = active();
    story.after(SECOND * 599).agent("n1", acts(1)).agent("n2", holds(1));
    story.pace.write_in = SECOND;
    story.look();
    assert_eq!(story.condition("Effective"), "Effective=False/NoPacketYet", "it waits for its turn");
    story.after(SECOND).look();
    assert_eq!(story.condition("Effective"), "Effective=True/Expired");
}

#[test]
fn what_was_effective_once_stays_so_whatever_becomes_of_the_agent_and_the_profile() {
    let mut story = active();
    story.agent("n1", acts(1)).look();
    story.agent("n1", holds(1)).look();
    assert_eq!(
        story.condition("Effective"),
        "Effective=True/ActedOnPackets",
        "a new agent counts from nothing"
    );
    assert!(story.message("Effective").contains("showed since the start"), "{}", story.message("Effective"));
    story.paused(true).look();
    assert_eq!(story.condition("Effective"), "Effective=True/ActedOnPackets");
    story.after(SECOND * 600).look();
    assert_eq!(story.condition("Effective"), "Effective=True/Expired");
    assert_eq!(story.message("Effective"), "its rules acted on packets before its time was over");
}

#[test]
fn an_operator_that_was_away_past_the_end_expires_it_at_its_first_look() {
    let mut story = active();
    story.epoch += 1;
    story.after(SECOND * 3600).look();
    assert_eq!(story.phase(), FaultPhase::Expired);
    assert_eq!(story.condition("Effective"), "Effective=False/Expired");
}

#[test]
fn an_accepted_profile_says_how_far_it_repeats() {
    for (repeats, sentence) in [
        (Repeats::Flow, "repeat flow by flow"),
        (Repeats::Order, "as far as the order in which those of a target arrive"),
        (Repeats::Time, "as far as time does"),
    ] {
        let mut story = Story::begin().repeats(repeats);
        story.agent("n1", None).pod("a", "n1").look();
        assert!(story.message("Accepted").contains(sentence), "{repeats:?}: {}", story.message("Accepted"));
    }
}

#[test]
fn pods_on_the_host_network_are_no_targets_and_it_says_so() {
    let mut story = Story::begin();
    story.pod_at("proxy", Err(NoTarget::HostNetwork)).look();
    assert_eq!(
        (story.phase(), story.condition("Installed").as_str()),
        (FaultPhase::Pending, "Installed=False/HostNetwork")
    );
    assert!(story.message("Installed").contains("proxy"));
    story.agent("n1", None).pod("a", "n1").look();
    assert_eq!((story.phase(), story.counts()), (FaultPhase::Pending, (1, 0)));
    assert!(story.message("Accepted").contains("host network"));
    // Beside one that is hit, too.
    story.agent("n1", holds(1)).look();
    assert_eq!(
        (story.phase(), story.counts(), story.condition("Installed").as_str()),
        (FaultPhase::Degraded, (1, 1), "Installed=True/HostNetwork")
    );
    assert!(story.message("Installed").contains("1 matching pods, proxy among them"));
}

#[test]
fn pausing_lifts_it_and_the_clock_goes_on() {
    let mut story = active();
    let end = story.now_is().expires_at.clone();
    story.paused(true).look();
    assert_eq!((story.phase(), story.counts()), (FaultPhase::Paused, (2, 2)), "kernels still hold it");
    assert_eq!(story.condition("Installed"), "Installed=False/Paused");
    story.agent("n1", holds(0)).agent("n2", holds(0)).look();
    assert_eq!((story.phase(), story.counts()), (FaultPhase::Paused, (2, 0)));
    story.after(SECOND * 20).agent("n1", holds(0)).agent("n2", holds(0)).paused(false).look();
    assert_eq!(
        (story.phase(), story.condition("Installed").as_str()),
        (FaultPhase::Pending, "Installed=Unknown/Installing")
    );
    story.agent("n1", holds(1)).agent("n2", holds(1)).look();
    assert_eq!(story.phase(), FaultPhase::Active);
    assert_eq!(story.now_is().expires_at, end);
    assert!(!story.said.contains(&"Degraded"), "{:?}", story.said);
    story.paused(true).after(SECOND * 600).look();
    assert_eq!(story.phase(), FaultPhase::Expired);
}

#[test]
fn a_silent_agent_is_waited_for_and_then_named() {
    let mut story = Story::begin();
    story.agent("n1", None).pod("a", "n1");
    assert_eq!(story.wake(), Some(ANSWER_WITHIN));
    assert_eq!((story.phase(), story.problems().len()), (FaultPhase::Pending, 0));
    story.after(ANSWER_WITHIN).agent("n1", None).look();
    assert_eq!((story.phase(), story.problems()), (FaultPhase::Degraded, vec!["n1/NoAnswer".to_owned()]));
    story.agent("n1", holds(1)).look();
    assert_eq!((story.phase(), story.problems().len()), (FaultPhase::Active, 0));
    assert_eq!(story.said, ["Accepted", "Started", "Degraded", "Recovered"]);
}

#[test]
fn a_new_target_does_not_make_it_degraded_while_its_agent_catches_up() {
    let mut story = active();
    story.after(SECOND * 60).agent("n1", holds(1)).agent("n2", holds(1));
    story.pod("c", "n1").look();
    assert_eq!((story.phase(), story.counts()), (FaultPhase::Active, (3, 2)));
    assert_eq!(story.condition("Installed"), "Installed=Unknown/Installing");
    story.agent("n1", holds(2)).look();
    assert_eq!((story.phase(), story.counts()), (FaultPhase::Active, (3, 3)));
}

#[test]
fn a_dead_agent_makes_it_degraded_and_unknown_until_it_is_back() {
    let mut story = active();
    story.agent("n1", acts(1)).agent("n2", holds(1)).look();
    story.after(SECOND * 39).agent("n1", acts(1)).look();
    assert_eq!(story.wake(), Some(SECOND), "then n2's heartbeat is 40 s old");
    assert_eq!(story.phase(), FaultPhase::Active);
    story.after(SECOND).look();
    assert_eq!((story.phase(), story.counts()), (FaultPhase::Degraded, (2, 1)));
    assert_eq!(story.problems(), ["n2/AgentLost"]);
    assert_eq!(story.condition("Installed"), "Installed=Unknown/AgentLost");
    assert_eq!(story.condition("Effective"), "Effective=True/ActedOnPackets", "n1's kernel still counts");
    story.after(SECOND * 40).look();
    assert_eq!(story.condition("Effective"), "Effective=True/ActedOnPackets", "nobody counts, and it was so");
    story.agent("n1", acts(1)).agent("n2", acts(1)).look();
    assert_eq!(
        (story.phase(), story.condition("Effective").as_str()),
        (FaultPhase::Active, "Effective=True/ActedOnPackets")
    );
    assert_eq!(story.said, ["Accepted", "Started", "Degraded", "Recovered"]);
}

#[test]
fn a_reason_that_an_agent_gives_is_the_reason_of_the_condition() {
    for reason in
        ["NoHook", "EngineMissing", "EngineStalled", "NoLinkHeader", "PeersMasqueraded", "PeersUnknown"]
    {
        let mut story = Story::begin();
        let refuses = ProfileOnNode {
            targets: 1,
            reason: Some(reason.into()),
            message: Some("eth1 refused every hook".into()),
            ..ProfileOnNode::default()
        };
        story.pod("a", "n1").agent("n1", Some(refuses)).look();
        assert_eq!((story.phase(), story.problems()), (FaultPhase::Degraded, vec![format!("n1/{reason}")]));
        assert_eq!(story.condition("Installed"), format!("Installed=False/{reason}"));
        assert!(story.message("Installed").contains("eth1 refused every hook"));
    }
}

#[test]
fn what_an_agent_does_not_call_installed_is_not_enforced() {
    let mut story = Story::begin();
    let unsure = ProfileOnNode { installed: false, ..holds(1).unwrap() };
    story.pod("a", "n1").agent("n1", Some(unsure)).look();
    assert_eq!((story.phase(), story.counts()), (FaultPhase::Pending, (1, 0)));
}

#[test]
fn a_remark_about_rules_that_are_held_is_shown_and_degrades_nothing() {
    let mut story = Story::begin();
    let remark = ProfileOnNode { reason: Some("SuperPackets".into()), ..holds(1).unwrap() };
    story.pod("a", "n1").agent("n1", Some(remark)).look();
    assert_eq!((story.phase(), story.problems()), (FaultPhase::Active, vec!["n1/SuperPackets".to_owned()]));
}

#[test]
fn a_target_outside_is_enforced_when_one_node_enforces_it() {
    let networks = Wanted::Networks(vec!["192.168.50.0/24".into(), "192.168.51.0/24".into()]);
    let mut story = Story::begin().wants(networks);
    story.agent("n1", reaches(0, 2)).agent("n2", reaches(2, 2)).look();
    assert_eq!((story.phase(), story.counts(), story.problems().len()), (FaultPhase::Active, (2, 2), 0));
    story.agent("n2", reaches(1, 2)).look();
    assert_eq!((story.phase(), story.counts()), (FaultPhase::Degraded, (2, 1)));
    assert_eq!(story.problems(), ["n1/NoRoute", "n2/NoRoute"]);
    assert_eq!(story.condition("Installed"), "Installed=False/NoRoute");
}

#[test]
fn targets_outside_and_no_agent_at_all_is_a_lost_agent() {
    let mut story = Story::begin().wants(Wanted::Networks(vec!["192.168.50.0/24".into()]));
    story.look();
    assert_eq!(
        (story.phase(), story.condition("Installed").as_str()),
        (FaultPhase::Degraded, "Installed=Unknown/AgentLost")
    );
    assert!(story.message("Installed").contains("DaemonSet"));
}

#[test]
fn the_cutoff_moves_at_most_once_in_a_pause_and_counts_wait_for_theirs() {
    let rank = |name: &str| choose::rank(7, "demo", name);
    let mut names = ["a", "b", "c", "d"];
    names.sort_by_key(|name| rank(name));
    let mut story = Story::begin().chooses(two());
    for name in names {
        story.pod(name, "n1");
    }
    story.agent("n1", holds(2)).look();
    let first = Some(rank(names[1]));
    assert_eq!((story.now_is().cutoff, story.counts().0), (first, 2));
    // Those that are hit go, so that two others shall be.
    story.pace = Pace { move_in: SECOND / 2, write_in: Duration::ZERO };
    story.pod_goes(names[0]).pod_goes(names[1]);
    assert_eq!(story.wake(), Some(SECOND / 2), "then it may move");
    assert_eq!((story.now_is().cutoff, story.counts().0), (first, 0), "not yet");
    story.pace = Pace::default();
    story.look();
    let moved = Some(rank(names[3]));
    assert_eq!((story.now_is().cutoff, story.counts().0), (moved, 2));
    story.pace = Pace { move_in: Duration::ZERO, write_in: SECOND / 4 };
    assert_eq!(story.pod(names[0], "n1").wake(), Some(SECOND / 4), "nothing of this is urgent");
    assert_eq!(story.now_is().cutoff, moved);
    story.pace = Pace::default();
    story.look();
    assert_eq!((story.now_is().cutoff, story.counts().0), (Some(rank(names[2])), 2));
}

#[test]
fn a_profile_whose_targets_all_went_says_so() {
    let mut story = active();
    story.pod_goes("a").pod_goes("b").look();
    assert_eq!(
        (story.phase(), story.condition("Installed").as_str()),
        (FaultPhase::Degraded, "Installed=False/NoTargets")
    );
}

#[test]
fn a_new_leader_writes_its_epoch_first_and_a_former_one_stands_back() {
    let mut story = active();
    let writes = story.writes;
    story.epoch = 9;
    story.look();
    assert_eq!((story.writes, story.now_is().epoch), (writes + 1, Some(9)));
    story.epoch = 5;
    story.pod("c", "n1");
    assert_eq!(story.look(), Decision::StandBack { epoch: 9 });
}

#[test]
fn entries_of_a_profile_that_had_the_same_name_count_for_nothing() {
    let mut story = Story::begin();
    story.pod("a", "n1").agent("n1", None);
    let stale = ProfileOnNode { observed_generation: 99, ..acts(1).unwrap() };
    story.agent("n1", Some(stale)).look();
    assert_eq!(story.counts(), (1, 0));
    assert_eq!(story.condition("Effective"), "Effective=False/NoPacketYet");
}

#[test]
fn what_the_status_holds_is_bounded() {
    let mut story = Story::begin();
    for number in 0..300 {
        story.pod(&format!("p{number}"), &format!("n{number:03}"));
    }
    story.look();
    assert_eq!(story.problems().len(), 256);
    assert!(story.message("Installed").contains("299 more"), "{}", story.message("Installed"));
}
