//! Reads interfaces, addresses and routes by netlink, and tells when any of them may have changed.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use edge_api::quantity::Network;
use futures::channel::mpsc::UnboundedReceiver;
use futures::{StreamExt as _, TryStreamExt as _};
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::SocketAddr;
use rtnetlink::{Handle, MulticastGroup};
use thiserror::Error;
use tokio::task::JoinSet;

use crate::behind;

use super::{Link, LinkChange, LinkKind, Route, Topology};

/// A netlink call that failed.
#[derive(Debug, Error)]
pub enum NetlinkError {
    /// No socket.
    #[error("no netlink socket: {0}")]
    Socket(#[from] std::io::Error),
    /// A dump failed.
    #[error("reading {what} by netlink: {source}")]
    Dump {
        /// What was read.
        what: &'static str,
        /// What the kernel said.
        source: rtnetlink::Error,
    },
    /// The connection's task has ended.
    #[error("the netlink connection has ended")]
    Closed,
}

/// Every kind of change that can move a target to another interface, or take a hook off one.
const GROUPS: [MulticastGroup; 6] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Tc,
];

/// What netlink has told.
#[derive(Debug, Default)]
pub struct Told {
    /// What it says of interfaces, in its order.
    pub links: Vec<LinkChange>,
    /// Interfaces at which qdiscs or filters have changed.
    pub filters: BTreeSet<u32>,
    /// It was about nothing else.
    pub is_of_filters_alone: bool,
}

impl Told {
    /// Interfaces that were gone, and may be back.
    #[must_use]
    pub fn gone(&self) -> BTreeSet<u32> {
        let gone = self.links.iter().filter_map(|change| match change {
            LinkChange::Gone(index) => Some(*index),
            LinkChange::Is(..) => None,
        });
        gone.collect()
    }

    fn add(&mut self, message: NetlinkMessage<RouteNetlinkMessage>) {
        if let Some(index) = of_filters(&message) {
            self.filters.insert(index);
            return;
        }
        self.is_of_filters_alone = false;
        self.links.extend(change(message));
    }
}

/// The interface whose qdiscs or filters a message is about.
fn of_filters(message: &NetlinkMessage<RouteNetlinkMessage>) -> Option<u32> {
    use RouteNetlinkMessage::{
        DelQueueDiscipline, DelTrafficChain, DelTrafficClass, DelTrafficFilter, NewQueueDiscipline,
        NewTrafficChain, NewTrafficClass, NewTrafficFilter,
    };
    let NetlinkPayload::InnerMessage(message) = &message.payload else { return None };
    match message {
        NewQueueDiscipline(told)
        | DelQueueDiscipline(told)
        | NewTrafficClass(told)
        | DelTrafficClass(told)
        | NewTrafficFilter(told)
        | DelTrafficFilter(told)
        | NewTrafficChain(told)
        | DelTrafficChain(told) => u32::try_from(told.header.index).ok(),
        _ => None,
    }
}

/// Connections in the network namespace in which they were made: one on which the kernel is asked, and one on which it tells. Where it
/// tells very much at once, some of that is lost (`ENOBUFS`, which is told as a change of all); an answer must not be, since whoever asked
/// would wait for it for ever.
pub struct Netlink {
    handle: Handle,
    events: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
}

impl Netlink {
    /// Connects; each connection is a task of `tasks`.
    ///
    /// # Errors
    /// When there is no socket.
    pub fn connect(tasks: &mut JoinSet<anyhow::Result<()>>) -> Result<Self, NetlinkError> {
        let (asking, handle, _none) = rtnetlink::new_connection()?;
        let (telling, _unused, events) = rtnetlink::new_multicast_connection(&GROUPS)?;
        for connection in [asking, telling] {
            tasks.spawn(async move {
                connection.await;
                Err(anyhow::Error::from(NetlinkError::Closed))
            });
        }
        Ok(Self { handle, events })
    }

    /// Waits for a change, and takes all that are queued: one look covers them. Returns what they say.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn changed(&mut self) -> Result<Told, NetlinkError> {
        let (first, _) = self.events.next().await.ok_or(NetlinkError::Closed)?;
        let mut told = Told { is_of_filters_alone: true, ..Told::default() };
        told.add(first);
        while let Ok((message, _)) = self.events.try_recv() {
            told.add(message);
        }
        Ok(told)
    }

    /// The connection on which the kernel is asked.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }
}

/// Reads interfaces, addresses and routes.
///
/// # Errors
/// When a dump fails.
pub async fn read(handle: &Handle) -> Result<Topology, NetlinkError> {
    let failed = |what| move |source| NetlinkError::Dump { what, source };
    let links: Vec<_> = handle.link().get().execute().try_collect().await.map_err(failed("interfaces"))?;
    let addresses: Vec<_> =
        handle.address().get().execute().try_collect().await.map_err(failed("addresses"))?;
    let mut routes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut all = RouteMessage::default();
        all.header.address_family = family;
        let found: Vec<_> =
            handle.route().get(all).execute().try_collect().await.map_err(failed("routes"))?;
        routes.extend(found.iter().filter_map(route));
    }
    routes.sort_unstable();
    let own = addresses.iter().filter_map(own_address).collect();
    Ok(Topology { links: links.iter().map(link).collect(), addresses: own, routes })
}

