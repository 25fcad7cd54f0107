//! More objects than the operator may keep in memory.

use std::time::Duration;

use control_plane::wait::WITHIN;
use edge_api::condition::{find_condition, is_true, types};
use edge_api::{Device, DeviceFleet, DevicePhase, FaultProfile};
use kube::ResourceExt as _;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::stage::Stage;

const MOST: usize = 3;

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
#[expect(clippy::too_many_lines, reason = "one story: it is full, and then there is room again")]
async fn what_finds_no_room_is_left_out_and_nothing_is_chosen_among_the_rest_until_there_is_room_again() {
    let flags = ["--controllers=device,fleet,fault", "--max-objects=3"];
    let mut stage = Stage::set_with("room", 5, &flags).await;
    for number in 0..5 {
        let name = stage.declare(number, Some("2.0.0")).await.name_any();
        let labels = Patch::Merge(json!({"metadata": {"labels": {"model": "px4"}}}));
        stage.space.api::<Device>().patch(&name, &PatchParams::default(), &labels).await.unwrap();
    }
    stage.fleet_of("px4", "9.0.0").await;
    let profile: FaultProfile = serde_json::from_value(json!({
        "apiVersion": "edge-operator.dev/v1alpha1", "kind": "FaultProfile", "metadata": {"name": "loss"},
        "spec": {"targets": {"devices": {"selector": {"matchExpressions": [{"key": "none", "operator": "DoesNotExist"}]}}}, "faults": {"loss": {"percent": "10%"}}, "duration": "10m"},
    }))
    .unwrap();
    stage.space.api::<FaultProfile>().create(&PostParams::default(), &profile).await.unwrap();

    stage.operator.until_metric("edge_objects_refused_total{kind=\"Device\"", |refused| refused > 0.5).await;
    let held = stage.operator.metric("edge_usage{name=\"cached_devices\"");
    assert!(
        (held - stage.operator.metric("edge_limit{name=\"cached_devices\"")).abs() < 0.5,
        "{held} are held"
    );
    let refused = |reason: Option<String>| reason.as_deref() == Some("TooManyObjects");
    let why = |conditions: &[edge_api::condition::Condition]| {
        let accepted = find_condition(conditions, types::ACCEPTED).filter(|it| it.status == "False");
        accepted.map(|it| it.reason.clone())
    };
    let fleet_is =
        |fleet: &DeviceFleet| refused(fleet.status.as_ref().and_then(|status| why(&status.conditions)));
    stage.space.until("px4", "refused", fleet_is).await.unwrap();
    let profile_is =
        |one: &FaultProfile| refused(one.status.as_ref().and_then(|status| why(&status.conditions)));
    stage.space.until("loss", "refused", profile_is).await.unwrap();

    let deadline = Instant::now() + WITHIN;
    let mut synced = Vec::new();
    while synced.len() < MOST {
        assert!(Instant::now() < deadline, "only {synced:?} in sync\n{}", stage.operator.scrape());
        sleep(Duration::from_millis(20)).await;
        synced = stage.in_sync().await;
    }
    assert_eq!(synced.len(), MOST, "there is room for no more");

    // Whoever takes the fleet over now does not wait for a cache that cannot catch up.
    stage.operator.is_killed().await;
    stage.operator.starts();
    let edit = Patch::Merge(json!({"spec": {"rollout": {"maxInFlight": 7}}}));
    let fleets = stage.space.api::<DeviceFleet>();
    let edited = fleets.patch("px4", &PatchParams::default(), &edit).await.unwrap();
    let judged = |fleet: &DeviceFleet| {
        let generation = fleet.status.as_ref().and_then(|status| status.observed_generation);
        fleet_is(fleet) && generation == edited.metadata.generation
    };
    stage.space.until("px4", "refused by whoever leads now", judged).await.unwrap();
    for name in &synced[..2] {
        stage.space.api::<Device>().delete(name, &DeleteParams::default()).await.unwrap();
    }
    for name in (0..5).map(|number| format!("device-{number}")).filter(|name| !synced.contains(name)) {
        stage.until_phase(&name, DevicePhase::InSync).await;
    }
    let accepted = |fleet: &DeviceFleet| {
        fleet.status.as_ref().is_some_and(|status| is_true(&status.conditions, types::ACCEPTED))
    };
    stage.space.until("px4", "accepted", accepted).await.unwrap();
    let accepted = |profile: &FaultProfile| {
        profile.status.as_ref().is_some_and(|status| is_true(&status.conditions, types::ACCEPTED))
    };
    stage.space.until("loss", "accepted", accepted).await.unwrap();
}
