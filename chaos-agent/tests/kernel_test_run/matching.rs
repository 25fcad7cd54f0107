//! Which rules meet which packets.

use fault_abi::counter::Global;
use fault_abi::filter::Filter;
use fault_abi::key::{
    Direction, IPV4_PREFIX, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP, PortKey,
};
use fault_abi::names::{TC_EGRESS_DISPATCH, TC_INGRESS_DISPATCH, XDP_DISPATCH};
use fault_abi::rule::{
    Binding, CONFIG_HAS_CIDRS, Config, ENTRY_HAS_PORTS, Entry, MAX_BINDINGS, NO_RULE, PortRange,
    RULE_FROM_DEVICE, RULE_TO_DEVICE, Rule,
};
use fault_abi::verdict::Verdict;
use fault_rig::frame::Spec;

use crate::stage::*;

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn only_targets_are_held_and_only_at_their_own_end() {
    let rig = rig_with(&[partition()]);
    assert_drops(&rig, &from_device(), "the device's packets");
    assert_drops(&rig, &from_device6(), "the device's packets");
    let other = Spec { source: "10.20.0.18".parse().unwrap(), ..from_device() };
    assert_passes(&rig, &other, "another device's packets");
    // An ingress hook looks at the source, an egress hook at the destination.
    let to = from_device().reversed().bytes();
    assert_eq!(rig.run(XDP_DISPATCH, &to, 1).unwrap().code, XDP_PASS);
    assert_eq!(rig.run(TC_INGRESS_DISPATCH, &to, 1).unwrap().code, NEXT);
    assert_eq!(rig.run(TC_EGRESS_DISPATCH, &from_device().bytes(), 1).unwrap().code, NEXT);
}

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn a_rule_acts_in_its_direction_only() {
    let from = rig_with(&[Rule { flags: RULE_FROM_DEVICE, ..partition() }]);
    let to = rig_with(&[Rule { flags: RULE_TO_DEVICE, ..partition() }]);
    let (out, back) = (from_device().bytes(), from_device().reversed().bytes());
    for (rig, ingress, egress) in [(&from, SHOT, NEXT), (&to, NEXT, REDIRECT)] {
        assert_eq!(rig.run(TC_INGRESS_DISPATCH, &out, 1).unwrap().code, ingress);
        assert_eq!(rig.run(TC_EGRESS_DISPATCH, &back, 1).unwrap().code, egress);
    }
    assert_eq!(to.run(XDP_DISPATCH, &out, 1).unwrap().code, XDP_PASS);
}

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn all_of_a_rules_port_ranges_count_and_their_ends_belong_to_them() {
    let mut rule = Rule { port_ranges: 16, ..partition() };
    for (i, range) in (0_u16..).zip(rule.ports.iter_mut()) {
        *range = PortRange { first: 1_000 + 100 * i, last: 1_010 + 100 * i };
    }
    let rig = rig_with(&[rule]);
    for i in 0..16 {
        for (port, drops) in [(999, false), (1_000, true), (1_010, true), (1_011, false)] {
            let packet = Spec { source_port: port + 100 * i, ..from_device() };
            assert_fate(&rig, &packet, drops, "ports");
        }
    }
}

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn a_rule_acts_on_its_protocol_only() {
    let rig = rig_with(&[Rule { protocol: PROTOCOL_TCP, ..partition() }]);
    assert_passes(&rig, &from_device(), "UDP");
    assert_drops(&rig, &Spec { protocol: PROTOCOL_TCP, ..from_device() }, "TCP");
}

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn a_rule_for_icmp_acts_on_that_of_both_families_and_on_nothing_else() {
    // Echo request and reply, and "destination unreachable" (RFC 792, RFC 4443 §2.1).
    let v4 = [8, 0, 3].map(|icmp_type| Spec { protocol: PROTOCOL_ICMP, icmp_type, ..from_device() });
    let v6 = [128, 129, 1].map(|icmp_type| Spec { protocol: PROTOCOL_ICMPV6, icmp_type, ..from_device6() });
    let later = Spec { fragment: (100, false), ..v4[0].clone() };
    let neighbour = Spec { icmp_type: 135, ..v6[0].clone() };
    let others = [PROTOCOL_UDP, PROTOCOL_TCP].into_iter();
    let others: Vec<_> = others
        .flat_map(|protocol| [from_device(), from_device6()].map(|packet| Spec { protocol, ..packet }))
        .collect();
    let rig = rig_with(&[Rule { protocol: PROTOCOL_ICMP, ..partition() }]);
    for packet in v4.iter().chain(&v6).chain([&later]) {
        assert_drops(&rig, packet, "ICMP");
    }
    for packet in others.iter().chain([&neighbour]) {
        assert_passes(&rig, packet, "no ICMP, or what keeps the link up");
    }
    for protocol in [PROTOCOL_UDP, PROTOCOL_TCP] {
        let rig = rig_with(&[Rule { protocol, ..partition() }]);
        for packet in v4.iter().chain(&v6).chain([&later]) {
            assert_passes(&rig, packet, "ICMP under a rule for another protocol");
        }
    }
}

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn a_rule_with_peers_acts_on_their_packets_only() {
    let mut rig = rig_with(&[Rule { peer_set: 7, ..partition() }]);
    assert_passes(&rig, &from_device(), "no peer in the set");
    rig.peer(7, address("10.244.0.0"), IPV4_PREFIX + 16).unwrap();
    rig.peer(8, address("10.245.0.0"), IPV4_PREFIX + 16).unwrap();
    assert_drops(&rig, &from_device(), "a peer of the set");
    let other = Spec { destination: "10.245.0.1".parse().unwrap(), ..from_device() };
    assert_passes(&rig, &other, "a peer of another set");
    assert_passes(&rig, &from_device6(), "a peer of another family");
}

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn an_entry_for_the_port_comes_before_that_of_the_address() {
    let mut rig = rig();
    let bindings = profiles(&mut rig, &[partition(), rule()]);
    rig.target(address(DEVICE), ENTRY_HAS_PORTS, &bindings[1..]).unwrap();
    rig.port_target(PortKey::new(address(DEVICE), PROTOCOL_UDP, 5683), &bindings).unwrap();
    assert_drops(&rig, &from_device(), "the port's own entry");
    assert_passes(&rig, &Spec { source_port: 5684, ..from_device() }, "another port");
    assert_passes(&rig, &Spec { protocol: PROTOCOL_TCP, ..from_device() }, "another protocol");
    assert_eq!(both(&mut rig, 1).seen(), 6, "the wider entry saw the two others, at three hooks");
}

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn cidrs_are_consulted_only_while_the_configuration_says_so_and_the_longest_wins() {
    let mut rig = rig();
    let bindings = profiles(&mut rig, &[partition(), rule()]);
    let prefix = |bits: u32| u8::try_from(IPV4_PREFIX + bits).unwrap();
    rig.cidr(address("10.20.0.0"), prefix(16), &bindings[1..]).unwrap();
    rig.cidr(address("10.20.0.0"), prefix(24), &bindings[..1]).unwrap();
    assert_passes(&rig, &from_device(), "without the flag");
    rig.config(&Config { flags: CONFIG_HAS_CIDRS, ..Config::default() }).unwrap();
    assert_drops(&rig, &from_device(), "the longest prefix");
    assert_passes(&rig, &Spec { source: "10.20.1.1".parse().unwrap(), ..from_device() }, "the shorter one");
    assert_passes(&rig, &Spec { source: "10.21.0.17".parse().unwrap(), ..from_device() }, "neither");
    rig.target(address(DEVICE), 0, &bindings[1..]).unwrap();
    assert_passes(&rig, &from_device(), "the address's own entry comes first");
    assert_eq!(both(&mut rig, 1).seen(), 6);
}

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn all_of_ipv6_contains_nothing_of_ipv4_as_target_and_as_peer() {
    let mut rig = rig();
    let bindings = profiles(&mut rig, &[partition()]);
    rig.config(&Config { flags: CONFIG_HAS_CIDRS, ..Config::default() }).unwrap();
    rig.cidr(address("::"), 0, &bindings).unwrap();
    assert_drops(&rig, &from_device6(), "a target in ::/0");
    assert_passes(&rig, &from_device(), "an IPv4 target beside ::/0");
    assert_eq!(global(&mut rig, Global::Reread), 0, "it is not even found");
    let mut rig = rig_with(&[Rule { peer_set: 7, ..partition() }]);
    rig.peer(7, address("::"), 0).unwrap();
    assert_drops(&rig, &from_device6(), "a peer in ::/0");
    assert_passes(&rig, &from_device(), "an IPv4 peer beside ::/0");
}

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn from_its_deadline_on_a_rule_neither_acts_nor_counts() {
    let now = fault_rig::now_ns().unwrap();
    let past = Rule { deadline_ns: now, ..partition() };
    let empty = Rule { generation: 0, ..partition() };
    let mut rig = rig_with(&[past, empty]);
    assert_passes(&rig, &from_device(), "not active");
    for slot in 0..2 {
        assert_eq!(both(&mut rig, slot).seen(), 0);
    }
}

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn bindings_act_in_their_order_and_a_dropped_packet_is_not_seen_by_later_ones() {
    let mut rules = vec![rule(); MAX_BINDINGS];
    rules[5] = partition();
    let mut rig = rig_with(&rules);
    assert_drops(&rig, &from_device(), "the sixth of eight");
    for slot in 0..8 {
        let counter = both(&mut rig, slot);
        let expected = match slot {
            0..5 => (3, 0),
            5 => (0, 3),
            _ => (0, 0),
        };
        let pass = counter.packets[Verdict::Pass as usize];
        assert_eq!((pass, counter.packets[Verdict::Partition as usize]), expected, "slot {slot}");
    }
}

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn an_entry_given_to_another_target_while_it_is_read_is_not_applied() {
    let mut rig = rig();
    let bindings = profiles(&mut rig, &[partition()]);
    let mut all = [Binding::default(); MAX_BINDINGS];
    all[0] = bindings[0];
    let right = Entry {
        address: address(DEVICE),
        prefix: 128,
        count: 1,
        generation: 5,
        bindings: all,
        generation_again: 5,
        ..Entry::default()
    };
    let wrong = [
        ("another's address", Entry { address: address("10.20.0.99"), ..right }),
        ("half written", Entry { generation: 6, ..right }),
    ];
    for (name, entry) in wrong {
        rig.raw_target(address(DEVICE), &entry).unwrap();
        let before = global(&mut rig, Global::Reread);
        assert_passes(&rig, &from_device(), name);
        assert!(global(&mut rig, Global::Reread) > before, "{name} is seen");
    }
    rig.raw_target(address(DEVICE), &right).unwrap();
    assert_drops(&rig, &from_device(), "the right one");
}

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn what_cannot_be_counted_does_not_happen() {
    let mut rig = rig();
    rig.rule(0, &partition()).unwrap();
    rig.rule(1, &loss(1_000_000)).unwrap();
    rig.target(address(DEVICE), 0, &[binding(0), binding(1)]).unwrap();
    assert_passes(&rig, &from_device(), "no state, no counters");
    assert_eq!(global(&mut rig, Global::Orphaned), 6);
}

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn a_dispatcher_passes_everything_until_a_program_is_behind_it() {
    let mut rig = disconnected();
    let bindings = profiles(&mut rig, &[partition()]);
    rig.target(address(DEVICE), 0, &bindings).unwrap();
    let (out, back) = (from_device().bytes(), from_device().reversed().bytes());
    let codes = |rig: &fault_rig::Rig| {
        [(XDP_DISPATCH, &out), (TC_INGRESS_DISPATCH, &out), (TC_EGRESS_DISPATCH, &back)]
            .map(|(hook, frame)| rig.run(hook, frame, 1).unwrap().code)
    };
    assert_eq!(codes(&rig), [XDP_PASS, NEXT, NEXT]);
    rig.connect_all().unwrap();
    assert_eq!(codes(&rig), [XDP_DROP, SHOT, REDIRECT]);
    assert_eq!(counted(&mut rig, 0, Direction::ToDevice, Verdict::Partition), 1);
}

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn what_the_filter_does_not_know_is_looked_up_in_no_table_and_what_it_knows_in_vain_passes() {
    let mut rig = rig_with(&[partition()]);
    rig.filter(Filter::NONE).unwrap();
    for packet in [from_device(), from_device6()] {
        assert_passes(&rig, &packet, "an entry that the filter does not know");
    }
    rig.filter(Filter::ALL).unwrap();
    for packet in [from_device(), from_device6()] {
        assert_drops(&rig, &packet, "an entry that it knows");
        assert_passes(&rig, &packet.reversed(), "an address without an entry");
    }
    assert_eq!(both(&mut rig, 0).seen(), 6);
}

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn a_handle_stands_at_once_for_another_rule_and_where_it_stands_for_none_nothing_happens() {
    let mut rig = rig();
    let bindings = profiles(&mut rig, &[partition(), rule()]);
    rig.target(address(DEVICE), 0, &bindings[..1]).unwrap();
    assert_drops(&rig, &from_device(), "its first rule");
    rig.handle(0, 2).unwrap();
    assert_passes(&rig, &from_device(), "the rule of the second slot");
    assert_eq!(both(&mut rig, 0).seen(), 6, "which is counted as the same profile's");
    rig.handle(0, NO_RULE).unwrap();
    assert_passes(&rig, &from_device(), "no rule");
    assert_eq!((both(&mut rig, 0).seen(), both(&mut rig, 1).seen()), (6, 0));
    rig.handle(0, 1).unwrap();
    assert_drops(&rig, &from_device(), "its first rule again");
}
