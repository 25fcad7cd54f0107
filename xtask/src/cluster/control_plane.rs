//! What runs the cluster: etcd, API server, controller manager, scheduler, on a machine of their own.

use anyhow::Result;

use super::machine::{Machine, PKI, Service};
use super::plan::{self, API_PORT, CONTROL_PLANE};
use super::{kubeconfig, server_inside};

/// Writes the configuration and says what to run.
///
/// # Errors
/// When a file cannot be written.
pub(super) fn services(machine: &Machine) -> Result<Vec<Service>> {
    let kubeconfig = |user: &str| -> Result<String> {
        let text = kubeconfig::by_path(&server_inside(), PKI.as_ref(), user).to_string();
        machine.configure(&format!("{user}.kubeconfig"), &text)
    };
    Ok(vec![
        Service::new("etcd", etcd()),
        Service::new("kube-apiserver", api_server()),
        Service::new("kube-controller-manager", controller_manager(&kubeconfig("controller-manager")?)),
        Service::new("kube-scheduler", scheduler(&kubeconfig("scheduler")?)),
    ])
}

/// Without fsync: the data is thrown away with the cluster.
fn etcd() -> Vec<String> {
    flags(&[
        ("listen-peer-urls", "http://127.0.0.1:2380"),
        ("listen-client-urls", "http://127.0.0.1:2379"),
        ("advertise-client-urls", "http://127.0.0.1:2379"),
        ("data-dir", "/var/lib/etcd"),
        ("unsafe-no-fsync", "true"),
    ])
}

fn api_server() -> Vec<String> {
    let mut all = flags(&[
        ("etcd-servers", "http://127.0.0.1:2379"),
        ("secure-port", &API_PORT.to_string()),
        ("bind-address", &CONTROL_PLANE.to_string()),
        ("advertise-address", &CONTROL_PLANE.to_string()),
        ("service-cluster-ip-range", plan::SERVICES),
        ("allow-privileged", "true"),
        ("authorization-mode", "Node,RBAC"),
        ("enable-admission-plugins", "NodeRestriction"),
        ("service-account-issuer", "https://kubernetes.default.svc"),
        ("kubelet-preferred-address-types", "InternalIP"),
    ]);
    all.extend(files(&[
        ("service-account-key-file", "sa.pub"),
        ("service-account-signing-key-file", "sa.key"),
        ("client-ca-file", "ca.crt"),
        ("tls-cert-file", "server.crt"),
        ("tls-private-key-file", "server.key"),
        ("kubelet-certificate-authority", "ca.crt"),
        ("kubelet-client-certificate", "kubelet-client.crt"),
        ("kubelet-client-key", "kubelet-client.key"),
    ]));
    all
}

fn controller_manager(kubeconfig: &str) -> Vec<String> {
    let mut all = flags(&[
        ("kubeconfig", kubeconfig),
        ("leader-elect", "false"),
        // Each node is made with its range of pods.
        ("allocate-node-cidrs", "false"),
        ("use-service-account-credentials", "true"),
        ("bind-address", "127.0.0.1"),
        ("flex-volume-plugin-dir", "/var/lib/flexvolume"),
        // Nodes are killed in tests; five minutes are for bigger sites.
        ("node-monitor-period", "2s"),
        ("node-monitor-grace-period", "16s"),
    ]);
    all.extend(files(&[("service-account-private-key-file", "sa.key"), ("root-ca-file", "ca.crt")]));
    all
}

fn scheduler(kubeconfig: &str) -> Vec<String> {
    flags(&[("kubeconfig", kubeconfig), ("leader-elect", "false"), ("bind-address", "127.0.0.1")])
}

/// `--name=value` for each.
pub(super) fn flags(pairs: &[(&str, &str)]) -> Vec<String> {
    pairs.iter().map(|(name, value)| format!("--{name}={value}")).collect()
}

fn files(pairs: &[(&str, &str)]) -> Vec<String> {
    pairs.iter().map(|(name, file)| format!("--{name}={PKI}/{file}")).collect()
}
