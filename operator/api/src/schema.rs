//! The CustomResourceDefinitions as they are installed: what the types derive, and in one place what a derived
//! schema cannot say (rules of the root, how lists merge, bounds of Kubernetes' own types).

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use crate::rules::{self, Rule};
use crate::{Device, DeviceFleet, FaultNode, FaultProfile};

/// Every CustomResourceDefinition of this project, ready to be applied.
///
/// # Errors
/// A derived schema that is none: a mistake in this crate, which its tests find.
pub fn crds() -> Result<Vec<CustomResourceDefinition>, serde_json::Error> {
    [
        complete(&Device::crd(), &[]),
        complete(&DeviceFleet::crd(), rules::FLEET),
        complete(&FaultNode::crd(), &[]),
        complete(&FaultProfile::crd(), rules::PROFILE),
    ]
    .into_iter()
    .collect()
}

fn complete(
    derived: &CustomResourceDefinition,
    root_rules: &[Rule],
) -> Result<CustomResourceDefinition, serde_json::Error> {
    let mut crd = serde_json::to_value(derived)?;
    if let Some(root) = crd.pointer_mut("/spec/versions/0/schema/openAPIV3Schema") {
        visit(root);
        if !root_rules.is_empty() {
            root["x-kubernetes-validations"] = serde_json::to_value(root_rules)?;
        }
        if let Some(conditions) = root.pointer_mut("/properties/status/properties/conditions") {
            bound_conditions(conditions);
        }
        leave_required_to_rules(root);
    }
    serde_json::from_value(crd)
}

/// Kubernetes knows `int32` and `int64` only; and a null that is not nullable is pruned, so that no rule meets it.
fn visit(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            let known = match object.get("format").and_then(Value::as_str) {
                Some("uint64" | "uint32") => Some("int64"),
                Some("uint16" | "uint8") => Some("int32"),
                _ => None,
            };
            if let Some(known) = known {
                object.insert("format".to_owned(), json!(known));
            }
            if object.get("nullable") == Some(&Value::Bool(true)) {
                object.remove("nullable");
            }
            object.values_mut().for_each(visit);
        }
        Value::Array(items) => items.iter_mut().for_each(visit),
        _ => {}
    }
}

/// Conditions as Kubernetes' own resources have them: one a type, merged by type.
fn bound_conditions(conditions: &mut Value) {
    conditions["x-kubernetes-list-type"] = json!("map");
    conditions["x-kubernetes-list-map-keys"] = json!(["type"]);
    conditions["maxItems"] = json!(16);
    for (field, most) in [("message", 32_768), ("reason", 1_024), ("type", 316)] {
        conditions["items"]["properties"][field]["maxLength"] = json!(most);
    }
    conditions["items"]["properties"]["status"]["enum"] = json!(["True", "False", "Unknown"]);
}

/// A missing field that a rule asks for is answered by that rule's sentence instead of "Required value".
fn leave_required_to_rules(schema: &mut Value) {
    let Value::Object(object) = schema else { return };
    let rules = object.get("x-kubernetes-validations").map(Value::to_string).unwrap_or_default();
    if let Some(Value::Array(required)) = object.get_mut("required") {
        required.retain(|field| {
            field.as_str().is_none_or(|field| {
                // A reserved word in CEL.
                let name = if field == "for" { "__for__" } else { field };
                !rules.contains(&format!("\"has(self.{name})\""))
            })
        });
        if required.is_empty() {
            object.remove("required");
        }
    }
    object.values_mut().for_each(leave_required_to_rules);
}

/// A label selector with bounds and with the rules that the API server applies to those of its own kinds.
pub(crate) fn selector(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "x-kubernetes-validations": rules::SELECTOR,
        "properties": {
            "matchLabels": {
                "type": "object",
                "maxProperties": 16,
                "additionalProperties": {"type": "string", "maxLength": 63},
            },
            "matchExpressions": {
                "type": "array",
                "maxItems": 16,
                "items": {
                    "type": "object",
                    "required": ["key", "operator"],
                    "x-kubernetes-validations": rules::SELECTOR_REQUIREMENT,
                    "properties": {
                        "key": {"type": "string", "minLength": 1, "maxLength": 317},
                        "operator": {"type": "string", "maxLength": 16},
                        "values": {
                            "type": "array",
                            "maxItems": 64,
                            "items": {"type": "string", "maxLength": 63},
                        },
                    },
                },
            },
        },
    })
}

#[cfg(test)]
mod tests;
