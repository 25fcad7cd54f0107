//! A packet's way through its bindings, on plain collections instead of maps.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::rc::Rc;

use fault_abi::counter::Global;
use fault_abi::decide::{Packet, applies, segments};
use fault_abi::key::{Address, Direction, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP};
use fault_abi::packet;
use fault_abi::pass::{
    Sequence, Stage, Track, World, bind, has_end, is_entry_of, is_link_upkeep, protection, run, tells_of_way,
    wants_splitter,
};
use fault_abi::rule::{
    ALWAYS, Binding, Entry, PEER_IS_NODE, PHASE_BURSTS, PHASE_PARTITION, PHASE_REJECT, PROTECTED_NODE,
    PROTECTED_PROBE, Phase, PortRange, RULE_FROM_DEVICE, RULE_LIFTS_PROBES, RULE_TO_DEVICE, Rule,
};
use fault_abi::verdict::Verdict;
use proptest::prelude::*;
use word::Word;

mod word;

/// The maps, as collections.
#[derive(Default)]
struct Model<'r> {
    rules: &'r [Rule],
    peers: BTreeSet<(u32, Address)>,
    channel: Rc<Cell<u64>>,
    departure: Rc<Cell<u64>>,
    is_stalled: bool,
    is_unanswerable: bool,
    holds_super_packets: bool,
    counts: BTreeMap<(u32, Verdict), u64>,
    effects: BTreeMap<u32, u32>,
    globals: Vec<Global>,
    node_misses: u32,
}

impl<'r> World<'r> for Model<'r> {
    type Channel = Word;

    fn rule(&self, slot: u32) -> Option<&'r Rule> {
        self.rules.get(slot as usize)
    }

    fn is_peer(&self, set: u32, peer: &Address) -> bool {
        self.peers.contains(&(set, *peer))
    }

    fn track(&mut self, _: &Binding, _: &Packet, _: Sequence, _: bool) -> Option<Track<Word>> {
        Some(Track { ordinal: 0, channel: Word(Rc::clone(&self.channel)) })
    }

    fn count(&mut self, binding: &Binding, _: &Packet, verdict: Verdict, _: u64) -> bool {
        *self.counts.entry((binding.state, verdict)).or_default() += 1;
        true
    }

    fn count_node_miss(&mut self, _: &Binding, _: &Packet) {
        self.node_misses += 1;
    }

    fn effects(&mut self, binding: &Binding, _: &Packet, effects: u32, _: u64) {
        *self.effects.entry(binding.state).or_default() |= effects;
    }

    fn departure(&mut self, _: &Binding, _: Direction) -> Option<Word> {
        Some(Word(Rc::clone(&self.departure)))
    }

    fn is_line_alive(&self, _: u64) -> bool {
        !self.is_stalled
    }

    fn is_whole(&self) -> bool {
        true
    }

    fn is_flippable(&self, _: &Packet) -> bool {
        true
    }

    fn is_answerable(&self, _: &Packet) -> bool {
        !self.is_unanswerable
    }

    fn holds_super_packets(&self) -> bool {
        self.holds_super_packets
    }

    fn enter_line(&mut self, _: u32, _: u64) -> bool {
        true
    }

    fn count_global(&mut self, what: Global) {
        self.globals.push(what);
    }
}

fn packet() -> Packet {
    Packet {
        direction: Direction::FromDevice,
        target: Address { words: [0, 0, 1, 17] },
        peer: Address { words: [0, 0, 1, 5] },
        protocol: PROTOCOL_UDP,
        has_ports: true,
        target_port: 5683,
        peer_port: 40_000,
        bytes: 100,
        gso: false,
        packets: 1,
        headers: 0,
    }
}

fn rule() -> Rule {
    let flags = RULE_FROM_DEVICE | RULE_TO_DEVICE;
    Rule { generation: 1, deadline_ns: 20, flags, ..Rule::of(Phase::default()) }
}

/// Takes a packet through the rules in the first `count` slots.
fn through(model: &mut Model<'_>, count: u16, packet: &Packet, protection: u32, now_ns: u64) -> Verdict {
    run(model, count, Stage::Whole, |model, i| {
        let slot = u32::try_from(i).unwrap_or(u32::MAX);
        bind(
            model,
            &Binding { rule: slot, state: slot, key: [3, 4] },
            packet,
            protection,
            Stage::Whole,
            now_ns,
        )
    })
}

