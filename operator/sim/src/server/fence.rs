//! The rules of the CustomResourceDefinitions that fence off a former leader, as code: the CEL text itself is not
//! evaluated here. Each is one of `operator/api/src/rules.rs`, and the conformance stories hold both against each other.

use serde_json::Value;

use super::refusal::Refusal;

/// The status of these kinds keeps the epoch of its last writer, and refuses a lower one.
const FENCED: [&str; 2] = ["FaultProfile", "DeviceFleet"];

/// May this object become that one?
///
/// # Errors
/// When a rule is broken.
pub fn check(kind: &str, before: Option<&Value>, after: &Value) -> Result<(), Refusal> {
    let epoch = |object: &Value| object.pointer("/status/epoch").and_then(Value::as_u64);
    let Some(before) = before.filter(|_| FENCED.contains(&kind)).and_then(epoch) else { return Ok(()) };
    // A later leader writes a higher epoch; one that writes none has none.
    match epoch(after) {
        Some(after) if after >= before => Ok(()),
        _ => Err(Refusal::invalid(format!("status.epoch: a later leader has written {before}"))),
    }
}
