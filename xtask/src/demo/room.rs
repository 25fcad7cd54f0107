//! Room for the demo on a cluster that may hold other things: what it puts outside of namespaces of its own is marked, and
//! what is there without the mark is somebody's, with all that depends on it. Nothing of theirs is applied over or removed.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::world::World;

/// On what the demo made, so that the next one knows it from an installation of the user's.
const MADE_BY: &str = "edge-operator.dev/made-by";

/// Marks all that does not lie in a namespace of the demo's: those namespaces, definitions of resources with everything of
/// their kind, rights.
pub(super) fn mark(documents: &mut [Value]) {
    let own = own_namespaces(documents);
    for document in documents.iter_mut().filter(|document| is_shared(document, &own)) {
        document["metadata"]["labels"][MADE_BY] = json!("demo");
    }
}

/// Refuses a cluster where something of the manifest is there already and no demo made it; removes what an earlier demo
/// left.
///
/// # Errors
/// When something is somebody else's, or the leftovers cannot be removed.
pub fn make(world: &World, manifest: &Path) -> Result<()> {
    let text = fs::read(manifest).with_context(|| format!("reading {}", manifest.display()))?;
    let list: Value = serde_json::from_slice(&text).context("reading the demo's manifest")?;
    let mut documents = list["items"].as_array().cloned().unwrap_or_default();
    let own = own_namespaces(&documents);
    documents.retain(|document| is_shared(document, &own));
    let shared = manifest.with_extension("shared.json");
    let list = json!({"apiVersion": "v1", "kind": "List", "items": documents});
    fs::write(&shared, list.to_string()).with_context(|| format!("writing {}", shared.display()))?;
    let found = world
        .kubectl()?
        .args(["get", "--ignore-not-found", "--output", "json", "--filename"])
        .arg(&shared)
        .read()
        .context("asking what of the demo is on the cluster already")?;
    let found = answered(&found)?;
    let foreign: Vec<_> = found.iter().filter(|object| !is_marked(object)).map(named).collect();
    if !foreign.is_empty() {
        bail!(
            "these are on the cluster already, and no demo made them:\n  {}\nThe demo installs and removes everything itself, and \
             with a definition all objects of its kind. Remove the installation first (`{}`), or take another cluster",
            foreign.join("\n  "),
            uninstall("kubectl", "deploy")
        );
    }
    if found.is_empty() {
        return Ok(());
    }
    world.release_devices()?;
    let delete = world.kubectl()?.args(["delete", "--ignore-not-found", "--timeout=120s", "--filename"]);
    delete.arg(manifest).step("removing what an earlier demo left").run()
}

/// The commands that remove what `folder` installed: simulated devices first, which else declare themselves anew; then all
/// Devices while there is an operator to release them, or their finalizers would hold the definition for ever; then the rest.
pub fn uninstall(kubectl: &str, folder: &str) -> String {
    [
        "delete -k deploy/device-sim --ignore-not-found",
        "delete devices --all --all-namespaces",
        &format!("delete -k {folder} --ignore-not-found"),
    ]
    .map(|arguments| format!("{kubectl} {arguments}"))
    .join(" && ")
}

fn own_namespaces(documents: &[Value]) -> BTreeSet<String> {
    let namespaces = documents.iter().filter(|document| document["kind"] == "Namespace");
    namespaces.filter_map(|document| Some(document["metadata"]["name"].as_str()?.to_owned())).collect()
}

fn is_shared(document: &Value, own: &BTreeSet<String>) -> bool {
    document["metadata"]["namespace"].as_str().is_none_or(|namespace| !own.contains(namespace))
}

fn is_marked(object: &Value) -> bool {
    !object["metadata"]["labels"][MADE_BY].is_null()
}

fn named(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    format!("{} {}", text(&object["kind"]), text(&object["metadata"]["name"]))
}

/// What `kubectl get --ignore-not-found` says: nothing, an object, or a list of them.
fn answered(text: &str) -> Result<Vec<Value>> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let found: Value = serde_json::from_str(text).context("reading what kubectl found")?;
    Ok(match found["items"].as_array() {
        Some(items) => items.clone(),
        None => vec![found],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(kind: &str, name: &str, namespace: Option<&str>) -> Value {
        json!({"kind": kind, "metadata": {"name": name, "namespace": namespace}})
    }

    #[test]
    fn whoever_declares_devices_goes_first_and_whoever_releases_them_last() {
        let commands = uninstall("kubectl --context kind", "deploy/demo");
        let at = |what: &str| commands.find(what).unwrap_or_else(|| panic!("no {what} in {commands}"));
        assert!(at("delete -k deploy/device-sim") < at("delete devices --all"));
        assert!(at("delete devices --all") < at("delete -k deploy/demo"));
        assert_eq!(commands.matches("kubectl --context kind").count(), 3);
    }

    #[test]
    fn what_lies_outside_of_the_demos_namespaces_is_marked_and_nothing_else() {
        let mut documents = [
            object("Namespace", "edge-demo", None),
            object("CustomResourceDefinition", "devices.edge-operator.dev", None),
            object("Role", "reader", Some("default")),
            object("ConfigMap", "device-sim", Some("edge-demo")),
        ];
        mark(&mut documents);
        assert_eq!(documents.each_ref().map(is_marked), [true, true, true, false]);
    }

    #[test]
    fn a_definition_or_a_namespace_that_no_demo_made_is_somebodys() {
        let mut ours = [object("Namespace", "edge-demo", None)];
        mark(&mut ours);
        let theirs = object("CustomResourceDefinition", "devices.edge-operator.dev", None);
        let list = json!({"items": [ours[0], theirs]}).to_string();
        let found = answered(&list).unwrap();
        let foreign: Vec<_> = found.iter().filter(|object| !is_marked(object)).map(named).collect();
        assert_eq!(foreign, ["CustomResourceDefinition devices.edge-operator.dev"]);
        assert_eq!(answered(&theirs.to_string()).unwrap(), [theirs]);
        assert!(answered("").unwrap().is_empty());
    }
}