#[test]
fn a_rule_acts_until_just_before_its_deadline() {
    for (now, acts) in [(0, true), (19, true), (20, false)] {
        assert_eq!(applies(&rule(), &packet(), now), acts, "at {now}");
    }
    assert!(!applies(&Rule { generation: 0, ..rule() }, &packet(), 15), "an empty slot");
}

#[test]
fn a_super_packet_is_split_only_where_its_segments_may_differ_in_their_fate() {
    let one_fate = [
        Phase::default(),
        Phase { flags: PHASE_PARTITION, loss: ALWAYS / 2, ..Phase::default() },
        Phase { delay_ns: 5, ..Phase::default() },
    ];
    let several = [
        Phase { loss: 1, ..Phase::default() },
        Phase { every: 10, ..Phase::default() },
        Phase { flags: PHASE_BURSTS, loss_in_burst: ALWAYS, enter_burst: 1, ..Phase::default() },
        Phase { flags: PHASE_PARTITION | PHASE_REJECT, ..Phase::default() },
        Phase { corrupt: 1, ..Phase::default() },
        Phase { duplicate: 1, ..Phase::default() },
        Phase { delay_ns: 5, jitter_ns: 1, ..Phase::default() },
        Phase { reorder: 1, reorder_ns: 5, ..Phase::default() },
        Phase { rate: 1_000, ..Phase::default() },
    ];
    let alone = packet();
    let whole = Packet { gso: true, packets: 3, headers: 66, ..packet() };
    let uncounted = Packet { packets: 1, headers: 0, ..whole };
    let is_split = |phase: Phase, packet: &Packet, holds_super_packets: bool| {
        let rules = [Rule { generation: 1, deadline_ns: 20, flags: RULE_FROM_DEVICE, ..Rule::of(phase) }];
        let model = Model { rules: &rules, holds_super_packets, ..Model::default() };
        wants_splitter(&model, &Binding::default(), packet, 0, 15)
    };
    for phase in one_fate {
        assert!(!is_split(phase, &alone, true) && !is_split(phase, &whole, true), "{phase:?}");
        assert!(is_split(phase, &uncounted, true), "how many it is cannot be counted: {phase:?}");
        assert_eq!(is_split(phase, &whole, false), phase.delay_ns != 0, "a TAP is no way for it: {phase:?}");
    }
    for phase in several {
        assert!(is_split(phase, &whole, true), "{phase:?}");
        assert_eq!(is_split(phase, &alone, true), phase.rewrites(), "{phase:?}");
    }
}

#[test]
fn a_super_packet_is_as_many_packets_as_its_segments_and_each_has_headers() {
    for (bytes, packets) in [(66 + 1, 1), (66 + 1_448, 1), (66 + 1_449, 2), (66 + 3 * 1_448, 3)] {
        let whole = Packet {
            bytes,
            packets: segments(u32::try_from(bytes).unwrap(), 66, 1_448),
            headers: 66,
            ..packet()
        };
        assert_eq!(whole.packets, packets, "{bytes} bytes");
        assert_eq!(whole.wire_bytes(), bytes + (u64::from(packets) - 1) * 66);
    }
    assert_eq!(
        [segments(66, 66, 1_448), segments(60, 66, 1_448), segments(2_000, 66, 0)],
        [1; 3],
        "never none"
    );
}

#[test]
fn a_probe_passes_unless_the_rule_lifts_it() {
    let mut partition = rule();
    partition.phases[0].flags = PHASE_PARTITION;
    let lifting = Rule { flags: partition.flags | RULE_LIFTS_PROBES, ..partition };
    for (rule, verdict, globals) in [(partition, Verdict::Pass, 1), (lifting, Verdict::Partition, 0)] {
        let rules = [rule; 2];
        let mut model = Model { rules: &rules, ..Model::default() };
        assert_eq!(through(&mut model, 2, &packet(), PROTECTED_PROBE, 15), verdict);
        assert_eq!(model.globals.len(), globals, "a packet is spared once, however many rules spare it");
    }
}

