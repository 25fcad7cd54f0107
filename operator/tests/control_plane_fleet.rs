//! The fleet controller beside the device controller, against a real API server and simulated devices that speak CoAP
//! over the loopback.

#[path = "control_plane_fleet/referee.rs"]
mod referee;
#[path = "control_plane_fleet/stage.rs"]
mod stage;

mod in_process;
#[path = "in_process/measures.rs"]
mod measures;
mod rights;

use std::time::Duration;

use control_plane::wait::{condition, message};
use device_sim::Behaviour;
use device_sim::behaviour::share;
use device_sim::history::What;
use edge_api::{Device, DevicePhase, FleetPhase};
use serde_json::{Value, json};
use stage::Stage;
use tokio::time::{Instant, timeout};

/// Budgets that leave room, so that a story says which one it is about.
fn rollout(batches: Value, max_in_flight: u32) -> Value {
    json!({
        "batches": batches, "maxInFlight": max_in_flight, "maxUnavailable": "100%",
        "failureBudget": {"percent": "20%", "minimumSample": 5}, "progressDeadline": "10m",
    })
}

/// No device takes this firmware.
fn all_refuse(stage: &Stage, firmware: &str) {
    for device in stage.sim.devices() {
        device.set_behaviour(Behaviour { refuse_firmware: Some(firmware.into()), ..Behaviour::default() });
    }
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn a_rollout_goes_batch_by_batch_within_its_budgets_and_then_nothing_is_written() {
    let mut stage = Stage::set("fleet rollout", 8, Duration::from_millis(300)).await;
    stage.fleet("px4", "2.0.0", rollout(json!([1, "50%", "100%"]), 3)).await;
    let status = stage.until_phase("px4", FleetPhase::Complete).await;
    assert_eq!(condition(&status.conditions, "Complete"), "Complete=True/Complete");
    assert_eq!(condition(&status.conditions, "Progressing"), "Progressing=False/Complete");
    let counts = status.counts;
    assert_eq!((counts.total, counts.updated, counts.in_sync, counts.unavailable), (8, 8, 8, 0));
    assert_eq!((status.revision, status.previous_revision, status.batch), (Some(1), None, 3));
    assert_eq!(stage.running(), vec!["2.0.0"; 8]);
    let seen = stage.referee.saw("2.0.0");
    assert_eq!((seen.told_before(1), seen.told_before(4)), (1, 4), "{seen:?}");
    assert!(seen.most_in_flight <= 3, "{seen:?}");
    stage.is_silent().await;
    for (phase, is_in) in [("Complete", 1.0), ("Progressing", 0.0)] {
        let series = format!("edge_fleet_phase{{fleet=\"px4\",phase=\"{phase}\"}}");
        assert_eq!(stage.operator.metric(&series).round(), is_in, "{series}");
    }
    assert_eq!(stage.operator.metric("edge_fleet_changes_total{result=\"set\"}").round(), 8.0);

    // The same device is the first one again.
    let first = seen.told[0].clone();
    for firmware in ["3.0.0", "4.0.0", "5.0.0"] {
        stage.wants("px4", firmware).await;
        stage.until_phase("px4", FleetPhase::Complete).await;
        assert_eq!(stage.referee.saw(firmware).told[0], first);
    }
    assert_eq!(stage.revisions().await, [2, 3, 4]);
    stage.operator.ends().await;
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn a_firmware_that_fails_is_rolled_back_and_not_tried_again_until_the_template_changes() {
    let mut stage = Stage::set("fleet rollback", 8, Duration::ZERO).await;
    stage.fleet("px4", "2.0.0", rollout(json!(["25%", "100%"]), 50)).await;
    stage.until_phase("px4", FleetPhase::Complete).await;
    all_refuse(&stage, "6.6.6");
    stage.wants("px4", "6.6.6").await;
    let status = stage.until_phase("px4", FleetPhase::RolledBack).await;
    assert_eq!(
        (status.revision, status.failed_revision, status.previous_revision),
        (Some(2), Some(2), Some(1))
    );
    assert_eq!(condition(&status.conditions, "WithinBudget"), "WithinBudget=False/FailureBudgetExceeded");
    assert_eq!((status.counts.updated, status.counts.in_sync, status.counts.failed), (8, 8, 0));
    assert_eq!(stage.referee.saw("6.6.6").told.len(), 2, "the first batch, and nobody else");
    let note = stage.space.until_event("px4", "RollingBack").await.unwrap().note.unwrap_or_default();
    assert!(note.contains("2 devices failed") && note.contains("bringing back revision 1"), "{note}");
    assert!((stage.operator.metric("edge_fleet_rollbacks_total") - 1.0).abs() < 0.5);
    stage.is_silent().await;

    stage.operator.is_killed().await;
    stage.operator.starts();
    let epoch = status.epoch;
    stage.until("px4", "taken over", |status| status.epoch > epoch).await;
    stage.edit("px4", json!({"rollout": {"maxInFlight": 49}})).await;
    stage.until_phase("px4", FleetPhase::RolledBack).await;
    stage.is_silent().await;
    assert_eq!(stage.referee.saw("6.6.6").told.len(), 2);

    stage.wants("px4", "3.0.0").await;
    let status = stage.until_phase("px4", FleetPhase::Complete).await;
    assert_eq!((status.revision, status.failed_revision, status.previous_revision), (Some(3), None, Some(1)));
    assert_eq!(stage.running(), vec!["3.0.0"; 8]);
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn a_fleet_that_pauses_at_its_failure_budget_keeps_what_failed_and_goes_on_with_the_next_template() {
    let stage = Stage::set("fleet pause", 5, Duration::ZERO).await;
    let mut careful = rollout(json!(["100%"]), 5);
    careful["maxUnavailable"] = json!(1);
    careful["failureBudget"] = json!({"percent": "0%", "minimumSample": 1});
    careful["onBudgetExceeded"] = json!("Pause");
    stage.fleet("px4", "2.0.0", careful).await;
    stage.until_phase("px4", FleetPhase::Complete).await;
    assert_eq!(
        stage.referee.saw("2.0.0").most_in_flight,
        1,
        "one unavailable device at a time, whatever may be in flight"
    );
    all_refuse(&stage, "6.6.6");
    stage.wants("px4", "6.6.6").await;
    let status = stage.until_phase("px4", FleetPhase::Paused).await;
    assert_eq!(condition(&status.conditions, "WithinBudget"), "WithinBudget=False/FailureBudgetExceeded");
    assert_eq!((status.revision, status.failed_revision), (Some(2), None), "nothing is rolled back");
    assert_eq!((status.counts.updated, status.counts.failed, status.counts.unavailable), (1, 1, 1));
    stage.is_silent().await;
    assert_eq!(stage.referee.saw("6.6.6").told.len(), 1, "the first one, and nobody else");

    stage.wants("px4", "3.0.0").await;
    stage.until_phase("px4", FleetPhase::Complete).await;
    assert_eq!(stage.running(), vec!["3.0.0"; 5]);
    assert_eq!(stage.referee.saw("3.0.0").most_in_flight, 1);
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn a_device_whose_desired_state_somebody_else_set_is_left_alone_until_they_let_go() {
    let stage = Stage::set("fleet foreign", 4, Duration::ZERO).await;
    stage.edit_device(2, json!({"spec": {"desired": {"firmware": "9.9.9"}}})).await;
    stage.fleet("px4", "2.0.0", rollout(json!(["100%"]), 50)).await;
    let status = stage.until_phase("px4", FleetPhase::Complete).await;
    assert_eq!((status.counts.total, status.counts.foreign, status.counts.updated), (4, 1, 3));
    stage.until_true("running theirs", || stage.running()[2] == "9.9.9").await;

    // Somebody takes another one over, by hand.
    stage.edit_device(1, json!({"spec": {"desired": {"firmware": "8.8.8"}}})).await;
    let status = stage.until("px4", "robbed of one", |status| status.counts.foreign == 2).await;
    assert_eq!((status.phase, status.counts.updated), (FleetPhase::Complete, 2));
    stage.wants("px4", "3.0.0").await;
    stage.until_phase("px4", FleetPhase::Complete).await;
    assert_eq!(stage.referee.saw("3.0.0").told.len(), 2);

    stage.edit_device(2, json!({"spec": {"desired": null}})).await;
    stage.until("px4", "in charge of three", |status| status.counts.in_sync == 3).await;
    stage.until_true("running ours", || stage.running()[2] == "3.0.0").await;
    let theirs = stage.space.api::<Device>().get("device-1").await.unwrap().spec.desired.unwrap();
    assert_eq!(theirs.firmware, "8.8.8");
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn two_fleets_that_select_one_device_both_pause_and_undo_nothing() {
    let stage = Stage::set("fleet overlap", 4, Duration::ZERO).await;
    stage.fleet("px4", "2.0.0", rollout(json!(["100%"]), 50)).await;
    stage.until_phase("px4", FleetPhase::Complete).await;
    stage.edit_device(0, json!({"metadata": {"labels": {"site": "berlin"}}})).await;
    let berlin = json!({"matchLabels": {"site": "berlin"}});
    stage.fleet_of("berlin", &berlin, "3.0.0", rollout(json!(["100%"]), 50)).await;
    for (name, other) in [("px4", "berlin"), ("berlin", "px4")] {
        let status = stage.until_phase(name, FleetPhase::Paused).await;
        assert_eq!(condition(&status.conditions, "Accepted"), "Accepted=False/Overlap");
        let sentence = message(&status.conditions, "Accepted");
        assert!(sentence.contains(&format!("fleet {other} ")) && sentence.contains("device-0"), "{sentence}");
        stage.space.until_event(name, "Overlap").await.unwrap();
    }
    stage.wants("px4", "4.0.0").await;
    stage.until_phase("px4", FleetPhase::Paused).await;
    stage.is_silent().await;
    assert_eq!(stage.running(), vec!["2.0.0"; 4]);

    let rest = json!({"matchExpressions": [{"key": "site", "operator": "DoesNotExist"}]});
    stage.edit("px4", json!({"selector": rest})).await;
    for name in ["px4", "berlin"] {
        stage.until_phase(name, FleetPhase::Complete).await;
    }
    // A device goes from one fleet to the other, which may change it: they are one manager.
    let mut running = stage.running();
    running.sort_unstable();
    assert_eq!(running, ["3.0.0", "4.0.0", "4.0.0", "4.0.0"]);
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn leaders_that_are_killed_in_the_middle_are_followed_by_ones_that_go_on_within_the_budgets() {
    let mut stage = Stage::set("fleet leaders", 12, Duration::from_millis(700)).await;
    stage.fleet("px4", "2.0.0", rollout(json!(["25%", "100%"]), 3)).await;
    for told in [1, 4, 7, 10] {
        stage.until_true("so far", || stage.referee.saw("2.0.0").told.len() >= told).await;
        stage.operator.is_killed().await;
        stage.operator.starts();
    }
    let status = stage.until_phase("px4", FleetPhase::Complete).await;
    assert_eq!((status.revision, status.counts.in_sync), (Some(1), 12));
    let seen = stage.referee.saw("2.0.0");
    assert!(seen.most_in_flight <= 3 && seen.told_before(3) <= 3, "{seen:?}");
    assert_eq!(stage.revisions().await, [1]);
    for number in 0..12 {
        assert_eq!(stage.happened(number, What::Applied), 1, "device {number} was changed twice");
    }
    stage.is_silent().await;
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn a_paused_fleet_changes_nobody_else_and_goes_on_where_it_stopped() {
    let stage = Stage::set("fleet paused", 6, Duration::from_secs(3)).await;
    stage.fleet("px4", "2.0.0", rollout(json!(["100%"]), 2)).await;
    stage.until_true("begun", || !stage.referee.saw("2.0.0").told.is_empty()).await;
    stage.edit("px4", json!({"paused": true})).await;
    let status = stage.until("px4", "paused", |status| status.phase == FleetPhase::Paused).await;
    assert_eq!(condition(&status.conditions, "Progressing"), "Progressing=False/Paused");
    let status = stage
        .until("px4", "at rest", |status| {
            status.counts.updated > 0 && status.counts.updated == status.counts.in_sync
        })
        .await;
    assert!(status.counts.updated < 6);
    stage.is_silent().await;
    stage.install_within(Duration::ZERO);
    stage.edit("px4", json!({"paused": false})).await;
    let status = stage.until_phase("px4", FleetPhase::Complete).await;
    assert_eq!((status.revision, stage.running()), (Some(1), vec!["2.0.0".to_owned(); 6]));
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn a_device_that_is_lost_on_the_way_ends_the_rollout_at_its_deadline_and_gets_back_what_it_had() {
    let stage = Stage::set("fleet deadline", 4, Duration::ZERO).await;
    stage.fleet("px4", "2.0.0", rollout(json!([1, "100%"]), 50)).await;
    stage.until_phase("px4", FleetPhase::Complete).await;
    stage.install_within(Duration::from_secs(6));
    let slow = json!({"template": {"firmware": "3.0.0"}, "rollout": {"progressDeadline": "12s"}});
    stage.edit("px4", slow).await;
    stage.until_true("begun", || !stage.referee.saw("3.0.0").told.is_empty()).await;
    let first = stage.referee.saw("3.0.0").told[0].clone();
    let number: usize = first.trim_start_matches("device-").parse().unwrap();
    // It hears nothing, and nobody hears of it when it has installed.
    let all = share("100%").unwrap();
    stage.device(number).set_behaviour(Behaviour { drop: all, lose_answers: all, ..Behaviour::default() });
    stage.is_lost_soon(number).await;
    let status = stage.until_phase("px4", FleetPhase::RolledBack).await;
    assert_eq!(condition(&status.conditions, "WithinBudget"), "WithinBudget=False/ProgressDeadlineExceeded");
    assert_eq!((status.counts.updated, status.counts.in_sync), (4, 3), "what the lost one runs nobody knows");
    let note = stage.space.until_event("px4", "RollingBack").await.unwrap().note.unwrap_or_default();
    assert!(note.contains("no device finished for 12s"), "{note}");
    assert_eq!(stage.referee.saw("3.0.0").told, std::slice::from_ref(&first));
    let lost = stage.space.api::<Device>().get(&first).await.unwrap();
    assert_eq!(lost.spec.desired.unwrap().firmware, "2.0.0");
    stage.device(number).set_behaviour(Behaviour::default());
    stage.until("px4", "whole again", |status| status.counts.in_sync == 4).await;
    assert_eq!(stage.running(), vec!["2.0.0"; 4]);
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn devices_that_do_not_answer_hold_nobody_up_and_catch_up_when_they_do() {
    let stage = Stage::set("fleet away", 5, Duration::ZERO).await;
    let deaf = Behaviour { drop: share("100%").unwrap(), ..Behaviour::default() };
    // One is lost before the first rollout, one after it.
    stage.device(4).set_behaviour(deaf.clone());
    stage.is_lost_soon(4).await;
    stage.until_device(4, DevicePhase::Unreachable).await;
    stage.fleet("px4", "2.0.0", rollout(json!([1, "100%"]), 50)).await;
    let status = stage.until_phase("px4", FleetPhase::Complete).await;
    assert_eq!((status.counts.updated, status.counts.unavailable), (4, 0));
    stage.device(2).set_behaviour(deaf);
    stage.is_lost_soon(2).await;
    stage.until_device(2, DevicePhase::Unreachable).await;
    stage.wants("px4", "3.0.0").await;
    let status = stage.until_phase("px4", FleetPhase::Complete).await;
    assert_eq!((status.counts.total, status.counts.updated, status.counts.unavailable), (5, 3, 0));
    let untold = stage.space.api::<Device>().get("device-2").await.unwrap().spec.desired.unwrap();
    assert_eq!(untold.firmware, "2.0.0");
    for number in [2, 4] {
        stage.device(number).set_behaviour(Behaviour::default());
    }
    let status = stage.until("px4", "whole", |status| status.counts.in_sync == 5).await;
    assert_eq!((status.phase, stage.running()), (FleetPhase::Complete, vec!["3.0.0".to_owned(); 5]));
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn no_more_devices_are_written_at_once_than_may_be() {
    let stage = Stage::set("fleet writers", 12, Duration::ZERO).await;
    stage.fleet("px4", "2.0.0", rollout(json!(["100%"]), 50)).await;
    let deadline = Instant::now() + Duration::from_secs(90);
    let (mut most, mut rollouts) = (0.0, 0_u32);
    while most < 1.5 {
        assert!(Instant::now() < deadline, "{most} at once at most, and two may be");
        rollouts += 1;
        stage.wants("px4", &format!("3.0.{rollouts}")).await;
        let mut complete = std::pin::pin!(stage.until_phase("px4", FleetPhase::Complete));
        while timeout(Duration::from_millis(1), &mut complete).await.is_err() {
            let writing = stage.operator.metric(r#"edge_usage{name="fleet_writers""#);
            assert!(writing < 2.5, "{writing} at once");
            most = f64::max(most, writing);
        }
    }
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn a_member_that_is_made_again_in_the_middle_is_brought_up_and_a_deleted_fleet_leaves_all_as_they_are()
{
    let stage = Stage::set("fleet remade", 4, Duration::from_secs(2)).await;
    stage.fleet("px4", "2.0.0", rollout(json!(["100%"]), 2)).await;
    stage.until_true("begun", || !stage.referee.saw("2.0.0").told.is_empty()).await;
    let first = stage.referee.saw("2.0.0").told[0].clone();
    let number: usize = first.trim_start_matches("device-").parse().unwrap();
    // Else its object may be gone before there is anything to release.
    stage.until_true("obeyed", || stage.happened(number, What::Stored) == 1).await;
    stage.make_again(number).await;
    let status = stage
        .until("px4", "complete with all four", |status| {
            status.phase == FleetPhase::Complete && status.counts.in_sync == 4
        })
        .await;
    assert_eq!((status.counts.total, status.counts.unavailable, status.reserved.len()), (4, 0, 0));
    assert_eq!(condition(&status.conditions, "WithinBudget"), "WithinBudget=True/WithinBudget");
    assert_eq!(stage.running(), vec!["2.0.0"; 4]);
    assert_eq!(stage.happened(number, What::Released), 1, "by its first object");

    // Nothing is undone, and nothing goes on.
    stage.install_within(Duration::from_secs(3));
    stage.wants("px4", "3.0.0").await;
    stage.until_true("begun again", || !stage.referee.saw("3.0.0").told.is_empty()).await;
    stage.delete_fleet("px4").await;
    let is_at_rest = || {
        let (seen, running) = (stage.referee.saw("3.0.0"), stage.running());
        let all_run = seen.told.len() == running.iter().filter(|it| *it == "3.0.0").count();
        all_run && seen.told.len() == seen.ended.len()
    };
    stage.until_true("at rest", is_at_rest).await;
    stage.is_silent().await;
    assert!(is_at_rest());
    let told = stage.referee.saw("3.0.0").told.len();
    assert!((1..=2).contains(&told), "{told} were told, and two may be under way");

    // Another fleet is the same manager: what the deleted one has set is its to change.
    stage.fleet("px4-again", "4.0.0", rollout(json!(["100%"]), 4)).await;
    let status = stage.until_phase("px4-again", FleetPhase::Complete).await;
    assert_eq!((status.counts.foreign, stage.running()), (0, vec!["4.0.0".to_owned(); 4]));
}
