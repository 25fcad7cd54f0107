//! Errors of calls to the API server, with a bounded category for metrics. Other modules have their own.

use std::future::Future;
use std::time::Duration;

use thiserror::Error;

/// How long one call to the API server may take.
pub const CALL_DEADLINE: Duration = Duration::from_secs(10);

/// A call to the API server that failed.
#[derive(Debug, Error)]
pub enum ApiError {
    /// The server refused, or could not be reached.
    #[error("{call}: {source}")]
    Call {
        /// What was called, such as `apply status of edge-demo/pump-0`.
        call: String,
        /// What came back.
        source: Box<kube::Error>,
    },
    /// This process may not write: it does not lead (any more).
    #[error("{call}: not done, since this process does not lead (any more)")]
    NotLeading {
        /// What was to be called.
        call: String,
    },
    /// No answer in time.
    #[error("{call}: no answer within {CALL_DEADLINE:?}")]
    Deadline {
        /// What was called.
        call: String,
    },
}

impl ApiError {
    /// One of a few words, for metrics.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Deadline { .. } => "deadline",
            Self::NotLeading { .. } => "not_leading",
            Self::Call { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => match status.code {
                    404 => "not_found",
                    409 => "conflict",
                    429 => "throttled",
                    400..=499 => "refused",
                    _ => "server",
                },
                _ => "transport",
            },
        }
    }

    /// The object was changed since it was read: read it again and decide again.
    pub fn is_conflict(&self) -> bool {
        self.category() == "conflict"
    }

    /// Another manager owns a field that was to be applied; the object itself may be as it was read.
    pub fn is_field_conflict(&self) -> bool {
        let Self::Call { source, .. } = self else { return false };
        let kube::Error::Api(status) = source.as_ref() else { return false };
        let causes = status.details.iter().flat_map(|details| &details.causes);
        self.is_conflict() && causes.into_iter().any(|cause| cause.reason == "FieldManagerConflict")
    }

    /// There is no such object (any more).
    pub fn is_not_found(&self) -> bool {
        self.category() == "not_found"
    }
}

/// Runs one call under [`CALL_DEADLINE`]. `what` names it in errors.
///
/// # Errors
/// When the server refuses, cannot be reached, or does not answer in time.
pub async fn call<T>(
    what: impl FnOnce() -> String,
    future: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, ApiError> {
    match tokio::time::timeout(CALL_DEADLINE, future).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(ApiError::Call { call: what(), source: Box::new(source) }),
        Err(_elapsed) => Err(ApiError::Deadline { call: what() }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_field_of_somebody_else_is_told_from_an_object_that_has_changed() {
        let conflict = |causes: serde_json::Value| {
            let status = json!({"code": 409, "reason": "Conflict", "details": {"causes": causes}});
            let source = Box::new(kube::Error::Api(serde_json::from_value(status).unwrap()));
            ApiError::Call { call: "apply".into(), source }
        };
        let owned = conflict(json!([{"reason": "FieldManagerConflict", "field": ".spec.desired"}]));
        assert!(owned.is_conflict() && owned.is_field_conflict());
        let changed = conflict(json!([]));
        assert!(changed.is_conflict() && !changed.is_field_conflict());
    }
}
