//! The kinds that are served: those that the operator's manifest names, and those that stories make.

use serde_json::Value;

use super::fence;
use super::refusal::Refusal;
use super::schema::{Schema, complete};

/// One kind.
#[derive(Debug)]
pub struct Kind {
    /// API group; empty for the core.
    pub group: String,
    /// Version.
    pub version: String,
    /// Name in paths.
    pub plural: String,
    /// Name in objects.
    pub kind: String,
    /// In namespaces?
    pub namespaced: bool,
    /// Is its status a subresource?
    pub status: bool,
    /// Of a CustomResourceDefinition: has a generation, defaults, and no unknown fields.
    pub custom: bool,
    schema: Value,
}

impl Kind {
    /// `apiVersion` of its objects.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// Its schema.
    pub fn schema(&self) -> Schema<'_> {
        Schema::of(&self.schema)
    }

    /// As messages name an object: `devices.edge-operator.dev "pump-0"`.
    pub fn named(&self, name: &str) -> String {
        if self.group.is_empty() {
            format!("{} \"{name}\"", self.plural)
        } else {
            format!("{}.{} \"{name}\"", self.plural, self.group)
        }
    }

    /// The rules that are more than a schema and that something here rests on.
    ///
    /// # Errors
    /// When a rule is broken; its sentence.
    pub fn check(&self, before: Option<&Value>, after: &Value) -> Result<(), Refusal> {
        fence::check(&self.kind, before, after)
    }
}

/// Kubernetes' own: group, version, plural, kind, in namespaces, has a status subresource.
const BUILT_IN: [(&str, &str, &str, &str, bool, bool); 7] = [
    ("", "v1", "namespaces", "Namespace", false, true),
    ("", "v1", "pods", "Pod", true, true),
    ("", "v1", "nodes", "Node", false, true),
    ("networking.k8s.io", "v1", "servicecidrs", "ServiceCIDR", false, true),
    ("coordination.k8s.io", "v1", "leases", "Lease", true, false),
    ("events.k8s.io", "v1", "events", "Event", true, false),
    ("apps", "v1", "controllerrevisions", "ControllerRevision", true, false),
];

/// All kinds.
///
/// # Errors
/// When this project's schemas cannot be derived.
pub fn all() -> Result<Vec<Kind>, serde_json::Error> {
    let built_in = BUILT_IN.iter().map(|(group, version, plural, kind, namespaced, status)| Kind {
        group: (*group).to_owned(),
        version: (*version).to_owned(),
        plural: (*plural).to_owned(),
        kind: (*kind).to_owned(),
        namespaced: *namespaced,
        status: *status,
        custom: false,
        schema: complete(None),
    });
    let mut kinds: Vec<Kind> = built_in.collect();
    for crd in edge_api::schema::crds()? {
        let Some(version) = crd.spec.versions.first() else { continue };
        let schema = version.schema.as_ref().and_then(|schema| schema.open_api_v3_schema.as_ref());
        kinds.push(Kind {
            group: crd.spec.group.clone(),
            version: version.name.clone(),
            plural: crd.spec.names.plural.clone(),
            kind: crd.spec.names.kind.clone(),
            namespaced: crd.spec.scope == "Namespaced",
            status: version.subresources.as_ref().is_some_and(|sub| sub.status.is_some()),
            custom: true,
            schema: complete(schema.map(serde_json::to_value).transpose()?),
        });
    }
    Ok(kinds)
}
