//! Addresses and the keys of the maps. Keys have no padding: the kernel compares all their bytes.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IP protocol number of TCP.
pub const PROTOCOL_TCP: u8 = 6;
/// IP protocol number of UDP.
pub const PROTOCOL_UDP: u8 = 17;
/// IP protocol number of ICMP.
pub const PROTOCOL_ICMP: u8 = 1;
/// IP protocol number of ICMPv6.
pub const PROTOCOL_ICMPV6: u8 = 58;

/// Bits of a whole [`Address`]: an exact address, whatever its family.
pub const FULL_PREFIX: u32 = 128;
/// Bits before the IPv4 part of an [`Address`]: 10.0.0.0/8 has the prefix `IPV4_PREFIX + 8`.
pub const IPV4_PREFIX: u32 = 96;

/// An IPv6 address, or an IPv4 one as `::ffff:a.b.c.d`; the octets in memory are in network order.
///
/// It consists of words, not octets, so that the kernel programs copy and compare it word by word.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// Each word's octets in network order.
    pub words: [u32; 4],
}

impl Address {
    /// From an IPv4 address whose four octets were read in network order as one word.
    #[inline(always)]
    #[must_use]
    pub const fn from_ipv4_word(word: u32) -> Self {
        Self { words: [0, 0, 0xffff_u32.to_be(), word] }
    }

    /// From the 16 octets of an IPv6 address.
    #[must_use]
    pub const fn from_octets(o: [u8; 16]) -> Self {
        Self {
            words: [
                u32::from_ne_bytes([o[0], o[1], o[2], o[3]]),
                u32::from_ne_bytes([o[4], o[5], o[6], o[7]]),
                u32::from_ne_bytes([o[8], o[9], o[10], o[11]]),
                u32::from_ne_bytes([o[12], o[13], o[14], o[15]]),
            ],
        }
    }

    /// Whether it is an IPv4 address.
    #[inline(always)]
    #[must_use]
    pub const fn is_ipv4(&self) -> bool {
        let [a, b, c, _] = self.words;
        a == 0 && b == 0 && c == 0xffff_u32.to_be()
    }

    /// The 16 octets, in network order.
    #[must_use]
    pub const fn octets(&self) -> [u8; 16] {
        let (a, b) = (self.words[0].to_ne_bytes(), self.words[1].to_ne_bytes());
        let (c, d) = (self.words[2].to_ne_bytes(), self.words[3].to_ne_bytes());
        [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3]]
    }

    /// The address with all bits behind `prefix` (0..=128) cleared.
    #[inline(always)]
    #[must_use]
    pub fn masked(&self, prefix: u32) -> Self {
        let [a, b, c, d] = self.words;
        let mask = |word| mask(prefix, word).to_be();
        Self { words: [a & mask(0), b & mask(1), c & mask(2), d & mask(3)] }
    }
}

/// The part of a prefix that falls into word `word` (0..4), in host order.
#[inline(always)]
const fn mask(prefix: u32, word: u32) -> u32 {
    let bits = prefix.saturating_sub(word * 32);
    if bits >= 32 {
        u32::MAX
    } else if bits == 0 {
        0
    } else {
        u32::MAX << (32 - bits)
    }
}

impl From<Ipv4Addr> for Address {
    fn from(a: Ipv4Addr) -> Self {
        Self::from_ipv4_word(u32::from_ne_bytes(a.octets()))
    }
}

impl From<Ipv6Addr> for Address {
    fn from(a: Ipv6Addr) -> Self {
        Self::from_octets(a.octets())
    }
}

impl From<IpAddr> for Address {
    fn from(a: IpAddr) -> Self {
        match a {
            IpAddr::V4(a) => a.into(),
            IpAddr::V6(a) => a.into(),
        }
    }
}

impl From<Address> for IpAddr {
    fn from(a: Address) -> Self {
        Ipv6Addr::from(a.octets()).to_canonical()
    }
}

/// One end of a conversation: an address with a port. Key of `PORT_TARGETS` and of `PROTECTED`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortKey {
    /// The target's address.
    pub address: Address,
    /// The target's port, in host order.
    pub port: u16,
    /// IP protocol number: [`PROTOCOL_TCP`] or [`PROTOCOL_UDP`].
    pub protocol: u8,
    /// Always 0.
    pub zero: u8,
}

impl PortKey {
    /// The key of `address`, `protocol`, `port` (host order).
    #[inline(always)]
    #[must_use]
    pub const fn new(address: Address, protocol: u8, port: u16) -> Self {
        Self { address, port, protocol, zero: 0 }
    }
}

/// Data part of all LPM keys: a space, in which networks are compared, then the address.
///
/// Each family has a space of its own, since a short IPv6 prefix such as `::/0` would else contain all of IPv4.
/// The prefix length of a network is [`SPACE_BITS`] + that of the address (IPv4: + [`IPV4_PREFIX`]).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetworkKey {
    /// The set of peers (0 in `CIDRS` and `PROTECTED_CIDRS`) times two, plus one for IPv4.
    pub space: u32,
    /// The address.
    pub address: Address,
}

impl NetworkKey {
    /// A key of `CIDRS` and `PROTECTED_CIDRS`.
    #[inline(always)]
    #[must_use]
    pub const fn new(address: Address, is_ipv4: bool) -> Self {
        Self::of_set(0, address, is_ipv4)
    }

    /// A key of `PEERS`; `set` is [`Rule::peer_set`](crate::rule::Rule::peer_set), 1 or more.
    #[inline(always)]
    #[must_use]
    pub const fn of_set(set: u32, address: Address, is_ipv4: bool) -> Self {
        Self { space: set << 1 | is_ipv4 as u32, address }
    }
}

/// Bits of [`NetworkKey::space`], which always match in full.
pub const SPACE_BITS: u32 = 32;

/// Key of `COUNTERS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CounterKey {
    /// [`Binding::state`](crate::rule::Binding::state).
    pub state: u32,
    /// [`Direction`] as a number.
    pub direction: u32,
}

/// Key of `FLOWS`: a conversation of a target under a profile, in both directions.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowKey {
    /// The other end's address.
    pub peer: Address,
    /// [`Binding::state`](crate::rule::Binding::state).
    pub state: u32,
    /// The target's port, host order; 0 where there is none.
    pub target_port: u16,
    /// The other end's port, host order; 0 where there is none.
    pub peer_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Always 0.
    pub zero: [u8; 3],
}

/// Which way a packet goes, seen from the target.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// Sent by the target: seen where packets enter the node from its interface (XDP, TC ingress).
    FromDevice = 0,
    /// Sent to the target: seen where packets leave the node by its interface (TC egress).
    ToDevice = 1,
}

impl Direction {
    /// Both, in the order of their numbers.
    pub const ALL: [Self; 2] = [Self::FromDevice, Self::ToDevice];

    /// Its bit in the direction mask of [`Rule::flags`](crate::rule::Rule::flags).
    #[inline(always)]
    #[must_use]
    pub const fn bit(self) -> u32 {
        1 << self as u32
    }

    /// Its name in metrics and statuses.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::FromDevice => "FromDevice",
            Self::ToDevice => "ToDevice",
        }
    }
}

#[cfg(feature = "user")]
mod user {
    use super::{Address, CounterKey, FlowKey, NetworkKey, PortKey};

    // SAFETY: `repr(C)`, integers only, no padding (tests/layout.rs), every bit pattern valid.
    unsafe impl aya::Pod for Address {}
    // SAFETY: as above.
    unsafe impl aya::Pod for PortKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for NetworkKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for CounterKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for FlowKey {}
}
