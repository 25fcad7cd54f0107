//! Which addresses may be reached, and on which node an address is. The rules are pure; [`Reach`] keeps the
//! cluster's own ranges up to date for them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use edge_api::quantity::Network;
use futures::{Stream, stream};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::networking::v1::ServiceCIDR;
use thiserror::Error;
use tokio::sync::broadcast::{self, error::RecvError};

/// Why an address or network may not be reached. The texts are for people, in conditions.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NotAllowed {
    /// A pod of somebody else.
    #[error("{0} is a pod of namespace {1}: endpoints may be pods of their own namespace only")]
    ForeignPod(IpAddr, String),
    /// Not in `--allow-cidrs`.
    #[error("{0} is not in --allow-cidrs of the operator ({1})")]
    NotListed(String, String),
    /// In the cluster's own ranges, and nobody allowed it.
    #[error(
        "{0} overlaps {2}, {1} of this cluster: only addresses outside of it are allowed, unless the operator's \
         --allow-cidrs names them"
    )]
    OwnRange(String, &'static str, Network),
    /// Not all of the cluster's own ranges, or not all of its pods, found room here.
    #[error(
        "{0}: there are more Nodes, ServiceCIDRs or pods than --max-objects, so that it may be one of the cluster; raise it, or name \
         {0} in --allow-cidrs"
    )]
    RangesUnknown(String),
    /// Loopback, link-local, multicast or unspecified.
    #[error("{0} is or holds {1}, which only the operator's --allow-cidrs can allow")]
    Special(String, &'static str),
}

/// Where a pod's address is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodPlace {
    /// Namespace of the pod.
    pub namespace: String,
    /// Its node.
    pub node: String,
}

/// The cluster's own ranges, with what each is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges {
    own: BTreeSet<(Network, &'static str)>,
    /// Some are left out.
    is_cut: bool,
}

impl Ranges {
    /// Out of the cluster's objects: pod ranges and addresses of nodes, and Service ranges.
    pub fn of(nodes: &[Arc<Node>], services: &[Arc<ServiceCIDR>]) -> Self {
        let mut ranges = BTreeSet::new();
        for node in nodes {
            let spec = node.spec.as_ref();
            let pods = spec.and_then(|spec| spec.pod_cidrs.clone()).unwrap_or_default();
            ranges.extend(pods.iter().filter_map(|cidr| Some((cidr.parse().ok()?, "a pod range"))));
            let status = node.status.as_ref();
            let addresses = status.and_then(|status| status.addresses.clone()).unwrap_or_default();
            let parsed = addresses.iter().filter_map(|address| address.address.parse().ok());
            ranges.extend(parsed.map(|ip| (Network::host(ip), "a node")));
        }
        for service in services {
            let cidrs = service.spec.as_ref().and_then(|spec| spec.cidrs.clone()).unwrap_or_default();
            ranges.extend(cidrs.iter().filter_map(|cidr| Some((cidr.parse().ok()?, "a Service range"))));
        }
        Self { own: ranges, is_cut: false }
    }

    /// These, of which some are left out, or none is.
    #[must_use]
    pub fn cut(self, is_cut: bool) -> Self {
        Self { is_cut, ..self }
    }

    fn overlapping(&self, network: Network) -> Option<(Network, &'static str)> {
        self.own.iter().copied().find(|(range, _)| range.overlaps(network))
    }
}

/// May this network be reached? `allowed` is `--allow-cidrs`; without it everything outside the cluster's own
/// ranges, and outside loopback, link-local and multicast, is allowed.
///
/// # Errors
/// When it may not, with the sentence for the user.
pub fn check_network(
    network: Network,
    allowed: Option<&[Network]>,
    ranges: &Ranges,
) -> Result<(), NotAllowed> {
    let name = name(network);
    if let Some(allowed) = allowed {
        if allowed.iter().any(|listed| listed.covers(network)) {
            return Ok(());
        }
        let listed: Vec<String> = allowed.iter().map(ToString::to_string).collect();
        return Err(NotAllowed::NotListed(name, listed.join(", ")));
    }
    if let Some((range, kind)) = ranges.overlapping(network) {
        return Err(NotAllowed::OwnRange(name, kind, range));
    }
    if ranges.is_cut {
        return Err(NotAllowed::RangesUnknown(name));
    }
    match special(network) {
        Some(kind) => Err(NotAllowed::Special(name, kind)),
        None => Ok(()),
    }
}

