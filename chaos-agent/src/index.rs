//! What the watches have said so far, as the world that is compiled. Synchronous: events in, "it matters" out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use edge_api::{Device, FaultProfile};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use kube::runtime::watcher::Event;

use crate::feed::{Feed, name};
use crate::peers::{self, NeighbourEvent, Neighbourhood, Source};
use crate::profile::{ObjectName, Profile};
use crate::world::{DeviceTarget, PodTarget, World, service_ends, slice_ends};

/// The kinds that are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// FaultProfiles of all namespaces.
    Profiles,
    /// Devices of all namespaces.
    Devices,
    /// This node's pods.
    Pods,
    /// This node.
    Node,
    /// The API server's endpoints.
    Slices,
    /// The API server's Service.
    Services,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Profiles, Self::Devices, Self::Pods, Self::Node, Self::Slices, Self::Services];
}

/// A set of ends of conversations, by the object that names them.
type Ends = BTreeMap<ObjectName, BTreeSet<(IpAddr, u8, u16)>>;

/// An event of one of the watches.
#[derive(Debug)]
pub enum Change {
    /// Of a FaultProfile.
    Profile(Event<FaultProfile>),
    /// Of a Device.
    Device(Event<Device>),
    /// Of a pod of this node.
    Pod(Event<Pod>),
    /// Of this node.
    Node(Event<Node>),
    /// Of an EndpointSlice of the API server.
    Slice(Event<EndpointSlice>),
    /// Of the API server's Service.
    Service(Event<Service>),
    /// Of what peers are found in, in this namespace.
    Neighbour(String, NeighbourEvent),
}

/// All that is known.
#[derive(Debug, Default)]
pub struct Index {
    profiles: Feed<Profile>,
    devices: Feed<DeviceTarget>,
    pods: Feed<PodTarget>,
    nodes: Feed<NodeFacts>,
    slices: Feed<BTreeSet<(IpAddr, u8, u16)>>,
    services: Feed<BTreeSet<(IpAddr, u8, u16)>>,
    neighbours: Neighbourhood,
    /// Addresses of this node's interfaces.
    own_addresses: BTreeSet<IpAddr>,
    /// What the flags and the machine say, and the node's name.
    fixed: World,
    kubelet_port: Option<u16>,
}

/// What matters of this node's object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// `metadata.uid`.
    pub uid: String,
    addresses: BTreeSet<IpAddr>,
    kubelet_port: Option<u16>,
}

/// Where the kubelet listens unless the node says otherwise.
const KUBELET_PORT: u16 = 10250;

impl Index {
    /// An empty index. `fixed` holds what does not change: the node's name, its DNS servers, `--protect`.
    #[must_use]
    pub fn new(fixed: World, kubelet_port: Option<u16>) -> Self {
        Self { fixed, kubelet_port, ..Self::default() }
    }

    /// Takes in an event; returns whether the world has changed by it.
    pub fn apply(&mut self, change: Change) -> bool {
        match change {
            Change::Profile(event) => self.profiles.take(event, parse),
            Change::Device(event) => self.devices.take(event, DeviceTarget::of),
            Change::Pod(event) => self.pods.take(event, PodTarget::of),
            Change::Node(event) => self.nodes.take(event, |node| Some(facts(node))),
            Change::Slice(event) => self.slices.take(event, |slice| Some(slice_ends(slice))),
            Change::Service(event) => self.services.take(event, |service| Some(service_ends(service))),
            Change::Neighbour(namespace, event) => self.neighbours.take(namespace, event),
        }
    }

    /// Takes in, for tests, that there are these profiles and nothing else: all watches have said what there is.
    pub fn learn_all(&mut self, profiles: impl IntoIterator<Item = FaultProfile>) {
        let profiles = profiles.into_iter().map(Event::InitApply);
        for event in [Event::Init].into_iter().chain(profiles).chain([Event::InitDone]) {
            self.apply(Change::Profile(event));
        }
        for change in [
            Change::Device(Event::Init),
            Change::Device(Event::InitDone),
            Change::Pod(Event::Init),
            Change::Pod(Event::InitDone),
            Change::Node(Event::Init),
            Change::Node(Event::InitDone),
            Change::Slice(Event::Init),
            Change::Slice(Event::InitDone),
            Change::Service(Event::Init),
            Change::Service(Event::InitDone),
        ] {
            self.apply(change);
        }
    }

    /// What must be watched so that all profiles' peers are found.
    #[must_use]
    pub fn wanted(&self, most_namespaces: usize) -> BTreeSet<Source> {
        peers::wanted(self.profiles.objects.values(), most_namespaces)
    }

    /// What this watch has said is forgotten: nobody wants it, and it has ended.
    pub fn forget(&mut self, source: &Source) {
        self.neighbours.forget(source);
    }

    /// Takes in the addresses of this node's interfaces; returns whether they have changed.
    pub fn set_own_addresses(&mut self, addresses: BTreeSet<IpAddr>) -> bool {
        let changed = self.own_addresses != addresses;
        self.own_addresses = addresses;
        changed
    }

    /// The kinds whose first list has not arrived.
    #[must_use]
    pub fn missing(&self) -> Vec<Kind> {
        let lists = [
            self.profiles.is_complete,
            self.devices.is_complete,
            self.pods.is_complete,
            self.nodes.is_complete,
            self.slices.is_complete,
            self.services.is_complete,
        ];
        Kind::ALL
            .into_iter()
            .zip(lists)
            .filter(|(_, is_complete)| !is_complete)
            .map(|(kind, _)| kind)
            .collect()
    }

