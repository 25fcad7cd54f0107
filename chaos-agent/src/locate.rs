//! Which interfaces get hooks, and which of them lead to a target. Pure; [`netlink`] reads what it works on.
//!
//! A pod on this node is found by its route, the narrowest of all tables: the plugins `ptp` and kindnet make one to
//! its address alone, a bridge plugin one to the bridge, whose ports are then hooked in its place. Something outside
//! is found by the best route of each table, all next hops of a multipath route included.

pub mod netlink;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use edge_api::quantity::Network;

use crate::kernel::{Interface, Layer};

/// Why an interface has no hooks: its packets begin with something else than Ethernet or IP, or a packet that was held back
/// would not find its way onto it.
pub const NO_LINK_HEADER: &str =
    "its packets have no Ethernet header, and it is no tun, WireGuard or point-to-point tunnel";

/// What an interface is, as far as hooks are concerned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum LinkKind {
    /// A real device, a veth, and all else that carries Ethernet frames of its own.
    #[default]
    Plain,
    /// The loopback interface.
    Loopback,
    /// A bridge.
    Bridge,
    /// A bond or team.
    Bond,
    /// A VLAN, MACVLAN, IPVLAN or MACsec interface, on top of another one.
    Stacked,
    /// A VRF: its members are hooked.
    Vrf,
    /// An IFB: what comes there was decided before it was redirected.
    Ifb,
    /// Its packets begin with IP: a tun device, WireGuard, a tunnel to one other end.
    Ip,
    /// Its packets begin with some other header than Ethernet's, or its driver wants to know more of each packet than what
    /// is in it.
    NoEthernet,
    /// An end of the delay line or the splitter: packets there are on their way between hooks.
    Ours,
}

/// An interface of this network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: LinkKind,
    /// The bridge, bond, VRF or other interface that it is a port of.
    pub master: Option<u32>,
    /// The interface below it, if that is in this namespace.
    pub lower: Option<u32>,
    /// It is a veth or netkit.
    pub is_pair: bool,
    /// It was set up, with or without a carrier.
    pub is_up: bool,
    /// It is up, has a carrier, and the kernel has noticed (IFF_RUNNING).
    pub is_running: bool,
}

/// A unicast route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Its table.
    pub table: u32,
    /// Where to.
    pub network: Network,
    /// By which interfaces: several for a multipath route.
    pub interfaces: Vec<u32>,
}

/// Interfaces, addresses and routes of this network namespace at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// Interfaces by index.
    pub links: BTreeMap<u32, Link>,
    /// Own addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// Unicast routes of all tables.
    pub routes: Vec<Route>,
}

/// Whether packets of a network meet our hooks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// No route leads there.
    NoRoute,
    /// A route leads there by an interface without a hook.
    NoHook {
        /// Its name.
        interface: String,
        /// Why it has none, if that is by design.
        because: Option<&'static str>,
    },
    /// Every way there is hooked, by these interfaces.
    Hooked(BTreeSet<u32>),
}

/// What others make of an interface.
trait Others {
    /// It is a bridge with ends of pods among its ports: these are hooked, since what goes from port to port never passes the
    /// bridge's own interface. (Masters of other kinds can have such ports, too.)
    fn are_pods_ports(&self, index: u32) -> bool;
    /// There is another one upon it.
    fn are_upon(&self, index: u32) -> bool;
    /// Some route leads by it. An interface under a VLAN then carries packets of its own: it is hooked, and it sees those of its
    /// VLANs too.
    fn lead_by(&self, index: u32) -> bool;
}

/// For a question about one interface.
impl Others for Topology {
    fn are_pods_ports(&self, index: u32) -> bool {
        self.masters_of_pods().any(|master| master == index)
    }

    fn are_upon(&self, index: u32) -> bool {
        self.lower().any(|lower| lower == index)
    }

    fn lead_by(&self, index: u32) -> bool {
        self.used().any(|used| used == index)
    }
}

/// For a question about all of them.
struct Ties {
    masters_of_pods: BTreeSet<u32>,
    lower: BTreeSet<u32>,
    used: BTreeSet<u32>,
}

impl Others for Ties {
    fn are_pods_ports(&self, index: u32) -> bool {
        self.masters_of_pods.contains(&index)
    }

