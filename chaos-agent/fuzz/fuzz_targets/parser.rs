//! Any bytes as a frame: the parser neither panics nor reads beyond them, and what it says of them holds together.

#![no_main]

use fault_abi::key::{Direction, PROTOCOL_TCP, PROTOCOL_UDP};
use fault_abi::packet::{self, Link, MAX_OFFSET};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|frame: &[u8]| {
    let link = packet::link(frame);
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
        assert_eq!(packet::link(&longer[..]), link);
        assert_eq!(packet::transport(&longer[..], link), transport);
    }
});
