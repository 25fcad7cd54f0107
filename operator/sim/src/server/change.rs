//! What becomes of one object by one write. Pure: the object before, the call, the time and a uid go in.

use serde_json::{Map, Value, json};

use super::kinds::Kind;
use super::managers::{self, Writer};
use super::refusal::Refusal;

/// A write.
#[derive(Clone, Debug)]
pub enum Write {
    /// POST.
    Create(Value),
    /// PUT.
    Replace(Value),
    /// PATCH with a merge patch (RFC 7386).
    Merge(Value),
    /// PATCH with an applied configuration.
    Apply {
        /// What is applied.
        config: Value,
        /// Take fields over from others.
        force: bool,
    },
    /// DELETE, with `preconditions`.
    Delete(Value),
}

/// To which object, by whom.
#[derive(Clone, Debug)]
pub struct Target<'a> {
    /// Its kind.
    pub kind: &'a Kind,
    /// Its namespace, where its kind has one.
    pub namespace: Option<&'a str>,
    /// Its name.
    pub name: &'a str,
    /// Through the subresource `status`?
    pub in_status: bool,
    /// Field manager.
    pub manager: &'a str,
    /// Refuse fields that nobody declared.
    pub strict: bool,
    /// RFC 3339.
    pub now: &'a str,
    /// For an object that is made.
    pub uid: &'a str,
}

/// What becomes of it. The resourceVersion is the store's to give.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It was made.
    Created(Value),
    /// It was changed.
    Changed(Value),
    /// It is as it was: nothing is written.
    Unchanged,
    /// It is gone.
    Removed,
}

