//! The ways into and out of the delay line and the splitter.

use aya_ebpf::bindings::{BPF_F_INGRESS, BPF_NOEXIST, TC_ACT_SHOT};
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
use fault_abi::ticket::{GUARD, Queued, TICKET, TICKET_BYTES, TICKET_INGRESS, TICKET_SETTLES, Ticket};

use crate::errand;
use crate::hook;
use crate::maps::{GLOBAL, LATENESS, LEAD, LINE, SEQUENCE, TICKETS};
use crate::tc::{NEXT, drop};
use crate::trouble::stray;
use crate::world::{Maps, add, count_out, leave_line};

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
    // It is gone since this packet was looked at.
    if line.splitter == 0 {
        stray(ctx, hook::author(), direction);
        return drop(direction);
    }
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

/// Puts a packet into the line. It has been counted in.
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
    let is_lost = if line.flags & LINE_IS_FQ != 0 {
        queue(ctx, line.entry, ticket)
    } else if put_in_front(ctx, &ticket) {
        return redirect(line.entry, false);
    } else {
        stray(ctx, state, direction);
        true
    };
    if is_lost {
        leave_line(state, u64::from(bytes));
    }
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
/// for sent: it would else stay on the packet, and TCP sends no more while two of its packets are in a queue (`tcp_small_queue_check`
/// of net/ipv4/tcp_output.c). Whether the queue refused it, which is counted.
#[inline(always)]
fn queue(ctx: &TcContext, entry: u32, ticket: Ticket) -> bool {
    let queued = Queued { ticket, lead_ns: LEAD.get(0).map_or(0, |lead| lead.ns) };
    let number = SEQUENCE.get_ptr_mut(0).map_or(0, |next| add(next, 1)) as u32;
    if TICKETS.insert(&number, &queued, u64::from(BPF_NOEXIST)).is_err() {
        Maps.count_global(Global::LineRefused);
        return true;
    }
    errand::to_line(ctx);
    // SAFETY: the context that the kernel gave; a helper that checks what it is given. What the queue says comes back here.
    let failed = unsafe {
        (*ctx.skb.skb).mark = number;
        bpf_clone_redirect(ctx.skb.skb, entry, 0) != 0
    };
    if failed {
        // It is there; were it not, nothing would be left to do.
        let _ = TICKETS.remove(&number);
        Maps.count_global(Global::LineRefused);
    }
    failed
}

/// The number of a packet in the line of the engine `fq`, and what is known of it.
#[inline(always)]
fn queued(ctx: &TcContext) -> Option<(u32, Queued)> {
    // SAFETY: the context that the kernel gave.
    let number = unsafe { (*ctx.skb.skb).mark };
    // SAFETY: nobody writes to a ticket, and its memory is used again only for one of the same kind.
    let queued = unsafe { TICKETS.get(&number) }?;
    Some((number, *queued))
}

/// At the beginning of the line of the engine `fq`: says when the packet leaves.
///
/// The queue keeps packets apart by their hashes and looks at the first of each, so each has a number of its own. The clock
/// of its times is CLOCK_MONOTONIC (`fq_enqueue` of net/sched/sch_fq.c). Before Linux 6.7 a packet with a priority of 7 waits for
/// nothing.
#[inline(always)]
pub fn line_start(ctx: &TcContext) -> i32 {
    let Some((number, queued)) = errand::in_line(ctx).and_then(|_| queued(ctx)) else { return foreign() };
    let skb = ctx.skb.skb;
    // SAFETY: the context that the kernel gave; helpers with plain numbers.
    unsafe {
        let stay_ns = queued.departure_ns().saturating_sub(bpf_ktime_get_boot_ns());
        if stay_ns == 0 {
            errand::late_in_line(ctx);
        }
        let stay_ns = if stay_ns < LONGEST_STAY_NS { stay_ns } else { LONGEST_STAY_NS };
        (*skb).tstamp = bpf_ktime_get_ns() + stay_ns;
        (*skb).priority = 0;
        bpf_set_hash(skb, number);
    }
    NEXT
}

/// At the end of the line: takes the ticket off and sends the packet where it says.
#[inline(always)]
pub fn line_end(ctx: &TcContext) -> i32 {
    let is_fq = LINE.get(0).is_some_and(|line| line.flags & LINE_IS_FQ != 0);
    let left = if is_fq { leave_queue(ctx) } else { leave(ctx) };
    left.or_else(|| settle(ctx)).unwrap_or_else(foreign)
}

