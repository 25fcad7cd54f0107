//! The harness itself: it starts, each test has its own namespace, and nothing is left of it.

use control_plane::{ControlPlane, Somebody, space};
use edge_api::Device;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::ListParams;

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn two_tests_share_a_server_and_no_namespace() {
    let (one, other) = (space("one").await.unwrap(), space("other").await.unwrap());
    assert!(std::ptr::eq(one.server, other.server));
    assert_ne!(one.namespace, other.namespace);
    assert!(one.api::<Device>().list(&ListParams::default()).await.unwrap().items.is_empty());
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn somebody_has_that_ones_rights_only() {
    let space = space("rights").await.unwrap();
    let somebody = Somebody::service_account(&space.namespace, "nobody", "pod-0", "node1");
    let client = space.server.client_as(&somebody).unwrap();
    let refused = Api::<ConfigMap>::namespaced(client, &space.namespace).list(&ListParams::default()).await;
    let message = refused.unwrap_err().to_string();
    assert!(message.contains("nobody") && message.contains("cannot list"), "{message}");
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn a_dropped_control_plane_leaves_no_process_and_no_folder() {
    let own = ControlPlane::start().await.unwrap();
    let folder = own.folder().to_owned();
    let processes = own.process_ids();
    assert_eq!(processes.len(), 2);
    assert!(folder.join("tokens.csv").is_file());
    drop(own);
    for id in processes {
        assert!(!std::path::Path::new(&format!("/proc/{id}")).exists(), "process {id} is left");
    }
    assert!(!folder.exists(), "{} is left", folder.display());
}
