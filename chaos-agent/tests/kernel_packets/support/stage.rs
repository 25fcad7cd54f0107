//! A node between a device and a peer, as in the picture in `main.rs`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::space::{Namespace, Plug, wire};
use super::traffic::End;

/// The family of a story's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// A host of a network: network 1 is the device's, 2 the peer's; host 1 is the node.
    pub(crate) fn ip(self, network: u16, host: u16) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(10, 77, network.to_be_bytes()[1], host.to_be_bytes()[1]).into(),
            Self::V6 => Ipv6Addr::new(0xfd77, network, 0, 0, 0, 0, 0, host).into(),
        }
    }

    /// Any address of one's own.
    pub(crate) const fn any(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Self::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        }
    }

    /// The network of one host, as profiles name it.
    pub(crate) fn host(self, network: u16, host: u16) -> String {
        let length = if self == Self::V4 { 32 } else { 128 };
        format!("{}/{length}", self.ip(network, host))
    }
}

/// The node's interface to the device.
pub(crate) const TO_DEVICE: &str = "cat-dev";
/// The node's interface to the peer.
pub(crate) const TO_PEER: &str = "cat-up";
/// The device's and the peer's interface.
pub(crate) const ETH: &str = "eth0";

/// The device's port, which profiles name.
pub(crate) const DEVICE_PORT: u16 = 5683;
const PEER_PORT: u16 = 40_000;

/// The three namespaces.
pub(crate) struct Stage {
    pub(crate) node: Namespace,
    pub(crate) device: Namespace,
    pub(crate) peer: Namespace,
}

impl Stage {
    /// All three, wired. Device and peer have the hosts 2 and 3 of their networks.
    pub(crate) fn new() -> Self {
        let stage = Self::without_device();
        stage.plug_device();
        stage.lay(TO_PEER, &stage.peer, 2);
        stage
    }

    /// The node with nothing plugged in.
    pub(crate) fn without_device() -> Self {
        Self { node: Namespace::new(), device: Namespace::new(), peer: Namespace::new() }
    }

    /// Plugs the device in.
    pub(crate) fn plug_device(&self) {
        self.lay(TO_DEVICE, &self.device, 1);
    }

    /// Plugs the peer in.
    pub(crate) fn plug_peer(&self) {
        self.lay(TO_PEER, &self.peer, 2);
    }

    fn lay(&self, interface: &str, far: &Namespace, network: u16) {
        let length = |ip: IpAddr| if ip.is_ipv4() { 24 } else { 64 };
        let of = |hosts: &[u16]| -> Vec<(IpAddr, u8)> {
            let ips =
                Family::BOTH.into_iter().flat_map(|family| hosts.iter().map(move |host| (family, *host)));
            ips.map(|(family, host)| family.ip(network, host)).map(|ip| (ip, length(ip))).collect()
        };
        wire(
            &Plug { space: &self.node, interface, addresses: &of(&[1]) },
            &Plug { space: far, interface: ETH, addresses: &of(&[2, 3]) },
        );
        let routes = Family::BOTH.map(|family| format!("route add default via {}\n", family.ip(network, 1)));
        far.ip(&routes.concat());
    }

    /// The device's end, at the port that profiles name.
    pub(crate) fn device_end(&self, family: Family) -> End {
        End::new(&self.device, SocketAddr::new(family.ip(1, 2), DEVICE_PORT))
    }

    /// The peer's end.
    pub(crate) fn peer_end(&self, family: Family) -> End {
        End::new(&self.peer, SocketAddr::new(family.ip(2, 2), PEER_PORT))
    }

    /// Both ends reach each other. Before a neighbour of IPv6 is known, for a second where its interface has just come up, the kernel keeps
    /// some 256 packets for it and drops the others.
    pub(crate) fn ends_meet(&self) {
        for family in Family::BOTH {
            self.device_end(family).reaches(&self.peer_end(family), 1);
        }
    }
}
