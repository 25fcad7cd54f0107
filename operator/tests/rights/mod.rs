//! The operator's rights in these stories are those of its manifest, so that a missing rule fails a test.

#![expect(clippy::unwrap_used, reason = "without its rights no story can be told")]

use control_plane::Somebody;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::{Api, Client, ResourceExt as _};
use serde::Deserialize as _;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

/// Where the manifests put the operator.
pub(crate) const NAMESPACE: &str = "edge-system";
pub(crate) const RIGHTS: &str = include_str!("../../../deploy/operator/rbac.yaml");

static GIVEN: OnceCell<()> = OnceCell::const_new();

/// The operator's ServiceAccount.
pub(crate) fn operator() -> Somebody {
    Somebody::service_account(NAMESPACE, "edge-operator", "edge-operator-0", "n0")
}

/// Gives the ServiceAccount its rights, once for all stories of a test binary.
pub(crate) async fn give(client: Client) {
    GIVEN.get_or_init(|| of_the_manifest(client)).await;
}

async fn of_the_manifest(client: Client) {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    apply(client, std::iter::once(namespace).chain(documents(RIGHTS))).await;
}

/// The objects of a manifest.
pub(crate) fn documents(manifest: &str) -> impl Iterator<Item = Value> {
    serde_yaml_ng::Deserializer::from_str(manifest).map(|text| Value::deserialize(text).unwrap())
}

/// Applies objects as an administrator does.
pub(crate) async fn apply(client: Client, objects: impl Iterator<Item = Value>) {
    for object in objects {
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        let kind = GroupVersionKind::try_from(object.types.as_ref().unwrap()).unwrap();
        let resource = ApiResource::from_gvk(&kind);
        let api: Api<DynamicObject> = match &object.metadata.namespace {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
            None => Api::all_with(client.clone(), &resource),
        };
        api.patch(&object.name_any(), &PatchParams::apply("test"), &Patch::Apply(&object)).await.unwrap();
    }
}
