//! Who owns which fields (`metadata.managedFields`), and server-side apply: what an applier may change, what it takes
//! over by force, and what is removed because it no longer applies it.

use serde_json::{Value, json};

use super::fields::{self, Fields, Path};
use super::refusal::Refusal;
use super::schema::{List, Schema};

/// One manager's fields.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    manager: String,
    applies: bool,
    in_status: bool,
    fields: Fields,
    time: Value,
}

/// Who writes, where, and when.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    /// Field manager.
    pub manager: &'a str,
    /// `apiVersion` that it writes.
    pub version: &'a str,
    /// Through the subresource `status`?
    pub in_status: bool,
    /// Is its status a subresource at all? Else one write reaches all.
    pub split: bool,
    /// RFC 3339.
    pub now: &'a str,
}

impl Writer<'_> {
    fn reach(&self) -> Option<bool> {
        self.split.then_some(self.in_status)
    }
}

fn read(object: &Value) -> Vec<Entry> {
    let entries = object.pointer("/metadata/managedFields").and_then(Value::as_array);
    let read = |entry: &Value| {
        Some(Entry {
            manager: entry.get("manager")?.as_str()?.to_owned(),
            applies: entry.get("operation")? == "Apply",
            in_status: entry.get("subresource").is_some_and(|sub| sub == "status"),
            fields: Fields::from_json(entry.get("fieldsV1")?),
            time: entry.get("time").cloned().unwrap_or_default(),
        })
    };
    entries.into_iter().flatten().filter_map(read).collect()
}

fn write(object: &mut Value, entries: &[Entry], version: &str) {
    let written = entries.iter().filter(|entry| !entry.fields.0.is_empty()).map(|entry| {
        let mut written = json!({
            "manager": entry.manager,
            "operation": if entry.applies { "Apply" } else { "Update" },
            "apiVersion": version,
            "time": entry.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": entry.fields.to_json(),
        });
        if entry.in_status {
            written["subresource"] = json!("status");
        }
        written
    });
    object["metadata"]["managedFields"] = written.collect();
}

fn ours<'a>(entries: &'a mut Vec<Entry>, writer: &Writer<'_>, applies: bool) -> &'a mut Entry {
    let is_ours = |entry: &Entry| {
        entry.manager == writer.manager && entry.applies == applies && entry.in_status == writer.in_status
    };
    let index = entries.iter().position(is_ours).unwrap_or_else(|| {
        entries.push(Entry {
            manager: writer.manager.to_owned(),
            applies,
            in_status: writer.in_status,
            fields: Fields::default(),
            time: json!(writer.now),
        });
        entries.len() - 1
    });
    &mut entries[index]
}

/// Notes in `after` who owns what, after a create, a replacement or a patch: who changes a field owns it alone.
pub fn updated(schema: Schema<'_>, before: Option<&Value>, after: &mut Value, writer: &Writer<'_>) {
    let nothing = json!({});
    let before = before.unwrap_or(&nothing);
    let mut entries = read(before);
    let (had, has) = (Fields::of(schema, before, writer.reach()), Fields::of(schema, after, writer.reach()));
    let is_changed = |path: &&Path| fields::differ(schema, before, after, path);
    let changed: Vec<Path> = has.0.iter().filter(is_changed).cloned().collect();
    for entry in &mut entries {
        entry
            .fields
            .0
            .retain(|path| !changed.contains(path) && (!had.0.contains(path) || has.0.contains(path)));
    }
    if !changed.is_empty() {
        let entry = ours(&mut entries, writer, false);
        entry.fields.0.extend(changed);
        entry.time = json!(writer.now);
    }
    write(after, &entries, writer.version);
}

/// The object after an apply of `config` to `before`.
///
/// # Errors
/// When others own what it would change, and it does not force.
pub fn applied(
    schema: Schema<'_>,
    before: &Value,
    config: &Value,
    writer: &Writer<'_>,
    force: bool,
) -> Result<Value, Refusal> {
    let mut entries = read(before);
    let wanted = Fields::of(schema, config, writer.reach());
    let previous = std::mem::take(&mut ours(&mut entries, writer, true).fields);
    let mut after = before.clone();
    merge(schema, &mut after, &wanted_part(config, writer));
    let is_changed = |path: &&Path| fields::differ(schema, before, &after, path);
    let changed: Vec<&Path> = wanted.0.iter().filter(is_changed).collect();
    let mut causes = Vec::new();
    for entry in &mut entries {
        let theirs: Vec<&Path> = changed.iter().copied().filter(|path| entry.fields.touches(path)).collect();
        for path in &theirs {
            causes.push(json!({
                "reason": "FieldManagerConflict",
                "message": format!("conflict with \"{}\" using {}", entry.manager, writer.version),
                "field": fields::shown(path),
            }));
        }
        entry.fields.0.retain(|path| !theirs.contains(&path));
    }
    if !causes.is_empty() && !force {
        let count = causes.len();
        let plural = if count == 1 { "" } else { "s" };
        let refusal = Refusal::new(409, "Conflict", format!("Apply failed with {count} conflict{plural}"));
        return Err(Refusal { causes, ..refusal });
    }
    let same = previous == wanted && changed.is_empty();
    let kept: Vec<&Path> =
        wanted.0.iter().chain(entries.iter().flat_map(|entry| entry.fields.0.iter())).collect();
    let is_kept = |path: &Path| kept.iter().any(|kept| kept.starts_with(path));
    // Shorter ones come first: what holds nothing that anybody owns goes as a whole, with its defaults.
    for path in previous.with_parents().iter().filter(|path| !is_kept(path)) {
        fields::remove(schema, &mut after, path);
    }
    let entry = ours(&mut entries, writer, true);
    entry.fields = wanted;
    if !same {
        entry.time = json!(writer.now);
    }
    write(&mut after, &entries, writer.version);
    Ok(after)
}

/// What of a configuration this write reaches.
fn wanted_part(config: &Value, writer: &Writer<'_>) -> Value {
    let mut part = config.clone();
    if let Some(fields) = part.as_object_mut() {
        match writer.reach() {
            Some(true) => fields.retain(|name, _| name == "status"),
            Some(false) => {
                fields.remove("status");
            }
            None => {}
        }
        let metadata = fields.get_mut("metadata").and_then(Value::as_object_mut);
        if let Some(metadata) = metadata {
            metadata.retain(|name, _| {
                ["labels", "annotations", "finalizers", "ownerReferences"].contains(&name.as_str())
            });
        }
        fields.remove("apiVersion");
        fields.remove("kind");
    }
    part
}

fn merge(schema: Schema<'_>, live: &mut Value, config: &Value) {
    match (live, config) {
        (Value::Object(live), Value::Object(config)) if !schema.is_atomic() => {
            for (name, value) in config {
                match live.get_mut(name) {
                    Some(below) => merge(schema.field(name), below, value),
                    None => {
                        live.insert(name.clone(), value.clone());
                    }
                }
            }
        }
        (Value::Array(live), Value::Array(config)) if schema.list() != List::Atomic => {
            for item in config {
                let known = fields::part(schema.list(), item);
                match live.iter_mut().find(|live| fields::part(schema.list(), live) == known) {
                    Some(below) => merge(schema.items(), below, item),
                    None => live.push(item.clone()),
                }
            }
        }
        (live, config) => *live = config.clone(),
    }
}
