//! Where a frame has its addresses and ports: Ethernet, up to two VLAN tags, IPv4 with options, IPv6 with
//! extension headers, TCP, UDP and ICMP. Kernel programs and host tests bring the bytes by [`Frame`].
//!
//! The work is split: [`link`] (or [`bare`]) and [`target`] run on each packet, [`transport`] only on those of a target.

use crate::filter::Spot;
use crate::key::{Address, Direction, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP};

/// Length of an Ethernet header without tags.
pub const ETHERNET: usize = 14;
/// VLAN tags that are followed.
pub const MAX_TAGS: usize = 2;
/// IPv6 extension headers that are followed.
pub const MAX_EXTENSIONS: usize = 8;

/// An upper bound of all offsets here: 8 extension headers of 2,048 bytes behind a tagged IPv6 header are less.
pub const MAX_OFFSET: usize = 0x7fff;

const TYPE_IPV4: u16 = 0x0800;
const TYPE_IPV6: u16 = 0x86dd;
const TYPE_VLAN: u16 = 0x8100;
const TYPE_VLAN_SERVICE: u16 = 0x88a8;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

/// Type of ICMP (RFC 792).
const UNREACHABLE: u8 = 3;
/// Code of that.
const FRAGMENTATION_NEEDED: u8 = 4;
/// Type of ICMPv6 (RFC 4443 §3.2).
const PACKET_TOO_BIG: u8 = 2;
/// Where TCP has its flags, and that of a reset (RFC 9293 §3.1).
const TCP_FLAGS: usize = 13;
const RESET: u8 = 4;

/// The bytes of a frame, as far as they are at hand. Words come as they are in memory (network order).
pub trait Frame {
    /// One byte.
    fn byte(&self, offset: usize) -> Option<u8>;
    /// Two bytes.
    fn word16(&self, offset: usize) -> Option<u16>;
    /// Four bytes.
    fn word32(&self, offset: usize) -> Option<u32>;
    /// The same offset, at most [`MAX_OFFSET`]: a kernel program makes the verifier forget how it came about, which
    /// would else walk each combination of extension headers.
    fn forget(&self, offset: usize) -> usize {
        offset
    }
}

impl Frame for [u8] {
    fn byte(&self, offset: usize) -> Option<u8> {
        self.get(offset).copied()
    }

    fn word16(&self, offset: usize) -> Option<u16> {
        Some(u16::from_ne_bytes([self.byte(offset)?, self.byte(offset + 1)?]))
    }

    fn word32(&self, offset: usize) -> Option<u32> {
        let half = |offset| Some([self.byte(offset)?, self.byte(offset + 1)?]);
        let ([a, b], [c, d]) = (half(offset)?, half(offset + 2)?);
        Some(u32::from_ne_bytes([a, b, c, d]))
    }
}

/// What a frame carries, and from which offset on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Nothing of ours: ARP, more tags than [`MAX_TAGS`], a frame too short for Ethernet, …
    Other,
    /// IPv4 at this offset.
    Ipv4(usize),
    /// IPv6 at this offset.
    Ipv6(usize),
}

/// Finds the IP header behind Ethernet and VLAN tags.
///
/// A tag that the network card took out of the frame is not in it, and the type in the frame is then the inner
/// one: nothing to do for it here.
#[inline(always)]
pub fn link<F: Frame + ?Sized>(frame: &F) -> Link {
    let mut offset = ETHERNET;
    let mut tags = 0;
    loop {
        let Some(kind) = frame.word16(offset - 2) else { return Link::Other };
        match u16::from_be(kind) {
            TYPE_IPV4 => return Link::Ipv4(offset),
            TYPE_IPV6 => return Link::Ipv6(offset),
            TYPE_VLAN | TYPE_VLAN_SERVICE if tags < MAX_TAGS => {
                tags += 1;
                offset += 4;
            }
            _ => return Link::Other,
        }
    }
}

/// The IP header of a packet that begins with it, as all do on an interface without an Ethernet header. `kind` is what the
/// kernel takes it for: an EtherType as it is in memory (network order).
#[inline(always)]
pub fn bare<F: Frame + ?Sized>(packet: &F, kind: u16) -> Link {
    let Some(first) = packet.byte(0) else { return Link::Other };
    match (u16::from_be(kind), first >> 4) {
        (TYPE_IPV4, 4) => Link::Ipv4(0),
        (TYPE_IPV6, 6) => Link::Ipv6(0),
        _ => Link::Other,
    }
}

