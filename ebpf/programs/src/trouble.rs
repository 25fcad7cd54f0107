//! What does not become of a packet although its plan says so, counted for its target, too.

use aya_ebpf::programs::TcContext;
use fault_abi::counter::Global;
use fault_abi::key::{CounterKey, Direction};
use fault_abi::pass::World as _;
use fault_abi::verdict::Effect;

use crate::maps::COUNTERS;
use crate::world::Maps;

/// Counts an effect that shows only when it is too late for the plan to say it. Of a super-packet: of each packet that it is on the wire.
#[inline(always)]
fn count_effect(state: u32, direction: Direction, effect: Effect, packets: u64) {
    if let Some(counter) = COUNTERS.get_ptr_mut(CounterKey { state, direction: direction as u32 }) {
        // SAFETY: this CPU's own copy of a live map value, as in `Maps::count`.
        let count = unsafe { &mut (*counter).effects[effect as usize] };
        *count = count.wrapping_add(packets);
    }
}

/// Counts that the kernel refused a step, for the node and for the target whose packet this is.
#[inline(always)]
pub fn stray(ctx: &TcContext, state: u32, direction: Direction) {
    Maps.count_global(Global::Stray);
    // SAFETY: the context that the kernel gave.
    let segments = unsafe { (*ctx.skb.skb).gso_segs };
    count_effect(state, direction, Effect::Stray, if segments == 0 { 1 } else { u64::from(segments) });
}

/// Takes back that a packet was duplicated: it could not be after all.
#[inline(always)]
pub fn unduplicate(state: u32, direction: Direction, packets: u64) {
    Maps.count_global(Global::Unduplicated);
    count_effect(state, direction, Effect::Duplicate, packets.wrapping_neg());
    count_effect(state, direction, Effect::Unduplicated, packets);
}
