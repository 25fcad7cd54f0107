//! The manifests in `deploy`: a real API server takes each of them without a warning, and the rights in them are
//! enough and not more.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on says so")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use control_plane::{ControlPlane, Somebody, shared};
use edge_api::FaultNode;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
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

async fn may(server: &ControlPlane, account: &str, verb: &str, resource: &str, namespace: &str) -> bool {
    let (account_namespace, name) = account.split_once('/').unwrap();
    let somebody = Somebody::service_account(account_namespace, name, "pod-0", "node1");
    let (group_and_resource, subresource) = match resource.split_once('/') {
        Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
        None => (resource, None),
    };
    let (resource, group) = group_and_resource.split_once('.').unwrap_or((group_and_resource, ""));
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(somebody.user),
            groups: Some(somebody.groups),
            resource_attributes: Some(ResourceAttributes {
                verb: Some(verb.to_owned()),
                group: Some(group.to_owned()),
                resource: Some(resource.to_owned()),
                subresource,
                namespace: Some(namespace.to_owned()).filter(|namespace| !namespace.is_empty()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let reviews: Api<SubjectAccessReview> = Api::all(server.client().unwrap());
    let answer = reviews.create(&PostParams::default(), &review).await.unwrap();
    answer.status.is_some_and(|status| status.allowed)
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn each_part_may_do_what_it_does_and_no_more() {
    let server = installed().await;
    let (operator, agent, sim) =
        ("edge-system/edge-operator", "edge-system/chaos-agent", "edge-demo/device-sim");
    let group = "edge-operator.dev";
    let allowed = [
        (operator, "watch", format!("devices.{group}"), "edge-demo"),
        (operator, "patch", format!("devices.{group}/status"), "edge-demo"),
        (operator, "patch", format!("faultprofiles.{group}/status"), "edge-demo"),
        (operator, "watch", format!("faultnodes.{group}"), ""),
        (operator, "watch", "servicecidrs.networking.k8s.io".to_owned(), ""),
        (operator, "create", "events.events.k8s.io".to_owned(), "edge-demo"),
        (operator, "create", "leases.coordination.k8s.io".to_owned(), "edge-system"),
        (agent, "watch", format!("faultprofiles.{group}"), "edge-demo"),
        (agent, "watch", "pods".to_owned(), "edge-demo"),
        (agent, "patch", format!("faultnodes.{group}/status"), ""),
        (agent, "watch", "endpointslices.discovery.k8s.io".to_owned(), "default"),
        (sim, "patch", format!("devices.{group}"), "edge-demo"),
    ];
    for (account, verb, resource, namespace) in allowed {
        assert!(
            may(server, account, verb, &resource, namespace).await,
            "{account} may not {verb} {resource}"
        );
    }
    let refused = [
        (operator, "patch", format!("devices.{group}"), "edge-demo"),
        (operator, "delete", format!("devices.{group}"), "edge-demo"),
        (operator, "patch", format!("faultnodes.{group}/status"), ""),
        (operator, "create", "leases.coordination.k8s.io".to_owned(), "edge-demo"),
        (agent, "patch", format!("faultprofiles.{group}/status"), "edge-demo"),
        (agent, "patch", format!("devices.{group}/status"), "edge-demo"),
        (agent, "watch", "endpointslices.discovery.k8s.io".to_owned(), "edge-demo"),
        (sim, "patch", format!("devices.{group}/status"), "edge-demo"),
        (sim, "patch", format!("devices.{group}"), "edge-system"),
    ];
    for (account, verb, resource, namespace) in refused {
        assert!(!may(server, account, verb, &resource, namespace).await, "{account} may {verb} {resource}");
    }
    for account in [operator, agent, sim] {
        for resource in ["secrets", "configmaps", "serviceaccounts"] {
            assert!(
                !may(server, account, "get", resource, "edge-system").await,
                "{account} may get {resource}"
            );
        }
        assert!(!may(server, account, "create", "pods", "edge-system").await, "{account} may create pods");
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