#[test]
fn a_conversation_is_protected_by_either_end() {
    let tcp = Packet { protocol: PROTOCOL_TCP, peer_port: 10_250, ..packet() };
    assert_eq!(protection(&tcp, 10_250, 0, false), PROTECTED_NODE | PEER_IS_NODE);
    assert_eq!(protection(&tcp, 0, 0, false), PEER_IS_NODE);
    assert_eq!(protection(&packet(), 10_250, PROTECTED_PROBE, false), PROTECTED_PROBE | PEER_IS_NODE);
    assert_eq!(protection(&packet(), 10_250, 0, true), PROTECTED_NODE | PEER_IS_NODE);
}

#[test]
fn a_later_fragment_is_found_without_a_port_and_a_whole_packet_by_its_own() {
    let nothing = Packet { has_ports: false, target_port: 0, ..packet() };
    assert!(has_end(&packet(), false) && has_end(&nothing, true));
    assert!(!has_end(&nothing, false), "ICMP, and what is cut off");
    assert!(!has_end(&Packet { target_port: 0, ..packet() }, false), "that entry is for fragments");
}

#[test]
fn only_who_hears_that_a_packet_was_too_large_needs_to() {
    let icmp = |direction| Packet { direction, protocol: PROTOCOL_ICMPV6, has_ports: false, ..packet() };
    assert!(tells_of_way(&icmp(Direction::FromDevice), true));
    assert!(!tells_of_way(&icmp(Direction::FromDevice), false));
    assert!(!tells_of_way(&icmp(Direction::ToDevice), true));
}

#[test]
fn a_packet_that_lacks_the_right_peer_alone_is_told_apart_where_its_peer_is_the_node() {
    let by_peer = Rule { peer_set: 1, ..rule() };
    let misses = |rule: Rule, protection, peers: &[Address]| {
        let peers = peers.iter().map(|peer| (1, *peer)).collect();
        let mut model = Model { rules: &[rule], peers, ..Model::default() };
        through(&mut model, 1, &packet(), protection, 15);
        model.node_misses
    };
    assert_eq!(misses(by_peer, PEER_IS_NODE, &[]), 1);
    assert_eq!(misses(by_peer, 0, &[]), 0, "somebody else");
    assert_eq!(misses(by_peer, PEER_IS_NODE, &[packet().peer]), 0, "the right peer");
    assert_eq!(misses(by_peer, PEER_IS_NODE | PROTECTED_PROBE, &[]), 0, "a probe");
    let of_tcp = Rule { protocol: PROTOCOL_TCP, ..by_peer };
    assert_eq!(misses(of_tcp, PEER_IS_NODE, &[]), 0, "it lacks the right protocol, too");
    assert_eq!(misses(rule(), PEER_IS_NODE, &[]), 0, "the rule is about anybody");
}

#[test]
fn the_links_own_upkeep_is_neighbour_discovery_and_dhcp() {
    let icmp = Packet { protocol: PROTOCOL_ICMPV6, has_ports: false, ..packet() };
    // NDP and MLD, and neither pings nor their neighbours by number.
    for icmp_type in 0..=u8::MAX {
        let upkeep = [130, 131, 132, 133, 134, 135, 136, 137, 143].contains(&icmp_type);
        assert_eq!(is_link_upkeep(&icmp, icmp_type), upkeep, "ICMPv6 type {icmp_type}");
    }
    assert!(!is_link_upkeep(&Packet { protocol: PROTOCOL_ICMP, ..icmp }, 135));
    assert!(is_link_upkeep(&Packet { target_port: 68, peer_port: 67, ..packet() }, 0));
    assert!(!is_link_upkeep(&packet(), 0));
}

#[test]
fn an_entry_is_of_its_address_or_of_all_within_its_prefix() {
    let entry = Entry { address: packet().target, prefix: 128, ..Entry::default() };
    assert!(is_entry_of(&entry, &packet().target) && !is_entry_of(&entry, &packet().peer));
    let wide = Entry { address: packet().target.masked(96), prefix: 96, ..Entry::default() };
    assert!(is_entry_of(&wide, &packet().peer));
    assert!(!is_entry_of(&wide, &Address { words: [0, 0, 2, 5] }));
}