/// What an event says of an interface. Of those of another family one is about a bridge's port as such, whose end is not the
/// interface's; and one without a name is about something else that it has, such as its radio.
fn change(message: NetlinkMessage<RouteNetlinkMessage>) -> Option<LinkChange> {
    let NetlinkPayload::InnerMessage(message) = message.payload else { return None };
    match message {
        RouteNetlinkMessage::NewLink(told) if told.header.interface_family == AddressFamily::Unspec => {
            let (index, link) = link(&told);
            (!link.name.is_empty()).then_some(LinkChange::Is(index, link))
        }
        RouteNetlinkMessage::DelLink(told) if told.header.interface_family == AddressFamily::Unspec => {
            Some(LinkChange::Gone(told.header.index))
        }
        _ => None,
    }
}

/// On a point-to-point interface `IFA_ADDRESS` is the other end's, and ours is `IFA_LOCAL` (rtnetlink(7)).
fn own_address(message: &AddressMessage) -> Option<IpAddr> {
    let mut listed = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => return Some(*ip),
            AddressAttribute::Address(ip) => listed = Some(*ip),
            _ => {}
        }
    }
    listed
}

fn link(message: &LinkMessage) -> (u32, Link) {
    let mut link = Link::default();
    let mut kind = None;
    let (mut lower, mut is_elsewhere) = (None, false);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Controller(master) => link.master = Some(*master),
            LinkAttribute::Link(index) => lower = Some(*index),
            LinkAttribute::LinkNetNsId(_) => is_elsewhere = true,
            LinkAttribute::LinkInfo(infos) => {
                kind = kind.or_else(|| {
                    infos.iter().find_map(|info| match info {
                        LinkInfo::Kind(kind) => Some(kind.clone()),
                        _ => None,
                    })
                });
            }
            _ => {}
        }
    }
    link.is_pair = matches!(kind, Some(InfoKind::Veth | InfoKind::Netkit));
    link.is_up = message.header.flags.contains(LinkFlags::Up);
    link.is_running = message.header.flags.contains(LinkFlags::Running);
    let has_one_far_end = message.header.flags.contains(LinkFlags::Pointopoint);
    link.kind = link_kind(message.header.link_layer_type, kind.as_ref(), has_one_far_end);
    if behind::is_ours(&link.name) {
        link.kind = LinkKind::Ours;
    }
    link.lower = lower.filter(|_| !is_elsewhere && link.kind == LinkKind::Stacked);
    (message.header.index, link)
}

/// A tunnel without one far end is told for each packet where to send it, by something beside the packet (its route's next hop, or
/// metadata), which does not survive the delay line; and some put a header of their own in front.
///
/// The types whose packets begin with IP are those that the kernel itself takes for such (`dev_is_mac_header_xmit` in
/// include/linux/if_arp.h, Linux 6.1; that has PPP only from 6.5 on).
const fn link_kind(layer: LinkLayerType, kind: Option<&InfoKind>, has_one_far_end: bool) -> LinkKind {
    use LinkLayerType::{Ip6gre, Ipgre, None as NoHeader, Rawip, Sit, Tunnel, Tunnel6};
    match (layer, kind) {
        (LinkLayerType::Loopback, _) => LinkKind::Loopback,
        (_, Some(InfoKind::Bridge)) => LinkKind::Bridge,
        (_, Some(InfoKind::Bond | InfoKind::Team)) => LinkKind::Bond,
        (_, Some(InfoKind::Vrf)) => LinkKind::Vrf,
        (_, Some(InfoKind::Ifb)) => LinkKind::Ifb,
        (
            LinkLayerType::Ether,
            Some(InfoKind::Vlan | InfoKind::MacVlan | InfoKind::IpVlan | InfoKind::MacSec),
        ) => LinkKind::Stacked,
        (LinkLayerType::Ether, _) => LinkKind::Plain,
        (NoHeader | Rawip, _) => LinkKind::Ip,
        (Tunnel | Tunnel6 | Sit | Ipgre | Ip6gre, _) if has_one_far_end => LinkKind::Ip,
        _ => LinkKind::NoEthernet,
    }
}

