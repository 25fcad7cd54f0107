//! The maps as `fault_abi::pass` sees them.

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::maps::lpm_trie::Key;
use fault_abi::counter::{Flow, Global, TargetState};
use fault_abi::decide::Packet;
use fault_abi::draw::{Position, UNTRACKED};
use fault_abi::key::{Address, CounterKey, FULL_PREFIX, FlowKey, NetworkKey, SPACE_BITS};
use fault_abi::pass::World;
use fault_abi::rule::{Binding, Rule};
use fault_abi::verdict::{VERDICTS, Verdict};

use crate::frame::within;
use crate::maps::{COUNTERS, FLOWS, GLOBAL, PEERS, RULES, STATE};

/// The kernel's maps.
pub struct Maps;

impl World<'static> for Maps {
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
    fn position(&mut self, binding: &Binding, packet: &Packet) -> Option<Position> {
        let key = FlowKey {
            peer: packet.peer,
            state: binding.state,
            target_port: packet.target_port,
            peer_port: packet.peer_port,
            protocol: packet.protocol,
            zero: [0; 3],
        };
        if let Some(position) = next_of_flow(&key, packet) {
            return Some(position);
        }
        let state = STATE.get_ptr_mut(binding.state)?;
        begin_flow(&key, state);
        if let Some(position) = next_of_flow(&key, packet) {
            return Some(position);
        }
        self.count_global(Global::Untracked);
        let way = within::<1>(packet.direction as u64);
        // SAFETY: as above.
        let index = add(unsafe { (&raw mut (*state).untracked).cast::<u64>().add(way) }, 1);
        Some(Position { ordinal: UNTRACKED, index })
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
            *counter.packets.get_unchecked_mut(i) += 1;
            *counter.bytes.get_unchecked_mut(i) += packet.bytes;
        }
        if packet.gso {
            counter.gso_frames += 1;
        }
        true
    }

    #[inline(always)]
    fn count_global(&mut self, what: Global) {
        if let Some(count) = GLOBAL.get_ptr_mut(what as u32) {
            // SAFETY: as in `count`.
            unsafe { *count += 1 };
        }
    }
}

/// Begins a flow with the target's next ordinal. Another CPU may have begun it, or the table be full: only who
/// inserts takes an ordinal, so that neither leaves a hole.
#[inline(always)]
fn begin_flow(key: &FlowKey, state: *mut TargetState) {
    // SAFETY: a live map value; concurrent writers add atomically.
    let next = unsafe { &raw mut (*state).next_ordinal };
    // SAFETY: as above.
    let likely = unsafe { next.read_volatile() };
    if FLOWS.insert(key, Flow { ordinal: likely, index: [0; 2] }, u64::from(BPF_NOEXIST)).is_err() {
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
fn next_of_flow(key: &FlowKey, packet: &Packet) -> Option<Position> {
    let flow = FLOWS.get_ptr_mut(key)?;
    let way = within::<1>(packet.direction as u64);
    // SAFETY: a live map value; concurrent writers add atomically.
    let index = add(unsafe { (&raw mut (*flow).index).cast::<u64>().add(way) }, 1);
    // SAFETY: as above; an ordinal changes at most once, when two flows begin at the same moment.
    let ordinal = unsafe { (*flow).ordinal };
    Some(Position { ordinal, index })
}

/// Adds atomically and returns what was there before. (The BPF target has no compare-and-swap on older CPU
/// levels, so `core` offers no `fetch_add` for it; the machine has had the instruction since v3, kernel 5.12.)
#[inline(always)]
fn add(at: *mut u64, n: u64) -> u64 {
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
