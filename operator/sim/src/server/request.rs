//! An HTTP request as a call to the API.

use std::collections::HashMap;
use std::sync::Arc;

use http::request::Parts;
use http::{Method, header};
use serde_json::{Value, json};

use super::change::Write;
use super::kinds::Kind;
use super::refusal::Refusal;
use super::select::Selector;
use super::store::{Place, Store, resource};

/// A call to the API.
#[derive(Clone, Debug)]
pub struct Call {
    /// Who calls, by `User-Agent`.
    pub caller: String,
    /// On which kind.
    pub kind: Arc<Kind>,
    /// In which namespace; none for all of them, and for kinds without.
    pub namespace: Option<String>,
    /// On which object.
    pub name: Option<String>,
    /// On its status alone.
    pub in_status: bool,
    /// What.
    pub verb: Verb,
    /// On which objects.
    pub selector: Selector,
    /// Field manager.
    pub manager: String,
    /// `fieldValidation=Strict`.
    pub strict: bool,
}

/// What is called for.
#[derive(Clone, Debug)]
pub enum Verb {
    /// One object.
    Get,
    /// Many.
    List {
        /// At most so many.
        limit: Option<usize>,
        /// The next page.
        token: Option<String>,
        /// As of when.
        of: Moment,
    },
    /// What happens to many.
    Watch(Watch),
    /// A change of one.
    Write(How),
}

/// As of when a list is: `resourceVersion` and `resourceVersionMatch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Now.
    Now,
    /// This version or any later one; 0: any that was once.
    NotBefore(u64),
    /// This version.
    Exactly(u64),
}

/// From where and how long.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    /// After this version; none for what is there now, and then what comes.
    pub after: Option<u64>,
    /// With bookmarks.
    pub bookmarks: bool,
    /// For so many seconds.
    pub seconds: u64,
}

/// How it is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// POST.
    Create,
    /// PUT.
    Replace,
    /// PATCH, merge.
    Merge,
    /// PATCH, apply.
    Apply {
        /// With force.
        force: bool,
    },
    /// DELETE.
    Delete,
}

impl Verb {
    /// Does it change anything?
    pub fn is_write(&self) -> bool {
        matches!(self, Self::Write(_))
    }

    /// In one word.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List { .. } => "list",
            Self::Watch(_) => "watch",
            Self::Write(How::Create) => "create",
            Self::Write(How::Replace) => "replace",
            Self::Write(How::Merge) => "patch",
            Self::Write(How::Apply { .. }) => "apply",
            Self::Write(How::Delete) => "delete",
        }
    }
}

