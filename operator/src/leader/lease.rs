//! The Lease in the API server: read, written and watched. No call is tried again here, and none has a deadline here:
//! the election counts its own.

use std::future::Future;

use futures::stream::{BoxStream, StreamExt as _};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{ListParams, Patch, PatchParams, PostParams, ValidationDirective, WatchEvent, WatchParams};
use kube::{Api, Client};
use serde_json::json;
use thiserror::Error;

use super::decide::{Sight, Write};
use super::record::Record;
use crate::epoch::{NAME, NotANumber, parse};

/// What the election needs of the API server; scripted in tests.
pub trait Leases: Send + Sync {
    /// The Lease as it is now, and from which version it can be watched without a gap.
    fn read(&self) -> impl Future<Output = Result<(Sight, u64), LeaseError>> + Send;
    /// Writes, if the Lease is still what the write was decided on. Gives the new resourceVersion.
    fn write(&self, write: &Write) -> impl Future<Output = Result<u64, LeaseError>> + Send;
    /// What happens to it after `version`.
    fn watch(&self, version: u64) -> impl Future<Output = Result<News, LeaseError>> + Send;
}

/// What happens to a Lease. Ends, or has an error, when the watch ends.
pub type News = BoxStream<'static, Result<Sight, LeaseError>>;

/// A call that failed.
#[derive(Debug, Error)]
pub enum LeaseError {
    /// The server refused, or could not be reached.
    #[error("{call} the Lease {NAME}: {source}")]
    Call {
        /// `read`, `write` or `watch`.
        call: &'static str,
        /// What came back.
        source: Box<kube::Error>,
    },
    /// The Lease is not the one that the write was decided on.
    #[error("the Lease {NAME} was written by somebody else")]
    Conflict,
    /// The server gave no number.
    #[error(transparent)]
    NotANumber(#[from] NotANumber),
    /// No answer in time.
    #[error("{call} the Lease {NAME}: no answer in time")]
    Deadline {
        /// `read`, `write` or `watch`.
        call: &'static str,
    },
}

impl LeaseError {
    /// What a person can do about it, or what is done anyway.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Call { source, .. } if matches!(&**source, kube::Error::Api(status) if status.code == 403) => {
                "the operator's ServiceAccount needs list, watch, patch and create on its Lease: apply the RBAC of its installation"
            }
            _ => "what the Lease says is not known: it is read again in a moment",
        }
    }
}

/// The operator's Lease in a namespace.
pub struct Cluster {
    leases: Api<Lease>,
}

impl Cluster {
    /// With a client of its own, so that no other work stands before an election's.
    pub fn new(client: Client, namespace: &str) -> Self {
        Self { leases: Api::namespaced(client, namespace) }
    }
}

fn failed(call: &'static str) -> impl Fn(kube::Error) -> LeaseError {
    move |source| LeaseError::Call { call, source: Box::new(source) }
}

fn sight(lease: &Lease) -> Result<Sight, LeaseError> {
    let version = parse(lease.metadata.resource_version.as_deref())?;
    Ok(Sight { version, record: Some(Record::of(lease)) })
}

impl Leases for Cluster {
    /// Lists, since a list has a version that it can be watched from also when there is no Lease.
    async fn read(&self) -> Result<(Sight, u64), LeaseError> {
        let ours = ListParams::default().fields(&format!("metadata.name={NAME}"));
        let list = self.leases.list(&ours).await.map_err(failed("read"))?;
        let version = parse(list.metadata.resource_version.as_deref())?;
        let seen = list.items.first().map_or(Ok(Sight { version, record: None }), sight)?;
        Ok((seen, version))
    }

    async fn write(&self, write: &Write) -> Result<u64, LeaseError> {
        let written = match write.on {
            Some(version) => {
                let spec = write.record.spec();
                let patch = json!({ "metadata": { "resourceVersion": version.to_string() }, "spec": spec });
                let params = PatchParams {
                    field_manager: Some(NAME.to_owned()),
                    field_validation: Some(ValidationDirective::Strict),
                    ..PatchParams::default()
                };
                self.leases.patch(NAME, &params, &Patch::Merge(&patch)).await
            }
            None => {
                let lease = json!({ "metadata": { "name": NAME }, "spec": write.record.spec() });
                let lease: Lease = serde_json::from_value(lease)
                    .map_err(|error| failed("write")(kube::Error::SerdeError(error)))?;
                let params = PostParams { field_manager: Some(NAME.to_owned()), ..PostParams::default() };
                self.leases.create(&params, &lease).await
            }
        };
        match written {
            Ok(lease) => Ok(parse(lease.metadata.resource_version.as_deref())?),
            Err(kube::Error::Api(status)) if status.code == 409 => Err(LeaseError::Conflict),
            // Deleted since it was read; on creation it is the namespace that is missing.
            Err(kube::Error::Api(status)) if status.code == 404 && write.on.is_some() => {
                Err(LeaseError::Conflict)
            }
            Err(error) => Err(failed("write")(error)),
        }
    }

    async fn watch(&self, version: u64) -> Result<News, LeaseError> {
        let ours = WatchParams::default().fields(&format!("metadata.name={NAME}"));
        let events = self.leases.watch(&ours, &version.to_string()).await.map_err(failed("watch"))?;
        let news = events.filter_map(async |event| match event {
            Ok(WatchEvent::Added(lease) | WatchEvent::Modified(lease)) => Some(sight(&lease)),
            Ok(WatchEvent::Deleted(lease)) => Some(sight(&lease).map(|gone| Sight { record: None, ..gone })),
            Ok(WatchEvent::Bookmark(_)) => None,
            Ok(WatchEvent::Error(status)) => Some(Err(failed("watch")(kube::Error::Api(status)))),
            Err(error) => Some(Err(failed("watch")(error))),
        });
        Ok(news.boxed())
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn only_a_refusal_is_said_to_be_one_of_rights() {
        let answer = |code: u16| {
            let status = Status { code, ..Status::failure("no", "Some") };
            failed("read")(kube::Error::Api(Box::new(status)))
        };
        assert!(answer(403).advice().contains("RBAC"));
        for error in [answer(500), answer(429), answer(401), LeaseError::Deadline { call: "read" }] {
            let advice = error.advice();
            assert!(advice.contains("read again") && !advice.contains("RBAC"), "{error}: {advice}");
        }
    }
}