/// The address that the lookup takes; `None`: not IP, or too short for it.
#[inline(always)]
pub fn target<F: Frame + ?Sized>(frame: &F, link: Link, direction: Direction) -> Option<Address> {
    match link {
        Link::Other => None,
        Link::Ipv4(offset) => Some(Address::from_ipv4_word(frame.word32(offset + end(direction, 12, 16))?)),
        Link::Ipv6(offset) => ipv6_address(frame, offset + end(direction, 8, 24)),
    }
}

/// Where the filter has the bit of [`target`]; `None` as there.
#[inline(always)]
pub fn spot<F: Frame + ?Sized>(frame: &F, link: Link, direction: Direction) -> Option<Spot> {
    match link {
        Link::Other => None,
        Link::Ipv4(offset) => Some(Spot::of_ipv4_word(frame.word32(offset + end(direction, 12, 16))?)),
        Link::Ipv6(offset) => Some(Spot::of(&ipv6_address(frame, offset + end(direction, 8, 24))?)),
    }
}

/// [`spot`] of a frame that is IPv4 without a VLAN tag, by the least that can be read; `None`: it is something else.
#[inline(always)]
pub fn plain_spot<F: Frame + ?Sized>(frame: &F, direction: Direction) -> Option<Spot> {
    // The farther one first: the nearer needs no look at the end then.
    let word = frame.word32(ETHERNET + end(direction, 12, 16))?;
    let is_ipv4 = frame.word16(ETHERNET - 2)? == TYPE_IPV4.to_be();
    is_ipv4.then(|| Spot::of_ipv4_word(word))
}

/// The address at the other end from [`target`].
#[inline(always)]
pub fn peer<F: Frame + ?Sized>(frame: &F, link: Link, direction: Direction) -> Option<Address> {
    match direction {
        Direction::FromDevice => target(frame, link, Direction::ToDevice),
        Direction::ToDevice => target(frame, link, Direction::FromDevice),
    }
}

#[inline(always)]
const fn end(direction: Direction, source: usize, destination: usize) -> usize {
    match direction {
        Direction::FromDevice => source,
        Direction::ToDevice => destination,
    }
}

#[inline(always)]
fn ipv6_address<F: Frame + ?Sized>(frame: &F, offset: usize) -> Option<Address> {
    // The last word first: the others need no look at the end then.
    let last = frame.word32(offset + 12)?;
    Some(Address {
        words: [frame.word32(offset)?, frame.word32(offset + 4)?, frame.word32(offset + 8)?, last],
    })
}

/// What stands behind the addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transport {
    /// IP protocol number of what the packet carries; of more extension headers than are followed, the first
    /// one too many.
    pub protocol: u8,
    /// Whether the ports are valid: TCP or UDP, whole or the first fragment.
    pub has_ports: bool,
    /// Host order.
    pub source_port: u16,
    /// Host order.
    pub destination_port: u16,
    /// Of ICMP and ICMPv6, else 0.
    pub icmp_type: u8,
    /// It says that a packet was too large for its way: "fragmentation needed" (RFC 1191 §4), "packet too big" (RFC 4443 §3.2).
    pub is_too_big: bool,
    /// Where in the frame that begins which stands behind IP and its extension headers, at most [`MAX_OFFSET`]; 0 if
    /// malformed.
    pub payload: usize,
    /// Where the packet ends, as IP says; 0 if malformed.
    pub end: usize,
    /// A reset of TCP.
    pub is_reset: bool,
    /// A fragment but not the first one.
    pub is_later_fragment: bool,
    /// Too short for what it says to be, or too many extension headers. Such a packet is one without ports.
    pub malformed: bool,
}

impl Transport {
    const MALFORMED: Self = Self {
        protocol: 0,
        has_ports: false,
        source_port: 0,
        destination_port: 0,
        icmp_type: 0,
        is_too_big: false,
        payload: 0,
        end: 0,
        is_reset: false,
        is_later_fragment: false,
        malformed: true,
    };

    /// The target's and the peer's port.
    #[inline(always)]
    #[must_use]
    pub const fn ports(&self, direction: Direction) -> (u16, u16) {
        match direction {
            Direction::FromDevice => (self.source_port, self.destination_port),
            Direction::ToDevice => (self.destination_port, self.source_port),
        }
    }
}

/// Reads what stands behind the addresses.
#[inline(always)]
pub fn transport<F: Frame + ?Sized>(frame: &F, link: Link) -> Transport {
    let found = match link {
        Link::Other => None,
        Link::Ipv4(offset) => behind_ipv4(frame, offset),
        Link::Ipv6(offset) => behind_ipv6(frame, offset),
    };
    match found {
        Some(Behind { protocol, at, end, is_later: false }) => ports(frame, protocol, (at, end)),
        Some(Behind { protocol, at, end, is_later: true }) => {
            Transport { protocol, payload: at, end, is_later_fragment: true, ..Transport::default() }
        }
        None => Transport::MALFORMED,
    }
}

