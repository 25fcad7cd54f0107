//! The maps as `fault_abi::pass` sees them.

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::maps::lpm_trie::Key;
use fault_abi::counter::{DELAY_BUCKETS, Flow, Global, TargetState, delay_bucket, tick};
use fault_abi::decide::Packet;
use fault_abi::draw::{OF_TARGET, UNTRACKED};
use fault_abi::key::{Address, CounterKey, Direction, FULL_PREFIX, FlowKey, NetworkKey, SPACE_BITS};
use fault_abi::line::{LINE_IS_FQ, is_alive};
use fault_abi::pass::{Channel, Sequence, Track, World};
use fault_abi::remake::{self, Anatomy};
use fault_abi::rule::{Binding, MAX_PHASES, Rule};
use fault_abi::verdict::{Effect, VERDICTS, Verdict};

use crate::frame::within;
use crate::maps::{
    COUNTERS, ENGINE, FLOWS, GLOBAL, HELD, LATER_FRAGMENT, LINE, PEERS, RESET, RULES, SCRATCH,
    SPLITTER_BEHIND, STATE,
};

/// The kernel's maps.
pub struct Maps;

impl World<'static> for Maps {
    type Channel = Word;

    #[inline(always)]
    fn rule(&self, slot: u32) -> Option<&'static Rule> {
        RULES.get(slot)
    }

    #[inline(always)]
    fn is_peer(&self, set: u32, peer: &Address) -> bool {
        let key = Key::new(SPACE_BITS + FULL_PREFIX, NetworkKey::of_set(set, *peer, peer.is_ipv4()));
        PEERS.get(key).is_some()
    }

    #[inline(always)]
    fn track(
        &mut self,
        binding: &Binding,
        packet: &Packet,
        sequence: Sequence,
        of_target: bool,
    ) -> Option<Track<Word>> {
        let way = within::<1>(packet.direction as u64);
        if of_target {
            let state = STATE.get_ptr_mut(binding.state)?;
            // SAFETY: a field of a live map value; see `Word`.
            let channel = Word(unsafe {
                let words = match sequence {
                    Sequence::Loss => &raw mut (*state).all,
                    Sequence::Later => &raw mut (*state).all_later,
                };
                words.cast::<u64>().add(way)
            });
            return Some(Track { ordinal: OF_TARGET, channel });
        }
        let scratch = SCRATCH.get_ptr_mut(0)?;
        // SAFETY: this CPU's own memory; see `Scratch` for what is not written.
        let (key, flow, now) = unsafe {
            let key = &raw mut (*scratch).flow_key;
            for (i, word) in packet.peer.words.into_iter().enumerate() {
                // Volatile: as one, the words would be a call of `memmove`.
                (&raw mut (*key).peer.words[i]).write_volatile(word);
            }
            (*key).state = binding.state;
            (*key).target_port = packet.target_port;
            (*key).peer_port = packet.peer_port;
            (*key).protocol = packet.protocol;
            (&*key, &mut (*scratch).flow, tick((*scratch).now_ns))
        };
        if let Some(track) = of_flow(key, sequence, way, now) {
            return Some(track);
        }
        let state = STATE.get_ptr_mut(binding.state)?;
        flow.seen = now;
        begin_flow(key, flow, state);
        if let Some(track) = of_flow(key, sequence, way, now) {
            return Some(track);
        }
        self.count_untracked(binding, packet);
        // SAFETY: as above.
        let channel = Word(unsafe {
            let words = match sequence {
                Sequence::Loss => &raw mut (*state).untracked,
                Sequence::Later => &raw mut (*state).untracked_later,
            };
            words.cast::<u64>().add(way)
        });
        Some(Track { ordinal: UNTRACKED, channel })
    }

    #[inline(always)]
    fn count(&mut self, binding: &Binding, packet: &Packet, verdict: Verdict, now_ns: u64) -> bool {
        let key = CounterKey { state: binding.state, direction: packet.direction as u32 };
        let Some(counter) = COUNTERS.get_ptr_mut(key) else { return false };
        // SAFETY: this CPU's own copy of a live map value, and nothing interrupts a program on its CPU that
        // counts too.
        let counter = unsafe { &mut *counter };
        counter.last_seen_ns = now_ns;
        let i = within::<{ VERDICTS as u64 - 1 }>(verdict as u64);
        // SAFETY: `i` is below VERDICTS, the length of both.
        unsafe {
            *counter.packets.get_unchecked_mut(i) += u64::from(packet.packets);
            *counter.bytes.get_unchecked_mut(i) += packet.wire_bytes();
        }
        if packet.gso {
            counter.gso_frames += 1;
        }
        true
    }

    #[inline(always)]
    fn count_node_miss(&mut self, binding: &Binding, packet: &Packet) {
        let key = CounterKey { state: binding.state, direction: packet.direction as u32 };
        if let Some(counter) = COUNTERS.get_ptr_mut(key) {
            // SAFETY: as in `count`.
            unsafe { (*counter).node_misses += u64::from(packet.packets) };
        }
    }

    #[inline(always)]
    fn effects(&mut self, binding: &Binding, packet: &Packet, effects: u32, delay_ns: u64) {
        if effects == 0 {
            return;
        }
        let key = CounterKey { state: binding.state, direction: packet.direction as u32 };
        let Some(counter) = COUNTERS.get_ptr_mut(key) else { return };
        // SAFETY: as in `count`.
        let counter = unsafe { &mut *counter };
        for effect in Effect::ALL {
            if effects & effect.bit() != 0 {
                counter.effects[effect as usize] += u64::from(packet.packets);
            }
        }
        if delay_ns != 0 {
            counter.delay_ns += delay_ns * u64::from(packet.packets);
            let i = within::<{ DELAY_BUCKETS as u64 - 1 }>(delay_bucket(delay_ns) as u64);
            // SAFETY: `i` is below DELAY_BUCKETS, the length.
            unsafe { *counter.delays.get_unchecked_mut(i) += u64::from(packet.packets) };
        }
    }

    #[inline(always)]
    fn departure(&mut self, binding: &Binding, direction: Direction) -> Option<Word> {
        let state = STATE.get_ptr_mut(binding.state)?;
        let way = within::<1>(direction as u64);
        // SAFETY: a field of a live map value; see `Word`.
        Some(Word(unsafe { (&raw mut (*state).departure).cast::<u64>().add(way) }))
    }

    #[inline(always)]
    fn is_line_alive(&self, now_ns: u64) -> bool {
        let Some(line) = LINE.get(0) else { return false };
        let Some(sign) = ENGINE.get_ptr(0) else { return false };
        // SAFETY: a word, read at once; the engine writes it.
        line.entry != 0 && is_alive(unsafe { sign.read_volatile() }, now_ns)
    }

    #[inline(always)]
    fn is_whole(&self) -> bool {
        let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return false };
        // SAFETY: this CPU's own memory.
        unsafe { (*scratch).splitter == SPLITTER_BEHIND }
    }

    #[inline(always)]
    fn is_flippable(&self, packet: &Packet) -> bool {
        let Some(anatomy) = anatomy() else { return false };
        let whole = packet.bytes as u32;
        let end = if anatomy.end < whole { anatomy.end } else { whole };
        self.is_whole() && remake::flippable(packet.protocol, anatomy.payload, end).is_some()
    }

    #[inline(always)]
    fn is_answerable(&self, packet: &Packet) -> bool {
        let Some(anatomy) = anatomy() else { return false };
        self.is_whole() && remake::is_answerable(packet, &packet.receiver(), &anatomy)
    }

    /// A TAP has no room for what is said about segments beside the frame.
    #[inline(always)]
    fn holds_super_packets(&self) -> bool {
        LINE.get(0).is_some_and(|line| line.flags & LINE_IS_FQ != 0)
    }

    #[inline(always)]
    fn enter_line(&mut self, state: u32, bytes: u64) -> bool {
        let Some(line) = LINE.get(0) else { return false };
        let Some(held) = HELD.get_ptr_mut(0) else { return false };
        let Some(target) = STATE.get_ptr_mut(state) else { return false };
        // Signed: a count that was set right while packets were on their way may be below 0 for a moment.
        let below = |before: u64, limit: u64| (before as i64) < limit as i64;
        // SAFETY: words of live map values, changed atomically.
        let fits = unsafe {
            let packets = below(add(&raw mut (*held).packets, 1), line.packets);
            let bytes_fit = below(add(&raw mut (*held).bytes, bytes), (line.bytes + 1).wrapping_sub(bytes));
            let of_target = below(add(&raw mut (*target).line_packets, 1), line.target_packets);
            let of_target_bytes =
                below(add(&raw mut (*target).line_bytes, bytes), (line.target_bytes + 1).wrapping_sub(bytes));
            packets & bytes_fit & of_target & of_target_bytes
        };
        if !fits {
            leave_line(state, bytes);
        }
        fits
    }

    #[inline(always)]
    fn count_global(&mut self, what: Global) {
        if let Some(count) = GLOBAL.get_ptr_mut(what as u32) {
            // SAFETY: as in `count`.
            unsafe { *count += 1 };
        }
    }

    #[inline(always)]
    fn forget(&self, number: usize) -> usize {
        within::<{ MAX_PHASES as u64 - 1 }>(self.blur(number as u64))
    }

    #[inline(always)]
    fn blur(&self, number: u64) -> u64 {
        let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return number };
        // SAFETY: this CPU's own memory; volatile, so that it is really written and read again.
        unsafe {
            let at = &raw mut (*scratch).forgotten;
            at.write_volatile(number);
            at.read_volatile()
        }
    }
}

