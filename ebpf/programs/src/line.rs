//! The ways into and out of the delay line and the splitter.

use aya_ebpf::bindings::{BPF_F_INGRESS, TC_ACT_SHOT};
use aya_ebpf::helpers::{
    bpf_ktime_get_boot_ns, bpf_redirect, bpf_skb_change_head, bpf_skb_change_tail, bpf_skb_load_bytes,
    bpf_skb_store_bytes,
};
use aya_ebpf::programs::TcContext;
use fault_abi::counter::Global;
use fault_abi::key::Direction;
use fault_abi::packet::ETHERNET;
use fault_abi::pass::World as _;
use fault_abi::ticket::{GUARD, TICKET, TICKET_INGRESS, TICKET_SETTLES, Ticket};

use crate::errand;
use crate::maps::LINE;
use crate::tc::drop;
use crate::world::{Maps, count_out, leave_line};

/// Sends a packet to an interface, out of it or as one that came in.
#[inline(always)]
pub fn redirect(interface: u32, comes_in: bool) -> i32 {
    // SAFETY: a helper with plain numbers.
    unsafe { bpf_redirect(interface, if comes_in { u64::from(BPF_F_INGRESS) } else { 0 }) as i32 }
}

/// Sends a packet through the splitter, back to this hook.
#[inline(always)]
pub fn split(ctx: &TcContext, direction: Direction) -> i32 {
    let Some(line) = LINE.get(0) else { return drop(direction) };
    errand::to_splitter(ctx, direction);
    redirect(line.splitter, false)
}

/// At the splitter's far end.
#[inline(always)]
pub fn splitter_end(ctx: &TcContext) -> i32 {
    match errand::from_splitter(ctx) {
        Some((interface, comes_in)) => redirect(interface, comes_in),
        None => foreign(),
    }
}

/// Puts a duplicate into the line, as its errand says.
#[inline(always)]
pub fn enter_copy(ctx: &TcContext, direction: Direction) -> i32 {
    // SAFETY: a helper without arguments.
    let now_ns = unsafe { bpf_ktime_get_boot_ns() };
    let (release_ns, state) = errand::held(ctx, now_ns);
    enter(ctx, direction, release_ns, state)
}

/// Puts a packet into the line, behind its ticket. It has been counted in.
#[inline(always)]
pub fn enter(ctx: &TcContext, direction: Direction, release_ns: u64, state: u32) -> i32 {
    let skb = ctx.skb.skb;
    let Some(line) = LINE.get(0) else { return drop(direction) };
    // SAFETY: the context that the kernel gave; helpers that check what they are given.
    unsafe {
        let bytes = u64::from((*skb).len);
        let flags = match direction {
            Direction::FromDevice => TICKET_INGRESS,
            Direction::ToDevice => 0,
        };
        let ticket = Ticket {
            magic: line.magic,
            interface: (*skb).ifindex,
            guard: GUARD,
            release_ns,
            state,
            mark: (*skb).mark,
            priority: (*skb).priority,
            flags,
        };
        let is_in = bpf_skb_change_head(skb, TICKET as u32, 0) == 0
            && bpf_skb_store_bytes(skb, 0, (&raw const ticket).cast(), TICKET as u32, 0) == 0;
        if !is_in {
            Maps.count_global(Global::Stray);
            leave_line(state, bytes);
            return drop(direction);
        }
    }
    redirect(line.entry, false)
}

/// At the end of the line: cuts the ticket off and sends the packet where it says.
#[inline(always)]
pub fn line_end(ctx: &TcContext) -> i32 {
    leave(ctx).unwrap_or_else(foreign)
}

/// Nobody's packet of ours.
#[inline(always)]
fn foreign() -> i32 {
    Maps.count_global(Global::Foreign);
    TC_ACT_SHOT
}

#[inline(always)]
fn leave(ctx: &TcContext) -> Option<i32> {
    let skb = ctx.skb.skb;
    let line = LINE.get(0)?;
    let length = ctx.len();
    if length < (TICKET + ETHERNET) as u32 {
        return None;
    }
    let bytes = length - TICKET as u32;
    let mut ticket = core::mem::MaybeUninit::<Ticket>::uninit();
    // SAFETY: the helper fills all of it, or says that it did not; every bit pattern is a ticket.
    let ticket = unsafe {
        if bpf_skb_load_bytes(skb.cast(), bytes, ticket.as_mut_ptr().cast(), TICKET as u32) != 0 {
            return None;
        }
        ticket.assume_init()
    };
    if ticket.magic != line.magic || ticket.magic == 0 {
        return None;
    }
    if ticket.flags & TICKET_SETTLES != 0 {
        count_out(ticket.state, i64::from(ticket.interface as i32) as u64, ticket.release_ns);
        return Some(TC_ACT_SHOT);
    }
    leave_line(ticket.state, u64::from(bytes));
    // SAFETY: as above.
    unsafe {
        if bpf_skb_change_tail(skb, bytes, 0) != 0 {
            Maps.count_global(Global::Stray);
            return Some(TC_ACT_SHOT);
        }
        (*skb).mark = ticket.mark;
        (*skb).priority = ticket.priority;
    }
    errand::done(ctx);
    Some(redirect(ticket.interface, ticket.flags & TICKET_INGRESS != 0))
}
