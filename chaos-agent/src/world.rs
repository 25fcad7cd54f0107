//! What this node's agent knows of the cluster, cut down to what compiling needs. Fed by `watch`, read by
//! `compile`; no client, no clock.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use edge_api::Device;
use edge_api::quantity::Network;
use fault_abi::key::{PROTOCOL_TCP, PROTOCOL_UDP, PortKey};
use fault_abi::rule::{PROTECTED_NODE, PROTECTED_PROBE};
use k8s_openapi::api::core::v1::{Container, Pod, Probe, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt as _;

use crate::peers::Neighbourhood;
use crate::profile::{ObjectName, Profile};

/// Everything that compiling looks at.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// This node's name.
    pub node: String,
    /// All profiles that exist, in the order in which they act.
    pub profiles: BTreeMap<ObjectName, Profile>,
    /// All devices with an address.
    pub devices: BTreeMap<ObjectName, DeviceTarget>,
    /// This node's pods.
    pub pods: BTreeMap<ObjectName, PodTarget>,
    /// What profiles' peers are found in.
    pub neighbours: Neighbourhood,
    /// This node's addresses.
    pub node_addresses: BTreeSet<IpAddr>,
    /// Those of them that its Node object names.
    pub named_addresses: BTreeSet<IpAddr>,
    /// Far ends of this node's own conversations: API server, DNS.
    pub control_plane: BTreeSet<(IpAddr, u8, u16)>,
    /// `--protect`.
    pub protect: Vec<Network>,
    /// The kubelet's port; 0: not protected.
    pub kubelet_port: u16,
}

/// A device as a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceTarget {
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// UDP port of its endpoint.
    pub port: u16,
    /// Its addresses as the operator resolved them, each with its node.
    pub addresses: Vec<(IpAddr, Option<String>)>,
}

impl DeviceTarget {
    /// From the object; none without an address.
    #[must_use]
    pub fn of(device: &Device) -> Option<Self> {
        let status = device.status.as_ref()?;
        let addresses: Vec<_> = status
            .addresses
            .iter()
            .filter_map(|address| {
                Some((address.ip.parse::<IpAddr>().ok()?.to_canonical(), address.node.clone()))
            })
            .collect();
        (!addresses.is_empty()).then(|| Self {
            labels: device.labels().clone(),
            port: device.spec.endpoint.port,
            addresses,
        })
    }
}

/// A pod as a target (those of this node), or as a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodTarget {
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Its addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// TCP ports that the kubelet probes.
    pub probe_ports: BTreeSet<u16>,
}

impl PodTarget {
    /// From the object; none for a pod that has ended, has no address, or shares its node's network (its packets
    /// are the node's).
    #[must_use]
    pub fn of(pod: &Pod) -> Option<Self> {
        let (spec, status) = (pod.spec.as_ref()?, pod.status.as_ref()?);
        let has_ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        if has_ended || spec.host_network == Some(true) {
            return None;
        }
        let listed = status.pod_ips.iter().flatten().map(|one| one.ip.as_str());
        let addresses: BTreeSet<IpAddr> =
            listed.chain(status.pod_ip.as_deref()).filter_map(|ip| ip.parse().ok()).collect();
        let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        (!addresses.is_empty()).then(|| Self {
            labels: pod.labels().clone(),
            addresses,
            probe_ports: containers.flat_map(probe_ports).collect(),
        })
    }
}

fn probe_ports(container: &Container) -> impl Iterator<Item = u16> + '_ {
    let probes = [&container.liveness_probe, &container.readiness_probe, &container.startup_probe];
    probes.into_iter().flatten().filter_map(|probe| probe_port(probe, container))
}

fn probe_port(probe: &Probe, container: &Container) -> Option<u16> {
    let grpc = probe.grpc.as_ref().map(|grpc| IntOrString::Int(grpc.port));
    let http = probe.http_get.as_ref().map(|http| http.port.clone());
    let tcp = probe.tcp_socket.as_ref().map(|tcp| tcp.port.clone());
    match grpc.or(http).or(tcp)? {
        IntOrString::Int(port) => u16::try_from(port).ok(),
        IntOrString::String(name) => {
            let named =
                |port: &&k8s_openapi::api::core::v1::ContainerPort| port.name.as_deref() == Some(&name);
            container
                .ports
                .iter()
                .flatten()
                .find(named)
                .and_then(|port| u16::try_from(port.container_port).ok())
        }
    }
}

/// The API server's endpoints in one of its slices.
#[must_use]
pub fn slice_ends(slice: &EndpointSlice) -> BTreeSet<(IpAddr, u8, u16)> {
    let addresses = || slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
    let ports = slice.ports.iter().flatten().filter_map(|port| u16::try_from(port.port?).ok());
    ports
        .flat_map(|port| addresses().filter_map(move |ip| Some((ip.parse().ok()?, PROTOCOL_TCP, port))))
        .collect()
}

/// A Service's own addresses and ports.
#[must_use]
pub fn service_ends(service: &Service) -> BTreeSet<(IpAddr, u8, u16)> {
    let Some(spec) = &service.spec else { return BTreeSet::new() };
    let listed = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    let addresses: BTreeSet<IpAddr> = listed.filter_map(|ip| ip.parse().ok()).collect();
    let ports = spec.ports.iter().flatten().filter_map(|port| u16::try_from(port.port).ok());
    ports.flat_map(|port| addresses.iter().map(move |ip| (*ip, PROTOCOL_TCP, port))).collect()
}