/// Reads the head of a request.
///
/// # Errors
/// When there is no such resource or verb, or a parameter cannot be read.
pub fn read(head: &Parts, kinds: &[Arc<Kind>]) -> Result<Call, Refusal> {
    let query: HashMap<String, String> =
        form_urlencoded::parse(head.uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
    let parts: Vec<&str> = head.uri.path().split('/').filter(|part| !part.is_empty()).collect();
    let no_such = || {
        Refusal::not_found(&format!("the server could not find the requested resource {}:", head.uri.path()))
    };
    let (group, version, rest) = match parts.as_slice() {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return Err(no_such()),
    };
    let (namespace, rest) = match rest {
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() && *rest != ["status"] => {
            (Some((*namespace).to_owned()), rest)
        }
        rest => (None, rest),
    };
    let (plural, name, sub) = match rest {
        [plural] => (*plural, None, None),
        [plural, name] => (*plural, Some((*name).to_owned()), None),
        [plural, name, sub] => (*plural, Some((*name).to_owned()), Some(*sub)),
        _ => return Err(no_such()),
    };
    let is_meant =
        |kind: &&Arc<Kind>| kind.group == group && kind.version == version && kind.plural == plural;
    let kind = kinds.iter().find(is_meant).ok_or_else(no_such)?.clone();
    let in_status = match sub {
        None => false,
        Some("status") if kind.status => true,
        Some(_) => return Err(no_such()),
    };
    let text = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let caller = text(header::USER_AGENT.as_str()).to_owned();
    let manager = query.get("fieldManager").cloned();
    let manager = manager.unwrap_or_else(|| caller.split('/').next().unwrap_or_default().to_owned());
    let verb = verb(&head.method, name.is_some(), &query, text(header::CONTENT_TYPE.as_str()))?;
    if matches!(verb, Verb::Write(How::Apply { .. })) && !query.contains_key("fieldManager") {
        return Err(Refusal::bad(
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
        ));
    }
    if query.contains_key("dryRun") {
        return Err(Refusal::bad("dryRun is not simulated"));
    }
    let selector = Selector::parse(
        query.get("labelSelector").map(String::as_str),
        query.get("fieldSelector").map(String::as_str),
    )?;
    let strict = query.get("fieldValidation").is_some_and(|kind| kind == "Strict");
    Ok(Call { caller, kind, namespace, name, in_status, verb, selector, manager, strict })
}

fn verb(
    method: &Method,
    has_name: bool,
    query: &HashMap<String, String>,
    content: &str,
) -> Result<Verb, Refusal> {
    let number = |name: &str| query.get(name).and_then(|text| text.parse::<u64>().ok());
    let is = |name: &str| query.get(name).is_some_and(|text| text == "true" || text == "1");
    Ok(match (method.as_str(), has_name) {
        ("GET", _) if is("watch") => Verb::Watch(Watch {
            after: number("resourceVersion").filter(|version| *version > 0),
            bookmarks: is("allowWatchBookmarks"),
            seconds: number("timeoutSeconds").unwrap_or(1800),
        }),
        ("GET", true) => Verb::Get,
        ("GET", false) => Verb::List {
            limit: number("limit").and_then(|limit| usize::try_from(limit).ok()),
            token: query.get("continue").filter(|token| !token.is_empty()).cloned(),
            of: moment(query)?,
        },
        ("POST", false) => Verb::Write(How::Create),
        ("PUT", true) => Verb::Write(How::Replace),
        ("DELETE", true) => Verb::Write(How::Delete),
        ("PATCH", true) => match content.split(';').next().unwrap_or_default() {
            "application/merge-patch+json" => Verb::Write(How::Merge),
            "application/apply-patch+yaml" => Verb::Write(How::Apply { force: is("force") }),
            other => {
                return Err(Refusal::new(415, "UnsupportedMediaType", format!("{other:?} is not simulated")));
            }
        },
        _ => return Err(Refusal::new(405, "MethodNotAllowed", format!("{method} is not simulated here"))),
    })
}

/// The table "Semantics for get and list" of Kubernetes' API concepts.
fn moment(query: &HashMap<String, String>) -> Result<Moment, Refusal> {
    let version = query.get("resourceVersion").filter(|text| !text.is_empty());
    let how = query.get("resourceVersionMatch").map(String::as_str);
    let Some(version) = version else {
        return match how {
            None => Ok(Moment::Now),
            Some(_) => Err(Refusal::invalid(
                "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
            )),
        };
    };
    let version: u64 = version.parse().map_err(|_| {
        Refusal::invalid(format!("resourceVersion: Invalid value: {version:?}: must be an unsigned integer"))
    })?;
    match (how, version) {
        (None | Some("NotOlderThan"), version) => Ok(Moment::NotBefore(version)),
        (Some("Exact"), 1..) => Ok(Moment::Exactly(version)),
        (Some(how), _) => {
            let message =
                "resourceVersionMatch: Forbidden: it is not understood, or not with this resourceVersion";
            Err(Refusal::invalid(format!("{message}: {how}")))
        }
    }
}

impl Call {
    /// Of the object that it names.
    pub fn place(&self) -> Place {
        let namespace = self.namespace.clone().unwrap_or_default();
        (resource(&self.kind), namespace, self.name.clone().unwrap_or_default())
    }

    /// Does it mean this object of its kind?
    pub fn means(&self, object: &Value) -> bool {
        let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str);
        (self.namespace.is_none() || self.namespace.as_deref() == namespace)
            && self.name.as_deref().is_none_or(|name| object["metadata"]["name"] == name)
            && self.selector.holds(object)
    }

    /// The change that it asks for.
    ///
    /// # Errors
    /// When its body is no object.
    pub fn write(&self, body: &[u8]) -> Result<Write, Refusal> {
        let read = || {
            serde_json::from_slice::<Value>(body)
                .map_err(|error| Refusal::bad(format!("the object provided is unrecognized: {error}")))
        };
        Ok(match &self.verb {
            Verb::Write(How::Create) => Write::Create(read()?),
            Verb::Write(How::Replace) => Write::Replace(read()?),
            Verb::Write(How::Merge) => Write::Merge(read()?),
            Verb::Write(How::Apply { force }) => Write::Apply { config: read()?, force: *force },
            Verb::Write(How::Delete) if body.is_empty() => Write::Delete(json!({})),
            Verb::Write(How::Delete) => Write::Delete(read()?),
            Verb::Get | Verb::List { .. } | Verb::Watch(_) => return Err(Refusal::bad("no write")),
        })
    }

    /// The name of the object that it changes.
    ///
    /// # Errors
    /// When a new object has none.
    pub fn name_of(&self, write: &Write, store: &Store) -> Result<String, Refusal> {
        if let Some(name) = &self.name {
            return Ok(name.clone());
        }
        let Write::Create(body) = write else { return Err(Refusal::bad("name is required")) };
        let text = |field: &str| body.pointer(field).and_then(Value::as_str).filter(|text| !text.is_empty());
        match (text("/metadata/name"), text("/metadata/generateName")) {
            (Some(name), _) => Ok(name.to_owned()),
            (None, Some(prefix)) => Ok(store.generated(prefix)),
            (None, None) => {
                Err(Refusal::invalid("metadata.name: Required value: name or generateName is required"))
            }
        }
    }

    /// For people: `apply status of devices edge/pump-0`.
    pub fn told(&self) -> String {
        let status = if self.in_status { "status of " } else { "" };
        let namespace = self.namespace.as_ref().map(|namespace| format!(" {namespace}")).unwrap_or_default();
        let name = self.name.as_ref().map(|name| format!("/{name}")).unwrap_or_default();
        format!("{} {status}{}{namespace}{name}", self.verb.word(), self.kind.plural)
    }
}