fn route(message: &RouteMessage) -> Option<Route> {
    if message.header.kind != RouteType::Unicast {
        return None;
    }
    let mut table = u32::from(message.header.table);
    let mut destination = match message.header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let mut interfaces = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => destination = (*ip).into(),
            RouteAttribute::Destination(RouteAddress::Inet6(ip)) => destination = (*ip).into(),
            RouteAttribute::Oif(index) => interfaces.push(*index),
            RouteAttribute::MultiPath(hops) => interfaces.extend(hops.iter().map(|hop| hop.interface_index)),
            _ => {}
        }
    }
    let network = Network::new(destination, message.header.destination_prefix_length)?;
    Some(Route { table, network, interfaces })
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::tc::TcMessage;

    use super::*;

    fn address(attributes: Vec<AddressAttribute>) -> Option<IpAddr> {
        let mut message = AddressMessage::default();
        message.attributes = attributes;
        own_address(&message)
    }

    fn told(message: RouteNetlinkMessage) -> Option<LinkChange> {
        change(NetlinkMessage::from(message))
    }

    #[test]
    fn an_event_tells_of_an_interface_and_not_of_what_it_is_to_a_bridge() {
        let mut message = LinkMessage::default();
        message.header.index = 7;
        message.header.link_layer_type = LinkLayerType::Ether;
        message.attributes = vec![LinkAttribute::IfName("veth7".to_owned()), LinkAttribute::Controller(3)];
        let link = Link { name: "veth7".to_owned(), master: Some(3), ..Link::default() };
        assert_eq!(told(RouteNetlinkMessage::NewLink(message.clone())), Some(LinkChange::Is(7, link)));
        assert_eq!(told(RouteNetlinkMessage::DelLink(message.clone())), Some(LinkChange::Gone(7)));
        let mut of_bridge = message.clone();
        of_bridge.header.interface_family = AddressFamily::Bridge;
        assert_eq!(told(RouteNetlinkMessage::NewLink(of_bridge.clone())), None);
        assert_eq!(
            told(RouteNetlinkMessage::DelLink(of_bridge)),
            None,
            "it has left the bridge, and is there"
        );
        message.attributes.clear();
        assert_eq!(told(RouteNetlinkMessage::NewLink(message)), None, "of its radio alone");
    }

    #[test]
    fn changes_of_filters_are_told_apart_and_an_interface_that_was_gone_stays_told() {
        let mut told = Told { is_of_filters_alone: true, ..Told::default() };
        let mut filter = TcMessage::default();
        filter.header.index = 9;
        told.add(NetlinkMessage::from(RouteNetlinkMessage::DelQueueDiscipline(filter.clone())));
        told.add(NetlinkMessage::from(RouteNetlinkMessage::DelTrafficFilter(filter)));
        assert_eq!((&told.filters, told.is_of_filters_alone), (&BTreeSet::from([9]), true));
        let mut message = LinkMessage::default();
        message.header.index = 7;
        message.attributes = vec![LinkAttribute::IfName("veth7".to_owned())];
        told.add(NetlinkMessage::from(RouteNetlinkMessage::DelLink(message.clone())));
        told.add(NetlinkMessage::from(RouteNetlinkMessage::NewLink(message)));
        assert_eq!((told.gone(), told.is_of_filters_alone), (BTreeSet::from([7]), false));
    }

    #[test]
    fn the_other_end_of_a_point_to_point_interface_is_no_address_of_this_node() {
        let (ours, theirs) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let both = vec![AddressAttribute::Address(theirs), AddressAttribute::Local(ours)];
        assert_eq!(address(both), Some(ours));
        assert_eq!(address(vec![AddressAttribute::Address(ours)]), Some(ours), "IPv6 has no other");
    }

    #[test]
    fn packets_begin_with_ip_on_tun_wireguard_and_tunnels_to_one_other_end() {
        use LinkLayerType::{Ipgre, None as NoHeader, Ppp, Sit, Tunnel};
        let of = |layer, kind: InfoKind, far_end| link_kind(layer, Some(&kind), far_end);
        assert_eq!(of(NoHeader, InfoKind::Tun, true), LinkKind::Ip);
        assert_eq!(of(NoHeader, InfoKind::Wireguard, true), LinkKind::Ip);
        assert_eq!(of(LinkLayerType::Ether, InfoKind::Tun, false), LinkKind::Plain, "a TAP");
        for (layer, kind) in [(Tunnel, InfoKind::IpIp), (Sit, InfoKind::SitTun), (Ipgre, InfoKind::GreTun)] {
            assert_eq!(of(layer, kind.clone(), true), LinkKind::Ip);
            assert_eq!(of(layer, kind, false), LinkKind::NoEthernet, "it sends each packet elsewhere");
        }
        assert_eq!(link_kind(Ppp, None, true), LinkKind::NoEthernet);
    }

    #[test]
    fn a_multipath_route_leaves_by_all_its_hops_and_local_ones_by_none() {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.kind = RouteType::Unicast;
        let hop = |index| {
            let mut hop = netlink_packet_route::route::RouteNextHop::default();
            hop.interface_index = index;
            hop
        };
        message.attributes =
            vec![RouteAttribute::MultiPath(vec![hop(2), hop(3)]), RouteAttribute::Table(1000)];
        let network = "0.0.0.0/0".parse().unwrap();
        assert_eq!(route(&message), Some(Route { table: 1000, network, interfaces: vec![2, 3] }));
        message.header.kind = RouteType::Local;
        assert_eq!(route(&message), None);
    }
}
