//! The ways into and out of the delay line and the splitter.

use aya_ebpf::bindings::{BPF_F_INGRESS, TC_ACT_SHOT};
use aya_ebpf::helpers::{
    bpf_clone_redirect, bpf_ktime_get_boot_ns, bpf_ktime_get_ns, bpf_redirect, bpf_set_hash,
    bpf_set_hash_invalid, bpf_skb_change_head, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes,
};
use aya_ebpf::programs::TcContext;
use fault_abi::counter::Global;
use fault_abi::key::Direction;
use fault_abi::lateness::{BUCKETS, bucket};
use fault_abi::line::{LINE_IS_FQ, LONGEST_STAY_NS};
use fault_abi::packet::ETHERNET;
use fault_abi::pass::World as _;
use fault_abi::ticket::{GUARD, TICKET, TICKET_BYTES, TICKET_INGRESS, Ticket};

use crate::errand;
use crate::maps::{LATENESS, LINE, SEQUENCE};
use crate::tc::{NEXT, drop};
use crate::world::{Maps, add, leave_line};

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

/// Puts a packet into the line, with its ticket. It has been counted in.
#[inline(always)]
pub fn enter(ctx: &TcContext, direction: Direction, release_ns: u64, state: u32) -> i32 {
    let skb = ctx.skb.skb;
    let Some(line) = LINE.get(0) else { return drop(direction) };
    // SAFETY: the context that the kernel gave.
    let (bytes, ticket) = unsafe {
        let bytes = (*skb).len;
        let way = match direction {
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
            flags: way | bytes << TICKET_BYTES,
        };
        (bytes, ticket)
    };
    let refused = if line.flags & LINE_IS_FQ != 0 {
        match queue(ctx, line.entry, bytes, &ticket) {
            Ok(()) => return drop(direction),
            Err(what) => what,
        }
    } else if put_in_front(ctx, &ticket) {
        return redirect(line.entry, false);
    } else {
        Global::Stray
    };
    Maps.count_global(refused);
    leave_line(state, u64::from(bytes));
    drop(direction)
}

/// For the engine `userspace`.
#[inline(always)]
fn put_in_front(ctx: &TcContext, ticket: &Ticket) -> bool {
    let skb = ctx.skb.skb;
    // SAFETY: helpers that check what they are given.
    unsafe {
        bpf_skb_change_head(skb, TICKET as u32, 0) == 0
            && bpf_skb_store_bytes(skb, 0, (ticket as *const Ticket).cast(), TICKET as u32, 0) == 0
    }
}

/// Puts a clone of the packet into the kernel's queue; the packet itself is to be dropped. So its sender's socket takes it
/// for sent: it would else stay on the packet, and TCP sends no more while two of its packets are in a queue (`tcp_tsq_write` of
/// net/ipv4/tcp_output.c).
#[inline(always)]
fn queue(ctx: &TcContext, entry: u32, bytes: u32, ticket: &Ticket) -> Result<(), Global> {
    let skb = ctx.skb.skb;
    // SAFETY: as above.
    unsafe {
        let is_whole = bpf_skb_change_tail(skb, bytes + TICKET as u32, 0) == 0
            && bpf_skb_store_bytes(skb, bytes, (ticket as *const Ticket).cast(), TICKET as u32, 0) == 0;
        if !is_whole {
            return Err(Global::Stray);
        }
        // What the queue says comes back here.
        if bpf_clone_redirect(skb, entry, 0) == 0 { Ok(()) } else { Err(Global::LineRefused) }
    }
}

/// At the beginning of the line of the engine `fq`: says when the packet leaves.
///
/// The queue keeps packets apart by their hashes and looks at the first of each, so each gets a number of its own. The clock
/// of its times is CLOCK_MONOTONIC (`fq_enqueue` of net/sched/sch_fq.c). Before Linux 6.7 a packet with a priority of 7 waits for
/// nothing.
#[inline(always)]
pub fn line_start(ctx: &TcContext) -> i32 {
    let Some((ticket, _)) = ticket(ctx) else { return foreign() };
    let skb = ctx.skb.skb;
    // SAFETY: the context that the kernel gave; a word of a live map value; helpers with plain numbers.
    unsafe {
        let number = SEQUENCE.get_ptr_mut(0).map_or(0, |next| add(next, 1));
        let stay_ns = ticket.release_ns.saturating_sub(bpf_ktime_get_boot_ns());
        let stay_ns = if stay_ns < LONGEST_STAY_NS { stay_ns } else { LONGEST_STAY_NS };
        (*skb).tstamp = bpf_ktime_get_ns() + stay_ns;
        (*skb).priority = 0;
        bpf_set_hash(skb, number as u32);
    }
    NEXT
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

/// The ticket behind the frame, and the frame's length; none: it is nobody's of this load.
#[inline(always)]
fn ticket(ctx: &TcContext) -> Option<(Ticket, u32)> {
    let line = LINE.get(0)?;
    let length = ctx.len();
    if length < (TICKET + ETHERNET) as u32 {
        return None;
    }
    let frame = length - TICKET as u32;
    let mut ticket = core::mem::MaybeUninit::<Ticket>::uninit();
    // SAFETY: the helper fills all of it, or says that it did not; every bit pattern is a ticket.
    let ticket = unsafe {
        if bpf_skb_load_bytes(ctx.skb.skb.cast(), frame, ticket.as_mut_ptr().cast(), TICKET as u32) != 0 {
            return None;
        }
        ticket.assume_init()
    };
    if ticket.magic != line.magic || ticket.magic == 0 {
        return None;
    }
    Some((ticket, frame))
}

#[inline(always)]
fn leave(ctx: &TcContext) -> Option<i32> {
    let skb = ctx.skb.skb;
    let (ticket, frame) = ticket(ctx)?;
    leave_line(ticket.state, ticket.bytes());
    // SAFETY: the context that the kernel gave; helpers that check what they are given.
    unsafe {
        if bpf_skb_change_tail(skb, frame, 0) != 0 {
            Maps.count_global(Global::Stray);
            return Some(TC_ACT_SHOT);
        }
        (*skb).mark = ticket.mark;
        (*skb).priority = ticket.priority;
    }
    if LINE.get(0)?.flags & LINE_IS_FQ != 0 {
        forget_queue(ctx, ticket.release_ns);
    }
    errand::done(ctx);
    Some(redirect(ticket.interface, ticket.flags & TICKET_INGRESS != 0))
}

/// Counts how late the packet left the queue, and takes off what was for the queue alone: receivers would take its time for
/// that of arrival, and routes of several ways be chosen by its hash.
#[inline(always)]
fn forget_queue(ctx: &TcContext, release_ns: u64) {
    // SAFETY: a helper without arguments; this CPU's own copy of a live map value; the context that the kernel gave.
    unsafe {
        let late_ns = bpf_ktime_get_boot_ns().saturating_sub(release_ns);
        if let Some(count) = LATENESS.get_ptr_mut(bucket(late_ns) as u32) {
            *count += 1;
        }
        if let Some(sum) = LATENESS.get_ptr_mut(BUCKETS as u32) {
            *sum += late_ns;
        }
        (*ctx.skb.skb).tstamp = 0;
        bpf_set_hash_invalid(ctx.skb.skb);
    }
}
