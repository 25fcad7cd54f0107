//! Enrolment against a real API server, with the Role and the policy that `deploy/device-sim` installs.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use control_plane::{Somebody, Space, space};
use device_sim::enrol::{self, Enrolment, FIELD_MANAGER};
use device_sim::{Sim, SimConfig};
use edge_api::Device;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, ValidationDirective};
use kube::core::GroupVersionKind;
use kube::runtime::wait::await_condition;
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use tokio::sync::oneshot::Receiver;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

const PATIENCE: Duration = Duration::from_secs(60);

/// These files of `deploy/device-sim`, in this test's namespace, with no field that nobody knows.
async fn apply_files(space: &Space, files: &[&str]) {
    for file in files {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/device-sim").join(file);
        let text = std::fs::read_to_string(&path).unwrap().replace("edge-demo", &space.namespace);
        for document in serde_yaml_ng::Deserializer::from_str(&text) {
            let object: DynamicObject = serde::Deserialize::deserialize(document).unwrap();
            apply(space, object).await;
        }
    }
}

/// The Role and the policy.
async fn install(space: &Space) {
    apply_files(space, &["rbac.yaml", "policy.yaml"]).await;
    until_the_policy_acts(space).await;
}

async fn apply(space: &Space, object: DynamicObject) {
    let types = object.types.clone().unwrap();
    let (group, version) = types.api_version.split_once('/').unwrap_or(("", &types.api_version));
    let kind = GroupVersionKind::gvk(group, version, &types.kind);
    let plural = match types.kind.as_str() {
        "ValidatingAdmissionPolicy" => "validatingadmissionpolicies".into(),
        kind => format!("{}s", kind.to_lowercase()),
    };
    let resource = ApiResource::from_gvk_with_plural(&kind, &plural);
    let api: Api<DynamicObject> = match object.namespace() {
        Some(namespace) => Api::namespaced_with(space.client.clone(), &namespace, &resource),
        None => Api::all_with(space.client.clone(), &resource),
    };
    let params = PatchParams {
        field_validation: Some(ValidationDirective::Strict),
        ..PatchParams::apply("test").force()
    };
    api.patch(&object.name_any(), &params, &Patch::Apply(&object)).await.unwrap();
}

/// A new policy is read by the API server within a moment; only then can a test show that it allows anything.
async fn until_the_policy_acts(space: &Space) {
    static ACTS: OnceCell<()> = OnceCell::const_new();
    let wait = || async {
        let deadline = Instant::now() + PATIENCE;
        let pod = devices_as(space, "probe-0");
        let params = PatchParams { dry_run: true, ..PatchParams::apply(FIELD_MANAGER) };
        loop {
            match pod.patch("foreign-0", &params, &Patch::Apply(device("foreign-0"))).await {
                Err(error) if error.to_string().contains("probe-0-<number>") => return,
                outcome => assert!(Instant::now() < deadline, "the policy never acted: {outcome:?}"),
            }
            sleep(Duration::from_millis(100)).await;
        }
    };
    ACTS.get_or_init(wait).await;
}

fn client_as(space: &Space, pod: &str) -> Client {
    let somebody = Somebody::service_account(&space.namespace, "device-sim", pod, "node1");
    space.server.client_as(&somebody).unwrap()
}

fn devices_as(space: &Space, pod: &str) -> Api<Device> {
    Api::namespaced(client_as(space, pod), &space.namespace)
}

fn device(name: &str) -> Value {
    json!({
        "apiVersion": "edge-operator.dev/v1alpha1",
        "kind": "Device",
        "metadata": {"name": name, "labels": {"site": "berlin"}},
        "spec": {"endpoint": {"host": "10.244.1.7", "port": 5683}},
    })
}

/// A pod as a StatefulSet makes it.
async fn make_pod(space: &Space, name: &str) {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": name, "ownerReferences": [
            {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "sim", "uid": "4d3c", "controller": true},
        ]},
        "spec": {"containers": [{"name": "device-sim", "image": "localhost/device-sim:dev"}]},
    }))
    .unwrap();
    space.api::<Pod>().create(&Default::default(), &pod).await.unwrap();
}

/// Enrols `sim` as the pod `sim-0` at this address, and returns once `/readyz` would say yes.
async fn enrol(space: &Space, sim: &Sim, host: &str) {
    let (_tasks, enrolled) = begin_to_enrol(space, sim, host);
    tokio::time::timeout(PATIENCE, enrolled).await.unwrap().unwrap();
}

