//! Conversations that no fault touches.

use fault_abi::counter::Global;
use fault_abi::key::{
    Direction, IPV4_PREFIX, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP, PortKey,
};
use fault_abi::names::{TC_REST_DISPATCH, XDP_DISPATCH};
use fault_abi::rule::{Config, PROTECTED_NODE, PROTECTED_PROBE, RULE_LIFTS_PROBES, Rule};
use fault_rig::frame::Spec;

use crate::stage::*;

/// A packet of TCP from a port of the device to the peer, which the stories make the node.
fn tcp(device_port: u16, node_port: u16) -> Spec {
    Spec { protocol: PROTOCOL_TCP, source_port: device_port, destination_port: node_port, ..from_device() }
}

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn the_nodes_own_way_is_protected_by_both_ends_and_nothing_lifts_it() {
    let base = partition();
    let mut rig = rig_with(&[Rule { flags: base.flags | RULE_LIFTS_PROBES, ..base }]);
    rig.protect(PortKey::new(address(DEVICE), PROTOCOL_TCP, 6443), PROTECTED_NODE).unwrap();
    assert_drops(&rig, &tcp(6443, 50_000), "the peer is not the node");
    rig.node_address(address(PEER)).unwrap();
    assert_passes(&rig, &tcp(6443, 50_000), "the node's conversation");
    assert_drops(&rig, &tcp(6444, 50_000), "another port");
    assert_drops(&rig, &Spec { source_port: 6443, ..from_device() }, "another protocol");
    let stranger = Spec { destination: "10.244.1.6".parse().unwrap(), ..tcp(6443, 50_000) };
    assert_drops(&rig, &stranger, "another's conversation with the same port");
    assert_eq!(global(&mut rig, Global::Protected), 3);
}

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn a_probe_is_protected_until_a_rule_names_the_nodes_address() {
    let base = partition();
    for (flags, drops) in [(base.flags, false), (base.flags | RULE_LIFTS_PROBES, true)] {
        let mut rig = rig_with(&[Rule { flags, ..base }]);
        rig.node_address(address(PEER)).unwrap();
        rig.protect(PortKey::new(address(DEVICE), PROTOCOL_TCP, 8081), PROTECTED_PROBE).unwrap();
        assert_fate(&rig, &tcp(8081, 50_000), drops, "the probe");
        assert_drops(&rig, &tcp(8082, 50_000), "another port");
        assert_eq!(global(&mut rig, Global::Protected), if drops { 0 } else { 3 });
        assert_eq!(both(&mut rig, 0).seen(), if drops { 6 } else { 3 }, "a protected packet is not counted");
    }
}

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn the_kubelets_port_is_protected_on_the_node_only() {
    let mut rig = rig_with(&[partition()]);
    rig.config(&Config { kubelet_port: 10_250, ..Config::default() }).unwrap();
    assert_drops(&rig, &tcp(50_000, 10_250), "some other host's port 10250");
    rig.node_address(address(PEER)).unwrap();
    assert_passes(&rig, &tcp(50_000, 10_250), "the node's");
    assert_drops(&rig, &tcp(10_250, 50_000), "the device's port of that number");
    assert_drops(&rig, &Spec { protocol: PROTOCOL_UDP, ..tcp(50_000, 10_250) }, "UDP");
}

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn a_protected_network_is_protected_for_the_node_only() {
    let mut rig = rig_with(&[partition()]);
    rig.protect_cidr(address("10.20.0.0"), IPV4_PREFIX + 24).unwrap();
    assert_drops(&rig, &from_device(), "the peer is not the node");
    rig.node_address(address(PEER)).unwrap();
    assert_passes(&rig, &from_device(), "the node's conversation");
}

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn a_protected_network_of_one_family_protects_nothing_of_the_other() {
    let mut rig = rig_with(&[partition()]);
    rig.node_address(address(PEER)).unwrap();
    rig.node_address(address(PEER6)).unwrap();
    rig.protect_cidr(address("::"), 0).unwrap();
    assert_passes(&rig, &from_device6(), "all of IPv6 is protected");
    assert_drops(&rig, &from_device(), "and nothing of IPv4");
}

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn neighbour_discovery_and_dhcp_pass_and_other_icmp_does_not() {
    let rig = rig_with(&[partition()]);
    for icmp_type in [128, 129, 130, 132, 133, 135, 137, 138, 143, 144] {
        let packet = Spec { protocol: PROTOCOL_ICMPV6, icmp_type, ..from_device6() };
        assert_fate(&rig, &packet, !matches!(icmp_type, 130..=137 | 143), "ICMPv6");
    }
    for (device, peer, drops) in
        [(68, 67, false), (67, 68, false), (67, 67, false), (68, 68, true), (67, 5683, true)]
    {
        let packet = Spec { source_port: device, destination_port: peer, ..from_device() };
        assert_fate(&rig, &packet, drops, "DHCP");
    }
    for (device, peer, drops) in [(546, 547, false), (547, 546, false), (546, 546, true)] {
        let packet = Spec { source_port: device, destination_port: peer, ..from_device6() };
        assert_fate(&rig, &packet, drops, "DHCPv6");
    }
}

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn later_fragments_of_a_protected_conversation_are_protected_for_the_node_only() {
    let mut rig = rig_with(&[partition()]);
    rig.protect(PortKey::new(address(DEVICE), PROTOCOL_UDP, 53), PROTECTED_NODE).unwrap();
    rig.protect(PortKey::new(address(DEVICE), PROTOCOL_UDP, 0), PROTECTED_NODE).unwrap();
    let answer = |offset| Spec { source_port: 53, fragment: (offset, true), ..from_device() };
    assert_drops(&rig, &answer(0), "the peer is not the node");
    assert_drops(&rig, &answer(185), "the peer is not the node");
    rig.node_address(address(PEER)).unwrap();
    assert_passes(&rig, &answer(0), "the first fragment of an answer of DNS");
    assert_passes(&rig, &answer(185), "a later one");
    assert_drops(&rig, &Spec { protocol: PROTOCOL_TCP, ..answer(185) }, "of another protocol");
    assert_drops(&rig, &Spec { source_port: 54, ..answer(0) }, "another port");
    assert_drops(&rig, &Spec { source_port: 0, ..from_device() }, "port 0 is a port like any other");
}

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn that_a_packet_of_the_nodes_was_too_large_for_its_way_is_told_the_node() {
    let mut rig = rig_with(&[partition()]);
    let v4 = |(icmp_type, icmp_code)| Spec { protocol: PROTOCOL_ICMP, icmp_type, icmp_code, ..from_device() };
    let v6 = |icmp_type| Spec { protocol: PROTOCOL_ICMPV6, icmp_type, ..from_device6() };
    assert_drops(&rig, &v4((3, 4)), "another's packet");
    assert_drops(&rig, &v6(2), "another's packet");
    rig.node_address(address(PEER)).unwrap();
    rig.node_address(address(PEER6)).unwrap();
    // What the node says to others is none of its own conversations.
    let told = |packet: &Spec, drops: bool| {
        for (hook, drop, pass, direction) in HOOKS {
            let (bytes, is_from) = match direction {
                Direction::FromDevice => (packet.bytes(), true),
                Direction::ToDevice => (packet.reversed().bytes(), false),
            };
            let code = rig.run(hook, &bytes, 1).unwrap().code;
            assert_eq!(code, if drops || !is_from { drop } else { pass }, "{hook} on {packet:?}");
        }
    };
    for (kind, drops) in [((3, 4), false), ((3, 3), true), ((11, 4), true), ((0, 0), true)] {
        told(&v4(kind), drops);
    }
    for (icmp_type, drops) in [(2, false), (1, true), (3, true), (129, true)] {
        told(&v6(icmp_type), drops);
    }
}

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn what_xdp_has_counted_as_protected_or_malformed_tc_does_not_count_again() {
    let mut rig = rig_with(&[loss(0)]);
    rig.node_address(address(PEER)).unwrap();
    rig.protect(PortKey::new(address(DEVICE), PROTOCOL_TCP, 6443), PROTECTED_NODE).unwrap();
    rig.protect(PortKey::new(address(DEVICE), PROTOCOL_TCP, 8081), PROTECTED_PROBE).unwrap();
    let dhcp = Spec { source_port: 68, destination_port: 67, ..from_device() };
    let mut counted = |frame: &[u8], what, story: &str| {
        let before = global(&mut rig, what);
        for (hook, passes) in [(XDP_DISPATCH, XDP_PASS), (TC_REST_DISPATCH, NEXT)] {
            assert_eq!(rig.run(hook, frame, 1).unwrap().code, passes, "{story}");
        }
        assert_eq!(global(&mut rig, what) - before, 1, "{story}");
    };
    counted(&tcp(6443, 50_000).bytes(), Global::Protected, "the node's conversation");
    counted(&tcp(8081, 50_000).bytes(), Global::Protected, "a probe");
    counted(&dhcp.bytes(), Global::Protected, "DHCP");
    let cut = from_device().bytes();
    counted(&cut[..14 + 20 + 2], Global::Malformed, "half a port");
}
