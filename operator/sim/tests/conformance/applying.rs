//! Server-side apply: who owns what, what a conflict is, what force takes over, what is removed.

use edge_api::Device;
use kube::ResourceExt as _;
use serde_json::{Value, json};

use super::{Ground, refused, version};

fn desired(firmware: &str) -> Value {
    desired_with(json!({ "firmware": firmware, "config": {} }))
}

fn desired_with(desired: Value) -> Value {
    json!({ "metadata": { "name": "pump-0" }, "spec": { "desired": desired } })
}

fn firmware(device: &Device) -> Option<&str> {
    device.spec.desired.as_ref().map(|desired| desired.firmware.as_str())
}

pub(crate) async fn what_is_applied_first_is_made(ground: Ground) {
    let part = json!({
        "metadata": { "name": "pump-0", "labels": { "site": "berlin" } },
        "spec": { "endpoint": { "host": "10.20.0.17" } },
    });
    let made = ground.apply("device-sim", false, part.clone()).await.unwrap();
    assert_eq!(made.metadata.generation, Some(1));
    assert_eq!(made.labels()["site"], "berlin");
    let again = ground.apply("device-sim", false, part).await.unwrap();
    assert_eq!(version(&again), version(&made));
    let mut gone = desired("1");
    gone["metadata"] = json!({ "name": "pump-1", "uid": "11111111-2222-3333-4444-555555555555" });
    assert_eq!(refused(ground.apply("device-sim", false, gone).await).0, 409);
}

pub(crate) async fn who_applies_what_another_owns_is_refused_with_that_ones_name(ground: Ground) {
    ground.device("pump-0").await;
    ground.apply("fleet-a", false, desired("2.0.0")).await.unwrap();
    let Err(kube::Error::Api(status)) = ground.apply("fleet-b", false, desired("3.0.0")).await else {
        panic!("it was to be refused")
    };
    assert_eq!((status.code, status.reason.as_str()), (409, "Conflict"));
    let causes = &status.details.as_ref().unwrap().causes;
    assert_eq!(causes.len(), 1, "{causes:?}");
    assert_eq!(causes[0].reason, "FieldManagerConflict");
    assert_eq!(causes[0].field, ".spec.desired");
    assert!(causes[0].message.contains("conflict with \"fleet-a\""), "{}", causes[0].message);
    let same = ground.apply("fleet-b", false, desired("2.0.0")).await.unwrap();
    assert_eq!(firmware(&same), Some("2.0.0"), "to want the same is no conflict");
    // A default that the server filled in is part of an atomic value: who leaves it out wants something else.
    let without = desired_with(json!({ "firmware": "2.0.0" }));
    assert_eq!(refused(ground.apply("fleet-c", false, without).await).0, 409);
}

pub(crate) async fn force_takes_a_field_over(ground: Ground) {
    ground.device("pump-0").await;
    ground.apply("fleet-a", false, desired("2.0.0")).await.unwrap();
    let taken = ground.apply("fleet-b", true, desired("3.0.0")).await.unwrap();
    assert_eq!(firmware(&taken), Some("3.0.0"));
    assert_eq!(refused(ground.apply("fleet-a", false, desired("2.0.0")).await).0, 409);
}

pub(crate) async fn what_is_no_longer_applied_is_removed_unless_another_applies_it_too(ground: Ground) {
    let part = |labels: Value| {
        json!({
            "metadata": { "name": "pump-0", "labels": labels },
            "spec": { "endpoint": { "host": "10.20.0.17" } },
        })
    };
    ground.apply("one", false, part(json!({ "site": "berlin", "model": "px4" }))).await.unwrap();
    ground.apply("two", false, part(json!({ "model": "px4" }))).await.unwrap();
    let left = ground.apply("one", false, part(json!({}))).await.unwrap();
    assert_eq!(serde_json::to_value(left.labels()).unwrap(), json!({ "model": "px4" }));
    ground.apply("one", false, desired("2.0.0")).await.unwrap();
    let bare = json!({ "metadata": { "name": "pump-0" } });
    let left = ground.apply("one", false, bare).await.unwrap();
    assert_eq!(firmware(&left), None);
    assert_eq!(left.spec.endpoint.host, "10.20.0.17", "the other applies it still");
}

pub(crate) async fn what_a_person_edits_is_that_persons(ground: Ground) {
    ground.device("pump-0").await;
    ground.apply("fleet-a", false, desired("2.0.0")).await.unwrap();
    ground.edit("pump-0", json!({ "spec": { "desired": { "firmware": "9.9.9" } } })).await;
    let Err(kube::Error::Api(status)) = ground.apply("fleet-a", false, desired("2.0.0")).await else {
        panic!("it was to be refused")
    };
    let message = &status.details.as_ref().unwrap().causes[0].message;
    assert!(message.contains("conflict with \"kubectl-edit\""), "{message}");
}

