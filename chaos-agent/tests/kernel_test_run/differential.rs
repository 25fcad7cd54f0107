//! A million random packets, malformed ones included, through the kernel and through the host: each gets the same fate, and
//! the same is counted.

use std::cell::Cell;
use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::rc::Rc;

use fault_abi::counter::{Counter, Global, delay_bucket};
use fault_abi::decide::Packet;
use fault_abi::delay::innovation;
use fault_abi::draw::OF_TARGET;
use fault_abi::key::{
    Address, Direction, FlowKey, IPV4_PREFIX, PROTOCOL_ICMP, PROTOCOL_TCP, PROTOCOL_UDP, PortKey,
};
use fault_abi::later::{self, Plan};
use fault_abi::line::Line;
use fault_abi::names::XDP_DISPATCH;
use fault_abi::packet::{self, Link};
use fault_abi::pass::{self, Channel, Sequence, Stage, Track, World};
use fault_abi::rule::{
    ALWAYS, Binding, CONFIG_HAS_CIDRS, CONFIG_HAS_LATER, Config, ENTRY_HAS_PORTS, PHASE_BURSTS,
    PHASE_DELAY_PER_FLOW, PHASE_PARETO, PHASE_PARTITION, PHASE_PER_FLOW, PHASE_UNIFORM, Phase, PortRange,
    RULE_FROM_DEVICE, RULE_TO_DEVICE, Rule, WHOLE,
};
use fault_abi::verdict::{Effect, Verdict};
use fault_rig::Rig;
use fault_rig::frame::{Extension, SERVICE_TAG, Spec, TAG};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

use crate::stage::*;

const PACKETS: u32 = 1_000_000;
const KUBELET: u16 = 10_250;

/// The words of a flow, by sequence and direction.
type Channels = [[Rc<Cell<u64>>; 2]; 2];

/// A channel on the host.
struct Word(Rc<Cell<u64>>);

impl Channel for Word {
    fn load(&self) -> u64 {
        self.0.get()
    }

    fn add(&self, n: u64) -> u64 {
        self.0.replace(self.0.get() + n)
    }

    fn replace(&self, _: u64, new: u64) -> bool {
        self.0.set(new);
        true
    }
}

/// Everything that the kernel's maps hold, and what its programs do with it.
#[derive(Default)]
struct Host {
    rules: &'static [Rule],
    targets: HashMap<Address, (bool, Vec<Binding>)>,
    ports: HashMap<PortKey, Vec<Binding>>,
    network: Vec<Binding>,
    flows: HashMap<FlowKey, (u64, Channels)>,
    ordinals: HashMap<u32, u64>,
    all: HashMap<(u32, Direction, Sequence), Rc<Cell<u64>>>,
    counters: HashMap<(u32, Direction), Counter>,
    globals: HashMap<Global, u64>,
    node: Vec<Address>,
}

impl World<'static> for Host {
    type Channel = Word;

    fn rule(&self, slot: u32) -> Option<&'static Rule> {
        self.rules.get(slot as usize)
    }

    fn is_peer(&self, _: u32, peer: &Address) -> bool {
        *peer == address(PEER)
    }

    fn track(
        &mut self,
        binding: &Binding,
        packet: &Packet,
        sequence: Sequence,
        of_target: bool,
    ) -> Option<Track<Word>> {
        if of_target {
            let word = self.all.entry((binding.state, packet.direction, sequence)).or_default();
            return Some(Track { ordinal: OF_TARGET, channel: Word(Rc::clone(word)) });
        }
        let key = FlowKey {
            peer: packet.peer,
            state: binding.state,
            target_port: packet.target_port,
            peer_port: packet.peer_port,
            protocol: packet.protocol,
            zero: [0; 3],
        };
        let ordinals = &mut self.ordinals;
        let (ordinal, words) = self.flows.entry(key).or_insert_with(|| {
            let next = ordinals.entry(binding.state).or_default();
            *next += 1;
            (*next - 1, Default::default())
        });
        let word = &words[sequence as usize][packet.direction as usize];
        Some(Track { ordinal: *ordinal, channel: Word(Rc::clone(word)) })
    }

    fn count(&mut self, binding: &Binding, packet: &Packet, verdict: Verdict, _: u64) -> bool {
        let counter = self.counters.entry((binding.state, packet.direction)).or_default();
        counter.packets[verdict as usize] += 1;
        counter.bytes[verdict as usize] += packet.bytes;
        true
    }

    fn count_node_miss(&mut self, binding: &Binding, packet: &Packet) {
        self.counters.entry((binding.state, packet.direction)).or_default().node_misses += 1;
    }

    fn effects(&mut self, binding: &Binding, packet: &Packet, effects: u32, delay_ns: u64) {
        let counter = self.counters.entry((binding.state, packet.direction)).or_default();
        for effect in Effect::ALL {
            counter.effects[effect as usize] += u64::from(effects & effect.bit() != 0);
        }
        counter.delay_ns += delay_ns;
        counter.delays[delay_bucket(delay_ns)] += u64::from(delay_ns != 0);
    }

    fn departure(&mut self, _: &Binding, _: Direction) -> Option<Word> {
        None
    }

    fn is_line_alive(&self, _: u64) -> bool {
        true
    }

    /// There is no splitter here.
    fn is_whole(&self) -> bool {
        false
    }

    fn holds_super_packets(&self) -> bool {
        true
    }

    fn enter_line(&mut self, _: u32, _: u64) -> bool {
        true
    }

    fn count_global(&mut self, what: Global) {
        *self.globals.entry(what).or_default() += 1;
    }
}

