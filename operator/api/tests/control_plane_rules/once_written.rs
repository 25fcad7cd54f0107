//! What may no longer be written: over a later leader's status by a former one, and by anybody to a profile that has started.

use std::fmt::Debug;

use control_plane::space;
use edge_api::{DeviceFleet, FaultProfile};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::cases::{self, profile};
use super::create;

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn a_former_leader_cannot_write_over_a_later_ones_fleet() {
    let space = space("fleet epoch").await.unwrap();
    create(&space, &cases::fleets::fleet()).await.unwrap();
    let fleets: Api<DeviceFleet> = space.api();
    let set = async |status: Value| {
        let patch = Patch::Merge(json!({"status": status}));
        fleets.patch_status("px4", &PatchParams::default(), &patch).await
    };
    set(json!({"epoch": 40, "reserved": ["pump-1"]})).await.unwrap();
    set(json!({"epoch": 41})).await.unwrap();
    for epoch in [json!(40), Value::Null] {
        let answer = sentence(set(json!({"epoch": epoch, "reserved": ["pump-1", "pump-2"]})).await);
        assert!(answer.contains("epoch never falls"), "{answer}");
    }
}

async fn set_status(profiles: &Api<FaultProfile>, status: Value) -> Result<FaultProfile, kube::Error> {
    profiles.patch_status("lossy", &PatchParams::default(), &Patch::Merge(json!({"status": status}))).await
}

async fn set_spec(profiles: &Api<FaultProfile>, spec: Value) -> Result<FaultProfile, kube::Error> {
    profiles.patch("lossy", &PatchParams::default(), &Patch::Merge(json!({"spec": spec}))).await
}

fn sentence<K: Debug>(answer: Result<K, kube::Error>) -> String {
    match answer {
        Err(kube::Error::Api(status)) if status.code == 422 => status.message,
        other => panic!("this should have been refused as invalid: {other:?}"),
    }
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn a_profile_that_has_started_changes_in_nothing_but_paused() {
    let space = space("started profile").await.unwrap();
    create(&space, &profile()).await.unwrap();
    let profiles: Api<FaultProfile> = space.api();
    set_spec(&profiles, json!({"seed": 8, "match": null})).await.unwrap();
    set_spec(&profiles, json!({"match": {"protocol": "UDP"}})).await.unwrap();
    let started =
        json!({"startedAt": "2026-01-02T03:04:05.000006Z", "expiresAt": "2026-01-02T03:14:05.000006Z"});
    set_status(&profiles, started).await.unwrap();

    for spec in [
        json!({"seed": 9}),
        json!({"duration": "11m"}),
        json!({"direction": "ToDevice"}),
        json!({"faults": {"loss": {"percent": "21%"}}}),
        json!({"match": null}),
        json!({"match": {"protocol": "TCP"}}),
        json!({"targets": {"choose": null}}),
        json!({"targets": {"devices": null, "pods": {"selector": {"matchLabels": {"a": "b"}}}}}),
    ] {
        let answer = sentence(set_spec(&profiles, spec.clone()).await);
        assert!(
            answer.contains("only paused can change; to run something else, delete it"),
            "{spec}: {answer}"
        );
    }
    set_spec(&profiles, json!({"paused": true})).await.unwrap();
    set_spec(&profiles, json!({"paused": false})).await.unwrap();

    for status in [json!({"startedAt": "2026-01-02T03:05:00.000000Z"}), json!({"expiresAt": null})] {
        let answer = sentence(set_status(&profiles, status.clone()).await);
        assert!(answer.contains("startedAt and expiresAt never change once set"), "{status}: {answer}");
    }
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn a_former_leader_cannot_write_over_a_later_ones_status() {
    let space = space("epoch").await.unwrap();
    create(&space, &profile()).await.unwrap();
    let profiles: Api<FaultProfile> = space.api();
    set_status(&profiles, json!({"epoch": 40, "phase": "Pending"})).await.unwrap();
    set_status(&profiles, json!({"epoch": 40, "phase": "Active"})).await.unwrap();
    set_status(&profiles, json!({"epoch": 41})).await.unwrap();
    for epoch in [json!(40), Value::Null] {
        let answer = sentence(set_status(&profiles, json!({"epoch": epoch})).await);
        assert!(answer.contains("epoch never falls"), "{answer}");
    }
}
