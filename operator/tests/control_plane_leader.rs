//! The election and what it protects, with operators as processes of their own against a real API server. Leases of
//! 6 s, renewed within 4 s, every second.

#[path = "control_plane_leader/late.rs"]
mod late;
#[path = "control_plane_leader/old_hand.rs"]
mod old_hand;
#[path = "control_plane_leader/stage.rs"]
mod stage;

mod rights;

use edge_api::{DeviceFleet, FaultProfile};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::DeleteParams;
use nix::sys::signal::Signal;
use tokio::time::Instant;

use stage::{DURATION, NAME, RENEW_DEADLINE, SLACK, Stage, epoch_of, holder};

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn a_killed_leader_is_followed_within_the_lease_and_commands_carry_a_higher_epoch() {
    let stage = Stage::set("leader killed").await;
    let mut first = stage.operator("first");
    stage.until_held_by(&first).await;
    let before = stage.until_runs("2.0.0").await;
    assert!((first.metric("edge_leader_epoch ").await - before as f64).abs() < 0.5);
    let profile = stage.until_profile_follows(0).await;
    assert_eq!(epoch_of(profile.status.as_ref()), before);

    let second = stage.operator("second");
    second.until_ready().await;
    assert!(second.metric("leader_election_master_status{").await < 0.5, "ready, and not leading");
    first.signal(Signal::SIGKILL);
    let killed = Instant::now();
    let lease = stage.until_held_by(&second).await;
    let took = killed.elapsed();
    eprintln!("measured: {took:?} from SIGKILL to the next holder of a lease of {DURATION:?}");
    assert!(took < DURATION + SLACK, "{took:?}");
    first.ends().await;

    let profile = stage.until_profile_follows(before).await;
    eprintln!("measured: {:?} from SIGKILL to the first write under the new epoch", killed.elapsed());
    let after = stage.installs("3.0.0").await;
    assert!(after > before, "{after} after {before}");
    assert_eq!(epoch_of(profile.status.as_ref()), after);
    assert_eq!(lease.spec.unwrap().lease_transitions, Some(2), "nobody, first, second");
    assert!(second.metric("leader_election_master_status{").await > 0.5);
    assert!((second.metric("edge_leader_transitions_total ").await - 1.0).abs() < 0.5);
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn a_leader_that_is_told_to_end_hands_over_without_a_wait() {
    let stage = Stage::set("handover").await;
    let mut first = stage.operator("first");
    stage.until_held_by(&first).await;
    let before = stage.until_runs("2.0.0").await;
    let second = stage.operator("second");
    second.until_ready().await;
    first.signal(Signal::SIGTERM);
    let told = Instant::now();
    stage.until_held_by(&second).await;
    let took = told.elapsed();
    eprintln!("measured: {took:?} from SIGTERM to the next holder");
    // A lease has a renewal's pause less than its duration left.
    assert!(took < RENEW_DEADLINE, "{took:?}: it waited for the lease to end");
    assert!(first.ends().await.success(), "{}", first.log());
    assert!(stage.installs("3.0.0").await > before);
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn a_leader_that_was_stopped_ends_when_it_wakes_and_its_hand_is_refused_everywhere() {
    let stage = Stage::set("stopped leader").await;
    let mut first = stage.operator("first");
    stage.until_held_by(&first).await;
    let before = stage.until_runs("2.0.0").await;
    let old = stage.until_profile_follows(0).await;
    let old_fleet = stage.until_fleet_follows(0).await;
    let second = stage.operator("second");
    second.until_ready().await;

    first.signal(Signal::SIGSTOP);
    stage.until_held_by(&second).await;
    let profile = stage.until_profile_follows(before).await;
    let fleet = stage.until_fleet_follows(before).await;
    let after = stage.installs("3.0.0").await;
    // There is work for whoever thinks that it leads.
    first.signal(Signal::SIGCONT);
    stage.installs("4.0.0").await;
    let status = first.ends().await;
    assert_eq!(status.code(), Some(1), "{}", first.log());
    assert!(first.log().contains("leads no longer"), "{}", first.log());
    let history = stage.device().history().entries;
    let obeyed: Vec<u64> = history.iter().map(|entry| entry.epoch).filter(|epoch| *epoch > 0).collect();
    assert!(obeyed.is_sorted() && obeyed.last() == Some(&after), "{obeyed:?}");

    // And were it to write all the same, decided on what it knew, or on what is now:
    let sentence = old_hand::writes(&stage, &old, before, old.metadata.resource_version.as_deref()).await;
    assert!(sentence.contains("modified"), "{sentence}");
    let now = stage.space.api::<FaultProfile>().get("cut").await.unwrap();
    let sentence = old_hand::writes(&stage, &now, before, now.metadata.resource_version.as_deref()).await;
    assert!(sentence.contains("epoch never falls"), "{sentence}");
    assert_eq!(now.status, profile.status);
    let version = old_fleet.metadata.resource_version.as_deref();
    let sentence = old_hand::writes(&stage, &old_fleet, before, version).await;
    assert!(sentence.contains("modified"), "{sentence}");
    let now = stage.space.api::<DeviceFleet>().get("nobodys").await.unwrap();
    let sentence = old_hand::writes(&stage, &now, before, now.metadata.resource_version.as_deref()).await;
    assert!(sentence.contains("epoch never falls"), "{sentence}");
    assert_eq!(now.status.unwrap().epoch, fleet.status.unwrap().epoch);
    let refusal = old_hand::commands(&stage, before, "5.0.0").await;
    assert_eq!((refusal.reason, refusal.epoch), (edge_protocol::RefusalReason::LowerEpoch, after));
    assert_eq!(stage.device().view().durable.running.firmware, "4.0.0");
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn a_lease_that_is_deleted_is_made_again_by_its_holder_and_later_epochs_still_rise() {
    let stage = Stage::set("lease deleted").await;
    let first = stage.operator("first");
    let lease = stage.until_held_by(&first).await;
    let before = stage.until_runs("2.0.0").await;
    let second = stage.operator("second");
    second.until_ready().await;

    let leases = stage.space.api::<Lease>();
    leases.delete(NAME, &DeleteParams::default()).await.unwrap();
    let again = stage.until_held_by(&first).await;
    assert_ne!(again.metadata.uid, lease.metadata.uid);
    assert_eq!(holder(&again), holder(&lease));
    assert_eq!(stage.installs("3.0.0").await, before, "the same term");

    first.signal(Signal::SIGKILL);
    let deleted = Instant::now();
    leases.delete(NAME, &DeleteParams::default()).await.unwrap();
    let lease = stage.until_held_by(&second).await;
    assert!(second.metric("leader_election_master_status{").await < 0.5, "made by it, and not taken yet");
    stage.until_profile_follows(before).await;
    let took = deleted.elapsed();
    assert!(took > DURATION, "{took:?}: a Lease that is missing may be missed by a leader");
    assert_eq!(lease.spec.unwrap().lease_transitions, Some(0));
    assert!(stage.installs("4.0.0").await > before);
}