/// Where the parts of the packet in `SCRATCH` are.
#[inline(always)]
fn anatomy() -> Option<Anatomy> {
    let scratch = SCRATCH.get_ptr_mut(0)?;
    // SAFETY: this CPU's own memory.
    let (network, payload, end, notes) =
        unsafe { ((*scratch).network, (*scratch).payload, (*scratch).end, (*scratch).notes) };
    Some(Anatomy {
        network,
        payload,
        end,
        icmp_type: notes as u8,
        is_reset: notes & RESET != 0,
        is_later_fragment: notes & LATER_FRAGMENT != 0,
    })
}

impl Maps {
    /// Counts a draw from what all flows of a target share that are not tracked.
    #[inline(always)]
    fn count_untracked(&mut self, binding: &Binding, packet: &Packet) {
        self.count_global(Global::Untracked);
        let key = CounterKey { state: binding.state, direction: packet.direction as u32 };
        if let Some(counter) = COUNTERS.get_ptr_mut(key) {
            // SAFETY: as in `count`.
            unsafe { (*counter).untracked += 1 };
        }
    }
}

/// Counts a packet out of the line. The target's state is gone when its profile is.
#[inline(always)]
pub fn leave_line(state: u32, bytes: u64) {
    count_out(state, 1, bytes);
}