/// The agent's word that packets were lost in the line: they are counted out of it. It comes as a ticket behind nothing, out of the TAP or,
/// where the engine is `fq`, as a test run.
#[inline(always)]
fn settle(ctx: &TcContext) -> Option<i32> {
    let ticket = ticket(ctx)?;
    if ticket.flags & TICKET_SETTLES == 0 {
        return None;
    }
    let packets = i64::from(ticket.interface as i32);
    count_out(ticket.state, packets as u64, ticket.release_ns);
    if packets > 0
        && let Some(settled) = GLOBAL.get_ptr_mut(Global::LineSettled as u32)
    {
        // SAFETY: this CPU's own copy of a live map value.
        unsafe { *settled += packets as u64 };
    }
    Some(TC_ACT_SHOT)
}

/// The ticket behind a frame.
#[inline(always)]
fn ticket(ctx: &TcContext) -> Option<Ticket> {
    let length = ctx.len();
    if length < (TICKET + ETHERNET) as u32 {
        return None;
    }
    let mut ticket = core::mem::MaybeUninit::<Ticket>::uninit();
    // SAFETY: the helper fills all of it, or says that it did not; every bit pattern is a ticket.
    let ticket = unsafe {
        let at = length - TICKET as u32;
        if bpf_skb_load_bytes(ctx.skb.skb.cast(), at, ticket.as_mut_ptr().cast(), TICKET as u32) != 0 {
            return None;
        }
        ticket.assume_init()
    };
    (ticket.magic == LINE.get(0)?.magic && ticket.magic != 0).then_some(ticket)
}

/// Nobody's packet of ours.
#[inline(always)]
fn foreign() -> i32 {
    Maps.count_global(Global::Foreign);
    TC_ACT_SHOT
}

/// Out of the engine `userspace`, which has put the ticket behind the frame.
#[inline(always)]
fn leave(ctx: &TcContext) -> Option<i32> {
    let ticket = ticket(ctx)?;
    if ticket.flags & TICKET_SETTLES != 0 {
        return None;
    }
    leave_line(ticket.state, ticket.bytes());
    // SAFETY: the context that the kernel gave; a helper that checks what it is given.
    if unsafe { bpf_skb_change_tail(ctx.skb.skb, ctx.len() - TICKET as u32, 0) } != 0 {
        let direction =
            if ticket.flags & TICKET_INGRESS != 0 { Direction::FromDevice } else { Direction::ToDevice };
        stray(ctx, ticket.state, direction);
        return Some(TC_ACT_SHOT);
    }
    Some(go_on(ctx, &ticket))
}

/// Out of the engine `fq`. Counts how late the packet is, and takes off what was for the queue alone: receivers would take its
/// time for that of arrival, and routes of several ways be chosen by its hash.
#[inline(always)]
fn leave_queue(ctx: &TcContext) -> Option<i32> {
    let was_held = errand::in_line(ctx)?;
    let (number, queued) = queued(ctx)?;
    let ticket = queued.ticket;
    // The agent may have taken it for lost, and counts it out then.
    if TICKETS.remove(&number).is_err() {
        return None;
    }
    leave_line(ticket.state, ticket.bytes());
    // SAFETY: a helper without arguments; this CPU's own copy of a live map value; the context that the kernel gave.
    unsafe {
        let late_ns = bpf_ktime_get_boot_ns().saturating_sub(ticket.release_ns);
        if let Some(count) = LATENESS.get_ptr_mut(bucket(late_ns) as u32) {
            *count += 1;
        }
        if let Some(sum) = LATENESS.get_ptr_mut(BUCKETS as u32) {
            *sum += late_ns;
        }
        (*ctx.skb.skb).tstamp = 0;
        bpf_set_hash_invalid(ctx.skb.skb);
    }
    let code = go_on(ctx, &ticket);
    if was_held {
        errand::done_at(ctx, queued.departure_ns());
    }
    Some(code)
}

/// Back at its hook: takes in what a packet took from there from the end of its stay in the queue on, which the ticket's number of
/// nanoseconds modulo 2³² tells. One that the queue did not hold teaches nothing: see [`Lead`](fault_abi::lead::Lead).
#[inline(always)]
pub fn learn(departure: u32) {
    let Some(lead) = LEAD.get_ptr_mut(0) else { return };
    // SAFETY: a helper without arguments; words of a live map value, see `Lead` for who else writes them.
    unsafe {
        let took = (bpf_ktime_get_boot_ns() as u32).wrapping_sub(departure);
        lead.write(lead.read().after(u64::from(took), true));
    }
}

/// Sends a packet where its ticket says.
#[inline(always)]
fn go_on(ctx: &TcContext, ticket: &Ticket) -> i32 {
    // SAFETY: the context that the kernel gave.
    unsafe {
        (*ctx.skb.skb).mark = ticket.mark;
        (*ctx.skb.skb).priority = ticket.priority;
    }
    errand::done(ctx);
    redirect(ticket.interface, ticket.flags & TICKET_INGRESS != 0)
}