    fn are_upon(&self, index: u32) -> bool {
        self.lower.contains(&index)
    }

    fn lead_by(&self, index: u32) -> bool {
        self.used.contains(&index)
    }
}

/// What the kernel has told of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkChange {
    /// It is there, and such.
    Is(u32, Link),
    /// It is gone.
    Gone(u32),
}

impl Topology {
    /// Takes in what was told since interfaces were read. Telling it again does no harm.
    pub fn tell(&mut self, changes: &[LinkChange]) {
        for change in changes {
            match change {
                LinkChange::Is(index, link) => drop(self.links.insert(*index, link.clone())),
                LinkChange::Gone(index) => drop(self.links.remove(index)),
            }
        }
    }

    /// The interfaces that shall have hooks: of those that a packet passes one after the other only one, or it
    /// would meet its faults twice.
    #[must_use]
    pub fn hooked(&self) -> BTreeSet<u32> {
        let ties = Ties {
            masters_of_pods: self.masters_of_pods().collect(),
            lower: self.lower().collect(),
            used: self.used().collect(),
        };
        self.links.keys().copied().filter(|index| self.is_hooked_with(*index, &ties)).collect()
    }

    /// An interface by both its names.
    #[must_use]
    pub fn interface(&self, index: u32) -> Option<Interface> {
        self.links.get(&index).map(|link| Interface { index, name: link.name.clone() })
    }

    /// How packets of this interface begin.
    #[must_use]
    pub fn layer(&self, index: u32) -> Layer {
        match self.links.get(&index).map(|link| link.kind) {
            Some(LinkKind::Ip) => Layer::Ip,
            _ => Layer::Ethernet,
        }
    }

    fn is_hooked(&self, index: u32) -> bool {
        self.is_hooked_with(index, self)
    }

    fn is_hooked_with(&self, index: u32, others: &impl Others) -> bool {
        let Some(link) = self.links.get(&index) else { return false };
        match link.kind {
            LinkKind::Loopback | LinkKind::Vrf | LinkKind::Ifb | LinkKind::NoEthernet | LinkKind::Ours => {
                return false;
            }
            LinkKind::Bridge if others.are_pods_ports(index) => return false,
            LinkKind::Stacked if link.lower.is_some_and(|lower| others.lead_by(lower)) => return false,
            _ => {}
        }
        if link.master.is_some_and(|master| self.takes_over(master, others)) {
            return false;
        }
        !others.are_upon(index) || others.lead_by(index)
    }

    /// Whether this master is hooked in place of its ports.
    fn takes_over(&self, master: u32, others: &impl Others) -> bool {
        match self.links.get(&master).map(|link| link.kind) {
            Some(LinkKind::Bridge) => !others.are_pods_ports(master),
            // Members of a VRF are hooked themselves.
            Some(LinkKind::Vrf) | None => false,
            // A bond, or a master of a kind that is not known here, such as `ovs-system`: packets of its ports pass
            // nobody knows where, so it is the master that is hooked, or told not to be.
            Some(_) => true,
        }
    }

    /// Masters of ends of pods.
    fn masters_of_pods(&self) -> impl Iterator<Item = u32> {
        self.links.values().filter(|link| link.is_pair).filter_map(|link| link.master)
    }

    /// Interfaces under another one.
    fn lower(&self) -> impl Iterator<Item = u32> {
        self.links.values().filter(|link| link.kind == LinkKind::Stacked).filter_map(|link| link.lower)
    }

    /// Interfaces by which routes lead, but for those that every interface has.
    fn used(&self) -> impl Iterator<Item = u32> {
        let routes = self.routes.iter().filter(|route| !is_link_local(route.network));
        routes.flat_map(|route| &route.interfaces).copied()
    }

    /// How packets from and to a network outside the cluster pass this node. `attached` are the interfaces that
    /// really have hooks.
    #[must_use]
    pub fn way(&self, network: Network, attached: &BTreeSet<u32>) -> Way {
        let leaving = self.leaving(network);
        if leaving.is_empty() { Way::NoRoute } else { self.by(leaving, attached) }
    }