/// The same, without waiting: the receiver hears when all are there.
fn begin_to_enrol(space: &Space, sim: &Sim, host: &str) -> (JoinSet<()>, Receiver<()>) {
    let enrolment = Enrolment {
        namespace: space.namespace.clone(),
        pod: "sim-0".into(),
        host: host.parse().unwrap(),
        labels: BTreeMap::from([("site".into(), "berlin".into())]),
        liveness: None,
    };
    let (done, enrolled) = tokio::sync::oneshot::channel();
    let devices = sim.devices().to_vec();
    let mut tasks = JoinSet::new();
    let told = move || done.send(()).unwrap();
    tasks.spawn(enrol::keep(client_as(space, "sim-0"), enrolment, devices, told));
    (tasks, enrolled)
}

/// Three devices of the pod `sim-0`.
async fn three_devices(space: &Space, folder: &Path) -> Sim {
    let config = SimConfig {
        namespace: space.namespace.clone(),
        name_prefix: "sim-0".into(),
        ..SimConfig::on_loopback(3, folder.into())
    };
    Sim::start(config).await.unwrap()
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn nothing_is_enrolled_before_the_owner_is_known_and_one_that_cannot_be_keeps_no_other_waiting() {
    let space = space("an obstacle").await.unwrap();
    install(&space).await;
    let folder = tempfile::tempdir().unwrap();
    let sim = three_devices(&space, folder.path()).await;
    let devices: Api<Device> = space.api();
    // Somebody else owns the endpoint of the first one.
    let params = PatchParams::apply("a person");
    devices.patch("sim-0-0", &params, &Patch::Apply(device("sim-0-0"))).await.unwrap();
    let (_tasks, mut enrolled) = begin_to_enrol(&space, &sim, "10.244.2.9");
    make_pod(&space, "sim-0").await;
    let there = |device: Option<&Device>| device.is_some();
    for name in ["sim-0-1", "sim-0-2"] {
        let device = tokio::time::timeout(PATIENCE, await_condition(devices.clone(), name, there)).await;
        let device = device.unwrap().unwrap().unwrap();
        assert_eq!(device.owner_references().len(), 1, "{name} was applied before its owner was known");
    }
    assert!(enrolled.try_recv().is_err(), "not all are there");
    devices.delete("sim-0-0", &DeleteParams::default()).await.unwrap();
    tokio::time::timeout(PATIENCE, enrolled).await.unwrap().unwrap();
    assert_eq!(devices.get("sim-0-0").await.unwrap().owner_references().len(), 1);
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn a_pod_enrols_its_devices_and_leaves_desired_to_others() {
    let space = space("a pod enrols its devices").await.unwrap();
    install(&space).await;
    make_pod(&space, "sim-0").await;
    let folder = tempfile::tempdir().unwrap();
    let sim = three_devices(&space, folder.path()).await;
    enrol(&space, &sim, "10.244.1.7").await;

    let devices: Api<Device> = space.api();
    for (number, simulated) in sim.devices().iter().enumerate() {
        let device = devices.get(&format!("sim-0-{number}")).await.unwrap();
        assert_eq!(device.spec.endpoint.host, "10.244.1.7");
        assert_eq!(device.spec.endpoint.port, simulated.address().port());
        assert_eq!(device.labels()["site"], "berlin");
        assert_eq!(device.owner_references()[0].kind, "StatefulSet");
        assert_eq!(device.spec.desired, None);
    }

    let desired = json!({"spec": {"desired": {"firmware": "2.0.0", "config": {"sampling-interval": "5s"}}}});
    devices.patch("sim-0-0", &PatchParams::default(), &Patch::Merge(desired)).await.unwrap();
    // The pod comes back with another address.
    enrol(&space, &sim, "10.244.2.9").await;
    let moved = devices.get("sim-0-0").await.unwrap();
    assert_eq!(moved.spec.endpoint.host, "10.244.2.9");
    assert_eq!(moved.spec.desired.as_ref().unwrap().firmware, "2.0.0");

    // Enrolling once more writes nothing.
    enrol(&space, &sim, "10.244.2.9").await;
    let again = devices.get("sim-0-0").await.unwrap();
    assert_eq!(again.resource_version(), moved.resource_version());
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn a_pod_may_do_nothing_else() {
    let space = space("a pod may do nothing else").await.unwrap();
    install(&space).await;
    let pod = devices_as(&space, "sim-1");
    let params = PatchParams::apply(FIELD_MANAGER);
    pod.patch("sim-1-0", &params, &Patch::Apply(device("sim-1-0"))).await.unwrap();

    let changed = |change: &dyn Fn(&mut Value)| {
        let mut object = device("sim-1-0");
        change(&mut object);
        object
    };
    let desired = changed(&|object| object["spec"]["desired"] = json!({"firmware": "6.6.6"}));
    let paused = changed(&|object| object["spec"]["paused"] = json!(true));
    let annotated = changed(&|object| object["metadata"]["annotations"] = json!({"adopt": "me"}));
    let finalized = changed(&|object| object["metadata"]["finalizers"] = json!(["edge-operator.dev/stay"]));
    let owner = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "c", "uid": "u"}]);
    let owned = changed(&|object| object["metadata"]["ownerReferences"] = owner.clone());
    let mut new_desired = desired.clone();
    new_desired["metadata"]["name"] = json!("sim-1-1");
    let cases = [
        ("sim-1-0", desired, "neither desired nor paused"),
        ("sim-1-1", new_desired, "neither desired nor paused"),
        ("sim-1-0", paused, "neither desired nor paused"),
        ("sim-1-0", annotated, "neither annotations nor finalizers"),
        ("sim-1-0", finalized, "neither annotations nor finalizers"),
        ("sim-1-0", owned, "belongs to a StatefulSet"),
        ("sim-0-0", device("sim-0-0"), "sim-1-<number>"),
        ("sim-10-0", device("sim-10-0"), "sim-1-<number>"),
        ("sim-1-0-0", device("sim-1-0-0"), "sim-1-<number>"),
        ("sim-1-x", device("sim-1-x"), "sim-1-<number>"),
    ];
    for (name, object, sentence) in cases {
        let refused = pod.patch(name, &params, &Patch::Apply(&object)).await;
        let said = refused.map(|_| "nothing: it was taken").map_or_else(|e| e.to_string(), String::from);
        assert!(said.contains(sentence), "{object:#}\nexpected {sentence:?}, it said {said:?}");
    }

    let podless = Somebody {
        user: format!("system:serviceaccount:{}:device-sim", space.namespace),
        groups: vec!["system:authenticated".into()],
        ..Somebody::default()
    };
    let podless: Api<Device> = Api::namespaced(space.server.client_as(&podless).unwrap(), &space.namespace);
    let refused = podless.patch("sim-1-0", &params, &Patch::Apply(device("sim-1-0"))).await.unwrap_err();
    assert!(refused.to_string().contains("the token names no pod"), "{refused}");

    let forbidden = pod.delete("sim-1-0", &DeleteParams::default()).await.unwrap_err().to_string();
    assert!(forbidden.contains("cannot delete resource"), "{forbidden}");
    let forbidden = pod.get("sim-1-0").await.unwrap_err().to_string();
    assert!(forbidden.contains("cannot get resource"), "{forbidden}");
    let status =
        json!({"apiVersion": "edge-operator.dev/v1alpha1", "kind": "Device", "status": {"phase": "InSync"}});
    let refused = pod.patch_status("sim-1-0", &params, &Patch::Apply(status)).await.unwrap_err().to_string();
    assert!(refused.contains("cannot patch resource"), "{refused}");
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn others_are_not_held_to_the_policy_of_simulated_devices() {
    let space = space("others are not held").await.unwrap();
    install(&space).await;
    let mut object = device("anything");
    object["spec"]["desired"] = json!({"firmware": "2.0.0"});
    let params = PatchParams::apply("a person");
    space.api::<Device>().patch("anything", &params, &Patch::Apply(&object)).await.unwrap();
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn the_manifests_have_no_field_that_the_api_server_does_not_know() {
    let space = space("the manifests").await.unwrap();
    apply_files(&space, &["namespace.yaml", "settings.yaml", "statefulset.yaml"]).await;
    let set: Api<StatefulSet> = space.api();
    assert_eq!(set.get("device-sim").await.unwrap().spec.unwrap().replicas, Some(2));
}
