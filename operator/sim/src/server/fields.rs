//! Which fields an object has, as managers own them: `fieldsV1`, as sets of paths
//! (`sigs.k8s.io/structured-merge-diff`). A part of a path is written as there: `f:name`, `k:{"type":"Ready"}`, `v:"x"`.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::schema::{List, Schema};

/// A path from the root.
pub type Path = Vec<String>;

/// A set of paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields(pub BTreeSet<Path>);

/// Metadata that the server writes, and what names an object: nobody owns that.
const SERVERS: [&str; 12] = [
    "name",
    "generateName",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "managedFields",
    "selfLink",
    "clusterName",
];

impl Fields {
    /// Those that managers can own of an object, in its status or outside of it.
    pub fn of(schema: Schema<'_>, object: &Value, in_status: Option<bool>) -> Self {
        let mut fields = Self::default();
        for (name, value) in object.as_object().into_iter().flatten() {
            let mut path = vec![format!("f:{name}")];
            match (name.as_str(), in_status) {
                ("apiVersion" | "kind", _) => {}
                ("status", Some(false)) => {}
                ("status", _) => fields.collect(schema.field(name), value, &mut path),
                (_, Some(true)) => {}
                ("metadata", _) => {
                    let mut metadata = value.as_object().cloned().unwrap_or_default();
                    metadata.retain(|name, _| !SERVERS.contains(&name.as_str()));
                    if !metadata.is_empty() {
                        fields.collect(schema.field(name), &Value::Object(metadata), &mut path);
                    }
                }
                _ => fields.collect(schema.field(name), value, &mut path),
            }
        }
        fields
    }

    fn collect(&mut self, schema: Schema<'_>, value: &Value, path: &mut Path) {
        match value {
            Value::Object(fields) if !fields.is_empty() && !schema.is_atomic() => {
                for (name, value) in fields {
                    path.push(format!("f:{name}"));
                    self.collect(schema.field(name), value, path);
                    path.pop();
                }
            }
            Value::Array(items) if schema.list() != List::Atomic => {
                for item in items {
                    path.push(part(schema.list(), item));
                    self.0.insert(path.clone());
                    if item.is_object() {
                        self.collect(schema.items(), item, path);
                    }
                    path.pop();
                }
            }
            _ => {
                self.0.insert(path.clone());
            }
        }
    }

    /// Is it owned, or anything above or below it?
    pub fn touches(&self, path: &[String]) -> bool {
        let meets = |own: &Path| {
            let both = own.len().min(path.len());
            own[..both] == path[..both]
        };
        self.0.iter().any(|own| meets(own) && (own.len() == path.len() || !is_item(own) && !is_item(path)))
    }

    /// They, and each field above one of them.
    pub fn with_parents(&self) -> BTreeSet<Path> {
        let above = |path: &Path| (1..=path.len()).map(|length| path[..length].to_vec()).collect::<Vec<_>>();
        self.0.iter().flat_map(above).filter(|path| !path.is_empty()).collect()
    }

    /// As `fieldsV1`.
    pub fn to_json(&self) -> Value {
        let mut root = json!({});
        self.0.iter().for_each(|path| insert(&mut root, path));
        strip(&mut root);
        root
    }

    /// Out of `fieldsV1`.
    pub fn from_json(value: &Value) -> Self {
        let mut fields = Self::default();
        fields.read(value, &mut Vec::new());
        fields
    }

    fn read(&mut self, value: &Value, path: &mut Path) {
        let Some(map) = value.as_object() else { return };
        if !path.is_empty() && (map.is_empty() || map.contains_key(".")) {
            self.0.insert(path.clone());
        }
        for (part, below) in map.iter().filter(|(part, _)| *part != ".") {
            path.push(part.clone());
            self.read(below, path);
            path.pop();
        }
    }
}

/// An item of a list is owned for itself: who owns a field of it does not own the item's other fields.
fn is_item(path: &[String]) -> bool {
    path.last().is_some_and(|part| !part.starts_with("f:"))
}

fn insert(at: &mut Value, path: &[String]) {
    let Some(map) = at.as_object_mut() else { return };
    match path.split_first() {
        Some((part, rest)) => insert(map.entry(part.clone()).or_insert_with(|| json!({})), rest),
        None => {
            map.insert(".".to_owned(), json!({}));
        }
    }
}

/// A path with nothing below it is written `{}`, not `{".":{}}`.
fn strip(value: &mut Value) {
    let Some(map) = value.as_object_mut() else { return };
    if map.len() == 1 && map.contains_key(".") {
        map.clear();
    }
    map.iter_mut().filter(|(part, _)| *part != ".").for_each(|(_, below)| strip(below));
}

/// What an item is known by.
pub fn part(list: List<'_>, item: &Value) -> String {
    match list {
        List::Map(keys) => {
            let keys = keys.iter().filter_map(Value::as_str);
            let known: Map<String, Value> =
                keys.map(|key| (key.to_owned(), item.get(key).cloned().unwrap_or_default())).collect();
            format!("k:{}", Value::Object(known))
        }
        List::Set | List::Atomic => format!("v:{item}"),
    }
}

/// The value at a path.
pub fn get<'a>(schema: Schema<'_>, object: &'a Value, path: &[String]) -> Option<&'a Value> {
    let Some((first, rest)) = path.split_first() else { return Some(object) };
    if let Some(name) = first.strip_prefix("f:") {
        return get(schema.field(name), object.get(name)?, rest);
    }
    let item = object.as_array()?.iter().find(|item| part(schema.list(), item) == *first)?;
    get(schema.items(), item, rest)
}

/// Is another value there? Of an item, whether it is there.
pub fn differ(schema: Schema<'_>, one: &Value, other: &Value, path: &[String]) -> bool {
    let (one, other) = (get(schema, one, path), get(schema, other, path));
    if is_item(path) { one.is_some() != other.is_some() } else { one != other }
}

/// Removes what is at a path.
pub fn remove(schema: Schema<'_>, object: &mut Value, path: &[String]) {
    let Some((first, rest)) = path.split_first() else { return };
    if let Some(name) = first.strip_prefix("f:") {
        if rest.is_empty() {
            if let Some(fields) = object.as_object_mut() {
                fields.remove(name);
            }
        } else if let Some(below) = object.get_mut(name) {
            remove(schema.field(name), below, rest);
        }
        return;
    }
    let Some(items) = object.as_array_mut() else { return };
    let Some(index) = items.iter().position(|item| part(schema.list(), item) == *first) else { return };
    if rest.is_empty() {
        items.remove(index);
    } else {
        remove(schema.items(), &mut items[index], rest);
    }
}

/// As messages name it: `.spec.desired`, `.status.conditions[type="Ready"].status`.
pub fn shown(path: &[String]) -> String {
    path.iter()
        .map(|part| match part.split_once(':') {
            Some(("f", name)) => format!(".{name}"),
            Some((_, item)) => {
                let keys: Option<Map<String, Value>> = serde_json::from_str(item).ok();
                let keys = keys.map(|keys| {
                    keys.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
                });
                format!("[{}]", keys.unwrap_or_else(|| format!("={item}")))
            }
            None => part.clone(),
        })
        .collect()
}
