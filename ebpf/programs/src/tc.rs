//! TC: dispatchers, and the programs for ingress and egress. The return codes are decided here.

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::bpf_redirect;
use aya_ebpf::programs::TcContext;
use fault_abi::key::{Direction, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP};
use fault_abi::names::{SLOT_TC_EGRESS, SLOT_TC_INGRESS};
use fault_abi::packet::{self, Frame as _, Link};

use crate::frame::{Forgetful, Linear};
use crate::hook;
use crate::maps::{PROGRAMS_TC, SCRATCH};

/// Go on with the next program: `TCX_NEXT` and `TC_ACT_UNSPEC`. Never `TC_ACT_OK`, which ends the chain and so
/// hides the packet from the programs behind ours.
const NEXT: i32 = TC_ACT_UNSPEC;

/// An interface that cannot exist: a redirect to it drops the packet without telling the sender.
/// `TC_ACT_SHOT` on egress is told to a local sender, which then retries at once; `TC_ACT_STOLEN` lets the
/// packet pass on TCX.
const NOWHERE: u32 = 0x7fff_fff0;

/// Bytes that are pulled where the ports may not be in the linear part: tags, options and extension headers as well.
const PULL: u32 = 192;
/// Length of both ports.
const PORTS: usize = 4;
/// Length of an IPv6 header.
const IPV6: usize = 40;

/// The dispatcher on ingress.
#[inline(always)]
pub fn ingress_dispatch(ctx: &TcContext) -> i32 {
    // SAFETY: nothing here needs to be dropped.
    unsafe { PROGRAMS_TC.tail_call(ctx, SLOT_TC_INGRESS) };
    NEXT
}

/// The dispatcher on egress.
#[inline(always)]
pub fn egress_dispatch(ctx: &TcContext) -> i32 {
    // SAFETY: nothing here needs to be dropped.
    unsafe { PROGRAMS_TC.tail_call(ctx, SLOT_TC_EGRESS) };
    NEXT
}

/// What comes from a device.
#[inline(always)]
pub fn ingress(ctx: &TcContext) -> i32 {
    if drops(ctx, Direction::FromDevice) { TC_ACT_SHOT } else { NEXT }
}

/// What goes to a device.
#[inline(always)]
pub fn egress(ctx: &TcContext) -> i32 {
    if drops(ctx, Direction::ToDevice) {
        // SAFETY: a helper with plain numbers. It returns TC_ACT_REDIRECT.
        return unsafe { bpf_redirect(NOWHERE, 0) } as i32;
    }
    NEXT
}

/// How many bytes must be in the linear part to find the ports. A TCP sender's packets have its headers there with
/// nothing else, so this asks for no more than is needed: only what a driver left in fragments is pulled.
#[inline(always)]
fn before_payload(frame: &Linear) -> usize {
    match packet::link(frame) {
        Link::Other => 0,
        Link::Ipv4(offset) => match frame.byte(offset) {
            Some(first) => offset + (first & 0xf) as usize * 4 + PORTS,
            None => PULL as usize,
        },
        Link::Ipv6(offset) => match frame.byte(offset + 6) {
            Some(PROTOCOL_TCP | PROTOCOL_UDP | PROTOCOL_ICMPV6) => offset + IPV6 + PORTS,
            _ => PULL as usize,
        },
    }
}

#[inline(always)]
fn drops(ctx: &TcContext, direction: Direction) -> bool {
    let length = ctx.len();
    if ctx.data() + length as usize > ctx.data_end() {
        // SAFETY: dropped before anything moves the packet.
        let frame = unsafe { Linear::new(ctx.data(), ctx.data_end()) };
        let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return false };
        // Forgotten how it came about: the verifier would else walk all that follows once for each way.
        let needed = Forgetful::new(&frame, scratch).forget(before_payload(&frame));
        if ctx.data() + needed > ctx.data_end() {
            let _ = ctx.pull_data(if length < PULL { length } else { PULL });
        }
    }
    // SAFETY: no helper called from here on moves the packet.
    let frame = unsafe { Linear::new(ctx.data(), ctx.data_end()) };
    let measure = || {
        // SAFETY: the context that the kernel gave.
        let gso = unsafe { (*ctx.skb.skb).gso_size } != 0;
        (u64::from(length), gso)
    };
    hook::decide(&frame, direction, measure).drops()
}