impl Target<'_> {
    fn named(&self) -> String {
        self.kind.named(self.name)
    }

    /// What `write` makes of `before`.
    ///
    /// # Errors
    /// When it is refused.
    pub fn change(&self, before: Option<&Value>, write: &Write) -> Result<Outcome, Refusal> {
        match (write, before) {
            (Write::Create(_), Some(_)) => Err(Refusal::exists(&self.named())),
            (Write::Create(body), None) => self.create(body, |object| {
                let schema = self.kind.schema();
                managers::updated(schema, None, object, &self.writer(&self.kind.api_version()));
                Ok(())
            }),
            (Write::Apply { config, .. }, None) if !self.in_status => self.apply_new(config),
            (_, None) => Err(Refusal::not_found(&self.named())),
            (Write::Delete(options), Some(before)) => self.delete(before, options),
            (Write::Replace(body), Some(before)) => {
                let named_a_version = body.pointer("/metadata/resourceVersion").is_some();
                if self.kind.custom && !named_a_version {
                    return Err(Refusal::invalid(
                        "metadata.resourceVersion: Invalid value: 0x0: must be specified for an update",
                    ));
                }
                // What a replacement names is a precondition; in a patch it is a change that nobody may make.
                let uid = body.pointer("/metadata/uid").filter(|uid| !uid.is_null());
                if uid.is_some() && uid != before.pointer("/metadata/uid") {
                    return Err(Refusal::conflict(&self.named(), "Precondition failed: UID in precondition"));
                }
                self.update(before, body.clone())
            }
            (Write::Merge(patch), Some(before)) => {
                let mut body = before.clone();
                merge_patch(&mut body, patch);
                self.update(before, body)
            }
            (Write::Apply { config, force }, Some(before)) => {
                self.same_object(before, config)?;
                let version = self.kind.api_version();
                let schema = self.kind.schema();
                let after = managers::applied(schema, before, config, &self.writer(&version), *force)?;
                self.finish(before, after)
            }
        }
    }

    fn writer<'a>(&'a self, version: &'a str) -> Writer<'a> {
        let Self { manager, in_status, now, .. } = *self;
        Writer { manager, version, in_status, split: self.kind.status, now }
    }

    fn create(
        &self,
        body: &Value,
        own: impl FnOnce(&mut Value) -> Result<(), Refusal>,
    ) -> Result<Outcome, Refusal> {
        if body.pointer("/metadata/resourceVersion").and_then(Value::as_str).is_some_and(|rv| !rv.is_empty())
        {
            let message = "resourceVersion should not be set on objects to be created";
            return Err(Refusal::new(500, "InternalError", message));
        }
        let mut object = body.clone();
        if self.kind.status
            && let Some(fields) = object.as_object_mut()
        {
            fields.remove("status");
        }
        let mut metadata = object.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default();
        for server in ["generateName", "managedFields", "deletionTimestamp", "generation", "selfLink"] {
            metadata.remove(server);
        }
        metadata.insert("name".into(), json!(self.name));
        if let Some(namespace) = self.namespace {
            metadata.insert("namespace".into(), json!(namespace));
        }
        metadata.insert("uid".into(), json!(self.uid));
        metadata.insert("creationTimestamp".into(), json!(self.now));
        if self.kind.custom {
            metadata.insert("generation".into(), json!(1));
        }
        object["apiVersion"] = json!(self.kind.api_version());
        object["kind"] = json!(self.kind.kind);
        object["metadata"] = Value::Object(metadata);
        self.complete(&mut object)?;
        own(&mut object)?;
        self.kind.check(None, &object)?;
        Ok(Outcome::Created(object))
    }

    /// An apply of what is not there makes it; one that names a uid means an object that was there.
    fn apply_new(&self, config: &Value) -> Result<Outcome, Refusal> {
        if config.pointer("/metadata/uid").is_some_and(|uid| !uid.is_null()) {
            return Err(Refusal::conflict(&self.named(), "uid mismatch: no existing object was found"));
        }
        self.create(config, |object| {
            let version = self.kind.api_version();
            let bare = {
                let mut bare = object.clone();
                if let Some(fields) = bare.as_object_mut() {
                    fields.retain(|name, _| ["apiVersion", "kind", "metadata"].contains(&name.as_str()));
                }
                bare
            };
            let owned = managers::applied(self.kind.schema(), &bare, config, &self.writer(&version), true)?;
            object["metadata"]["managedFields"] = owned["metadata"]["managedFields"].clone();
            Ok(())
        })
    }

    /// Defaults, and nothing undeclared.
    fn complete(&self, object: &mut Value) -> Result<(), Refusal> {
        if !self.kind.custom {
            return Ok(());
        }
        let mut unknown = Vec::new();
        let metadata = object["metadata"].take();
        self.kind.schema().prune(object, "", &mut unknown);
        object["metadata"] = metadata;
        unknown.retain(|field| field != "metadata");
        if self.strict
            && let Some(field) = unknown.first()
        {
            return Err(Refusal::invalid(format!("strict decoding error: unknown field \"{field}\"")));
        }
        self.kind.schema().fill(object);
        Ok(())
    }

    /// A write that names a uid or a version means that one.
    fn same_object(&self, before: &Value, body: &Value) -> Result<(), Refusal> {
        let named = |field: &str| body.pointer(field).and_then(Value::as_str).filter(|text| !text.is_empty());
        let other =
            |field: &str| named(field).is_some_and(|named| before.pointer(field) != Some(&json!(named)));
        if other("/metadata/resourceVersion") {
            return Err(Refusal::outdated(&self.named()));
        }
        if other("/metadata/uid") {
            return Err(Refusal::invalid("metadata.uid: Invalid value: field is immutable"));
        }
        Ok(())
    }

    fn update(&self, before: &Value, body: Value) -> Result<Outcome, Refusal> {
        self.same_object(before, &body)?;
        let mut after = before.clone();
        if self.in_status {
            copy(&body, &mut after, "status");
        } else {
            let kept = self.kind.status.then(|| before.get("status").cloned()).flatten();
            after = body;
            if self.kind.status
                && let Some(fields) = after.as_object_mut()
            {
                fields.remove("status");
            }
            if let Some(status) = kept {
                after["status"] = status;
            }
            keep_servers(before, &mut after);
        }
        self.complete(&mut after)?;
        let version = self.kind.api_version();
        managers::updated(self.kind.schema(), Some(before), &mut after, &self.writer(&version));
        self.finish(before, after)
    }

    fn finish(&self, before: &Value, mut after: Value) -> Result<Outcome, Refusal> {
        self.complete(&mut after)?;
        if self.kind.custom && !self.in_status && declared(before) != declared(&after) {
            let generation = before.pointer("/metadata/generation").and_then(Value::as_u64).unwrap_or(0);
            after["metadata"]["generation"] = json!(generation + 1);
        }
        self.kind.check(Some(before), &after)?;
        if is_let_go(&after) {
            return Ok(Outcome::Removed);
        }
        Ok(if after == *before { Outcome::Unchanged } else { Outcome::Changed(after) })
    }

    fn delete(&self, before: &Value, options: &Value) -> Result<Outcome, Refusal> {
        let precondition = |field: &str| options.pointer(&format!("/preconditions/{field}")).cloned();
        for (field, word) in [("uid", "UID"), ("resourceVersion", "ResourceVersion")] {
            let is = before.pointer(&format!("/metadata/{field}"));
            if precondition(field).is_some_and(|wanted| !wanted.is_null() && Some(&wanted) != is) {
                let why = format!("Precondition failed: {word} in precondition");
                return Err(Refusal::conflict(&self.named(), &why));
            }
        }
        let finalizers = before.pointer("/metadata/finalizers").and_then(Value::as_array);
        if finalizers.is_none_or(Vec::is_empty) {
            return Ok(Outcome::Removed);
        }
        if before.pointer("/metadata/deletionTimestamp").is_some() {
            return Ok(Outcome::Unchanged);
        }
        let mut after = before.clone();
        after["metadata"]["deletionTimestamp"] = json!(self.now);
        after["metadata"]["deletionGracePeriodSeconds"] = json!(0);
        if let Some(generation) = before.pointer("/metadata/generation").and_then(Value::as_u64) {
            after["metadata"]["generation"] = json!(generation + 1);
        }
        Ok(Outcome::Changed(after))
    }
}

/// Deleted, and no finalizer is left.
fn is_let_go(object: &Value) -> bool {
    let finalizers = object.pointer("/metadata/finalizers").and_then(Value::as_array);
    object.pointer("/metadata/deletionTimestamp").is_some() && finalizers.is_none_or(Vec::is_empty)
}

/// What a generation counts changes of.
fn declared(object: &Value) -> Map<String, Value> {
    let mut fields = object.as_object().cloned().unwrap_or_default();
    fields.retain(|name, _| !["metadata", "status", "apiVersion", "kind"].contains(&name.as_str()));
    fields
}

fn copy(from: &Value, to: &mut Value, field: &str) {
    match from.get(field) {
        Some(value) => to[field] = value.clone(),
        None => {
            if let Some(fields) = to.as_object_mut() {
                fields.remove(field);
            }
        }
    }
}

/// What no client changes.
fn keep_servers(before: &Value, after: &mut Value) {
    after["apiVersion"] = before["apiVersion"].clone();
    after["kind"] = before["kind"].clone();
    if !after["metadata"].is_object() {
        after["metadata"] = json!({});
    }
    let (from, to) = (&before["metadata"], &mut after["metadata"]);
    for field in [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "managedFields",
    ] {
        copy(from, to, field);
    }
}

/// RFC 7386.
pub fn merge_patch(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let Value::Object(target) = target else { return };
    for (name, value) in patch {
        if value.is_null() {
            target.remove(name);
        } else {
            merge_patch(target.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}
