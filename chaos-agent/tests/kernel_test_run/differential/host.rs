//! The programs' twin on the host: the same decisions, on plain collections in place of maps.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use fault_abi::counter::{Counter, Global, delay_bucket};
use fault_abi::decide::{self, Packet};
use fault_abi::draw::OF_TARGET;
use fault_abi::key::{Address, Direction, FlowKey, IPV4_PREFIX, PortKey};
use fault_abi::later::{self, COPY_DROPPED, Plan};
use fault_abi::line::passes_whole;
use fault_abi::packet::{self, Link};
use fault_abi::pass::{self, Channel, Sequence, Stage, Track, World};
use fault_abi::remake::{self, Anatomy};
use fault_abi::rule::{Binding, PROTECTED_NODE, Rule};
use fault_abi::verdict::{Effect, Verdict};

use super::KUBELET;
use super::way::{Layer, Way};
use crate::stage::address;

/// What becomes of a packet at a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fate {
    Passes,
    Lost,
    Partitioned,
    Rejected,
    /// It goes to the splitter first.
    Split,
    /// It is held, sent twice or flipped.
    Planned,
    /// All that there was of it would have waited for too long.
    Overflows,
}

/// What is decided by about a packet.
struct Look {
    packet: Packet,
    protection: u32,
    bindings: Vec<Binding>,
    /// It is upkeep of the link, or the node's own.
    is_spared: bool,
    is_malformed: bool,
    anatomy: Anatomy,
}

/// The words of a flow, by sequence and direction.
pub(super) type Channels = [[Rc<Cell<u64>>; 2]; 2];

/// A channel on the host.
pub(super) struct Word(Rc<Cell<u64>>);

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
pub(super) struct Host {
    pub(super) rules: &'static [Rule],
    pub(super) targets: HashMap<Address, (bool, Vec<Binding>)>,
    pub(super) ports: HashMap<PortKey, Vec<Binding>>,
    pub(super) network: Vec<Binding>,
    pub(super) flows: HashMap<FlowKey, (u64, Channels)>,
    pub(super) ordinals: HashMap<u32, u64>,
    pub(super) all: HashMap<(u32, Direction, Sequence), Rc<Cell<u64>>>,
    pub(super) counters: HashMap<(u32, Direction), Counter>,
    pub(super) globals: HashMap<Global, u64>,
    pub(super) node: Vec<Address>,
    pub(super) peers: Vec<Address>,
    /// Targets whose packets' fates depend on when they come.
    pub(super) timed: HashSet<Address>,
    pub(super) departures: HashMap<(u32, Direction), Rc<Cell<u64>>>,
    /// The packet at hand has passed the splitter.
    pub(super) is_whole: bool,
    /// Where its parts are.
    pub(super) anatomy: Anatomy,
}

impl World<'static> for Host {
    type Channel = Word;

    fn rule(&self, slot: u32) -> Option<&'static Rule> {
        self.rules.get(slot as usize)
    }

    fn is_peer(&self, _: u32, peer: &Address) -> bool {
        self.peers.contains(peer)
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
        counter.packets[verdict as usize] += u64::from(packet.packets);
        counter.bytes[verdict as usize] += packet.wire_bytes();
        true
    }

    fn count_node_miss(&mut self, binding: &Binding, packet: &Packet) {
        self.counters.entry((binding.state, packet.direction)).or_default().node_misses +=
            u64::from(packet.packets);
    }

    fn effects(&mut self, binding: &Binding, packet: &Packet, effects: u32, delay_ns: u64) {
        let counter = self.counters.entry((binding.state, packet.direction)).or_default();
        for effect in Effect::ALL {
            let is_met = effects & effect.bit() != 0;
            counter.effects[effect as usize] += u64::from(is_met) * u64::from(packet.packets);
        }
        let delayed = if delay_ns == 0 { 0 } else { u64::from(packet.packets) };
        counter.delay_ns += delay_ns * delayed;
        counter.delays[delay_bucket(delay_ns)] += delayed;
    }

    fn departure(&mut self, binding: &Binding, direction: Direction) -> Option<Word> {
        let word = self.departures.entry((binding.state, direction)).or_default();
        Some(Word(Rc::clone(word)))
    }

    fn is_line_alive(&self, _: u64) -> bool {
        true
    }

    fn is_whole(&self) -> bool {
        self.is_whole
    }

    fn is_flippable(&self, packet: &Packet) -> bool {
        let Anatomy { payload, end, .. } = self.anatomy;
        self.is_whole && remake::flippable(packet.protocol, payload, end.min(number(packet.bytes))).is_some()
    }

    fn is_answerable(&self, packet: &Packet) -> bool {
        self.is_whole && remake::is_answerable(packet, &packet.receiver(), &self.anatomy)
    }

    /// The line of these rigs is none of the engine `fq`.
    fn holds_super_packets(&self) -> bool {
        false
    }

    fn enter_line(&mut self, _: u32, _: u64) -> bool {
        true
    }

    fn count_global(&mut self, what: Global) {
        *self.globals.entry(what).or_default() += 1;
    }
}

impl Host {
    /// The target that a packet is one of.
    pub(super) fn target(&self, frame: &[u8], way: &Way) -> Option<Address> {
        packet::target(frame, link(frame, way), way.direction)
    }

    /// Whether the packet's fate depends on when it comes.
    pub(super) fn is_timed(&self, frame: &[u8], way: &Way) -> bool {
        self.target(frame, way).is_some_and(|target| self.timed.contains(&target))
    }