/// Counts packets out of the line.
#[inline(always)]
pub fn count_out(state: u32, packets: u64, bytes: u64) {
    // SAFETY: words of live map values, changed atomically.
    unsafe {
        if let Some(held) = HELD.get_ptr_mut(0) {
            add(&raw mut (*held).packets, packets.wrapping_neg());
            add(&raw mut (*held).bytes, bytes.wrapping_neg());
        }
        if let Some(target) = STATE.get_ptr_mut(state) {
            add(&raw mut (*target).line_packets, packets.wrapping_neg());
            add(&raw mut (*target).line_bytes, bytes.wrapping_neg());
        }
    }
}

/// Begins a flow with the target's next ordinal. Another CPU may have begun it, or the table be full: only who
/// inserts takes an ordinal, so that neither leaves a hole.
#[inline(always)]
fn begin_flow(key: &FlowKey, flow: &mut Flow, state: *mut TargetState) {
    // SAFETY: a live map value; concurrent writers add atomically.
    let next = unsafe { &raw mut (*state).next_ordinal };
    // SAFETY: as above.
    let likely = unsafe { next.read_volatile() };
    flow.ordinal = likely;
    if FLOWS.insert(key, &*flow, u64::from(BPF_NOEXIST)).is_err() {
        return;
    }
    let ordinal = add(next, 1);
    // Another flow of the target began at the same moment and was first.
    if ordinal != likely
        && let Some(flow) = FLOWS.get_ptr_mut(key)
    {
        // SAFETY: as above; nobody else writes it.
        unsafe { (&raw mut (*flow).ordinal).write_volatile(ordinal) };
    }
}

#[inline(always)]
fn of_flow(key: &FlowKey, sequence: Sequence, way: usize, now: u64) -> Option<Track<Word>> {
    let flow = FLOWS.get_ptr_mut(key)?;
    // SAFETY: a live map value; concurrent writers change channels atomically. An ordinal changes at most once,
    // when two flows begin at the same moment. When it was seen is a word that all write alike.
    unsafe {
        let seen = &raw mut (*flow).seen;
        if seen.read_volatile() != now {
            seen.write_volatile(now);
        }
        let words = match sequence {
            Sequence::Loss => &raw mut (*flow).channel,
            Sequence::Later => &raw mut (*flow).later,
        };
        let channel = Word(words.cast::<u64>().add(way));
        Some(Track { ordinal: (*flow).ordinal, channel })
    }
}

/// A word in a live map value, aligned to 8 by the map's layout, which other CPUs change at the same time.
pub struct Word(*mut u64);

impl Channel for Word {
    #[inline(always)]
    fn load(&self) -> u64 {
        // SAFETY: see `Word`; the machine reads an aligned word at once.
        unsafe { self.0.read_volatile() }
    }

    #[inline(always)]
    fn add(&self, n: u64) -> u64 {
        add(self.0, n)
    }

    #[inline(always)]
    fn replace(&self, old: u64, new: u64) -> bool {
        let mut found = old;
        // SAFETY: see `Word`. The instruction compares with r0 and leaves there what it found (BPF_CMPXCHG).
        unsafe {
            core::arch::asm!(
                "r0 = cmpxchg_64({at} + 0, r0, {new})",
                at = in(reg) self.0,
                new = in(reg) new,
                inout("r0") found,
                options(nostack)
            );
        }
        found == old
    }
}

/// Adds atomically and returns what was there before. (The BPF target has no compare-and-swap on older CPU
/// levels, so `core` offers no `fetch_add` for it; the machine has had the instruction since v3, kernel 5.12.)
#[inline(always)]
pub fn add(at: *mut u64, n: u64) -> u64 {
    let mut value = n;
    // SAFETY: callers pass a field of a live map value, aligned to 8 by the map's layout.
    unsafe {
        core::arch::asm!(
            "{value} = atomic_fetch_add((u64 *)({at} + 0), {value})",
            at = in(reg) at,
            value = inout(reg) value,
            options(nostack)
        );
    }
    value
}