fn name(network: Network) -> String {
    if network.is_host() { network.address().to_string() } else { network.to_string() }
}

fn special(network: Network) -> Option<&'static str> {
    const SPECIAL: [(&str, &str); 8] = [
        ("127.0.0.0/8", "a loopback address"),
        ("::1/128", "a loopback address"),
        ("169.254.0.0/16", "a link-local address"),
        ("fe80::/10", "a link-local address"),
        ("224.0.0.0/3", "a multicast or reserved address"),
        ("ff00::/8", "a multicast address"),
        ("0.0.0.0/8", "an unspecified address"),
        ("::/128", "an unspecified address"),
    ];
    let overlaps = |text: &str| text.parse::<Network>().is_ok_and(|range| range.overlaps(network));
    SPECIAL.iter().find(|(text, _)| overlaps(text)).map(|(_, kind)| *kind)
}

/// The pods that are known.
#[derive(Default)]
struct Pods {
    places: HashMap<IpAddr, PodPlace>,
    /// Some are left out.
    are_cut: bool,
}

/// What is reachable now, as the last watch events say. Shared by all controllers.
pub struct Reach {
    allowed: Option<Vec<Network>>,
    ranges: RwLock<Arc<Ranges>>,
    pods: RwLock<Pods>,
    moved: broadcast::Sender<Arc<HashSet<IpAddr>>>,
}

impl Reach {
    /// Nothing known yet but `--allow-cidrs`; a slow reader is told of the last `moves` of addresses.
    pub fn new(allowed: Option<Vec<Network>>, moves: usize) -> Self {
        let (moved, _) = broadcast::channel(moves);
        Self { allowed, ranges: RwLock::default(), pods: RwLock::default(), moved }
    }

    /// Moves that some reader was not told of yet.
    pub fn untold(&self) -> usize {
        self.moved.len()
    }

    /// Does the answer depend on the cluster's own ranges?
    pub fn needs_ranges(&self) -> bool {
        self.allowed.is_none()
    }

    /// Replaces the cluster's ranges.
    pub fn set_ranges(&self, ranges: Ranges) {
        *self.ranges.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(ranges);
    }

    /// Replaces what is known of pods. `are_cut`: there are more, so that any other address may be a pod's.
    pub fn set_pods(&self, pods: &[Arc<Pod>], are_cut: bool) {
        let next: HashMap<_, _> = pods.iter().flat_map(|pod| places(pod)).collect();
        let mut known = self.pods.write().unwrap_or_else(PoisonError::into_inner);
        let before = &known.places;
        let either = before.keys().chain(next.keys());
        let moved: HashSet<IpAddr> = either.filter(|ip| before.get(*ip) != next.get(*ip)).copied().collect();
        *known = Pods { places: next, are_cut };
        drop(known);
        if !moved.is_empty() {
            // A send fails only when nobody listens.
            let _nobody = self.moved.send(Arc::new(moved));
        }
    }

    /// From now on, each time the addresses that came to a pod, left one or changed hands; none when some were
    /// missed, so that it may be any.
    pub fn moves(&self) -> impl Stream<Item = Option<Arc<HashSet<IpAddr>>>> + Send + use<> {
        stream::unfold(self.moved.subscribe(), |mut receiver| async move {
            let moved = match receiver.recv().await {
                Ok(moved) => Some(moved),
                Err(RecvError::Lagged(_)) => None,
                Err(RecvError::Closed) => return None,
            };
            Some((moved, receiver))
        })
    }

