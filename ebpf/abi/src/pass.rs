//! A packet's way through its target's entry: the lookup, what is protected, and each binding in its order.
//! The maps are behind [`World`]: in the kernel they are maps, in a host test plain collections.

use crate::channel;
use crate::counter::Global;
use crate::decide::{self, Packet};
use crate::draw::{Draw, Position};
use crate::key::{Address, Direction, IPV4_PREFIX, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP};
use crate::rule::{
    Binding, Entry, MAX_BINDINGS, MAX_PHASES, PEER_IS_NODE, PHASE_BURSTS, PHASE_PER_FLOW, PHASE_REJECT,
    PROTECTED_NODE, PROTECTED_PROBE, Phase, RULE_LIFTS_PROBES, Rule,
};
use crate::verdict::Verdict;

/// How often a packet tries to leave its trace in a channel that other CPUs change at the same time.
const ATTEMPTS: usize = 8;

/// The word of a [`channel`](crate::channel), which packets on other CPUs change too.
pub trait Channel {
    /// The word now.
    fn load(&self) -> u64;
    /// Adds `n` and returns the word before that.
    fn add(&self, n: u64) -> u64;
    /// Replaces `old` by `new`; `false`: it was another one by then, and stays.
    fn replace(&self, old: u64, new: u64) -> bool;
}

/// Where a packet draws: the sequence that it belongs to.
#[derive(Clone, Copy, Debug)]
pub struct Track<C> {
    /// [`Position::ordinal`].
    pub ordinal: u64,
    /// Of this direction.
    pub channel: C,
}

/// Packets are counted apart by what they met, so that their draws do not depend on whether one program decides about all
/// faults of a packet or two, of which the second does not see what the first has dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sequence {
    /// All that met loss.
    Loss,
    /// All that met later faults.
    Later,
}

/// Which faults a program decides about.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// All of them.
    Whole = 0,
    /// Partition and loss, and no answers in the packet's stead: XDP.
    Early = 1,
    /// What [`Stage::Early`] has left: TC behind XDP.
    Rest = 2,
}

impl Stage {
    /// The stage of this number.
    #[inline(always)]
    #[must_use]
    pub const fn of(number: u32) -> Self {
        match number {
            1 => Self::Early,
            2 => Self::Rest,
            _ => Self::Whole,
        }
    }
}

/// What a pass reads and changes. Rules live for `'r`, longer than a pass: they never change while a program
/// can see them.
pub trait World<'r> {
    /// The word of a channel.
    type Channel: Channel;
    /// The rule in this slot.
    fn rule(&self, slot: u32) -> Option<&'r Rule>;
    /// Whether `peer` is in the set of peers.
    fn is_peer(&self, set: u32, peer: &Address) -> bool;
    /// The sequence that a packet belongs to: its flow, or all packets of its target (`of_target`); `None`: the
    /// binding has no state.
    fn track(
        &mut self,
        binding: &Binding,
        packet: &Packet,
        sequence: Sequence,
        of_target: bool,
    ) -> Option<Track<Self::Channel>>;
    /// Counts the packet under its verdict; `false`: the binding has no counter.
    fn count(&mut self, binding: &Binding, packet: &Packet, verdict: Verdict, now_ns: u64) -> bool;
    /// Counts a packet in [`Counter::node_misses`](crate::counter::Counter::node_misses).
    fn count_node_miss(&mut self, binding: &Binding, packet: &Packet);
    /// Counts a set of [`Effect`](crate::verdict::Effect)s, and the delay given, where there is one.
    fn effects(&mut self, binding: &Binding, packet: &Packet, effects: u32, delay_ns: u64);
    /// The word of [`turn`](crate::delay::turn); `None`: the binding has no state.
    fn departure(&mut self, binding: &Binding, direction: Direction) -> Option<Self::Channel>;
    /// Whether there is a delay line, and its engine lives.
    fn is_line_alive(&self, now_ns: u64) -> bool;
    /// Whether the packet has passed the splitter, so that its checksum is in it and a flipped bit shows.
    fn is_whole(&self) -> bool;
    /// Whether a bit of the packet can be flipped so that it shows: it [is whole](World::is_whole), and has one.
    fn is_flippable(&self, packet: &Packet) -> bool;
    /// Whether the packet can be answered in its target's stead: it [is whole](World::is_whole), and of a kind that is answered.
    fn is_answerable(&self, packet: &Packet) -> bool;
    /// Whether the delay line takes super-packets as they are.
    fn holds_super_packets(&self) -> bool;
    /// Counts a packet into the line; `false`: it is full, and nothing was counted.
    fn enter_line(&mut self, state: u32, bytes: u64) -> bool;
    /// Counts one in a counter of the whole node.
    fn count_global(&mut self, what: Global);
    /// The same number: a kernel program makes the verifier forget how it came about, which would else walk all that
    /// follows once for each way to each phase.
    fn forget(&self, number: usize) -> usize {
        number
    }
    /// As [`World::forget`], for any number.
    fn blur(&self, number: u64) -> u64 {
        number
    }
}

