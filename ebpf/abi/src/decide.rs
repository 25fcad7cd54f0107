//! The decision on one packet under one rule. Pure: the time and the packet's position are arguments.
//!
//! Fragments: only the first one of a packet has ports. The later ones match rules that name no port, and
//! entries for an address, not for a port of it.

use crate::draw::{Draw, Kind, Position};
use crate::key::{Address, Direction};
use crate::rule::{MAX_PORT_RANGES, RULE_PARTITION, Rule};
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
    /// Length on the wire, the link header included (of a super-packet: of all of it).
    pub bytes: u64,
    /// Whether it is a super-packet of several segments.
    pub gso: bool,
}

/// Whether the rule acts on this packet at `now_ns` (CLOCK_BOOTTIME), apart from its peers.
#[inline(always)]
#[must_use]
pub fn applies(rule: &Rule, packet: &Packet, now_ns: u64) -> bool {
    rule.is_active(now_ns)
        && rule.acts(packet.direction)
        && (rule.protocol == 0 || rule.protocol == packet.protocol)
        && (rule.port_ranges == 0 || packet.has_ports && in_ranges(rule, packet.target_port))
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

/// Whether the rule draws for a packet that it acts on, so that the packet needs a [`Position`].
#[inline(always)]
#[must_use]
pub const fn draws(rule: &Rule) -> bool {
    rule.flags & RULE_PARTITION == 0 && rule.loss != 0
}

/// The fate of a packet that the rule [`applies`] to. `position` is read only if the rule [`draws`].
#[inline(always)]
#[must_use]
pub fn decide(rule: &Rule, key: [u64; 2], packet: &Packet, position: Position) -> Verdict {
    if rule.flags & RULE_PARTITION != 0 {
        return Verdict::Partition;
    }
    let draw = Draw {
        direction: packet.direction,
        protocol: packet.protocol,
        target_port: packet.target_port,
        position,
    };
    if rule.loss != 0 && draw.happens(key, Kind::Loss, rule.loss) {
        return Verdict::Loss;
    }
    Verdict::Pass
}
