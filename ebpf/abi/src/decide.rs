//! The decision on one packet under one phase of a rule. Pure: the time, the packet's position and the state that the
//! packets before it left are arguments.
//!
//! Fragments: only the first one of a packet has ports. The later ones match rules that name no port, and
//! entries for an address, not for a port of it.

use crate::draw::{Draw, Kind};
use crate::key::{Address, Direction, PROTOCOL_ICMP, PROTOCOL_ICMPV6};
use crate::rule::{MAX_PORT_RANGES, PHASE_BURSTS, PHASE_PARTITION, PHASE_REJECT, Phase, Rule};
use crate::verdict::Verdict;

/// What a rule may look at, seen from the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Packet {
    /// Which way.
    pub direction: Direction,
    /// The target's end.
    pub target: Address,
    /// The other end.
    pub peer: Address,
    /// IP protocol number.
    pub protocol: u8,
    /// Whether there are ports: TCP or UDP, and not a later fragment.
    pub has_ports: bool,
    /// The target's port, host order; 0 without ports.
    pub target_port: u16,
    /// The other end's port, host order; 0 without ports.
    pub peer_port: u16,
    /// Its length, the link header included (of a super-packet: of all of it).
    pub bytes: u64,
    /// Whether it is a super-packet of several segments.
    pub gso: bool,
    /// How many packets on the wire it is, at least 1; what counts is counted so often.
    pub packets: u32,
    /// Bytes of the headers that each of them has.
    pub headers: u32,
}

impl Packet {
    /// Where it goes.
    #[inline(always)]
    #[must_use]
    pub const fn receiver(&self) -> Address {
        match self.direction {
            Direction::FromDevice => self.peer,
            Direction::ToDevice => self.target,
        }
    }

    /// Bytes on the wire.
    #[inline(always)]
    #[must_use]
    pub const fn wire_bytes(&self) -> u64 {
        self.bytes + (self.packets as u64 - 1) * self.headers as u64
    }

    /// Whether it is known how many packets on the wire a super-packet is.
    #[inline(always)]
    #[must_use]
    pub const fn is_countable(&self) -> bool {
        self.packets > 1
    }
}

/// So many packets on the wire a super-packet is, whose headers and those of each segment are `headers` bytes long. At least 1.
#[inline(always)]
#[must_use]
pub const fn segments(bytes: u32, headers: u32, size: u32) -> u32 {
    if size == 0 || bytes <= headers {
        return 1;
    }
    (bytes - headers).div_ceil(size)
}

/// Whether the rule acts on this packet at `now_ns` (CLOCK_BOOTTIME), apart from its peers.
#[inline(always)]
#[must_use]
pub fn applies(rule: &Rule, packet: &Packet, now_ns: u64) -> bool {
    rule.is_active(now_ns)
        && rule.acts(packet.direction)
        && (rule.protocol == 0 || rule.protocol == packet.protocol || is_icmp(rule.protocol, packet.protocol))
        && (rule.port_ranges == 0 || packet.has_ports && in_ranges(rule, packet.target_port))
}

/// A rule for ICMP means that of IPv6, too.
#[inline(always)]
const fn is_icmp(asked: u8, found: u8) -> bool {
    asked == PROTOCOL_ICMP && found == PROTOCOL_ICMPV6
}

#[inline(always)]
fn in_ranges(rule: &Rule, port: u16) -> bool {
    let mut i = 0;
    while i < MAX_PORT_RANGES {
        if i >= rule.port_ranges as usize {
            return false;
        }
        if rule.ports[i].first <= port && port <= rule.ports[i].last {
            return true;
        }
        i += 1;
    }
    false
}

/// Whether packets draw in this phase, so that each needs a [`Draw`] of its own.
#[inline(always)]
#[must_use]
pub const fn draws(phase: &Phase) -> bool {
    phase.flags & PHASE_PARTITION == 0
        && (phase.loss != 0 || phase.every != 0 || phase.flags & PHASE_BURSTS != 0)
}

/// The fate of a packet that the rule [`applies`] to, and whether the packet behind it is in a burst.
///
/// `draw` and `in_burst` are read only if the phase [`draws`]. A packet meets the state that the one before it
/// left, and then changes it (Gilbert-Elliott, as `tc netem loss gemodel` has it; Elliott 1963): the first packet is
/// outside of a burst, and the length of bursts is geometric with mean 1 / leave_burst.
#[inline(always)]
#[must_use]
pub fn decide(phase: &Phase, key: [u64; 2], draw: &Draw, in_burst: bool) -> (Verdict, bool) {
    if phase.flags & PHASE_PARTITION != 0 {
        let is_told = phase.flags & PHASE_REJECT != 0;
        return (if is_told { Verdict::Reject } else { Verdict::Partition }, false);
    }
    if phase.every != 0 {
        let is_nth = (draw.position.index + 1).is_multiple_of(u64::from(phase.every));
        return (if is_nth { Verdict::Loss } else { Verdict::Pass }, false);
    }
    let loss = if in_burst { phase.loss_in_burst } else { phase.loss };
    let is_lost = loss != 0 && draw.happens(key, Kind::Loss, loss);
    let mut is_burst = false;
    if phase.flags & PHASE_BURSTS != 0 {
        let change = if in_burst { phase.leave_burst } else { phase.enter_burst };
        is_burst = in_burst != draw.happens(key, Kind::Burst, change);
    }
    (if is_lost { Verdict::Loss } else { Verdict::Pass }, is_burst)
}
