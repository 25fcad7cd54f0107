//! Any bytes as a frame: the parser neither panics nor reads beyond them, and what it says of them holds together.

#![no_main]

use fault_abi::key::{Direction, PROTOCOL_TCP, PROTOCOL_UDP};
use fault_abi::packet::{self, Link, MAX_OFFSET};
use libfuzzer_sys::fuzz_target;

/// The types of Ethernet that a packet without its header is said to have: IPv4, IPv6, and another one.
const KINDS: [u16; 3] = [0x0800, 0x86dd, 0x0806];

fuzz_target!(|frame: &[u8]| {
    holds_together(frame, |frame| packet::link(frame));
    for kind in KINDS {
        holds_together(frame, |packet| packet::bare(packet, kind.to_be()));
    }
});

fn holds_together(frame: &[u8], find: impl Fn(&[u8]) -> Link) {
    let link = find(frame);
    let transport = packet::transport(frame, link);
    let [target, peer] = Direction::ALL.map(|direction| packet::target(frame, link, direction));
    assert_eq!(
        packet::peer(frame, link, Direction::FromDevice),
        peer,
        "the other end is the other direction's target"
    );
    assert_eq!(packet::peer(frame, link, Direction::ToDevice), target);
    match link {
        Link::Other => assert!(target.is_none() && peer.is_none() && transport.malformed),
        Link::Ipv4(offset) | Link::Ipv6(offset) => assert!(offset <= frame.len() && offset <= MAX_OFFSET),
    }
    if transport.has_ports {
        assert!(!transport.malformed && target.is_some() && peer.is_some());
        assert!(matches!(transport.protocol, PROTOCOL_TCP | PROTOCOL_UDP));
    } else {
        assert_eq!((transport.source_port, transport.destination_port), (0, 0));
    }
    // A frame that goes on says the same about its beginning, unless it was too short to say anything.
    let longer = [frame, &[0x5a; 64]].concat();
    if !matches!(link, Link::Other) && !transport.malformed {
        assert_eq!(find(&longer), link);
        assert_eq!(packet::transport(&longer[..], link), transport);
    }
}