/// The bindings of one entry, copied out of the map so that they cannot change.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bindings {
    /// In use: the first `count`.
    pub count: u16,
    /// All of them.
    pub bindings: [Binding; MAX_BINDINGS],
}

/// Whether a packet is of a kind that always passes, so that a fault leaves the link itself working:
/// NDP (ICMPv6 133 to 137, RFC 4861 §4), MLD, without which a switch that snoops delivers no NDP (130 to 132,
/// RFC 2710 §3; 143, RFC 3810 §5.2), and DHCP. ARP is not IP and never gets here.
#[inline(always)]
#[must_use]
pub const fn is_link_upkeep(packet: &Packet, icmp_type: u8) -> bool {
    if packet.protocol == PROTOCOL_ICMPV6 {
        return matches!(icmp_type, 130..=137 | 143);
    }
    packet.protocol == PROTOCOL_UDP
        && packet.has_ports
        && (is_dhcp_pair(packet.target_port, packet.peer_port)
            || is_dhcp_pair(packet.peer_port, packet.target_port))
}

/// Client 68 and server 67 (RFC 2131 §4.1), relays 67 and 67; client 546 and server 547 (RFC 8415 §7.2).
#[inline(always)]
const fn is_dhcp_pair(a: u16, b: u16) -> bool {
    (a == 67 && (b == 67 || b == 68)) || (a == 547 && (b == 546 || b == 547))
}

/// Whether the target's end of this packet may be in `PROTECTED`. A later fragment has no ports, and is found there under port 0: it is
/// one of a protected conversation if any of its protocol with that address is.
#[inline(always)]
#[must_use]
pub const fn has_end(packet: &Packet, is_later_fragment: bool) -> bool {
    is_later_fragment || packet.has_ports && packet.target_port != 0
}

/// Whether a packet tells its receiver that a packet of that one's was too large for the way, which no other way tells: without it
/// conversations of a node hang whose far ends are not touched. Whoever forwards may say so, so it matters not who does.
#[inline(always)]
#[must_use]
pub const fn tells_of_way(packet: &Packet, is_too_big: bool) -> bool {
    is_too_big && matches!(packet.direction, Direction::FromDevice)
}

/// Which conversations of this packet are protected: bits of `PROTECTED_*`, and [`PEER_IS_NODE`].
///
/// Only for conversations of this node. `in_protected` is what `PROTECTED` holds for the target's end, `in_cidr`
/// whether the target is in `PROTECTED_CIDRS`.
#[inline(always)]
#[must_use]
pub const fn protection(packet: &Packet, kubelet_port: u16, in_protected: u32, in_cidr: bool) -> u32 {
    let kubelet = kubelet_port != 0
        && packet.has_ports
        && packet.protocol == PROTOCOL_TCP
        && packet.peer_port == kubelet_port;
    let of_node = if kubelet || in_cidr { PROTECTED_NODE } else { 0 };
    in_protected | of_node | PEER_IS_NODE
}

/// Whether an entry is still the one that was looked up, as far as its address says.
#[inline(always)]
#[must_use]
pub fn is_entry_of(entry: &Entry, address: &Address) -> bool {
    if entry.prefix == 128 {
        entry.address == *address
    } else {
        // A prefix this short is one of IPv6.
        let is_other_family = (entry.prefix as u32) < IPV4_PREFIX && address.is_ipv4();
        !is_other_family && entry.address == address.masked(entry.prefix as u32)
    }
}

/// Takes a packet through what a stage decides of `count` bindings, in their order; where one drops it, the later ones do not see it. `bind` is
/// [`bind`] for the binding of a number.
#[inline(always)]
pub fn run<'r, W: World<'r>>(
    world: &mut W,
    count: u16,
    stage: Stage,
    mut bind: impl FnMut(&mut W, usize) -> Option<Verdict>,
) -> Verdict {
    let mut is_spared = false;
    let mut i = 0;
    while i < MAX_BINDINGS {
        if i >= count as usize {
            break;
        }
        match bind(world, i) {
            Some(verdict) if verdict.drops() => return verdict,
            Some(_) => {}
            None => is_spared = true,
        }
        i += 1;
    }
    // Behind XDP it has been counted there.
    if is_spared && !matches!(stage, Stage::Rest) {
        world.count_global(Global::Protected);
    }
    Verdict::Pass
}

/// Why a rule leaves a packet alone.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Miss {
    /// It is over, or about other packets.
    Other,
    /// It is about other peers.
    Peer,
    /// The conversation is protected.
    Spared,
}