    /// The pod that has this address now. Pods on the host network have none of their own.
    pub fn pod(&self, address: IpAddr) -> Option<PodPlace> {
        self.pods.read().unwrap_or_else(PoisonError::into_inner).places.get(&address).cloned()
    }

    /// May anybody reach this network? A pod range never is, unless `--allow-cidrs` names it.
    ///
    /// # Errors
    /// When it may not, with the sentence for the user.
    pub fn network(&self, network: Network) -> Result<(), NotAllowed> {
        let ranges = self.ranges.read().unwrap_or_else(PoisonError::into_inner).clone();
        check_network(network, self.allowed.as_deref(), &ranges)?;
        let pods_are_cut = self.pods.read().unwrap_or_else(PoisonError::into_inner).are_cut;
        if self.allowed.is_none() && pods_are_cut {
            return Err(NotAllowed::RangesUnknown(name(network)));
        }
        Ok(())
    }

    /// May an object of `namespace` reach this address? Gives the node, when it is a pod of that namespace.
    ///
    /// # Errors
    /// When it may not, with the sentence for the user.
    pub fn address(&self, namespace: &str, address: IpAddr) -> Result<Option<String>, NotAllowed> {
        // `::ffff:10.244.1.5` is the pod, and no address outside of the cluster's ranges.
        let address = address.to_canonical();
        match self.pod(address) {
            Some(pod) if pod.namespace == namespace => Ok(Some(pod.node)),
            Some(pod) if self.allowed.is_none() => Err(NotAllowed::ForeignPod(address, pod.namespace)),
            Some(pod) => self.network(Network::host(address)).map(|()| Some(pod.node)),
            None => self.network(Network::host(address)).map(|()| None),
        }
    }
}

/// The addresses of a pod that runs and has a network of its own.
pub fn places(pod: &Pod) -> impl Iterator<Item = (IpAddr, PodPlace)> + use<> {
    let spec = pod.spec.as_ref();
    let status = pod.status.as_ref();
    let ended = status
        .and_then(|status| status.phase.as_deref())
        .is_some_and(|phase| phase == "Succeeded" || phase == "Failed");
    let host = spec.and_then(|spec| spec.host_network).unwrap_or(false);
    let node = spec.and_then(|spec| spec.node_name.clone());
    let namespace = pod.metadata.namespace.clone();
    let place = node.zip(namespace).map(|(node, namespace)| PodPlace { namespace, node });
    let ips = status.and_then(|status| status.pod_ips.clone()).unwrap_or_default();
    place.filter(|_| !host && !ended).into_iter().flat_map(move |place| {
        let parsed: Vec<IpAddr> = ips.iter().filter_map(|ip| ip.ip.parse().ok()).collect();
        let parsed = parsed.into_iter().map(|ip| ip.to_canonical());
        parsed.map(move |ip| (ip, place.clone()))
    })
}

/// Removes from a pod what neither devices nor fault profiles need: what stays is its metadata without
/// annotations, node, host network, phase and addresses.
pub fn prune_pod(pod: &mut Pod) {
    pod.metadata.annotations = None;
    if let Some(spec) = pod.spec.take() {
        pod.spec = Some(k8s_openapi::api::core::v1::PodSpec {
            node_name: spec.node_name,
            host_network: spec.host_network,
            ..Default::default()
        });
    }
    if let Some(status) = pod.status.take() {
        pod.status = Some(k8s_openapi::api::core::v1::PodStatus {
            phase: status.phase,
            pod_ip: status.pod_ip,
            pod_ips: status.pod_ips,
            ..Default::default()
        });
    }
}

/// Removes from a node what neither controller needs: what stays is metadata, pod ranges and addresses.
pub fn prune_node(node: &mut Node) {
    node.metadata.annotations = None;
    if let Some(status) = node.status.take() {
        node.status = Some(k8s_openapi::api::core::v1::NodeStatus {
            addresses: status.addresses,
            ..Default::default()
        });
    }
}

#[cfg(test)]
mod tests;