/// DNS servers as `resolv.conf` names them, UDP and TCP.
#[must_use]
pub fn dns_ends(resolv_conf: &str) -> BTreeSet<(IpAddr, u8, u16)> {
    const DNS: u16 = 53;
    resolv_conf
        .lines()
        .filter_map(|line| {
            let address = line.trim().strip_prefix("nameserver")?.trim();
            // A link-local one names its interface behind it (RFC 4007 §11).
            address.split('%').next()?.parse::<IpAddr>().ok()
        })
        .flat_map(|ip| [(ip, PROTOCOL_UDP, DNS), (ip, PROTOCOL_TCP, DNS)])
        .collect()
}

impl World {
    /// Far ends of protected conversations with their class. Those of this node's own have an entry for port 0, too, by which their
    /// later fragments are known, which have no ports.
    #[must_use]
    pub fn protected(&self) -> BTreeMap<PortKey, u32> {
        let mut ends = BTreeMap::new();
        for (ip, protocol, port) in &self.control_plane {
            for port in [*port, 0] {
                *ends.entry(PortKey::new((*ip).into(), *protocol, port)).or_default() |= PROTECTED_NODE;
            }
        }
        for pod in self.pods.values() {
            for (ip, port) in
                pod.addresses.iter().flat_map(|ip| pod.probe_ports.iter().map(move |port| (ip, port)))
            {
                *ends.entry(PortKey::new((*ip).into(), PROTOCOL_TCP, *port)).or_default() |= PROTECTED_PROBE;
            }
        }
        ends
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn probe_ports_are_found_by_number_and_by_name() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "demo"},
            "spec": {"containers": [{
                "name": "c", "ports": [{"name": "http", "containerPort": 8081}],
                "livenessProbe": {"httpGet": {"path": "/", "port": "http"}},
                "readinessProbe": {"tcpSocket": {"port": 9000}},
                "startupProbe": {"grpc": {"port": 9001}},
            }]},
            "status": {"podIP": "10.244.1.2", "podIPs": [{"ip": "10.244.1.2"}, {"ip": "fd00::2"}]},
        }))
        .unwrap();
        let target = PodTarget::of(&pod).unwrap();
        assert_eq!(target.probe_ports, BTreeSet::from([8081, 9000, 9001]));
        assert_eq!(target.addresses.len(), 2);
    }

    #[test]
    fn a_pod_on_the_host_network_or_ended_is_no_target() {
        let pod = |spec: serde_json::Value, status: serde_json::Value| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec, "status": status}))
                .unwrap()
        };
        let up = json!({"podIP": "10.244.1.2"});
        assert!(PodTarget::of(&pod(json!({"containers": []}), up.clone())).is_some());
        assert!(PodTarget::of(&pod(json!({"containers": [], "hostNetwork": true}), up)).is_none());
        let ended = json!({"podIP": "10.244.1.2", "phase": "Succeeded"});
        assert!(PodTarget::of(&pod(json!({"containers": []}), ended)).is_none());
    }

    #[test]
    fn the_api_server_is_found_behind_its_service_and_in_its_slices() {
        let slice: EndpointSlice = serde_json::from_value(json!({
            "addressType": "IPv4", "endpoints": [{"addresses": ["10.240.0.1"]}],
            "ports": [{"port": 6443, "protocol": "TCP"}],
        }))
        .unwrap();
        let service: Service = serde_json::from_value(json!({
            "spec": {"clusterIP": "10.0.0.1", "ports": [{"port": 443, "targetPort": 6443}]},
        }))
        .unwrap();
        assert_eq!(slice_ends(&slice), BTreeSet::from([("10.240.0.1".parse().unwrap(), PROTOCOL_TCP, 6443)]));
        assert_eq!(
            service_ends(&service),
            BTreeSet::from([("10.0.0.1".parse().unwrap(), PROTOCOL_TCP, 443)])
        );
    }

    #[test]
    fn dns_servers_are_read_off_resolv_conf() {
        let ends = dns_ends("# made by\nnameserver 10.0.0.10\nsearch a b\nnameserver fd00::a\n");
        assert_eq!(ends.len(), 4);
        let ends = dns_ends("nameserver fe80::1%eth0\n");
        assert_eq!(ends.first().unwrap().0, "fe80::1".parse::<IpAddr>().unwrap(), "without its interface");
    }

    #[test]
    fn later_fragments_of_the_nodes_own_conversations_are_protected_and_not_those_of_probes() {
        let mut world = World { control_plane: dns_ends("nameserver 10.0.0.10\n"), ..World::default() };
        let pod = PodTarget {
            labels: BTreeMap::new(),
            addresses: BTreeSet::from(["10.244.1.2".parse().unwrap()]),
            probe_ports: BTreeSet::from([8081]),
        };
        world.pods.insert(ObjectName { namespace: "demo".to_owned(), name: "p".to_owned() }, pod);
        let protected = world.protected();
        let of = |ip: &str, protocol, port| {
            let ip: IpAddr = ip.parse().unwrap();
            protected.get(&PortKey::new(ip.into(), protocol, port)).copied()
        };
        for (protocol, port) in [(PROTOCOL_UDP, 53), (PROTOCOL_UDP, 0), (PROTOCOL_TCP, 0)] {
            assert_eq!(of("10.0.0.10", protocol, port), Some(PROTECTED_NODE), "{protocol} {port}");
        }
        assert_eq!(of("10.244.1.2", PROTOCOL_TCP, 8081), Some(PROTECTED_PROBE));
        assert_eq!(of("10.244.1.2", PROTOCOL_TCP, 0), None, "probes are TCP, which does not send fragments");
    }
}
