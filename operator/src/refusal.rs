//! Why nothing is done for an object: what went around the schema, in words, for all controllers.

use edge_api::quantity::QuantityError;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::Selector;

/// Why nothing is done for an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// CamelCase, bounded.
    pub(crate) reason: &'static str,
    /// What to do about it.
    pub(crate) message: String,
}

/// Not all objects that it is decided from find room here.
pub(crate) const TOO_MANY_OBJECTS: &str = "TooManyObjects";

/// There are more objects of this kind than `--max-objects`.
pub(crate) fn too_many(kinds: &str, most: u32) -> Refusal {
    let message = format!(
        "there are more {kinds} than the operator keeps in memory ({most}), so that it does not know all that are selected: start it with \
         a higher --max-objects, or have it look at one namespace (--watch-namespace)"
    );
    Refusal { reason: TOO_MANY_OBJECTS, message }
}

/// It is malformed. Only an object that went around the schema can be.
pub(crate) const INVALID: &str = "Invalid";

pub(crate) fn malformed(message: &str) -> Refusal {
    Refusal { reason: INVALID, message: message.to_owned() }
}

/// A quantity is malformed.
pub(crate) fn invalid(error: QuantityError) -> Refusal {
    malformed(&error.to_string())
}

/// What the selector at `place` selects.
pub(crate) fn selector(place: &str, selector: &LabelSelector) -> Result<Selector, Refusal> {
    selector.clone().try_into().map_err(|error| malformed(&format!("{place} is bad: {error}")))
}