impl Host {
    /// What `fault_ebpf::hook` does with a frame: whether it goes on as it is. (What is held or sent twice is carried out by
    /// another program, which is not there: it is dropped then.)
    fn passes(&mut self, frame: &[u8], direction: Direction, stage: Stage) -> bool {
        let link = packet::link(frame);
        let Some(target) = packet::target(frame, link, direction) else { return true };
        let is_in_network =
            !self.network.is_empty() && target.masked(IPV4_PREFIX + 24) == address("10.20.0.0");
        let (has_ports, mut bindings) = match self.targets.get(&target) {
            Some((has_ports, bindings)) => (*has_ports, bindings.clone()),
            None if is_in_network => (false, self.network.clone()),
            None => return true,
        };
        let transport = packet::transport(frame, link);
        let (target_port, peer_port) = transport.ports(direction);
        let packet = Packet {
            direction,
            target,
            peer: packet::peer(frame, link, direction).unwrap_or_default(),
            protocol: transport.protocol,
            has_ports: transport.has_ports,
            target_port,
            peer_port,
            bytes: frame.len() as u64,
            gso: false,
            packets: 1,
            headers: 0,
        };
        if transport.malformed {
            self.count_global(Global::Malformed);
        }
        let protection =
            if self.node.contains(&packet.peer) { pass::protection(&packet, KUBELET, 0, false) } else { 0 };
        if pass::is_link_upkeep(&packet, transport.icmp_type) || pass::is_untouchable(protection) {
            self.count_global(Global::Protected);
            return true;
        }
        if has_ports && packet.has_ports {
            let key = PortKey::new(target, packet.protocol, target_port);
            bindings = self.ports.get(&key).cloned().unwrap_or(bindings);
        }
        let count = u16::try_from(bindings.len()).unwrap();
        let bind = |host: &mut Self, i: usize| pass::bind(host, &bindings[i], &packet, protection, stage, 1);
        if pass::run(self, count, bind).drops() {
            return false;
        }
        stage == Stage::Early || later::run(self, &bindings, &packet, protection, 1) == Plan::AS_IT_IS
    }
}