#[test]
fn all_of_ipv6_contains_nothing_of_ipv4_and_the_other_way_round() {
    let (v4, v6) = (Address::from(Ipv4Addr::new(10, 0, 0, 1)), Address::from(Ipv6Addr::LOCALHOST));
    let all6 = Entry { prefix: 0, ..Entry::default() };
    let all4 = Entry { address: v4.masked(96), prefix: 96, ..Entry::default() };
    assert!(is_entry_of(&all6, &v6) && !is_entry_of(&all6, &v4));
    assert!(is_entry_of(&all4, &v4) && !is_entry_of(&all4, &v6));
}

fn any_phase() -> impl Strategy<Value = Phase> {
    let share = || prop_oneof![Just(0), Just(ALWAYS), 0..=ALWAYS];
    let burst = (share(), share(), share());
    (0..30_u64, share(), burst, 0..4_u32, 0..8_u32).prop_map(
        |(until_ns, loss, (loss_in_burst, enter_burst, leave_burst), every, flags)| Phase {
            until_ns,
            loss,
            loss_in_burst,
            enter_burst,
            leave_burst,
            every,
            flags,
            ..Phase::default()
        },
    )
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let window = (0..3_u64, 0..30_u64, 0..30_u64);
    let phases = prop::collection::vec(any_phase(), 1..4);
    let whom =
        (0..8_u32, 0..3_u32, prop_oneof![Just(0), Just(6), Just(17)], 0..4_u8, any::<[(u16, u16); 3]>());
    (window, phases, whom).prop_map(
        |((generation, deadline_ns, length_ns), phases, (flags, peer_set, protocol, port_ranges, ranges))| {
            let mut rule = Rule {
                generation,
                deadline_ns,
                length_ns,
                flags,
                peer_set,
                protocol,
                port_ranges,
                ..Rule::default()
            };
            for (port, (first, last)) in rule.ports.iter_mut().zip(ranges) {
                *port = PortRange { first, last };
            }
            for (slot, phase) in rule.phases.iter_mut().zip(phases) {
                *slot = phase;
                rule.phase_count += 1;
            }
            rule
        },
    )
}

proptest! {
    /// Each binding counts a packet at most once, one that drops is the last, and what passed all was dropped by none.
    #[test]
    fn counts_agree_with_the_verdict(rules in prop::collection::vec(any_rule(), 0..=8), now in 0..30_u64, port: u16) {
        let peers = BTreeSet::from([(1, packet().peer)]);
        let mut model = Model { rules: &rules, peers, ..Model::default() };
        let packet = Packet { target_port: port, ..packet() };
        let count = u16::try_from(rules.len()).unwrap();
        let verdict = through(&mut model, count, &packet, 0, now);
        let drops: Vec<_> = model.counts.keys().filter(|(_, verdict)| verdict.drops()).collect();
        prop_assert_eq!(drops.len(), usize::from(verdict.drops()));
        let last = model.counts.keys().map(|(slot, _)| *slot).max();
        for (slot, dropped) in drops {
            prop_assert_eq!(*dropped, verdict);
            prop_assert_eq!(Some(*slot), last);
        }
        for ((slot, _), n) in &model.counts {
            prop_assert_eq!(*n, 1);
            prop_assert!(applies(&rules[*slot as usize], &packet, now));
        }
    }

    /// Whatever the bytes are, the parser neither panics nor reads beyond them.
    #[test]
    fn any_bytes_can_be_parsed(bytes in prop::collection::vec(any::<u8>(), 0..300), kind in 0..3_usize) {
        let mut bytes = bytes;
        if bytes.len() >= 14 {
            bytes[12..14].copy_from_slice(&[[0x08, 0x00], [0x86, 0xdd], [0x81, 0x00]][kind]);
        }
        let link = packet::link(&bytes[..]);
        let transport = packet::transport(&bytes[..], link);
        prop_assert!(!transport.has_ports || !transport.malformed);
        for direction in Direction::ALL {
            let _ = packet::target(&bytes[..], link, direction);
        }
    }
}
