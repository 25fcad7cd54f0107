//! Writing: a profile's status, on the resourceVersion that it was decided on, and the events for people.

use edge_api::{FaultProfile, FaultProfileStatus};
use kube::api::{Patch, PatchParams, ValidationDirective};
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Api, Client, Resource as _, ResourceExt as _};
use serde_json::json;

use super::notice::Notice;
use crate::epoch::NAME;
use crate::error::{ApiError, call};

/// Writes the whole status.
///
/// # Errors
/// A conflict when the profile was changed meanwhile; what the API server says else.
pub(crate) async fn write_status(
    client: &Client,
    profile: &FaultProfile,
    status: &FaultProfileStatus,
) -> Result<(), ApiError> {
    let (namespace, name) = (profile.namespace().unwrap_or_default(), profile.name_any());
    let api: Api<FaultProfile> = Api::namespaced(client.clone(), &namespace);
    let object = json!({
        "apiVersion": FaultProfile::api_version(&()),
        "kind": FaultProfile::kind(&()),
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": profile.metadata.uid,
            "resourceVersion": profile.metadata.resource_version,
        },
        "status": status,
    });
    let params = PatchParams {
        field_validation: Some(ValidationDirective::Strict),
        ..PatchParams::apply(NAME).force()
    };
    let what = || format!("apply status of FaultProfile {namespace}/{name}");
    call(what, api.patch_status(&name, &params, &Patch::Apply(&object))).await.map(drop)
}

/// Tells people. A notice that cannot be published is logged: the status has said it already.
pub(crate) async fn publish(recorder: &Recorder, profile: &FaultProfile, notices: &[Notice]) {
    let reference = profile.object_ref(&());
    for notice in notices {
        let event = Event {
            type_: if notice.warning { EventType::Warning } else { EventType::Normal },
            reason: notice.reason.to_owned(),
            note: Some(short(&notice.note)),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        let what = || format!("event {} of FaultProfile {}", notice.reason, profile.name_any());
        if let Err(error) = call(what, recorder.publish(&event, &reference)).await {
            tracing::warn!(%error, "event lost");
        }
    }
}

/// An event's note has at most 1,024 bytes.
fn short(note: &str) -> String {
    const MOST: usize = 1000;
    if note.len() <= MOST {
        return note.to_owned();
    }
    format!("{}…", &note[..note.floor_char_boundary(MOST)])
}
