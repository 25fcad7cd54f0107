//! Where bits are flipped, and which packets are answered.

#![expect(clippy::unwrap_used, reason = "a hand that slips ends the story")]

use std::net::IpAddr;

use fault_abi::decide::Packet;
use fault_abi::key::{Address, Direction, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP};
use fault_abi::remake::{Anatomy, flippable, is_answerable};

const SCTP: u8 = 132;

fn packet(protocol: u8, to: &str) -> Packet {
    let to = Address::from(to.parse::<IpAddr>().unwrap());
    Packet {
        direction: Direction::FromDevice,
        target: Address { words: [0, 0, 1, 17] },
        peer: to,
        protocol,
        has_ports: matches!(protocol, PROTOCOL_TCP | PROTOCOL_UDP),
        target_port: 5683,
        peer_port: 40_000,
        bytes: 100,
        gso: false,
        packets: 1,
        headers: 0,
    }
}

/// A packet of IPv4 behind an Ethernet header.
const V4: Anatomy =
    Anatomy { network: 14, payload: 34, end: 100, icmp_type: 0, is_reset: false, is_later_fragment: false };
const V6: Anatomy = Anatomy { payload: 54, ..V4 };

#[test]
fn a_bit_is_flipped_behind_what_says_whose_a_packet_is_and_before_its_end() {
    for (protocol, begin) in [(PROTOCOL_TCP, 50), (PROTOCOL_UDP, 40), (PROTOCOL_ICMP, 38), (SCTP, 38)] {
        assert_eq!(flippable(protocol, 34, 100), Some(begin), "{protocol}");
        assert_eq!(flippable(protocol, 34, begin + 1), Some(begin), "{protocol}");
        assert_eq!(flippable(protocol, 34, begin), None, "{protocol}: nothing is behind");
    }
    assert_eq!(flippable(PROTOCOL_UDP, 0, 100), None, "malformed");
}

#[test]
fn nobody_answers_an_error_a_reset_a_later_fragment_or_what_went_to_many() {
    let is_answered = |protocol, to: &str, anatomy: Anatomy| {
        let packet = packet(protocol, to);
        is_answerable(&packet, &packet.receiver(), &anatomy)
    };
    let (v4, v6) = ("192.0.2.5", "2001:db8::5");
    for protocol in [PROTOCOL_TCP, PROTOCOL_UDP, SCTP] {
        for (to, whole) in [(v4, V4), (v6, V6)] {
            assert!(is_answered(protocol, to, whole), "{protocol} to {to}");
            assert!(!is_answered(protocol, to, Anatomy { is_later_fragment: true, ..whole }));
            assert!(!is_answered(protocol, to, Anatomy { payload: 0, ..whole }), "malformed");
        }
        for to in ["224.0.0.1", "255.255.255.255", "ff02::1"] {
            assert!(!is_answered(protocol, to, V4), "{protocol} to {to}");
        }
    }
    assert!(!is_answered(PROTOCOL_TCP, v4, Anatomy { is_reset: true, ..V4 }));
    for (protocol, echo, to, whole) in [(PROTOCOL_ICMP, 8, v4, V4), (PROTOCOL_ICMPV6, 128, v6, V6)] {
        for icmp_type in [0, 3, 8, 128, 129] {
            let asked = Anatomy { icmp_type, ..whole };
            assert_eq!(is_answered(protocol, to, asked), icmp_type == echo, "{protocol}: {icmp_type}");
        }
    }
}

#[test]
fn what_an_answer_is_made_of_is_there_and_ipv4_options_are_not_quoted() {
    let options = Anatomy { payload: 38, ..V4 };
    let whole = |protocol, anatomy: Anatomy, bytes| {
        let packet = Packet { bytes, ..packet(protocol, "192.0.2.5") };
        is_answerable(&packet, &packet.receiver(), &anatomy)
    };
    assert!(whole(PROTOCOL_TCP, options, 100) && !whole(PROTOCOL_UDP, options, 100));
    assert!(whole(PROTOCOL_UDP, V4, 42) && !whole(PROTOCOL_UDP, V4, 41));
    assert!(whole(PROTOCOL_TCP, V4, 54) && !whole(PROTOCOL_TCP, V4, 53));
}
