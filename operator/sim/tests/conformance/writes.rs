//! Writes of one object: creation, versions, generations, status, preconditions, deletion.

use std::fmt::Debug;

use edge_api::Device;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions, ValidationDirective};
use kube::{Api, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Ground, device, fleet, person, profile, refused, version};

pub(crate) async fn an_object_is_made_once_with_what_the_server_adds(ground: Ground) {
    let api = ground.api::<Device>();
    let made = ground.device("pump-0").await;
    assert!(made.uid().is_some_and(|uid| uid.len() == 36), "{made:?}");
    assert!(made.creation_timestamp().is_some());
    assert_eq!(made.metadata.generation, Some(1));
    assert_eq!(made.namespace().as_ref(), Some(&ground.namespace));
    let again = api.create(&PostParams::default(), &device("pump-0")).await;
    assert_eq!(refused(again), (409, "AlreadyExists".to_owned()));
    let mut versioned = device("pump-1");
    versioned.metadata.resource_version = Some("7".to_owned());
    assert_eq!(refused(api.create(&PostParams::default(), &versioned).await).0, 500);
    let nowhere: Api<Device> = Api::namespaced(ground.client.clone(), "nowhere");
    assert_eq!(refused(nowhere.create(&PostParams::default(), &device("pump-0")).await).0, 404);
}

pub(crate) async fn a_name_can_be_generated(ground: Ground) {
    let mut nameless = device("");
    nameless.metadata.name = None;
    nameless.metadata.generate_name = Some("pump-".to_owned());
    let api = ground.api::<Device>();
    let first = api.create(&PostParams::default(), &nameless).await.unwrap();
    let second = api.create(&PostParams::default(), &nameless).await.unwrap();
    assert!(first.name_any().starts_with("pump-") && first.name_any().len() == 10, "{}", first.name_any());
    assert_ne!(first.name_any(), second.name_any());
}

pub(crate) async fn what_is_not_there_is_not_found(ground: Ground) {
    let api = ground.api::<Device>();
    assert_eq!(refused(api.get("pump-0").await), (404, "NotFound".to_owned()));
    let patch = Patch::Merge(json!({ "spec": { "paused": true } }));
    assert_eq!(refused(api.patch("pump-0", &person(), &patch).await).0, 404);
    assert_eq!(refused(api.delete("pump-0", &DeleteParams::default()).await).0, 404);
    let status = ground.apply_status("edge-operator", "pump-0", json!({ "phase": "InSync" })).await;
    assert_eq!(refused(status).0, 404);
    assert!(api.get_opt("pump-0").await.unwrap().is_none());
}

pub(crate) async fn versions_rise_over_all_kinds(ground: Ground) {
    let leases = ground.api::<Lease>();
    let lease =
        |name: &str| -> Lease { serde_json::from_value(json!({ "metadata": { "name": name } })).unwrap() };
    let first = ground.device("pump-0").await;
    let second = leases.create(&PostParams::default(), &lease("one")).await.unwrap();
    let third = ground.edit("pump-0", json!({ "spec": { "paused": true } })).await;
    let fourth = leases.create(&PostParams::default(), &lease("two")).await.unwrap();
    let versions = [version(&first), version(&second), version(&third), version(&fourth)];
    assert!(versions.is_sorted_by(|one, other| one < other), "{versions:?}");
    leases.delete("one", &DeleteParams::default()).await.unwrap();
    let again = leases.create(&PostParams::default(), &lease("one")).await.unwrap();
    assert!(version(&again) > versions[3], "also when it is made again");
}

pub(crate) async fn a_write_on_an_old_version_is_a_conflict_and_changes_nothing(ground: Ground) {
    let api = ground.api::<Device>();
    let old = ground.device("pump-0").await;
    let now = ground.edit("pump-0", json!({ "spec": { "paused": true } })).await;
    let late = json!({
        "metadata": { "resourceVersion": old.resource_version() },
        "spec": { "endpoint": { "port": 7000 } },
    });
    let conflict = (409, "Conflict".to_owned());
    assert_eq!(refused(api.patch("pump-0", &person(), &Patch::Merge(&late)).await), conflict);
    let mut replacement = old.clone();
    replacement.spec.endpoint.port = 7000;
    assert_eq!(refused(api.replace("pump-0", &PostParams::default(), &replacement).await), conflict);
    let config = json!({
        "metadata": { "name": "pump-0", "resourceVersion": old.resource_version() },
        "spec": { "endpoint": { "host": "10.20.0.17", "port": 7000 } },
    });
    assert_eq!(refused(ground.apply("sim", true, config).await), conflict);
    assert_eq!(version(&api.get("pump-0").await.unwrap()), version(&now));
}

