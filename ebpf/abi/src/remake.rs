//! What can be done to a packet beside dropping it: where a bit of it may be flipped, and whether it may be answered. Both are known before it
//! is counted, so that nothing is counted that is not done.

use crate::decide::Packet;
use crate::key::{Address, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP};

/// Where a packet's parts are, beside what rules look at. Offsets are from the beginning of the frame.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Anatomy {
    /// Where its IP header begins.
    pub network: u32,
    /// Where that begins which stands behind IP; 0 if malformed.
    pub payload: u32,
    /// Where it ends, as IP says.
    pub end: u32,
    /// Of ICMP and ICMPv6, else 0.
    pub icmp_type: u8,
    /// It is a reset of TCP.
    pub is_reset: bool,
    /// A fragment but not the first one.
    pub is_later_fragment: bool,
}

/// What an ICMP error quotes of a packet behind its IP header (RFC 792; RFC 4443 §2.4 allows more).
pub const QUOTED: u32 = 8;
/// Bytes of an IPv4 header and of a TCP header without options.
const IPV4: u32 = 20;
const TCP: u32 = 20;

const ECHO_REQUEST: u8 = 8;
const ECHO_REQUEST_V6: u8 = 128;

/// Where bits are flipped: from here to [`Anatomy::end`], what is behind being padding, in which nobody would miss one. It is not what
/// says whose the packet is or where it ends, so that its receiver finds it whole and its checksum wrong; `None`: there is nothing.
#[inline(always)]
#[must_use]
pub const fn flippable(protocol: u8, payload: u32, end: u32) -> Option<u32> {
    // The checksum, or what stands behind it: RFC 768, RFC 9293 §3.1; of ICMP all but type, code and checksum.
    let begin = payload
        + match protocol {
            PROTOCOL_TCP => 16,
            PROTOCOL_UDP => 6,
            _ => 4,
        };
    if payload != 0 && begin < end { Some(begin) } else { None }
}

/// Whether a packet to `to` can be answered by a reset or an error. No error answers an error, a later fragment, or what was not sent to one
/// receiver (RFC 1122 §3.2.2), nothing a reset (RFC 9293 §3.10.7.1); and what an answer is made of must be there. IPv4 options would stand
/// between the header and what is quoted: such a packet is not answered, unless by a reset.
#[inline(always)]
#[must_use]
pub fn is_answerable(packet: &Packet, to: &Address, anatomy: &Anatomy) -> bool {
    let Anatomy { network, payload, icmp_type, is_reset, is_later_fragment, .. } = *anatomy;
    if payload == 0 || is_later_fragment || is_reset || is_of_many(to) {
        return false;
    }
    let needed = if packet.protocol == PROTOCOL_TCP { TCP } else { QUOTED };
    let has_options = to.is_ipv4() && payload != network + IPV4;
    let is_of_a_kind = match packet.protocol {
        PROTOCOL_TCP => true,
        PROTOCOL_ICMP => icmp_type == ECHO_REQUEST && !has_options,
        PROTOCOL_ICMPV6 => icmp_type == ECHO_REQUEST_V6 && !has_options,
        _ => !has_options,
    };
    is_of_a_kind && (payload + needed) as u64 <= packet.bytes
}

/// Multicast, or IPv4's broadcast.
#[inline(always)]
fn is_of_many(address: &Address) -> bool {
    if address.is_ipv4() {
        u32::from_be(address.words[3]) >= 0xe000_0000
    } else {
        u32::from_be(address.words[0]) >> 24 == 0xff
    }
}