/// Rules of all kinds, whose matches overlap.
fn rules() -> Vec<Rule> {
    let bursts = Phase {
        flags: PHASE_BURSTS,
        enter_burst: ALWAYS / 20,
        leave_burst: ALWAYS / 4,
        loss: ALWAYS / 50,
        loss_in_burst: ALWAYS / 10 * 7,
        ..Phase::default()
    };
    let ranges = |first: &[(u16, u16)]| {
        let mut rule = Rule { port_ranges: u8::try_from(first.len()).unwrap(), ..loss(300_000) };
        for (slot, (first, last)) in rule.ports.iter_mut().zip(first) {
            *slot = PortRange { first: *first, last: *last };
        }
        rule
    };
    vec![
        loss(100_000),
        Rule { flags: RULE_TO_DEVICE, protocol: PROTOCOL_UDP, ..rule_of(bursts) },
        rule_of(Phase { flags: bursts.flags | PHASE_PER_FLOW, ..bursts }),
        Rule { flags: RULE_FROM_DEVICE, ..rule_of(Phase { every: 7, ..Phase::default() }) },
        rule_of(Phase { every: 5, flags: PHASE_PER_FLOW, ..Phase::default() }),
        Rule { protocol: PROTOCOL_TCP, ..rule_of(Phase { flags: PHASE_PARTITION, ..Phase::default() }) },
        Rule { peer_set: 1, ..ranges(&[(1, 100), (5_000, 6_000)]) },
        ranges(&[(7_000, 7_100)]),
        rule_of(Phase { duplicate: ALWAYS / 5, reorder: ALWAYS / 10, reorder_ns: 3_000_000, ..jitter(0, 0) }),
        rule_of(jitter(PHASE_UNIFORM, WHOLE / 4)),
        rule_of(jitter(PHASE_PARETO | PHASE_DELAY_PER_FLOW, WHOLE / 2)),
        Rule { protocol: PROTOCOL_ICMP, ..loss(500_000) },
    ]
}

/// Delays around 20 ms.
fn jitter(flags: u32, correlation: u32) -> Phase {
    let innovation = innovation(correlation);
    Phase { flags, delay_ns: 20_000_000, jitter_ns: 5_000_000, correlation, innovation, ..Phase::default() }
}

/// A packet of a few addresses and ports, so that many meet a rule and flows repeat; now and then broken.
fn any_frame(dice: &mut StdRng) -> Vec<u8> {
    let is_v4 = dice.random_bool(0.6);
    let host = dice.random_range(15..20_u8);
    let peer = dice.random_range(1..6_u8);
    let (device, other) = if is_v4 {
        (Ipv4Addr::new(10, 20, 0, host).into(), Ipv4Addr::new(10, 244, 1, peer).into())
    } else {
        let v6 = |site, host: u8| Ipv6Addr::new(0xfd00, site, 0, 0, 0, 0, 0, host.into()).into();
        (v6(0x20, host), v6(0x244, peer))
    };
    let ports = [0, 53, 67, 68, 547, 5683, 5684, 7_050, KUBELET, 40_000];
    let mut spec = Spec::udp((device, *ports.choose(dice).unwrap()), (other, *ports.choose(dice).unwrap()));
    spec.protocol = *[17, 17, 17, 6, 6, 1, 58, 132].choose(dice).unwrap();
    spec.icmp_type = dice.random_range(125..150);
    spec.payload = dice.random_range(0..80);
    if dice.random_bool(0.2) {
        spec.tags = [TAG, SERVICE_TAG][..dice.random_range(1..=2)].to_vec();
    }
    if dice.random_bool(0.1) {
        spec.fragment = (dice.random_range(0..3), dice.random());
        spec.extensions.push(Extension::Fragment(spec.fragment.0, spec.fragment.1));
    }
    if dice.random_bool(0.1) {
        spec.options = dice.random_range(0..=10);
        let units = dice.random_range(0..4);
        let all = [Extension::HopByHop(units), Extension::Options(units), Extension::Authentication(units)];
        spec.extensions.extend((0..dice.random_range(0..10)).map(|i| all[i % 3]));
    }
    if dice.random_bool(0.5) {
        spec = spec.reversed();
    }
    let mut bytes = spec.bytes();
    if dice.random_bool(0.1) {
        for _ in 0..dice.random_range(1..4) {
            let at = dice.random_range(12..bytes.len());
            bytes[at] = dice.random();
        }
    }
    if dice.random_bool(0.1) {
        // The kernel runs no program on a frame of a link header alone.
        bytes.truncate(dice.random_range(15..=bytes.len()));
    }
    bytes
}

fn has_ip_header(frame: &[u8]) -> bool {
    match packet::link(frame) {
        Link::Other => true,
        Link::Ipv4(offset) => frame.len() >= offset + 20,
        Link::Ipv6(offset) => frame.len() >= offset + 40,
    }
}

