//! Where the programs find addresses and ports.

use fault_abi::counter::Global;
use fault_abi::key::{Direction, PROTOCOL_ICMP, PROTOCOL_TCP};
use fault_abi::names::{TC_EGRESS_DISPATCH, TC_INGRESS_DISPATCH, TC_IP_EGRESS, TC_IP_INGRESS, XDP_DISPATCH};
use fault_abi::packet::{self, Link};
use fault_abi::rule::{PortRange, Rule};
use fault_abi::verdict::Verdict;
use fault_rig::frame::{Extension, SERVICE_TAG, Spec, TAG};

use crate::stage::*;

/// Frames that differ in all that stands before the ports.
fn shapes() -> Vec<(&'static str, Spec)> {
    let (v4, v6) = (from_device(), from_device6());
    let with = |extensions: &[Extension]| Spec { extensions: extensions.to_vec(), ..v6.clone() };
    vec![
        ("plain IPv4", v4.clone()),
        ("plain IPv6", v6.clone()),
        ("IPv4 behind a tag", Spec { tags: vec![TAG], ..v4.clone() }),
        ("IPv4 behind two tags", Spec { tags: vec![SERVICE_TAG, TAG], ..v4.clone() }),
        ("IPv6 behind two tags", Spec { tags: vec![SERVICE_TAG, TAG], ..v6.clone() }),
        ("IPv4 with one option word", Spec { options: 1, ..v4.clone() }),
        ("IPv4 with all option words", Spec { options: 10, ..v4.clone() }),
        ("TCP", Spec { protocol: PROTOCOL_TCP, ..v4.clone() }),
        ("the first fragment", Spec { fragment: (0, true), ..v4 }),
        ("hop-by-hop options", with(&[Extension::HopByHop(0)])),
        ("long destination options", with(&[Extension::Options(9)])),
        ("authentication", with(&[Extension::Authentication(4)])),
        ("the first fragment of IPv6", with(&[Extension::Fragment(0, true)])),
        (
            "several extensions",
            with(&[Extension::HopByHop(1), Extension::Routing(2), Extension::Fragment(0, false)]),
        ),
        ("eight extensions", with(&[Extension::Options(0); 8])),
        ("extensions behind two tags", Spec { tags: vec![TAG, TAG], ..with(&[Extension::Routing(3); 3]) }),
    ]
}

/// A rule for the device's port alone, so that it acts only where the port is found.
fn on_port(first: u16, last: u16) -> Rule {
    let mut rule = Rule { port_ranges: 1, ..partition() };
    rule.ports[0] = PortRange { first, last };
    rule
}

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn ports_are_found_behind_tags_options_and_extension_headers() {
    let hit = rig_with(&[on_port(5683, 5683)]);
    let miss = rig_with(&[on_port(5684, 65_535)]);
    for (name, packet) in shapes() {
        assert_drops(&hit, &packet, name);
        assert_passes(&miss, &packet, name);
    }
}

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn a_later_fragment_has_no_ports_and_meets_only_rules_without() {
    let later = [
        Spec { fragment: (100, false), ..from_device() },
        Spec { extensions: vec![Extension::Fragment(100, true)], ..from_device6() },
    ];
    let (of_port, of_address) = (rig_with(&[on_port(0, 65_535)]), rig_with(&[partition()]));
    for packet in later {
        assert_passes(&of_port, &packet, "a rule with ports");
        assert_drops(&of_address, &packet, "a rule without");
    }
}

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn icmp_has_no_ports_and_meets_only_rules_without() {
    let ping = Spec { protocol: PROTOCOL_ICMP, icmp_type: 8, ..from_device() };
    assert_passes(&rig_with(&[on_port(0, 65_535)]), &ping, "a rule with ports");
    assert_drops(&rig_with(&[partition()]), &ping, "a rule without");
}

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn what_is_not_ip_passes() {
    let rig = rig_with(&[partition()]);
    let mut arp = from_device().bytes();
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    let three_tags = Spec { tags: vec![TAG; 3], ..from_device() }.bytes();
    for (hook, _, pass, _) in HOOKS {
        for frame in [&arp, &three_tags] {
            assert_eq!(rig.run(hook, frame, 1).unwrap().code, pass, "{hook}");
        }
    }
}

/// A test run takes 14 bytes for an Ethernet header whatever it runs, and so finds the kind of a packet that begins with IP in
/// its source address. These addresses of the device and its peer say there what the packet is.
const BARE: [[&str; 2]; 2] = [["8.0.0.17", "8.0.1.5"], ["fd00:0:86dd::17", "fd00:0:86dd:1::5"]];

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn without_an_ethernet_header_ports_are_found_behind_options_and_extension_headers() {
    let mut hit = rig();
    let bindings = profiles(&mut hit, &[on_port(5683, 5683)]);
    for [device, _] in BARE {
        hit.target(address(device), 0, &bindings).unwrap();
    }
    let mut seen = 0;
    for (name, packet) in shapes().into_iter().filter(|(_, packet)| packet.tags.is_empty()) {
        let [device, peer] = BARE[usize::from(packet.source.is_ipv6())].map(|ip| ip.parse().unwrap());
        let packet = Spec { source: device, destination: peer, ..packet };
        let elsewhere = Spec { source_port: 5684, ..packet.clone() };
        for (spec, [ingress, egress]) in [(packet, [SHOT, REDIRECT]), (elsewhere, [NEXT, NEXT])] {
            let (out, back) = (spec.bytes(), spec.reversed().bytes());
            assert_eq!(hit.run(TC_IP_INGRESS, &out[packet::ETHERNET..], 1).unwrap().code, ingress, "{name}");
            assert_eq!(hit.run(TC_IP_EGRESS, &back[packet::ETHERNET..], 1).unwrap().code, egress, "{name}");
            // Behind an Ethernet header it is nothing that begins with IP, and without one no Ethernet frame.
            assert_eq!(hit.run(TC_IP_INGRESS, &out, 1).unwrap().code, NEXT, "{name}");
            assert_eq!(
                hit.run(TC_INGRESS_DISPATCH, &out[packet::ETHERNET..], 1).unwrap().code,
                NEXT,
                "{name}"
            );
        }
        seen += 1;
    }
    assert_eq!(counted(&mut hit, 0, Direction::FromDevice, Verdict::Partition), seen);
}

