//! A device behind a DNS name: the cluster's DNS is asked for it, and where the name leads elsewhere operator and agents follow.

use std::net::Ipv4Addr;

use edge_api::DevicePhase;
use kube::api::Api;
use serde_json::json;
use xtask::demo::install::DEVICES;
use xtask::wait;

use super::world::{PATIENCE, PodSeen, SOON, Story};

/// The pod, its Service, and the prefix of its Device.
const NAME: &str = "named";
const DEVICE: &str = "named-0";

/// Removed at the end of a story, whatever its end: other stories count Devices.
struct Leaves<'a>(&'a Story);

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let shown =
                self.0.try_kubectl(&["-n", DEVICES, "get", "device/named-0", "pod/named", "-o", "yaml"]);
            eprintln!("{}", shown.unwrap_or_else(|error| format!("{error:#}")));
        }
        // The device is there until it is released.
        for what in [["faultprofile/named", "device/named-0"], ["pod/named", "service/named"]] {
            let delete = ["-n", DEVICES, "delete", "--ignore-not-found", "--grace-period=1", "--timeout=60s"];
            if let Err(error) = self.0.try_kubectl(&[&delete[..], &what].concat()) {
                eprintln!("{what:?} may be left: {error:#}");
            }
        }
    }
}

impl Story {
    /// One simulated device in a pod that enrols nothing.
    fn named_pod(&self) -> PodSeen {
        self.apply(&json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": NAME, "labels": {"app": NAME}},
            "spec": {
                "automountServiceAccountToken": false,
                "terminationGracePeriodSeconds": 1,
                "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "fsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [{
                    "name": "device-sim",
                    "image": "localhost/device-sim:dev",
                    "imagePullPolicy": "IfNotPresent",
                    "args": ["--name-prefix", NAME, "--namespace", DEVICES, "--state-dir", "/state"],
                    "readinessProbe": {"httpGet": {"path": "/readyz", "port": 8081}, "periodSeconds": 1},
                    "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}},
                    "volumeMounts": [{"name": "state", "mountPath": "/state"}],
                }],
                "volumes": [{"name": "state", "emptyDir": {}}],
            },
        }));
        wait::until("the pod of the device with a name", PATIENCE, SOON, || {
            Ok(self.pods(DEVICES, NAME).into_iter().next())
        })
        .unwrap()
    }

    /// The device is in sync, and its status says that it is there alone.
    fn named_device_is_at(&self, ip: Ipv4Addr) {
        let api = Api::<edge_api::Device>::namespaced(self.client.clone(), DEVICES);
        let mut last = String::new();
        // The operator asks again after --dns-ttl, half a minute.
        let found = wait::until("the device at its pod's address", 2 * PATIENCE, SOON, || {
            let status = self.run(api.get(DEVICE))?.status.unwrap_or_default();
            let addresses: Vec<&str> = status.addresses.iter().map(|address| address.ip.as_str()).collect();
            last = format!("{:?} at {addresses:?}", status.phase);
            let is_there = addresses == [ip.to_string()] && status.phase == DevicePhase::InSync;
            Ok(is_there.then_some(()))
        });
        found.unwrap_or_else(|error| panic!("{error:#}: it is {last}, and the pod is at {ip}"));
    }
}

#[test]
#[ignore = "node rung: needs root and a cluster"]
fn a_device_with_a_dns_name_is_followed_to_another_pod_and_faults_find_it_there() {
    let story = Story::begin();
    let _leaves = Leaves(&story);
    story.apply(&json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": NAME},
        "spec": {"clusterIP": "None", "selector": {"app": NAME}, "ports": [{"name": "coap", "port": 5683, "protocol": "UDP"}]},
    }));
    let first = story.named_pod();
    story.apply(&json!({
        "apiVersion": "edge-operator.dev/v1alpha1",
        "kind": "Device",
        "metadata": {"name": DEVICE, "labels": {"app": NAME}},
        "spec": {
            "endpoint": {"host": format!("{NAME}.{DEVICES}.svc.cluster.local")},
            "desired": {"firmware": "1.4.0"},
            "liveness": {"probeInterval": "2s", "suspectAfter": "6s", "lostAfter": "15s"},
        },
    }));
    story.named_device_is_at(first.ip);

    // Another pod, with another address, a boot of its own, and none of what the device before it had stored.
    story.kubectl(&["-n", DEVICES, "delete", "pod", NAME, "--grace-period=1"]);
    let second = story.named_pod();
    assert_ne!(second.ip, first.ip, "it has the address of the one before");
    story.named_device_is_at(second.ip);

    // The agents know where it is from its status.
    story.apply(&json!({
        "apiVersion": "edge-operator.dev/v1alpha1",
        "kind": "FaultProfile",
        "metadata": {"name": NAME},
        "spec": {
            "targets": {"devices": {"selector": {"matchLabels": {"app": NAME}}}},
            "faults": {"partition": {}}, "seed": 7, "duration": "5m",
        },
    }));
    story.wait_for("Effective", &["faultprofile/named"]);
    story.wait_for("jsonpath={.status.phase}=Unreachable", &["device/named-0"]);
    let counted = story.counted(second.node, NAME);
    assert!(counted[&("ToDevice", "partition")] > 0, "{counted:?}");
    story.kubectl(&["-n", DEVICES, "delete", "faultprofile", NAME]);
    story.wait_for("Ready", &["device/named-0"]);
}