pub(crate) async fn desired_is_one_value_to_those_who_apply_it(ground: Ground) {
    ground.device("pump-0").await;
    let config = json!({
        "metadata": { "name": "pump-0" },
        "spec": { "desired": { "firmware": "2.0.0", "config": { "interval": "5s" } } },
    });
    ground.apply("fleet-a", false, config).await.unwrap();
    let next = ground.apply("fleet-a", false, desired("2.0.1")).await.unwrap();
    let desired = next.spec.desired.unwrap();
    assert!(desired.config.is_empty(), "{desired:?}");
}

pub(crate) async fn conditions_of_two_appliers_are_merged_by_type(ground: Ground) {
    ground.device("pump-0").await;
    let condition = |type_: &str, status: &str| {
        json!({
            "type": type_, "status": status, "reason": "It", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        })
    };
    let ours =
        json!({ "phase": "InSync", "conditions": [condition("Ready", "True"), condition("Synced", "True")] });
    ground.apply_status("edge-operator", "pump-0", ours).await.unwrap();
    let theirs = json!({ "conditions": [condition("Audited", "True")] });
    ground.apply_status("somebody", "pump-0", theirs).await.unwrap();
    let ours = json!({ "phase": "Syncing", "conditions": [condition("Ready", "False")] });
    let left = ground.apply_status("edge-operator", "pump-0", ours).await.unwrap().status.unwrap();
    let mut left: Vec<_> = left.conditions.iter().map(|c| format!("{}={}", c.type_, c.status)).collect();
    left.sort();
    assert_eq!(left, ["Audited=True", "Ready=False"]);
}

pub(crate) async fn an_applied_status_leaves_the_spec_alone_and_names_its_version(ground: Ground) {
    let made = ground.device("pump-0").await;
    let on = |version: Option<String>, phase: &str| {
        let patch = json!({
            "apiVersion": "edge-operator.dev/v1alpha1", "kind": "Device",
            "metadata": { "name": "pump-0", "uid": made.uid(), "resourceVersion": version },
            "status": { "phase": phase },
        });
        let (api, params) = (ground.api::<Device>(), kube::api::PatchParams::apply("edge-operator").force());
        async move { api.patch_status("pump-0", &params, &kube::api::Patch::Apply(patch)).await }
    };
    let first = on(made.resource_version(), "Syncing").await.unwrap();
    assert_eq!(first.spec, made.spec);
    assert_eq!(refused(on(made.resource_version(), "InSync").await).0, 409);
    let second = on(first.resource_version(), "InSync").await.unwrap();
    assert_eq!(second.status.unwrap().phase.as_str(), "InSync");
    // Fields that are applied no more are removed from a status too.
    let errors = json!({ "phase": "InSync", "sync": { "generation": 1, "lastError": "no answer" } });
    ground.apply_status("edge-operator", "pump-0", errors).await.unwrap();
    let left = ground.apply_status("edge-operator", "pump-0", json!({ "phase": "InSync" })).await.unwrap();
    assert!(left.status.unwrap().sync.is_none());
}

pub(crate) async fn managers_are_told_with_what_they_did(ground: Ground) {
    ground.device("pump-0").await;
    ground.edit("pump-0", json!({ "spec": { "paused": true } })).await;
    ground.apply("fleet-a", false, desired("2.0.0")).await.unwrap();
    let last = ground.apply_status("edge-operator", "pump-0", json!({ "phase": "InSync" })).await.unwrap();
    let told = |manager: &str| {
        let entry = last.managed_fields().iter().find(|entry| entry.manager.as_deref() == Some(manager));
        let entry = entry.unwrap_or_else(|| panic!("{manager} is not among {:?}", last.managed_fields()));
        let fields = entry.fields_v1.as_ref().map(|fields| fields.0.clone()).unwrap_or_default();
        (entry.operation.clone().unwrap_or_default(), entry.subresource.clone(), fields)
    };
    assert_eq!(told("kubectl-edit"), ("Update".to_owned(), None, json!({ "f:spec": { "f:paused": {} } })));
    assert_eq!(told("fleet-a"), ("Apply".to_owned(), None, json!({ "f:spec": { "f:desired": {} } })));
    let (operation, subresource, fields) = told("edge-operator");
    assert_eq!((operation.as_str(), subresource.as_deref()), ("Apply", Some("status")));
    assert_eq!(fields, json!({ "f:status": { "f:phase": {} } }));
}