    /// This node's uid, once it is known.
    #[must_use]
    pub fn node_uid(&self) -> Option<&str> {
        self.nodes.objects.values().next().map(|node| node.uid.as_str())
    }

    /// The world as it is now. The large parts are moved out and in again, not copied.
    pub fn with_world<R>(&mut self, use_it: impl FnOnce(&World) -> R) -> R {
        let node = self.nodes.objects.values().next().cloned().unwrap_or_default();
        let ends = |ends: &Ends| ends.values().flatten().copied().collect::<Vec<_>>();
        let mut world = self.fixed.clone();
        world.profiles = std::mem::take(&mut self.profiles.objects);
        world.devices = std::mem::take(&mut self.devices.objects);
        world.pods = std::mem::take(&mut self.pods.objects);
        world.neighbours = std::mem::take(&mut self.neighbours);
        world.node_addresses.extend(self.own_addresses.iter().chain(&node.addresses));
        world.named_addresses = node.addresses;
        world
            .control_plane
            .extend(ends(&self.slices.objects).into_iter().chain(ends(&self.services.objects)));
        world.kubelet_port = self.kubelet_port.or(node.kubelet_port).unwrap_or(KUBELET_PORT);
        let result = use_it(&world);
        self.profiles.objects = world.profiles;
        self.devices.objects = world.devices;
        self.pods.objects = world.pods;
        self.neighbours = world.neighbours;
        result
    }
}

fn parse(object: &FaultProfile) -> Option<Profile> {
    Profile::parse(object)
        .inspect_err(|error| tracing::warn!(profile = %name(object), %error, "left alone: it cannot be read"))
        .ok()
}

fn facts(node: &Node) -> NodeFacts {
    let status = node.status.as_ref();
    let addresses = status.into_iter().flat_map(|status| status.addresses.iter().flatten());
    let endpoint = status
        .and_then(|status| status.daemon_endpoints.as_ref())
        .and_then(|endpoints| endpoints.kubelet_endpoint.as_ref());
    NodeFacts {
        uid: node.uid().unwrap_or_default(),
        addresses: addresses.filter_map(|address| address.address.parse().ok()).collect(),
        kubelet_port: endpoint.and_then(|endpoint| u16::try_from(endpoint.port).ok()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::profile::tests::object;

    fn device(name: &str, phase: &str, ip: &str) -> Device {
        serde_json::from_value(json!({
            "apiVersion": "edge-operator.dev/v1alpha1", "kind": "Device",
            "metadata": {"namespace": "demo", "name": name},
            "spec": {"endpoint": {"host": ip}}, "status": {"phase": phase, "addresses": [{"ip": ip}]},
        }))
        .unwrap()
    }

    #[test]
    fn a_list_replaces_what_was_there_only_when_it_is_complete() {
        let mut index = Index::default();
        let feed = |index: &mut Index, event| index.apply(Change::Device(event));
        feed(&mut index, Event::Init);
        feed(&mut index, Event::InitApply(device("a", "InSync", "10.0.0.1")));
        assert!(feed(&mut index, Event::InitDone));
        feed(&mut index, Event::Init);
        assert_eq!(index.with_world(|world| world.devices.len()), 1, "still the old list");
        feed(&mut index, Event::InitApply(device("b", "InSync", "10.0.0.2")));
        feed(&mut index, Event::InitApply(device("c", "InSync", "10.0.0.3")));
        assert!(feed(&mut index, Event::InitDone));
        assert_eq!(index.with_world(|world| world.devices.len()), 2);
    }

    #[test]
    fn what_changes_nothing_for_the_kernel_does_not_matter() {
        let mut index = Index::default();
        let feed = |index: &mut Index, event| index.apply(Change::Device(event));
        assert!(feed(&mut index, Event::Apply(device("a", "InSync", "10.0.0.1"))));
        assert!(!feed(&mut index, Event::Apply(device("a", "Unreachable", "10.0.0.1"))));
        assert!(feed(&mut index, Event::Apply(device("a", "Unreachable", "10.0.0.9"))));
        assert!(feed(&mut index, Event::Delete(device("a", "Unreachable", "10.0.0.9"))));
    }

    #[test]
    fn nothing_is_known_before_every_list_has_arrived() {
        let mut index = Index::default();
        assert_eq!(index.missing(), Kind::ALL);
        index.apply(Change::Profile(Event::Init));
        index.apply(Change::Profile(Event::InitApply(object(
            "p",
            &json!({"targets": {"cidrs": ["10.0.0.0/8"]}, "faults": {"partition": {}}, "duration": "1m"}),
        ))));
        index.apply(Change::Profile(Event::InitDone));
        assert_eq!(index.missing(), Kind::ALL[1..]);
        assert_eq!(index.with_world(|world| world.profiles.len()), 1);
    }

    #[test]
    fn this_nodes_object_tells_its_addresses_and_its_kubelets_port() {
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": "node1", "uid": "u-1"},
            "status": {"addresses": [{"type": "InternalIP", "address": "10.240.0.11"}, {"type": "Hostname", "address": "node1"}],
                "daemonEndpoints": {"kubeletEndpoint": {"Port": 10260}}},
        }))
        .unwrap();
        let mut index = Index::default();
        index.apply(Change::Node(Event::Apply(node)));
        index.set_own_addresses(BTreeSet::from(["10.244.1.1".parse().unwrap()]));
        let (addresses, port) = index.with_world(|world| (world.node_addresses.len(), world.kubelet_port));
        assert_eq!((addresses, port, index.node_uid()), (2, 10260, Some("u-1")));
    }
}