/// What stands behind IP.
struct Behind {
    protocol: u8,
    /// Where it begins.
    at: usize,
    /// Where the packet ends, as IP says.
    end: usize,
    is_later: bool,
}

#[inline(always)]
fn behind_ipv4<F: Frame + ?Sized>(frame: &F, offset: usize) -> Option<Behind> {
    let first = frame.byte(offset)?;
    let length = (first & 0xf) as usize * 4;
    if first >> 4 != 4 || length < 20 {
        return None;
    }
    let fragment = u16::from_be(frame.word16(offset + 6)?) & 0x1fff;
    let protocol = frame.byte(offset + 9)?;
    let end = offset + u16::from_be(frame.word16(offset + 2)?) as usize;
    Some(Behind { protocol, at: offset + length, end, is_later: fragment != 0 })
}

/// As [`behind_ipv4`]; walks the extension headers (RFC 8200 §4).
#[inline(always)]
fn behind_ipv6<F: Frame + ?Sized>(frame: &F, offset: usize) -> Option<Behind> {
    if frame.byte(offset)? >> 4 != 6 {
        return None;
    }
    let mut next = frame.byte(offset + 6)?;
    let end = offset + 40 + u16::from_be(frame.word16(offset + 4)?) as usize;
    let mut at = offset + 40;
    let mut i = 0;
    while i < MAX_EXTENSIONS {
        at = frame.forget(at);
        match next {
            FRAGMENT => {
                let later = u16::from_be(frame.word16(at + 2)?) >> 3 != 0;
                next = frame.byte(at)?;
                at += 8;
                if later {
                    return Some(Behind { protocol: next, at, end, is_later: true });
                }
            }
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => {
                next = frame.byte(at)?;
                at += (frame.byte(at + 1)? as usize + 1) * 8;
            }
            AUTHENTICATION => {
                next = frame.byte(at)?;
                at += (frame.byte(at + 1)? as usize + 2) * 4;
            }
            _ => return Some(Behind { protocol: next, at, end, is_later: false }),
        }
        i += 1;
    }
    match next {
        FRAGMENT | HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | AUTHENTICATION => None,
        _ => Some(Behind { protocol: next, at, end, is_later: false }),
    }
}

/// Where the headers of a TCP packet end (RFC 9293 §3.1); `None`: it is none, or not all of them are at hand.
#[inline(always)]
pub fn headers_of_tcp<F: Frame + ?Sized>(frame: &F, transport: &Transport) -> Option<usize> {
    if transport.protocol != PROTOCOL_TCP || !transport.has_ports {
        return None;
    }
    let length = (frame.byte(transport.payload + 12)? >> 4) as usize * 4;
    if length < 20 { None } else { Some(transport.payload + length) }
}

#[inline(always)]
fn ports<F: Frame + ?Sized>(frame: &F, protocol: u8, (offset, end): (usize, usize)) -> Transport {
    let plain = Transport { protocol, payload: offset, end, ..Transport::default() };
    let malformed = Transport { protocol, ..Transport::MALFORMED };
    match protocol {
        PROTOCOL_TCP | PROTOCOL_UDP => match (frame.word16(offset), frame.word16(offset + 2)) {
            (Some(source), Some(destination)) => Transport {
                has_ports: true,
                is_reset: protocol == PROTOCOL_TCP
                    && frame.byte(offset + TCP_FLAGS).is_some_and(|flags| flags & RESET != 0),
                source_port: u16::from_be(source),
                destination_port: u16::from_be(destination),
                ..plain
            },
            _ => malformed,
        },
        // Type and code, without which there is no message (RFC 792).
        PROTOCOL_ICMP => match (frame.byte(offset), frame.byte(offset + 1)) {
            (Some(icmp_type), Some(code)) => {
                let is_too_big = icmp_type == UNREACHABLE && code == FRAGMENTATION_NEEDED;
                Transport { icmp_type, is_too_big, ..plain }
            }
            _ => malformed,
        },
        PROTOCOL_ICMPV6 => match frame.byte(offset) {
            Some(icmp_type) => Transport { icmp_type, is_too_big: icmp_type == PACKET_TOO_BIG, ..plain },
            None => malformed,
        },
        _ => plain,
    }
}
