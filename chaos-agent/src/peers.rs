//! The other ends of conversations as `match.peers` names them, where they are found, and the addresses they have now.
//! Pure: `watch` brings what is [`wanted`], `compile` asks [`find`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use edge_api::fault_profile;
use edge_api::quantity::Network;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt as _;
use kube::core::{Selector, SelectorExt as _};
use kube::runtime::watcher::Event;

use crate::compile::Problem;
use crate::feed::Feed;
use crate::profile::{Life, ObjectName, Profile, ProfileError};
use crate::world::{PodTarget, World};

/// The label by which an EndpointSlice names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The other end of a conversation.
#[derive(Clone, Debug, PartialEq)]
pub enum Peer {
    /// A network.
    Network(Network),
    /// A Service of the profile's namespace.
    Service(String),
    /// Pods of the profile's namespace.
    Pods(Selector),
}

impl Peer {
    /// Parses.
    ///
    /// # Errors
    /// When the schema was bypassed.
    pub fn parse(peer: &fault_profile::Peer) -> Result<Self, ProfileError> {
        match (&peer.cidr, &peer.service, &peer.pods) {
            (Some(cidr), None, None) => Ok(Self::Network(cidr.parse()?)),
            (None, Some(service), None) => Ok(Self::Service(service.clone())),
            (None, None, Some(pods)) => Ok(Self::Pods(pods.clone().try_into()?)),
            _ => Err(ProfileError::Peer),
        }
    }

    /// What it is found in.
    const fn kinds(&self) -> &'static [Neighbour] {
        match self {
            Self::Network(_) => &[],
            Self::Service(_) => &[Neighbour::Services, Neighbour::Slices],
            Self::Pods(_) => &[Neighbour::Pods],
        }
    }
}

/// Kinds of objects that peers are found in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Neighbour {
    /// Services.
    Services,
    /// EndpointSlices: where headless Services lead.
    Slices,
    /// Pods of all nodes.
    Pods,
}

/// One watch that finding peers needs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source {
    /// In this namespace.
    pub namespace: String,
    /// Of this kind.
    pub kind: Neighbour,
}

/// The watches that profiles' peers need, in the first `most` namespaces by name. A profile is looked ahead
/// for: its peers shall be known when it starts.
pub fn wanted<'a>(profiles: impl Iterator<Item = &'a Profile>, most: usize) -> BTreeSet<Source> {
    let mut kinds: BTreeMap<&str, BTreeSet<Neighbour>> = BTreeMap::new();
    for profile in profiles.filter(|profile| !matches!(profile.life, Life::Ended { .. })) {
        let needed = profile.peers.iter().flat_map(Peer::kinds);
        for kind in needed {
            kinds.entry(&profile.name.namespace).or_default().insert(*kind);
        }
    }
    let sources = kinds.into_iter().take(most).flat_map(|(namespace, kinds)| {
        kinds.into_iter().map(move |kind| Source { namespace: namespace.to_owned(), kind })
    });
    sources.collect()
}

/// An event of a watch that peers are found by.
#[expect(clippy::large_enum_variant, reason = "it lives on the stack for the length of one call")]
#[derive(Debug)]
pub enum NeighbourEvent {
    /// Of a Service.
    Service(Event<Service>),
    /// Of an EndpointSlice.
    Slice(Event<EndpointSlice>),
    /// Of a pod of any node.
    Pod(Event<Pod>),
}

/// What peers are found in, by namespace.
#[derive(Clone, Debug, Default)]
pub struct Neighbourhood(BTreeMap<String, Neighbours>);

/// What peers are found in, in one namespace.
#[derive(Clone, Debug, Default)]
struct Neighbours {
    services: Feed<ServicePeer>,
    slices: Feed<SlicePeer>,
    pods: Feed<PodTarget>,
}

/// A Service as its clients see it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ServicePeer {
    addresses: BTreeSet<IpAddr>,
    /// Its name leads to its pods, and to no address of its own.
    is_headless: bool,
}

/// A part of the addresses that a Service leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
struct SlicePeer {
    service: String,
    addresses: BTreeSet<IpAddr>,
}

impl Neighbourhood {
    /// Takes in an event; returns whether something has changed by it.
    pub fn take(&mut self, namespace: String, event: NeighbourEvent) -> bool {
        let neighbours = self.0.entry(namespace).or_default();
        match event {
            NeighbourEvent::Service(event) => neighbours.services.take(event, ServicePeer::of),
            NeighbourEvent::Slice(event) => neighbours.slices.take(event, SlicePeer::of),
            NeighbourEvent::Pod(event) => neighbours.pods.take(event, PodTarget::of),
        }
    }

