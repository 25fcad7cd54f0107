//! The one interpreter of a fleet's actions. No choice is made here: what is to be done was decided before.

use std::sync::Arc;

use edge_api::{Desired, Device, DeviceFleet, DeviceFleetStatus};
use futures::{StreamExt as _, stream};
use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, ValidationDirective};
use kube::runtime::events::EventType;
use kube::{Api, Resource as _, ResourceExt as _};
use serde_json::json;
use tokio::time::Instant;

use super::Controls;
use super::action::{Action, Change};
use super::member::MANAGER;
use super::memory::Sent;
use super::observe::FLEET_UID;
use crate::error::{ApiError, call};
use crate::leader::guard::NotLeading;
use crate::record::apply_status;

/// The longest part of a fleet's name in those of its revisions: the API's limit is 253.
const NAME: usize = 220;

/// Does what was decided for one fleet, in that order.
///
/// # Errors
/// At the first thing that fails; of changes of devices, which do not depend on each other, after all of them.
pub(crate) async fn perform(
    controls: &Controls,
    fleet: &DeviceFleet,
    actions: Vec<Action>,
) -> Result<(), ApiError> {
    let mut changes = Vec::new();
    for action in actions {
        match action {
            Action::MakeRevision { number, template } => make(controls, fleet, number, &template).await?,
            Action::DeleteRevision { number } => delete(controls, fleet, number).await?,
            Action::WriteStatus(status) => write(controls, fleet, &status).await?,
            Action::Notify(notice) => {
                controls.shared.events.tell(
                    fleet,
                    EventType::Warning,
                    "Rollout",
                    notice.reason,
                    &notice.note,
                );
            }
            Action::Change(change) => changes.push(change),
        }
    }
    let writers = usize::from(controls.shared.args.work.fleet_writers);
    let outcomes: Vec<Result<(), ApiError>> = stream::iter(changes)
        .map(|change| send(controls, fleet, change))
        .buffer_unordered(writers)
        .collect()
        .await;
    outcomes.into_iter().collect()
}

async fn write(controls: &Controls, fleet: &DeviceFleet, status: &DeviceFleetStatus) -> Result<(), ApiError> {
    let version = fleet.metadata.resource_version.as_deref();
    apply_status(&controls.shared, fleet, version, status).await?;
    controls.memory.wrote(fleet, Instant::now());
    let before = fleet.status.as_ref().and_then(|status| status.failed_revision);
    let is_given_up = status.failed_revision.is_some() && status.failed_revision != before;
    controls.metrics.wrote(&fleet.namespace().unwrap_or_default(), is_given_up);
    Ok(())
}

/// Sets a device's desired state; what it meets there instead is for the next look.
async fn send(controls: &Controls, fleet: &DeviceFleet, change: Change) -> Result<(), ApiError> {
    // The semaphore is never closed; if it were, going on unlimited would be the lesser evil.
    let _one = controls.writers.acquire().await.ok();
    let namespace = fleet.namespace().unwrap_or_default();
    let name = change.name.as_str();
    let version = change.version.clone();
    let word = match set_desired(controls, &namespace, &change).await {
        Ok(()) => {
            controls.memory.sent(fleet, name, Sent { version, foreign: false });
            "set"
        }
        Err(error) if error.is_field_conflict() => {
            controls.memory.sent(fleet, name, Sent { version, foreign: true });
            "foreign"
        }
        // The news is under way.
        Err(error) if error.is_conflict() || error.is_not_found() => "conflict",
        Err(error) => {
            controls.metrics.changes.with_label_values(&["error"]).inc();
            return Err(error);
        }
    };
    controls.metrics.changes.with_label_values(&[word]).inc();
    Ok(())
}

async fn set_desired(controls: &Controls, namespace: &str, change: &Change) -> Result<(), ApiError> {
    let api: Api<Device> = Api::namespaced(controls.shared.client.clone(), namespace);
    let patch = json!({
        "apiVersion": Device::api_version(&()),
        "kind": Device::kind(&()),
        "metadata": {
            "name": change.name, "namespace": namespace, "uid": change.uid, "resourceVersion": change.version,
        },
        "spec": {"desired": change.desired.as_ref()},
    });
    let params =
        PatchParams { field_validation: Some(ValidationDirective::Strict), ..PatchParams::apply(MANAGER) };
    let what = || format!("apply spec.desired of Device {namespace}/{}", change.name);
    check(controls, what)?;
    call(what, api.patch(&change.name, &params, &Patch::Apply(&patch))).await?;
    Ok(())
}

async fn make(
    controls: &Controls,
    fleet: &DeviceFleet,
    number: i64,
    template: &Arc<Desired>,
) -> Result<(), ApiError> {
    let namespace = fleet.namespace().unwrap_or_default();
    let name = revision_name(fleet, number);
    let object = json!({
        "metadata": {
            "name": name,
            "labels": {FLEET_UID: fleet.uid()},
            // With these the garbage collector removes it with the fleet.
            "ownerReferences": fleet.controller_owner_ref(&()).map(|owner| json!([{
                "apiVersion": owner.api_version, "kind": owner.kind, "name": owner.name, "uid": owner.uid, "controller": true,
            }])),
        },
        "revision": number,
        "data": template.as_ref(),
    });
    let what = || format!("create ControllerRevision {namespace}/{name}");
    check(controls, what)?;
    let api = revisions(controls, &namespace);
    let created = call(what, async {
        let object: ControllerRevision = serde_json::from_value(object).map_err(kube::Error::SerdeError)?;
        api.create(&PostParams::default(), &object).await
    })
    .await;
    match created {
        Ok(_) => {
            controls.memory.edit_revisions(fleet, |known| {
                known.insert(number, Some(template.as_ref().clone()));
            });
            Ok(())
        }
        Err(error) => {
            // Whether it was made is not known, or it is there already: they are read again.
            controls.memory.set_revisions(fleet, None);
            Err(error)
        }
    }
}

async fn delete(controls: &Controls, fleet: &DeviceFleet, number: i64) -> Result<(), ApiError> {
    let namespace = fleet.namespace().unwrap_or_default();
    let name = revision_name(fleet, number);
    let what = || format!("delete ControllerRevision {namespace}/{name}");
    check(controls, what)?;
    match call(what, revisions(controls, &namespace).delete(&name, &DeleteParams::default())).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => {
            controls.memory.edit_revisions(fleet, |known| {
                known.remove(&number);
            });
            Ok(())
        }
    }
}

fn revisions(controls: &Controls, namespace: &str) -> Api<ControllerRevision> {
    Api::namespaced(controls.shared.client.clone(), namespace)
}

/// Of one fleet: one that was deleted and made again is another, whose revisions begin anew.
pub(crate) fn revision_name(fleet: &DeviceFleet, number: i64) -> String {
    let (name, uid) = (fleet.name_any(), fleet.uid().unwrap_or_default());
    let name = &name[..name.floor_char_boundary(NAME)];
    let uid = uid.split('-').next().unwrap_or_default();
    format!("{}-{uid}-{number}", name.trim_end_matches(['-', '.']))
}

fn check(controls: &Controls, what: impl FnOnce() -> String) -> Result<(), ApiError> {
    controls.shared.leadership.check().map_err(|NotLeading| ApiError::NotLeading { call: what() })
}

#[cfg(test)]
mod tests;
