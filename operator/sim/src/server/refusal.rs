//! What the server answers when it refuses: Kubernetes' `Status`, with the codes and reasons of
//! `k8s.io/apimachinery/pkg/api/errors`.

use serde_json::{Value, json};

/// A refused call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub code: u16,
    /// One of Kubernetes' words for it.
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
    /// `details.causes`.
    pub causes: Vec<Value>,
    /// Seconds after which to try again, for 429.
    pub retry_after: Option<u32>,
}

impl Refusal {
    /// Without causes.
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), causes: Vec::new(), retry_after: None }
    }

    /// 404.
    pub fn not_found(what: &str) -> Self {
        Self::new(404, "NotFound", format!("{what} not found"))
    }

    /// 409 of a create.
    pub fn exists(what: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{what} already exists"))
    }

    /// 409 of a write on another state than was meant.
    pub fn conflict(what: &str, why: &str) -> Self {
        Self::new(409, "Conflict", format!("Operation cannot be fulfilled on {what}: {why}"))
    }

    /// 409 of a write on an older version.
    pub fn outdated(what: &str) -> Self {
        let why =
            "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(what, why)
    }

    /// 422.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(422, "Invalid", message)
    }

    /// 400.
    pub fn bad(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 410, for a list or watch from a version that is no longer known.
    pub fn expired(asked: u64, oldest: u64) -> Self {
        Self::new(410, "Expired", format!("too old resource version: {asked} ({oldest})"))
    }

    /// 504, for a list of a version that is not yet.
    pub fn too_large(asked: u64, latest: u64) -> Self {
        let message = format!("Too large resource version: {asked}, current: {latest}");
        Self { retry_after: Some(1), ..Self::new(504, "Timeout", message) }
    }

    /// As it is sent.
    pub fn status(&self) -> Value {
        let mut details = json!({});
        if !self.causes.is_empty() {
            details["causes"] = json!(self.causes);
        }
        if let Some(seconds) = self.retry_after {
            details["retryAfterSeconds"] = json!(seconds);
        }
        json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "details": details,
            "code": self.code,
        })
    }
}
