//! The manifests in `deploy`: a real API server takes each of them without a warning, and the rights in them are
//! enough and not more.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on says so")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use control_plane::{ControlPlane, Somebody, shared};
use edge_api::FaultNode;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep};

const FOLDERS: [&str; 4] = ["deploy", "deploy/prometheus", "deploy/device-sim", "deploy/demo"];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Applies as a person does; whatever kubectl has to say but success is a failure.
fn apply(server: &ControlPlane, arguments: &[&str]) {
    let kubectl = server.kubectl().unwrap_or_else(|| panic!("KUBEBUILDER_ASSETS has no kubectl"));
    let (kubectl, options) = kubectl.split_first().unwrap();
    let mut command = Command::new(kubectl);
    command.current_dir(repository()).args(options).arg("apply").args(arguments);
    let output = command.output().unwrap();
    let (said, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    // The harness has installed the CustomResourceDefinitions before, in another way.
    let warnings: Vec<_> =
        complained.lines().filter(|line| !line.contains("last-applied-configuration")).collect();
    assert!(output.status.success(), "{arguments:?}: {complained}");
    assert!(warnings.is_empty(), "{arguments:?}: {warnings:#?}");
    assert!(said.lines().count() > 0, "{arguments:?} applied nothing");
}

/// The shared server with the installation in it.
async fn installed() -> &'static ControlPlane {
    static INSTALLED: OnceCell<&ControlPlane> = OnceCell::const_new();
    let install = async || {
        let server = shared().await.unwrap();
        for folder in FOLDERS {
            apply(server, &["-k", folder]);
        }
        server
    };
    INSTALLED.get_or_init(install).await
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn every_folder_and_every_sample_is_accepted_without_a_warning() {
    let server = installed().await;
    apply(server, &["-n", "edge-demo", "-f", "deploy/samples"]);
}

/// What each account may do, all of it, a right a line: the namespace in which it is asked ("*": in each), then resource,
/// names and verbs as `kubectl auth can-i --list` shows them. What every account of a cluster may do is left out.
const RIGHTS: [(&str, &[&str]); 4] = [
    (
        "edge-system:edge-operator",
        &[
            "* controllerrevisions.apps [] [] [list create delete]",
            "* devicefleets.edge-operator.dev [] [] [list watch]",
            "* devicefleets.edge-operator.dev/status [] [] [patch]",
            "* devices.edge-operator.dev [] [] [get list watch patch]",
            "* devices.edge-operator.dev/status [] [] [patch]",
            "* events.events.k8s.io [] [] [create patch]",
            "* faultnodes.edge-operator.dev [] [] [list watch]",
            "* faultprofiles.edge-operator.dev [] [] [list watch]",
            "* faultprofiles.edge-operator.dev/status [] [] [patch]",
            "* nodes [] [] [list watch]",
            "* pods [] [] [list watch]",
            "* servicecidrs.networking.k8s.io [] [] [list watch]",
            "edge-system leases.coordination.k8s.io [] [] [create]",
            "edge-system leases.coordination.k8s.io [] [edge-operator] [list watch patch]",
        ],
    ),
    (
        "edge-system:chaos-agent",
        &[
            "* devices.edge-operator.dev [] [] [list watch]",
            "* endpointslices.discovery.k8s.io [] [] [list watch]",
            "* faultnodes.edge-operator.dev [] [] [create patch]",
            "* faultnodes.edge-operator.dev/status [] [] [patch]",
            "* faultprofiles.edge-operator.dev [] [] [list watch]",
            "* nodes [] [] [list watch]",
            "* pods [] [] [list watch]",
            "* services [] [] [list watch]",
        ],
    ),
    (
        "edge-system:prometheus",
        &[
            "* endpointslices.discovery.k8s.io [] [] [list watch]",
            "* pods [] [] [list watch]",
            "* services [] [] [list watch]",
        ],
    ),
    (
        "edge-demo:device-sim",
        &["edge-demo devices.edge-operator.dev [] [] [create patch]", "edge-demo pods [] [] [get]"],
    ),
];

/// What an account may do in a namespace, as `kubectl auth can-i --list` shows it.
fn list(server: &ControlPlane, account: &str, namespace: &str) -> BTreeSet<String> {
    let kubectl = server.kubectl().unwrap_or_else(|| panic!("KUBEBUILDER_ASSETS has no kubectl"));
    let (kubectl, options) = kubectl.split_first().unwrap();
    let account = format!("system:serviceaccount:{account}");
    let output = Command::new(kubectl)
        .args(options)
        .args(["auth", "can-i", "--list", "--no-headers", "--namespace", namespace, "--as", &account])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    lines.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn each_part_may_do_what_it_does_and_no_more() {
    const NAMESPACES: [&str; 3] = ["default", "edge-demo", "edge-system"];
    let server = installed().await;
    for (account, expected) in RIGHTS {
        for namespace in NAMESPACES {
            let everybodys = list(server, "edge-demo:nobody", namespace);
            let rights = list(server, account, namespace);
            let own: BTreeSet<_> = rights.difference(&everybodys).map(String::as_str).collect();
            let here = |right: &&'static str| {
                let (place, right) = right.split_once(' ').unwrap();
                (place == "*" || place == namespace).then_some(right)
            };
            assert_eq!(own, expected.iter().filter_map(here).collect(), "{account} in {namespace}");
        }
    }
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn an_agent_writes_the_fault_node_of_its_own_node_and_no_other() {
    let server = installed().await;
    let agent = Somebody::service_account("edge-system", "chaos-agent", "chaos-agent-x", "node1");
    let nodes: Api<FaultNode> = Api::all(server.client_as(&agent).unwrap());
    let apply = async |name: &str| {
        let object = json!({"apiVersion": "edge-operator.dev/v1alpha1", "kind": "FaultNode", "metadata": {"name": name}, "spec": {}});
        nodes.patch(name, &PatchParams::apply("chaos-agent").force(), &Patch::Apply(&object)).await
    };
    apply("node1").await.unwrap();
    // A policy takes effect some moments after it is there.
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match apply("node2").await {
            Err(kube::Error::Api(status)) => {
                let sentence = "the agent of node node1 writes the FaultNode node1 only";
                assert!(status.message.contains(sentence), "{}", status.message);
                break;
            }
            other => assert!(Instant::now() < deadline, "another node's FaultNode was written: {other:?}"),
        }
        sleep(Duration::from_millis(100)).await;
    }
}
