//! What a node runs: containerd, kubelet, kube-proxy, and their configuration.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::control_plane::flags;
use super::machine::{BIN, ETC, Machine, PKI, Service};
use super::plan::{self, Plan};
use super::{kubeconfig, server_inside};
use crate::images::PAUSE;

/// containerd's socket, seen from inside a node.
pub(super) const CONTAINERD: &str = "/run/containerd/containerd.sock";
/// The kubelet starts when this file exists: node objects made, images loaded.
pub(super) const MAY_START: &str = "kubelet-may-start";

/// Writes the configuration of node `number` and says what to run.
///
/// # Errors
/// When a file cannot be written.
pub(super) fn services(plan: &Plan, number: u8, machine: &Machine) -> Result<Vec<Service>> {
    let name = plan::node_name(number);
    let address = plan::node_address(number).to_string();
    machine.configure("cni/10-ptp.conflist", &pretty(&pod_network(number))?)?;
    let containerd = machine.configure("containerd.toml", &containerd(machine.programs.len()))?;
    let kubelet = machine.configure("kubelet.yaml", &pretty(&kubelet(plan, number))?)?;
    let access = |user: &str| -> Result<String> {
        let text = kubeconfig::by_path(&server_inside(), PKI.as_ref(), user).to_string();
        machine.configure(&format!("{user}.kubeconfig"), &text)
    };
    let (as_node, as_proxy) = (access(&name)?, access("proxy")?);
    Ok(vec![
        Service::new("containerd", ["--config".to_owned(), containerd]),
        Service::new(
            "kubelet",
            flags(&[
                ("config", &kubelet),
                ("kubeconfig", &as_node),
                ("hostname-override", &name),
                ("node-ip", &address),
            ]),
        )
        .after(format!("{ETC}/{MAY_START}")),
        Service::new(
            "kube-proxy",
            flags(&[
                ("kubeconfig", &as_proxy),
                ("proxy-mode", "nftables"),
                ("hostname-override", &name),
                ("cluster-cidr", plan::PODS),
                ("bind-address", &address),
                // The table's size belongs to the real machine.
                ("conntrack-max-per-core", "0"),
            ]),
        )
        .after(format!("{ETC}/{MAY_START}")),
    ])
}

fn pretty(value: &Value) -> Result<String> {
    serde_json::to_string_pretty(value).context("writing a node's configuration")
}

/// A veth pair a pod, routed by the node, addresses never translated: as kindnet does inside a cluster.
fn pod_network(number: u8) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": false,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": plan::pod_range(number)}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "backend": "nftables", "capabilities": {"portMappings": true}},
        ],
    })
}

fn containerd(folders: usize) -> String {
    let programs: Vec<_> = (0..folders).map(|index| format!("\"{BIN}/{index}\"")).collect();
    format!(
        r#"version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "{CONTAINERD}"
# Thrown away with the cluster, as etcd's data is.
[plugins.'io.containerd.metadata.v1.bolt']
  no_sync = true
[plugins.'io.containerd.internal.v1.opt']
  path = "/var/lib/containerd/opt"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "{PAUSE}"
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = [{programs}]
  conf_dir = "{ETC}/cni"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
    SystemdCgroup = false
"#,
        programs = programs.join(", ")
    )
}

fn kubelet(plan: &Plan, number: u8) -> Value {
    let name = plan::node_name(number);
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": format!("{PKI}/ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": format!("{PKI}/{name}-serving.crt"),
        "tlsPrivateKeyFile": format!("{PKI}/{name}-serving.key"),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{}/{name}", plan.cgroup()),
        "failCgroupV1": false,
        "failSwapOn": false,
        "volumePluginDir": "/var/lib/kubelet/volumeplugins",
        "containerRuntimeEndpoint": format!("unix://{CONTAINERD}"),
        "clusterDNS": [plan::DNS_SERVICE],
        "clusterDomain": "cluster.local",
        // No name server of the real machine: nothing here looks outside.
        "resolvConf": "",
        "enforceNodeAllocatable": [],
        "evictionHard": {},
        "imageGCHighThresholdPercent": 100,
        // The least it accepts: changed ConfigMaps reach pods soon, and a killed node is noticed soon.
        "syncFrequency": "10s",
        "nodeStatusUpdateFrequency": "4s",
        "shutdownGracePeriod": "0s",
        // Tests kill containers again and again, and what they kill shall be back soon.
        "crashLoopBackOff": {"maxContainerRestartPeriod": "2s"},
    })
}
