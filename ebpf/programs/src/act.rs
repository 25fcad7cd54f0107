//! Carries out a packet's plan: flips bits, sends duplicates, and puts into the line what is held.

use aya_ebpf::bindings::{BPF_CSUM_LEVEL_RESET, BPF_F_INGRESS, BPF_F_RECOMPUTE_CSUM};
use aya_ebpf::helpers::{bpf_clone_redirect, bpf_csum_level, bpf_skb_load_bytes, bpf_skb_store_bytes};
use aya_ebpf::programs::TcContext;
use fault_abi::key::Direction;
use fault_abi::later::{COPY_CORRUPT, COPY_DROPPED, Copy, MAX_COPIES};
use fault_abi::line::bytes_before;
use fault_abi::packet::MAX_OFFSET;
use fault_abi::remake;

use crate::bare;
use crate::errand;
use crate::frame::within;
use crate::line;
use crate::maps::{SCRATCH, Scratch};
use crate::tc::{NEXT, drop};
use crate::trouble::{stray, unduplicate};
use crate::world::leave_line;

/// A packet's plan, and what is needed for it. On the stack: a duplicate that goes out may meet another hook on this CPU,
/// which uses `SCRATCH` for itself.
struct Work {
    count: u32,
    network: u32,
    payload: u32,
    end: u32,
    packets: u32,
    protocol: u8,
    now_ns: u64,
    copies: [Copy; MAX_COPIES],
}

impl Work {
    #[inline(always)]
    fn at_hand(scratch: *mut Scratch) -> Self {
        // SAFETY: this CPU's own memory; volatile, so that it is really read.
        unsafe {
            Self {
                count: (&raw const (*scratch).plan.count).read_volatile(),
                network: (&raw const (*scratch).network).read_volatile(),
                payload: (&raw const (*scratch).payload).read_volatile(),
                end: (&raw const (*scratch).end).read_volatile(),
                packets: (&raw const (*scratch).packet.packets).read_volatile(),
                protocol: (&raw const (*scratch).packet.protocol).read_volatile(),
                now_ns: (&raw const (*scratch).now_ns).read_volatile(),
                copies: (&raw const (*scratch).plan.copies).read_volatile(),
            }
        }
    }
}

/// Carries out the plan in `SCRATCH`.
#[inline(always)]
pub fn act(ctx: &TcContext, direction: Direction) -> i32 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return NEXT };
    let work = Work::at_hand(scratch);
    let mut number = 1;
    while number < MAX_COPIES {
        if number as u32 >= work.count {
            break;
        }
        send(ctx, direction, &work, &work.copies[number]);
        number += 1;
    }
    let own = &work.copies[0];
    if own.flags & COPY_DROPPED != 0 {
        return drop(direction);
    }
    if own.flags & COPY_CORRUPT != 0 {
        flip(ctx, direction, &work, own);
    }
    if own.delay_ns == 0 {
        return NEXT;
    }
    if work.network == 0 && !bare::dress_counted(ctx, own.state, direction) {
        return drop(direction);
    }
    line::enter(ctx, direction, work.now_ns + own.delay_ns, own.state)
}

/// Sends a duplicate: out of this interface, or in by it once more, where its hook is told what to do with it.
#[inline(always)]
fn send(ctx: &TcContext, direction: Direction, work: &Work, copy: &Copy) {
    if copy.flags & COPY_DROPPED != 0 {
        return;
    }
    if copy.flags & COPY_CORRUPT != 0 {
        flip(ctx, direction, work, copy);
    }
    if copy.delay_ns == 0 {
        errand::done(ctx);
    } else {
        errand::hold(ctx, work.now_ns + copy.delay_ns, copy.state);
    }
    let flags = match direction {
        Direction::FromDevice => u64::from(BPF_F_INGRESS),
        Direction::ToDevice => 0,
    };
    // SAFETY: the context that the kernel gave.
    let (code, bytes) = unsafe {
        let skb = ctx.skb.skb;
        let bytes = u64::from((*skb).len) + bytes_before(work.network);
        (bpf_clone_redirect(skb, (*skb).ifindex, flags), bytes)
    };
    errand::clear(ctx);
    let is_held = copy.delay_ns != 0;
    // On its way out a filter or a queue behind this hook may have dropped it (`NET_XMIT_DROP`), as it may the packet itself.
    let is_dropped_behind = code > 0 && matches!(direction, Direction::ToDevice) && !is_held;
    if code != 0 && !is_dropped_behind {
        unduplicate(copy.maker, direction, u64::from(work.packets));
        if is_held {
            leave_line(copy.state, bytes);
        }
    }
    if copy.flags & COPY_CORRUPT != 0 {
        flip(ctx, direction, work, copy);
    }
}

/// Flips a bit of what stands behind IP, but not of what says where the packet ends: the receiver shall find it whole
/// and its checksum wrong. The packet has passed the splitter, so its checksum is in it.
#[inline(always)]
fn flip(ctx: &TcContext, direction: Direction, work: &Work, copy: &Copy) {
    let skb = ctx.skb.skb;
    let whole = ctx.len();
    let end = if work.end < whole { work.end } else { whole };
    // One without such a bit is not planned to be flipped.
    let Some(begin) = remake::flippable(work.protocol, work.payload, end) else { return };
    let bit = ((u64::from(copy.bit) * u64::from((end - begin) * 8)) >> 32) as u32;
    let at = within::<{ MAX_OFFSET as u64 }>(u64::from(begin + bit / 8)) as u32;
    let mut byte = 0_u8;
    // SAFETY: helpers that check where they read and write. The checksum is to be looked at anew, and what the kernel has
    // summed up so far takes the change along.
    unsafe {
        bpf_csum_level(skb, u64::from(BPF_CSUM_LEVEL_RESET));
        if bpf_skb_load_bytes(skb.cast(), at, (&raw mut byte).cast(), 1) != 0 {
            stray(ctx, copy.corrupter, direction);
            return;
        }
        byte ^= 1 << (bit % 8);
        if bpf_skb_store_bytes(skb, at, (&raw const byte).cast(), 1, u64::from(BPF_F_RECOMPUTE_CSUM)) != 0 {
            stray(ctx, copy.corrupter, direction);
        }
    }
}