pub(crate) async fn a_replacement_names_the_version_that_it_replaces(ground: Ground) {
    let api = ground.api::<Device>();
    let made = ground.device("pump-0").await;
    let nameless = device("pump-0");
    assert_eq!(refused(api.replace("pump-0", &PostParams::default(), &nameless).await).0, 422);
    let mut next = made.clone();
    next.spec.paused = true;
    let replaced = api.replace("pump-0", &PostParams::default(), &next).await.unwrap();
    assert!(replaced.spec.paused && replaced.uid() == made.uid());
    assert_eq!(replaced.metadata.creation_timestamp, made.metadata.creation_timestamp);
}

pub(crate) async fn a_generation_counts_changes_of_the_spec_alone(ground: Ground) {
    ground.device("pump-0").await;
    let generation = |device: &Device| device.metadata.generation.unwrap();
    let labelled = ground.edit("pump-0", json!({ "metadata": { "labels": { "site": "berlin" } } })).await;
    assert_eq!(generation(&labelled), 1);
    let reported =
        ground.apply_status("edge-operator", "pump-0", json!({ "phase": "InSync" })).await.unwrap();
    assert_eq!(generation(&reported), 1);
    let desired = json!({ "spec": { "desired": { "firmware": "2.0.0" } } });
    assert_eq!(generation(&ground.edit("pump-0", desired.clone()).await), 2);
    assert_eq!(generation(&ground.edit("pump-0", desired).await), 2);
}

pub(crate) async fn a_status_is_written_apart(ground: Ground) {
    let api = ground.api::<Device>();
    let mut with_status = serde_json::to_value(device("pump-0")).unwrap();
    with_status["status"] = json!({ "phase": "InSync" });
    let with_status: Device = serde_json::from_value(with_status).unwrap();
    let made = api.create(&PostParams::default(), &with_status).await.unwrap();
    assert!(made.status.is_none(), "{:?}", made.status);
    let both = json!({ "spec": { "paused": true }, "status": { "phase": "InSync" } });
    let through_spec = api.patch("pump-0", &person(), &Patch::Merge(&both)).await.unwrap();
    assert!(through_spec.spec.paused && through_spec.status.is_none(), "{through_spec:?}");
    let both = json!({ "spec": { "paused": false }, "status": { "phase": "Syncing" } });
    let through_status = api.patch_status("pump-0", &person(), &Patch::Merge(&both)).await.unwrap();
    assert!(through_status.spec.paused);
    assert_eq!(through_status.status.unwrap().phase.as_str(), "Syncing");
}

pub(crate) async fn a_write_that_changes_nothing_makes_no_version(ground: Ground) {
    ground.device("pump-0").await;
    let patch = json!({ "metadata": { "labels": { "site": "berlin" } } });
    let once = ground.edit("pump-0", patch.clone()).await;
    let twice = ground.edit("pump-0", patch).await;
    assert_eq!(version(&once), version(&twice));
    let status = json!({ "phase": "InSync", "reported": { "bootId": "8f", "sequence": 1 } });
    let once = ground.apply_status("edge-operator", "pump-0", status.clone()).await.unwrap();
    let twice = ground.apply_status("edge-operator", "pump-0", status).await.unwrap();
    assert!(version(&once) > 0 && version(&once) == version(&twice));
}

