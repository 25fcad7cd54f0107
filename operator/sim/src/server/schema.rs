//! A structural schema as the server needs it: how lists and maps merge, which fields have defaults, which are known.

use serde_json::{Map, Value, json};

/// A part of a schema; none where nothing is known, as in Kubernetes' own kinds here.
#[derive(Clone, Copy, Debug)]
pub struct Schema<'a>(Option<&'a Value>);

/// How a list is merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List<'a> {
    /// As one value.
    Atomic,
    /// Each item is a value.
    Set,
    /// Each item is known by these fields.
    Map(&'a [Value]),
}

impl<'a> Schema<'a> {
    /// Of a whole object.
    pub fn of(root: &'a Value) -> Self {
        Self(Some(root).filter(|root| !root.is_null()))
    }

    fn get(self, name: &str) -> Option<&'a Value> {
        self.0.and_then(|schema| schema.get(name))
    }

    /// Of a field.
    pub fn field(self, name: &str) -> Self {
        let declared = self.get("properties").and_then(|fields| fields.get(name));
        Self(declared.or_else(|| self.get("additionalProperties").filter(|items| items.is_object())))
    }

    /// Of an item of a list.
    pub fn items(self) -> Self {
        Self(self.get("items"))
    }

    /// Is this object one value to appliers?
    pub fn is_atomic(self) -> bool {
        self.get("x-kubernetes-map-type").is_some_and(|kind| kind == "atomic")
    }

    /// How this list is merged.
    pub fn list(self) -> List<'a> {
        match self.get("x-kubernetes-list-type").and_then(Value::as_str) {
            Some("set") => List::Set,
            Some("map") => {
                let keys = self.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
                keys.map_or(List::Atomic, |keys| List::Map(keys))
            }
            _ => List::Atomic,
        }
    }

    /// Fills in defaults.
    pub fn fill(self, value: &mut Value) {
        match value {
            Value::Object(fields) => {
                for (name, field) in self.get("properties").and_then(Value::as_object).into_iter().flatten() {
                    let default = field.get("default").filter(|_| !fields.contains_key(name));
                    if let Some(default) = default {
                        fields.insert(name.clone(), default.clone());
                    }
                }
                fields.iter_mut().for_each(|(name, value)| self.field(name).fill(value));
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.items().fill(item)),
            _ => {}
        }
    }

    /// Removes fields that are not declared, and nulls, and names the former.
    pub fn prune(self, value: &mut Value, at: &str, unknown: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                fields.retain(|name, value| {
                    let known = self.field(name).0.is_some() || self.keeps_all();
                    if !known {
                        unknown.push(format!("{at}{name}"));
                    }
                    known && !value.is_null()
                });
                for (name, value) in fields {
                    self.field(name).prune(value, &format!("{at}{name}."), unknown);
                }
            }
            Value::Array(items) => {
                items.iter_mut().for_each(|item| self.items().prune(item, at, unknown));
            }
            _ => {}
        }
    }

    /// Nothing is known of its fields.
    fn keeps_all(self) -> bool {
        self.0.is_none()
            || self.get("x-kubernetes-preserve-unknown-fields").is_some()
            || (self.get("properties").is_none() && self.get("additionalProperties").is_none())
    }
}

/// A root schema that says of metadata and of the type what is true of each kind (`ObjectMeta`'s merge rules).
pub fn complete(root: Option<Value>) -> Value {
    let known = root.is_some();
    let mut root = root.unwrap_or_else(|| json!({}));
    let texts = json!({ "type": "object", "additionalProperties": { "type": "string" } });
    let metadata = json!({
        "properties": {
            "labels": texts,
            "annotations": texts,
            "finalizers": { "x-kubernetes-list-type": "set" },
            "ownerReferences": { "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["uid"] },
        },
        "x-kubernetes-preserve-unknown-fields": true,
    });
    if !known {
        root["x-kubernetes-preserve-unknown-fields"] = json!(true);
    }
    let mut fields = root.get("properties").and_then(Value::as_object).cloned().unwrap_or_else(Map::new);
    fields.insert("metadata".to_owned(), metadata);
    fields.insert("apiVersion".to_owned(), json!({ "type": "string" }));
    fields.insert("kind".to_owned(), json!({ "type": "string" }));
    root["properties"] = Value::Object(fields);
    root
}