/// The same in the kernel's maps and on the host, with a network among the targets or, so that most packets are sorted out by the filter,
/// without.
fn filled(rules: &'static [Rule], has_network: bool) -> (Rig, Host) {
    let mut rig = rig();
    let mut host = Host { rules, node: vec![address("10.244.1.3")], ..Host::default() };
    let bindings = profiles(&mut rig, rules);
    let flags = if has_network { CONFIG_HAS_CIDRS | CONFIG_HAS_LATER } else { CONFIG_HAS_LATER };
    rig.config(&Config { flags, kubelet_port: KUBELET, ..Config::default() }).unwrap();
    let most = 1_u64 << 62;
    let line = Line {
        entry: 1,
        packets: most,
        bytes: most,
        target_packets: most,
        target_bytes: most,
        ..Line::default()
    };
    rig.line(&line).unwrap();
    rig.node_address(host.node[0]).unwrap();
    rig.peer(1, address(PEER), 128).unwrap();
    let choose = |slots: &[usize]| slots.iter().map(|slot| bindings[*slot]).collect::<Vec<_>>();
    let targets = [
        ("10.20.0.15", choose(&[0, 11])),
        ("10.20.0.16", choose(&[1, 2, 6])),
        ("10.20.0.17", choose(&[0, 1, 2, 3, 4, 5, 6, 7])),
        ("10.20.0.18", choose(&[0, 8, 9, 10])),
        ("fd00:20::16", choose(&[4, 3, 2, 1])),
        ("fd00:20::17", choose(&[7, 6, 5, 11])),
        ("fd00:20::18", choose(&[9, 8, 2])),
    ];
    for (text, bindings) in targets {
        rig.target(address(text), ENTRY_HAS_PORTS, &bindings).unwrap();
        host.targets.insert(address(text), (true, bindings));
    }
    for (text, port, slots) in [("10.20.0.16", 5683, &[2, 0][..]), ("fd00:20::16", 5684, &[1])] {
        let key = PortKey::new(address(text), PROTOCOL_UDP, port);
        rig.port_target(key, &choose(slots)).unwrap();
        host.ports.insert(key, choose(slots));
    }
    if has_network {
        host.network = choose(&[0, 4]);
        rig.cidr(address("10.20.0.0"), u8::try_from(IPV4_PREFIX).unwrap() + 24, &host.network).unwrap();
    }
    (rig, host)
}

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn the_kernel_and_the_host_give_a_million_random_packets_the_same_fates_and_count_the_same() {
    compare(packets(PACKETS), true);
}

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn where_the_filter_sorts_out_most_packets_the_kernel_and_the_host_still_give_each_the_same_fate() {
    compare(packets(PACKETS / 4), false);
}

fn compare(packets: u32, has_network: bool) {
    let rules: &'static [Rule] = rules().leak();
    let (mut rig, mut host) = filled(rules, has_network);
    let mut dice = StdRng::seed_from_u64(7);
    let mut dropped = 0_usize;
    let packets = usize::try_from(packets).unwrap();
    for i in 0..packets {
        let frame = any_frame(&mut dice);
        // The kernel runs no TC program on half an IP header.
        let hooks = if has_ip_header(&frame) { &HOOKS[..] } else { &HOOKS[..1] };
        let (hook, drop, pass, direction) = *hooks.choose(&mut dice).unwrap();
        let stage = if hook == XDP_DISPATCH { Stage::Early } else { Stage::Whole };
        let expected = !host.passes(&frame, direction, stage);
        let ran = rig.run(hook, &frame, 1);
        let ran = ran.map_err(|error| format!("packet {i} through {hook}: {frame:02x?}: {error}"));
        let code = ran.unwrap().code;
        assert_eq!(code, if expected { drop } else { pass }, "packet {i} through {hook}: {frame:02x?}");
        dropped += usize::from(expected);
    }
    assert!((packets / 20..packets / 2).contains(&dropped), "{dropped} dropped: the packets show too little");
    for slot in (0..).take(rules.len()) {
        for direction in Direction::ALL {
            let kernel = Counter { last_seen_ns: 0, ..rig.counter(slot, direction).unwrap() };
            let expected = host.counters.get(&(slot, direction)).copied().unwrap_or_default();
            assert_eq!(kernel, expected, "rule {slot}, {direction:?}");
        }
        let is_met =
            Direction::ALL.into_iter().any(|direction| host.counters.contains_key(&(slot, direction)));
        assert!(is_met, "no packet met rule {slot}: the packets show too little");
    }
    for what in [Global::Protected, Global::Malformed, Global::Untracked, Global::Orphaned] {
        let expected = host.globals.get(&what).copied().unwrap_or_default();
        assert_eq!(rig.global(what).unwrap(), expected, "{what:?}");
    }
}