pub(crate) async fn a_write_that_names_another_uid_is_refused(ground: Ground) {
    let made = ground.device("pump-0").await;
    let part = |uid: &str| {
        json!({
            "metadata": { "name": "pump-0", "uid": uid },
            "spec": { "endpoint": { "host": "10.20.0.18" } },
        })
    };
    let other = "11111111-2222-3333-4444-555555555555";
    assert_eq!(refused(ground.apply("sim", true, part(other)).await).0, 422);
    assert!(ground.apply("sim", true, part(&made.uid().unwrap())).await.is_ok());
    let patch = Patch::Merge(json!({ "metadata": { "uid": other }, "spec": { "paused": true } }));
    assert_eq!(refused(ground.api::<Device>().patch("pump-0", &person(), &patch).await).0, 422);
    let mut replacement = ground.api::<Device>().get("pump-0").await.unwrap();
    replacement.metadata.uid = Some(other.to_owned());
    let replaced = ground.api::<Device>().replace("pump-0", &PostParams::default(), &replacement).await;
    assert_eq!(refused(replaced).0, 409);
}

pub(crate) async fn a_deletion_can_have_preconditions(ground: Ground) {
    let api = ground.api::<Device>();
    let old = ground.device("pump-0").await;
    let now = ground.edit("pump-0", json!({ "spec": { "paused": true } })).await;
    let only_if = |uid: Option<String>, resource_version: Option<String>| DeleteParams {
        preconditions: Some(Preconditions { uid, resource_version }),
        ..DeleteParams::default()
    };
    let other = only_if(Some("11111111-2222-3333-4444-555555555555".to_owned()), None);
    assert_eq!(refused(api.delete("pump-0", &other).await).0, 409);
    let late = only_if(old.uid(), old.resource_version());
    assert_eq!(refused(api.delete("pump-0", &late).await).0, 409);
    let right = only_if(now.uid(), now.resource_version());
    assert!(api.delete("pump-0", &right).await.unwrap().is_right(), "gone at once");
    assert_eq!(refused(api.get("pump-0").await).0, 404);
    let again = ground.device("pump-0").await;
    assert_ne!(again.uid(), now.uid(), "made again it is another one");
}

pub(crate) async fn an_object_with_finalizers_stays_until_they_are_gone(ground: Ground) {
    let api = ground.api::<Device>();
    ground.device("pump-0").await;
    let hold = json!({ "metadata": { "finalizers": ["edge-operator.dev/release"] } });
    let held = ground.edit("pump-0", hold).await;
    let going = api.delete("pump-0", &DeleteParams::default()).await.unwrap().left().unwrap();
    assert!(going.metadata.deletion_timestamp.is_some());
    assert_eq!(going.metadata.generation, Some(held.metadata.generation.unwrap() + 1));
    let again = api.delete("pump-0", &DeleteParams::default()).await.unwrap().left().unwrap();
    assert_eq!(version(&again), version(&going), "to delete it twice is to delete it once");
    let edited = ground.edit("pump-0", json!({ "metadata": { "labels": { "late": "yes" } } })).await;
    assert!(edited.metadata.deletion_timestamp.is_some());
    ground.edit("pump-0", json!({ "metadata": { "finalizers": null } })).await;
    assert_eq!(refused(api.get("pump-0").await).0, 404);
}

pub(crate) async fn defaults_are_filled_in_and_unknown_fields_are_not_kept(ground: Ground) {
    let api: Api<kube::api::DynamicObject> = Api::namespaced_with(
        ground.client.clone(),
        &ground.namespace,
        &kube::api::ApiResource::erase::<Device>(&()),
    );
    let bare = json!({
        "apiVersion": "edge-operator.dev/v1alpha1", "kind": "Device", "metadata": { "name": "pump-0" },
        "spec": { "endpoint": { "host": "10.20.0.17" }, "desired": { "firmware": "1" }, "colour": "red" },
    });
    let made = api.create(&PostParams::default(), &serde_json::from_value(bare).unwrap()).await.unwrap();
    let strict = PatchParams { field_validation: Some(ValidationDirective::Strict), ..person() };
    let misspelt = Patch::Merge(json!({ "spec": { "puased": true } }));
    assert_eq!(refused(api.patch("pump-0", &strict, &misspelt).await).0, 422);
    let expected = json!({
        "endpoint": { "host": "10.20.0.17", "port": 5683 },
        "desired": { "firmware": "1", "config": {} },
        "liveness": { "probeInterval": "10s", "suspectAfter": "30s", "lostAfter": "2m" },
        "paused": false,
    });
    assert_eq!(made.data["spec"], expected);
}