    /// How packets from and to a pod of this node pass it: by the narrowest route of all tables, and only if that ends
    /// at pods.
    #[must_use]
    pub fn way_to_pod(&self, pod: Network, attached: &BTreeSet<u32>) -> Way {
        let covering = || self.routes.iter().filter(|route| route.network.covers(pod));
        let Some(longest) = covering().map(|route| route.network.prefix()).max() else { return Way::NoRoute };
        let best = covering().filter(|route| route.network.prefix() == longest);
        let leaving: BTreeSet<u32> = best.flat_map(|route| &route.interfaces).copied().collect();
        // A default route leads to the world outside, also where that is a veth (nodes that are containers).
        match leaving.iter().find(|index| longest == 0 || !self.is_of_pods(**index)) {
            Some(index) => Way::NoHook {
                interface: self.name(*index),
                because: Some("it is no pod's interface, and no narrower route leads to the pod"),
            },
            None => self.by(leaving, attached),
        }
    }

    /// One end of a pair, or a master of such.
    fn is_of_pods(&self, index: u32) -> bool {
        self.links.get(&index).is_some_and(|link| link.is_pair)
            || self.links.values().any(|port| port.master == Some(index) && port.is_pair)
    }

    fn by(&self, leaving: BTreeSet<u32>, attached: &BTreeSet<u32>) -> Way {
        let mut hooks = BTreeSet::new();
        for index in leaving {
            let behind = self.hooks_of(index);
            if behind.is_empty() || !behind.is_subset(attached) {
                let missing = behind.iter().find(|hook| !attached.contains(hook)).copied().unwrap_or(index);
                return self.without_hook(missing);
            }
            hooks.extend(behind);
        }
        Way::Hooked(hooks)
    }

    fn without_hook(&self, index: u32) -> Way {
        let link = self.links.get(&index);
        let because = match link.map(|link| link.kind) {
            Some(LinkKind::NoEthernet) => Some(NO_LINK_HEADER),
            Some(LinkKind::Loopback) => Some("loopback is never touched"),
            Some(LinkKind::Ifb) => Some("it is an IFB"),
            _ => None,
        };
        Way::NoHook { interface: self.name(index), because }
    }

    fn name(&self, index: u32) -> String {
        self.links.get(&index).map_or_else(|| format!("interface {index}"), |link| link.name.clone())
    }

    /// The interfaces that are hooked in place of this one, once it is not hooked itself.
    #[must_use]
    pub fn successors(&self, index: u32) -> BTreeSet<u32> {
        let above = self.links.iter().filter(|(_, link)| link.lower == Some(index)).map(|(upper, _)| *upper);
        self.hooks_of(index).into_iter().chain(above.filter(|upper| self.is_hooked(*upper))).collect()
    }

    /// Interfaces that some table's best route to the network, or a part of it, leaves by.
    fn leaving(&self, network: Network) -> BTreeSet<u32> {
        let mut best: BTreeMap<u32, u8> = BTreeMap::new();
        for route in self.routes.iter().filter(|route| route.network.covers(network)) {
            let longest = best.entry(route.table).or_default();
            *longest = route.network.prefix().max(*longest);
        }
        let is_taken = |route: &&Route| {
            let is_best = best.get(&route.table) == Some(&route.network.prefix());
            route.network.covers(network) && is_best || network.covers(route.network)
        };
        self.routes.iter().filter(is_taken).flat_map(|route| &route.interfaces).copied().collect()
    }

    /// The hooks that a packet meets which leaves by this interface: its own, those of the ports of an open
    /// bridge, or that of the interface below.
    fn hooks_of(&self, index: u32) -> BTreeSet<u32> {
        if self.is_hooked(index) {
            return BTreeSet::from([index]);
        }
        let Some(link) = self.links.get(&index) else { return BTreeSet::new() };
        match link.kind {
            LinkKind::Bridge => {
                let ports = self.links.iter().filter(|(_, port)| port.master == Some(index));
                ports.map(|(port, _)| *port).filter(|port| self.is_hooked(*port)).collect()
            }
            LinkKind::Stacked => link.lower.filter(|lower| self.is_hooked(*lower)).into_iter().collect(),
            _ => link.master.filter(|master| self.is_hooked(*master)).into_iter().collect(),
        }
    }
}

/// Every interface has such a route, used or not.
fn is_link_local(network: Network) -> bool {
    matches!(network.address(), IpAddr::V6(ip) if ip.is_unicast_link_local())
}

#[cfg(test)]
mod tests;