    /// What `fault_ebpf::gather` and `fault_ebpf::hook` find out about a packet; none: it is of no target.
    fn look(&self, frame: &[u8], way: &Way) -> Option<Look> {
        let (link, direction) = (link(frame, way), way.direction);
        let target = packet::target(frame, link, direction)?;
        let is_in_network =
            !self.network.is_empty() && target.masked(IPV4_PREFIX + 24) == address("10.20.0.0");
        let (has_ports, mut bindings) = match self.targets.get(&target) {
            Some((has_ports, bindings)) => (*has_ports, bindings.clone()),
            None if is_in_network => (false, self.network.clone()),
            None => return None,
        };
        let transport = packet::transport(frame, link);
        let (target_port, peer_port) = transport.ports(direction);
        let network = match link {
            Link::Ipv4(offset) | Link::Ipv6(offset) => number(offset),
            Link::Other => 0,
        };
        let bytes = frame.len() as u64;
        let is_one = way.gso_size == 0 || !passes_whole(bytes, network);
        let headers =
            number(packet::headers_of_tcp(frame, &transport).filter(|_| !is_one).unwrap_or_default());
        let packets = if headers == 0 { 1 } else { decide::segments(number(bytes), headers, way.gso_size) };
        let packet = Packet {
            direction,
            target,
            peer: packet::peer(frame, link, direction).unwrap_or_default(),
            protocol: transport.protocol,
            has_ports: transport.has_ports,
            target_port,
            peer_port,
            bytes,
            gso: way.gso_size != 0,
            packets,
            headers,
        };
        let of_way = if pass::tells_of_way(&packet, transport.is_too_big) { PROTECTED_NODE } else { 0 };
        let protection = if self.node.contains(&packet.peer) {
            of_way | pass::protection(&packet, KUBELET, 0, false)
        } else {
            0
        };
        let is_spared =
            pass::is_link_upkeep(&packet, transport.icmp_type) || pass::is_untouchable(protection);
        if has_ports && packet.has_ports {
            let key = PortKey::new(target, packet.protocol, target_port);
            bindings = self.ports.get(&key).cloned().unwrap_or(bindings);
        }
        let anatomy = Anatomy {
            network,
            payload: number(transport.payload),
            end: number(transport.end),
            icmp_type: transport.icmp_type,
            is_reset: transport.is_reset,
            is_later_fragment: transport.is_later_fragment,
        };
        Some(Look { packet, protection, bindings, is_spared, is_malformed: transport.malformed, anatomy })
    }

    /// How many packets on the wire it is.
    pub(super) fn parts(&self, frame: &[u8], way: &Way) -> u32 {
        self.look(frame, way).map_or(1, |look| look.packet.packets)
    }

    /// Whether a packet that comes at this time goes to the splitter.
    pub(super) fn splits(&self, frame: &[u8], way: &Way, now_ns: u64) -> bool {
        let is_ahead = way.stage != Stage::Early && !way.is_split;
        let Some(look) = self.look(frame, way).filter(|look| is_ahead && !look.is_spared) else {
            return false;
        };
        let Look { packet, protection, bindings, .. } = look;
        bindings.iter().any(|binding| pass::wants_splitter(self, binding, &packet, protection, now_ns))
    }

    /// What `fault_ebpf::hook` does with a packet that comes at this time, and what it counts.
    pub(super) fn fate(&mut self, frame: &[u8], way: &Way, now_ns: u64) -> Fate {
        let Some(look) = self.look(frame, way) else { return Fate::Passes };
        // Behind XDP and the splitter it has been counted there.
        let is_first = way.stage != Stage::Rest;
        if look.is_malformed && is_first && !way.is_split {
            self.count_global(Global::Malformed);
        }
        if look.is_spared {
            if is_first && !way.is_split {
                self.count_global(Global::Protected);
            }
            return Fate::Passes;
        }
        if self.splits(frame, way, now_ns) {
            return Fate::Split;
        }
        (self.is_whole, self.anatomy) = (way.is_split, look.anatomy);
        let Look { mut packet, protection, bindings, .. } = look;
        // The segments of one that is not split have one fate, and are counted one by one.
        packet.gso = false;
        let count = u16::try_from(bindings.len()).unwrap();
        let bind = |host: &mut Self, i: usize| {
            pass::bind(host, &bindings[i], &packet, protection, way.stage, now_ns)
        };
        match pass::run(self, count, way.stage, bind) {
            Verdict::Loss => return Fate::Lost,
            Verdict::Partition => return Fate::Partitioned,
            Verdict::Reject if way.stage != Stage::Early => return Fate::Rejected,
            Verdict::Reject | Verdict::Pass => {}
        }
        if way.stage == Stage::Early {
            return Fate::Passes;
        }
        let plan = later::run(self, &bindings, &packet, protection, now_ns);
        let is_dropped = |copy: &later::Copy| copy.flags & COPY_DROPPED != 0;
        match plan {
            Plan::AS_IT_IS => Fate::Passes,
            plan if plan.copies[..plan.count as usize].iter().all(is_dropped) => Fate::Overflows,
            _ => Fate::Planned,
        }
    }
}

fn link(frame: &[u8], way: &Way) -> Link {
    match way.layer {
        Layer::Ethernet => packet::link(frame),
        // The kernel takes the packet's kind from there, as if it were Ethernet's.
        Layer::Ip => match frame.get(12..14) {
            Some(kind) => packet::bare(frame, u16::from_ne_bytes([kind[0], kind[1]])),
            None => Link::Other,
        },
    }
}

/// A length or an offset, as the programs keep it.
fn number<T: TryInto<u32, Error: std::fmt::Debug>>(of: T) -> u32 {
    of.try_into().unwrap()
}