/// Each prefix of a frame: nothing crashes or is refused, and what is too short for an address passes.
#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn a_truncated_frame_passes_or_is_dropped_by_its_address() {
    let mut rig = rig_with(&[partition()]);
    for (name, packet) in shapes() {
        let frame = Spec { payload: 0, ..packet }.bytes();
        for length in 15..=frame.len() {
            let cut = &frame[..length];
            let has_address = packet::target(cut, packet::link(cut), Direction::FromDevice).is_some();
            for (hook, drop, pass) in [(XDP_DISPATCH, XDP_DROP, XDP_PASS), (TC_INGRESS_DISPATCH, SHOT, NEXT)]
            {
                // The kernel runs nothing on an IP frame without an IP header.
                let Ok(outcome) = rig.run(hook, cut, 1) else { continue };
                let fate = if has_address { drop } else { pass };
                assert_eq!(outcome.code, fate, "{name}: {hook} on {length} of {} bytes", frame.len());
            }
        }
    }
    assert!(global(&mut rig, Global::Malformed) > 0, "some were too short for their ports");
}

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn more_extension_headers_than_are_followed_count_as_malformed() {
    let deep = Spec { extensions: vec![Extension::Options(0); 9], ..from_device6() };
    let mut rig = rig_with(&[on_port(5683, 5683)]);
    assert_passes(&rig, &deep, "a rule with ports");
    assert_eq!(global(&mut rig, Global::Malformed), 3);
    assert_drops(&rig_with(&[partition()]), &deep, "a rule without");
}

#[test]
fn a_packet_that_begins_with_ip_is_what_its_kind_and_its_first_byte_agree_upon() {
    let (v4, v6) = (from_device().bytes(), from_device6().bytes());
    let (v4, v6) = (&v4[packet::ETHERNET..], &v6[packet::ETHERNET..]);
    let of = |bytes: &[u8], kind: u16| packet::bare(bytes, kind.to_be());
    assert_eq!((of(v4, 0x0800), of(v6, 0x86dd)), (Link::Ipv4(0), Link::Ipv6(0)));
    for (bytes, kind) in [(v4, 0x86dd), (v6, 0x0800), (v4, 0x8847), (&[][..], 0x0800)] {
        assert_eq!(of(bytes, kind), Link::Other);
    }
}

/// The parser of the host reads what the kernel's reads: it is the same code.
#[test]
fn the_parser_finds_the_same_on_the_host() {
    for (name, packet) in shapes() {
        let frame = packet.bytes();
        let link = packet::link(&frame[..]);
        assert_ne!(link, Link::Other, "{name}");
        let transport = packet::transport(&frame[..], link);
        assert_eq!((transport.source_port, transport.destination_port), (5683, 40_000), "{name}");
        assert!(transport.has_ports && !transport.malformed, "{name}");
        let target = packet::target(&frame[..], link, Direction::FromDevice).unwrap();
        assert_eq!(std::net::IpAddr::from(target), packet.source, "{name}");
    }
}

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn a_super_packet_whose_segments_may_differ_counts_once_without_a_splitter_and_says_so() {
    let mut rig = rig_with(&[loss(1_000_000)]);
    let frame = Spec { protocol: PROTOCOL_TCP, payload: 1_400, ..from_device() };
    rig.run_gso(TC_INGRESS_DISPATCH, &frame.bytes(), 500).unwrap();
    rig.run_gso(TC_EGRESS_DISPATCH, &frame.reversed().bytes(), 500).unwrap();
    rig.run(TC_INGRESS_DISPATCH, &frame.bytes(), 1).unwrap();
    assert_eq!(global(&mut rig, Global::GsoFrames), 2);
    let counter = rig.counter(0, Direction::FromDevice).unwrap();
    assert_eq!((counter.gso_frames, counter.packets[Verdict::Loss as usize]), (1, 2));
}

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn a_super_packet_of_one_fate_counts_as_the_packets_that_it_is_on_the_wire() {
    for (frame, headers) in [(from_device(), 14 + 20 + 20), (from_device6(), 14 + 40 + 20)] {
        let mut rig = rig_with(&[partition()]);
        let frame = Spec { protocol: PROTOCOL_TCP, payload: 1_400, ..frame };
        let length = frame.bytes().len() as u64;
        let packets = (length - headers).div_ceil(500);
        assert!(packets > 2);
        for (program, frame) in
            [(TC_INGRESS_DISPATCH, frame.bytes()), (TC_EGRESS_DISPATCH, frame.reversed().bytes())]
        {
            rig.run_gso(program, &frame, 500).unwrap();
            rig.run(program, &frame, 1).unwrap();
        }
        assert_eq!(global(&mut rig, Global::GsoFrames), 0);
        for direction in Direction::ALL {
            let counter = rig.counter(0, direction).unwrap();
            let of_verdict = Verdict::Partition as usize;
            assert_eq!((counter.gso_frames, counter.packets[of_verdict]), (0, packets + 1), "{direction:?}");
            let bytes = length + (packets - 1) * headers + length;
            assert_eq!(counter.bytes[of_verdict], bytes, "{direction:?}");
        }
    }
}