pub(crate) async fn a_lease_is_merged_on_its_version_and_null_removes_a_field(ground: Ground) {
    let leases = ground.api::<Lease>();
    let lease = json!({
        "metadata": { "name": "edge-operator" },
        "spec": { "holderIdentity": "a", "leaseDurationSeconds": 15, "leaseTransitions": 0 },
    });
    let made = leases.create(&PostParams::default(), &serde_json::from_value(lease).unwrap()).await.unwrap();
    let on = |version: &str, spec: Value| {
        Patch::Merge(json!({ "metadata": { "resourceVersion": version }, "spec": spec }))
    };
    let made_at = made.resource_version().unwrap();
    let params = PatchParams::default();
    let taken = leases
        .patch("edge-operator", &params, &on(&made_at, json!({ "holderIdentity": "b" })))
        .await
        .unwrap();
    assert!(version(&taken) > version(&made));
    let late = leases.patch("edge-operator", &params, &on(&made_at, json!({ "holderIdentity": "c" }))).await;
    assert_eq!(refused(late).0, 409);
    let given = on(&taken.resource_version().unwrap(), json!({ "holderIdentity": null }));
    let given = leases.patch("edge-operator", &params, &given).await.unwrap().spec.unwrap();
    assert_eq!((given.holder_identity, given.lease_duration_seconds), (None, Some(15)));
}

pub(crate) async fn an_epoch_of_a_profile_and_of_a_fleet_never_falls(ground: Ground) {
    epoch_never_falls(&ground, profile("cut")).await;
    epoch_never_falls(&ground, fleet("pumps")).await;
}

async fn epoch_never_falls<K>(ground: &Ground, object: K)
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned,
{
    let (api, name) = (ground.api::<K>(), object.name_any());
    api.create(&PostParams::default(), &object).await.unwrap();
    let write = |status: Value| {
        let patch = json!({
            "apiVersion": K::api_version(&()), "kind": K::kind(&()),
            "metadata": { "name": name }, "status": status,
        });
        let (api, name, params) = (api.clone(), name.clone(), PatchParams::apply("edge-operator").force());
        async move { api.patch_status(&name, &params, &Patch::Apply(patch)).await }
    };
    write(json!({ "phase": "Pending" })).await.unwrap();
    write(json!({ "phase": "Pending", "epoch": 7 })).await.unwrap();
    assert_eq!(refused(write(json!({ "phase": "Pending", "epoch": 6 })).await), (422, "Invalid".to_owned()));
    assert_eq!(refused(write(json!({ "phase": "Pending" })).await).0, 422);
    write(json!({ "phase": "Pending", "epoch": 8 })).await.unwrap();
}

pub(crate) async fn events_and_revisions_are_kept_as_they_are(ground: Ground) {
    let events = ground.api::<Event>();
    let event: Event = serde_json::from_value(json!({
        "metadata": { "name": "pump-0.17" },
        "eventTime": "2026-01-01T00:00:00.000000Z", "type": "Warning", "reason": "Conflicted", "action": "Sync",
        "reportingController": "edge-operator", "reportingInstance": "edge-operator-0", "note": "a sentence",
        "regarding": { "kind": "Device", "namespace": ground.namespace, "name": "pump-0" },
    }))
    .unwrap();
    events.create(&PostParams::default(), &event).await.unwrap();
    let series = json!({ "series": { "count": 2, "lastObservedTime": "2026-01-01T00:00:01.000000Z" } });
    let told = events.patch("pump-0.17", &PatchParams::default(), &Patch::Merge(series)).await.unwrap();
    assert_eq!(told.series.map(|series| series.count), Some(2));
    let revisions = ground.api::<ControllerRevision>();
    let revision: ControllerRevision = serde_json::from_value(json!({
        "metadata": { "name": "fleet-1" }, "revision": 1, "data": { "firmware": "2.0.0" },
    }))
    .unwrap();
    let kept = revisions.create(&PostParams::default(), &revision).await.unwrap();
    assert_eq!(kept.data.map(|data| data.0), Some(json!({ "firmware": "2.0.0" })));
    revisions.delete("fleet-1", &DeleteParams::default()).await.unwrap();
    assert!(revisions.get_opt("fleet-1").await.unwrap().is_none());
    assert!(ground.api::<Pod>().list(&Default::default()).await.unwrap().items.is_empty());
}