    /// Forgets what a watch that has ended has said.
    pub fn forget(&mut self, source: &Source) {
        let Some(neighbours) = self.0.get_mut(&source.namespace) else { return };
        match source.kind {
            Neighbour::Services => neighbours.services = Feed::default(),
            Neighbour::Slices => neighbours.slices = Feed::default(),
            Neighbour::Pods => neighbours.pods = Feed::default(),
        }
        let Neighbours { services, slices, pods } = neighbours;
        if services.is_untouched() && slices.is_untouched() && pods.is_untouched() {
            self.0.remove(&source.namespace);
        }
    }
}

impl Neighbours {
    const fn is_complete(&self, kind: Neighbour) -> bool {
        match kind {
            Neighbour::Services => self.services.is_complete,
            Neighbour::Slices => self.slices.is_complete,
            Neighbour::Pods => self.pods.is_complete,
        }
    }

    fn of_service(&self, name: &ObjectName) -> BTreeSet<IpAddr> {
        let Some(service) = self.services.objects.get(name) else { return BTreeSet::new() };
        if !service.is_headless {
            return service.addresses.clone();
        }
        let slices = self.slices.objects.values().filter(|slice| slice.service == name.name);
        slices.flat_map(|slice| &slice.addresses).chain(&service.addresses).copied().collect()
    }

    fn of_pods<'a>(&'a self, selector: &'a Selector) -> impl Iterator<Item = IpAddr> + 'a {
        let pods = self.pods.objects.values().filter(|pod| selector.matches(&pod.labels));
        pods.flat_map(|pod| &pod.addresses).copied()
    }
}

impl ServicePeer {
    /// A client sees its cluster, external and load balancer addresses. One without any, such as an ExternalName, is kept
    /// as one that has none.
    fn of(service: &Service) -> Option<Self> {
        let spec = service.spec.as_ref()?;
        let cluster = || spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
        let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        let ingress = balancer.into_iter().flat_map(|balancer| balancer.ingress.iter().flatten());
        let listed = cluster().chain(spec.external_ips.iter().flatten());
        let addresses = listed.chain(ingress.filter_map(|one| one.ip.as_ref()));
        Some(Self {
            addresses: addresses.filter_map(|ip| ip.parse().ok()).collect(),
            is_headless: cluster().any(|ip| ip == "None"),
        })
    }
}

impl SlicePeer {
    /// Endpoints that are not ready count, too: else a fault that makes one so would end by itself.
    fn of(slice: &EndpointSlice) -> Option<Self> {
        let service = slice.labels().get(SERVICE_NAME)?.clone();
        let addresses = slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
        Some(Self { service, addresses: addresses.filter_map(|ip| ip.parse().ok()).collect() })
    }
}

/// The addresses of a profile's peers; empty: it names none, and anybody is meant. None: the lists that say it have not
/// arrived yet.
///
/// # Errors
/// When it names peers and none of them has an address: then nobody is meant, never anybody.
pub fn find(
    profile: &Profile,
    world: &World,
    watched: &BTreeSet<Source>,
) -> Result<Option<BTreeSet<Network>>, Problem> {
    let namespace = &profile.name.namespace;
    let nobody = Neighbours::default();
    let neighbours = world.neighbours.0.get(namespace).unwrap_or(&nobody);
    let mut found = BTreeSet::new();
    for peer in &profile.peers {
        let source = |kind: &Neighbour| Source { namespace: namespace.clone(), kind: *kind };
        if !peer.kinds().iter().all(|kind| watched.contains(&source(kind))) {
            return Err(Problem::Namespaces);
        }
        if !peer.kinds().iter().all(|kind| neighbours.is_complete(*kind)) {
            return Ok(None);
        }
        match peer {
            Peer::Network(network) => drop(found.insert(*network)),
            Peer::Service(name) => {
                let name = ObjectName { namespace: namespace.clone(), name: name.clone() };
                found.extend(neighbours.of_service(&name).into_iter().map(Network::host));
            }
            Peer::Pods(selector) => found.extend(neighbours.of_pods(selector).map(Network::host)),
        }
    }
    if found.is_empty() && !profile.peers.is_empty() {
        return Err(Problem::Peers);
    }
    Ok(Some(found))
}

#[cfg(test)]
pub(crate) mod tests;