/// The rule of a binding, if it acts on this packet.
#[inline(always)]
pub(crate) fn acting<'r, W: World<'r>>(
    world: &W,
    binding: &Binding,
    packet: &Packet,
    protection: u32,
    now_ns: u64,
) -> Result<&'r Rule, Miss> {
    let Some(rule) = world.rule(binding.rule) else { return Err(Miss::Other) };
    if !decide::applies(rule, packet, now_ns) {
        return Err(Miss::Other);
    }
    if rule.peer_set != 0 && !world.is_peer(rule.peer_set, &packet.peer) {
        return Err(Miss::Peer);
    }
    if protection & PROTECTED_PROBE != 0 && rule.flags & RULE_LIFTS_PROBES == 0 {
        return Err(Miss::Spared);
    }
    Ok(rule)
}

/// Whether the packet has to pass the splitter before anything is decided: it is a super-packet whose segments may differ in their
/// fate, or one that may be rewritten.
#[inline(always)]
pub fn wants_splitter<'r, W: World<'r>>(
    world: &W,
    binding: &Binding,
    packet: &Packet,
    protection: u32,
    now_ns: u64,
) -> bool {
    match acting(world, binding, packet, protection, now_ns) {
        Ok(rule) => {
            let phase = &rule.phases[world.forget(rule.phase_at(now_ns)) & (MAX_PHASES - 1)];
            let is_whole = packet.is_countable()
                && !phase.parts_segments()
                && (!phase.delays() || world.holds_super_packets());
            phase.rewrites() || packet.gso && !is_whole
        }
        Err(_) => false,
    }
}

/// Partition and loss of one binding; `None`: the rule would act, but leaves the conversation alone.
#[inline(always)]
pub fn bind<'r, W: World<'r>>(
    world: &mut W,
    binding: &Binding,
    packet: &Packet,
    protection: u32,
    stage: Stage,
    now_ns: u64,
) -> Option<Verdict> {
    let rule = match acting(world, binding, packet, protection, now_ns) {
        Ok(rule) => rule,
        Err(Miss::Spared) => return None,
        Err(miss) => {
            let by_node = miss as u32 == Miss::Peer as u32
                && protection & (PEER_IS_NODE | PROTECTED_PROBE) == PEER_IS_NODE;
            // Behind XDP it has been counted there.
            if by_node && !matches!(stage, Stage::Rest) {
                world.count_node_miss(binding, packet);
            }
            return Some(Verdict::Pass);
        }
    };
    let number = world.forget(rule.phase_at(now_ns)) & (MAX_PHASES - 1);
    let phase = &rule.phases[number];
    let rejects = phase.flags & PHASE_REJECT != 0;
    match stage {
        Stage::Early if rejects => return Some(Verdict::Reject),
        Stage::Rest if !rejects => return Some(Verdict::Pass),
        _ => {}
    }
    let verdict = if decide::draws(phase) {
        let of_target =
            (phase.every != 0 || phase.flags & PHASE_BURSTS != 0) && phase.flags & PHASE_PER_FLOW == 0;
        let Some(track) = world.track(binding, packet, Sequence::Loss, of_target) else {
            world.count_global(Global::Orphaned);
            return Some(Verdict::Pass);
        };
        draw(world, phase, number, binding.key, packet, &track)
    } else {
        decide::decide(phase, binding.key, &draw_of(packet, Position::default(), 0), false).0
    };
    // What nobody is told of is dropped in silence, and counts as that.
    let is_silent = matches!(verdict, Verdict::Reject) && !world.is_answerable(packet);
    let verdict = if is_silent { Verdict::Partition } else { verdict };
    if !world.count(binding, packet, verdict, now_ns) {
        // What is not counted must not happen.
        world.count_global(Global::Orphaned);
        return Some(Verdict::Pass);
    }
    Some(verdict)
}

#[inline(always)]
pub(crate) const fn draw_of(packet: &Packet, position: Position, copy: u8) -> Draw {
    let Packet { direction, protocol, target_port, .. } = *packet;
    Draw { direction, protocol, target_port, position, copy }
}

/// Decides by the channel's word, and leaves the packet's trace in it. Only bursts need more than the index, which an
/// addition gives to each packet alone.
#[inline(always)]
fn draw<'r, W: World<'r>>(
    world: &mut W,
    phase: &Phase,
    number: usize,
    key: [u64; 2],
    packet: &Packet,
    track: &Track<W::Channel>,
) -> Verdict {
    let has_bursts = phase.flags & PHASE_BURSTS != 0;
    let mut attempt = 0;
    loop {
        attempt += 1;
        let word = if has_bursts { track.channel.load() } else { track.channel.add(channel::STEP) };
        let draw = draw_of(packet, Position { ordinal: track.ordinal, index: channel::index(word) }, 0);
        let in_burst = has_bursts && channel::in_burst(word, number);
        let (verdict, is_burst) = decide::decide(phase, key, &draw, in_burst);
        if !has_bursts || track.channel.replace(word, channel::after(word, number, is_burst)) {
            return verdict;
        }
        if attempt == ATTEMPTS {
            world.count_global(Global::Contended);
            return verdict;
        }
    }
}

/// Whether the whole packet is left alone: this node's own way to its control plane.
#[inline(always)]
#[must_use]
pub const fn is_untouchable(protection: u32) -> bool {
    protection & PROTECTED_NODE != 0
}
