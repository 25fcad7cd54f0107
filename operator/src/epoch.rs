//! The epoch: the number that orders one leader's commands after another's. It is the resourceVersion of a
//! write to the Lease, which rises even when the Lease is deleted and made again. There is no election yet:
//! one replica writes the Lease once, at its start.

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use thiserror::Error;

use crate::error::{ApiError, call};

/// Field manager of everything that the operator writes, and name of its Lease.
pub const NAME: &str = "edge-operator";

/// Why there is no epoch. Without one no command may be sent.
#[derive(Debug, Error)]
pub enum EpochError {
    /// The Lease could not be written.
    #[error(
        "the Lease edge-operator could not be written ({0}); the operator's ServiceAccount needs create, get and \
         patch on leases in its own namespace"
    )]
    Write(#[from] ApiError),
    /// The server gave no number.
    #[error("the API server gave the Lease the resourceVersion {0:?}, which is no number: epochs need one")]
    NotANumber(String),
}

/// Takes an epoch: writes the Lease of `namespace` in the name of `holder`.
///
/// # Errors
/// When the Lease cannot be written, or its resourceVersion is no number.
pub async fn take(
    client: &Client,
    namespace: &str,
    holder: &str,
    now: jiff::Timestamp,
) -> Result<u64, EpochError> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": { "name": NAME },
        "spec": { "holderIdentity": holder, "acquireTime": format!("{now:.6}") },
    });
    let params = PatchParams {
        field_validation: Some(kube::api::ValidationDirective::Strict),
        ..PatchParams::apply(NAME).force()
    };
    let written = call(
        || format!("apply Lease {namespace}/{NAME}"),
        leases.patch(NAME, &params, &Patch::Apply(&lease)),
    )
    .await?;
    let version = written.resource_version().unwrap_or_default();
    version.parse().map_err(|_| EpochError::NotANumber(version))
}
