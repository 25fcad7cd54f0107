//! Stories of profiles that may not act, or whose targets are not all known.

use super::super::population::{NoTarget, Place};
use super::super::validate::{CIDR_NOT_ALLOWED, Wanted};
use super::story::{SECOND, Story, active, acts, holds, reaches, two};
use super::*;

#[test]
fn what_is_out_of_reach_is_rejected_with_the_sentence_and_accepted_when_that_is_mended() {
    let mut story = Story::begin();
    let good = story.plan.clone();
    story.plan = Err(Refusal { reason: CIDR_NOT_ALLOWED, message: "10.244.0.0/16 holds pods".into() });
    story.look();
    assert_eq!(story.phase(), FaultPhase::Rejected);
    assert_eq!(story.condition("Accepted"), "Accepted=False/CidrNotAllowed");
    assert_eq!(story.message("Accepted"), "10.244.0.0/16 holds pods");
    assert_eq!(story.condition("Effective"), "Effective=False/Rejected");
    assert_eq!((story.now_is().cutoff, story.now_is().started_at.clone()), (None, None));
    assert_eq!(story.said, ["Rejected"]);
    story.plan = good;
    story.generation += 1;
    story.look();
    assert_eq!(
        (story.phase(), story.condition("Accepted").as_str()),
        (FaultPhase::Pending, "Accepted=True/Accepted")
    );
}

#[test]
fn a_reach_made_smaller_stops_a_profile_that_runs() {
    let mut story = active();
    story.plan = Err(Refusal { reason: CIDR_NOT_ALLOWED, message: "no longer".into() });
    story.look();
    assert_eq!(
        (story.phase(), story.condition("Accepted").as_str()),
        (FaultPhase::Rejected, "Accepted=False/CidrNotAllowed")
    );
    assert!(story.now_is().expires_at.is_some(), "its clock goes on");
    story.after(SECOND * 600).look();
    assert_eq!(story.phase(), FaultPhase::Expired);
}

#[test]
fn a_selected_device_out_of_reach_rejects_it_before_the_start_and_is_no_target_after() {
    let devices = || Story::begin().wants(Wanted::Devices(kube::core::Selector::default()));
    let outside = || Ok(Place { external: true, ..Place::default() });
    let mut story = devices();
    story.device_at("good", outside()).device_at("bad", Err(NoTarget::NotAllowed)).look();
    assert_eq!(story.condition("Accepted"), "Accepted=False/EndpointNotAllowed");
    assert!(story.message("Accepted").contains("bad"), "{}", story.message("Accepted"));

    let mut story = devices();
    story.agent("n1", reaches(1, 1)).device_at("good", outside()).look();
    story.device_at("bad", Err(NoTarget::NotAllowed)).look();
    assert_eq!((story.phase(), story.counts()), (FaultPhase::Active, (1, 1)));
}

#[test]
fn objects_that_find_no_room_reject_what_has_not_started_and_change_nothing_about_what_has() {
    let lacks = crate::refusal::too_many("pods", 4);
    let mut story = Story::begin().chooses(two());
    story.lacks = Some(lacks.clone());
    story.pod("a", "n1").agent("n1", None).look();
    assert_eq!(
        (story.phase(), story.condition("Accepted").as_str()),
        (FaultPhase::Rejected, "Accepted=False/TooManyObjects")
    );

    let mut story = Story::begin().chooses(two());
    for name in ["a", "b", "c", "d"] {
        story.pod(name, "n1");
    }
    story.agent("n1", holds(2)).look();
    let before = story.now_is().clone();
    assert_eq!((story.phase(), story.counts()), (FaultPhase::Active, (2, 2)));
    // The operator starts again and finds some of them alone.
    story.lacks = Some(lacks.clone());
    for name in ["a", "b", "c"] {
        story.pod_goes(name);
    }
    story.look();
    let frozen = story.now_is().clone();
    assert_eq!(
        (frozen.cutoff, frozen.targets, frozen.started_at),
        (before.cutoff, before.targets, before.started_at)
    );
    // Agents act on accepted profiles alone.
    assert_eq!(story.condition("Accepted"), "Accepted=True/Accepted");
    assert_eq!(
        (story.phase(), story.condition("Installed").as_str()),
        (FaultPhase::Degraded, "Installed=Unknown/TooManyObjects")
    );
    assert!(story.message("Installed").contains("more pods than the operator keeps in memory (4)"));
    assert_eq!(story.condition("Effective"), "Effective=Unknown/TooManyObjects");
    story.agent("n1", acts(2)).look();
    assert_eq!(story.condition("Effective"), "Effective=True/ActedOnPackets");
    let writes = story.writes;
    story.after(SECOND * 30).look();
    assert_eq!(story.writes, writes, "and nothing more is written");
    // Its owner still pauses it, and it still ends.
    story.paused(true).look();
    assert_eq!(
        (story.phase(), story.condition("Installed").as_str()),
        (FaultPhase::Paused, "Installed=False/Paused")
    );
    story.paused(false).look();
    assert_eq!(story.phase(), FaultPhase::Degraded);
    // When all are known again it is as if nothing had been.
    story.lacks = None;
    for name in ["a", "b", "c"] {
        story.pod(name, "n1");
    }
    story.agent("n1", acts(2)).look();
    assert_eq!(
        (story.phase(), story.counts(), story.now_is().cutoff),
        (FaultPhase::Active, (2, 2), before.cutoff)
    );
    assert_eq!(story.said.last(), Some(&"Recovered"));
    story.lacks = Some(lacks);
    story.after(SECOND * 600).look();
    assert_eq!(story.phase(), FaultPhase::Expired);
}
