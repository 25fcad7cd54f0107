//! TC: dispatchers, and the programs that decide on ingress and egress. The return codes are decided here.

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::bpf_redirect;
use aya_ebpf::programs::TcContext;
use fault_abi::key::{Direction, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP};
use fault_abi::names::{
    SLOT_TC_ACT_EGRESS, SLOT_TC_ACT_INGRESS, SLOT_TC_EGRESS, SLOT_TC_INGRESS, SLOT_TC_IP_EGRESS,
    SLOT_TC_IP_INGRESS, SLOT_TC_JUDGE, SLOT_TC_REJECT_EGRESS, SLOT_TC_REJECT_INGRESS, SLOT_TC_REST,
};
use fault_abi::packet::{self, Frame as _, Link};
use fault_abi::pass::Stage;

use crate::bare;
use crate::errand::{self, Errand};
use crate::filter;
use crate::frame::{Forgetful, Linear};
use crate::gather::{self, Arrival};
use crate::hook::{self, Outcome};
use crate::line;
use crate::maps::{LINE, PROGRAMS_TC, SCRATCH, SPLITTER_AHEAD, SPLITTER_BEHIND};

/// Go on with the next program: `TCX_NEXT` and `TC_ACT_UNSPEC`. Never `TC_ACT_OK`, which ends the chain and so
/// hides the packet from the programs behind ours.
pub const NEXT: i32 = TC_ACT_UNSPEC;

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

/// How the packets of an interface begin.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layer {
    /// With an Ethernet header.
    Ethernet,
    /// With IP.
    Ip,
}

impl Layer {
    /// Where a packet's IP header is.
    #[inline(always)]
    fn link(self, ctx: &TcContext, frame: &Linear) -> Link {
        match self {
            Self::Ethernet => packet::link(frame),
            // SAFETY: the context that the kernel gave.
            Self::Ip => packet::bare(frame, unsafe { (*ctx.skb.skb).protocol } as u16),
        }
    }
}

/// The dispatcher on ingress.
#[inline(always)]
pub fn ingress_dispatch(ctx: &TcContext) -> i32 {
    dispatch(ctx, SLOT_TC_INGRESS, Direction::FromDevice, Layer::Ethernet)
}

/// The dispatcher on ingress of an interface whose XDP decides about loss.
#[inline(always)]
pub fn rest_dispatch(ctx: &TcContext) -> i32 {
    dispatch(ctx, SLOT_TC_REST, Direction::FromDevice, Layer::Ethernet)
}

/// The dispatcher on egress.
#[inline(always)]
pub fn egress_dispatch(ctx: &TcContext) -> i32 {
    dispatch(ctx, SLOT_TC_EGRESS, Direction::ToDevice, Layer::Ethernet)
}

/// The dispatcher on ingress of an interface without an Ethernet header.
#[inline(always)]
pub fn ip_ingress_dispatch(ctx: &TcContext) -> i32 {
    dispatch(ctx, SLOT_TC_IP_INGRESS, Direction::FromDevice, Layer::Ip)
}

/// The dispatcher on egress of an interface without an Ethernet header.
#[inline(always)]
pub fn ip_egress_dispatch(ctx: &TcContext) -> i32 {
    dispatch(ctx, SLOT_TC_IP_EGRESS, Direction::ToDevice, Layer::Ip)
}

/// Lets a packet go on that can be nobody's; hands the others to the program that decides.
#[inline(always)]
fn dispatch(ctx: &TcContext, slot: u32, direction: Direction, layer: Layer) -> i32 {
    if errand::may_be(ctx) || may_concern(ctx, direction, layer) {
        return call(ctx, slot, NEXT);
    }
    NEXT
}

/// What comes from a device.
#[inline(always)]
pub fn ingress(ctx: &TcContext) -> i32 {
    decide(ctx, Direction::FromDevice, Stage::Whole, Layer::Ethernet)
}

/// What comes from a device, where XDP has decided about loss.
#[inline(always)]
pub fn rest(ctx: &TcContext) -> i32 {
    decide(ctx, Direction::FromDevice, Stage::Rest, Layer::Ethernet)
}

/// What goes to a device.
#[inline(always)]
pub fn egress(ctx: &TcContext) -> i32 {
    decide(ctx, Direction::ToDevice, Stage::Whole, Layer::Ethernet)
}

/// What comes from a device by an interface without an Ethernet header.
#[inline(always)]
pub fn ip_ingress(ctx: &TcContext) -> i32 {
    decide(ctx, Direction::FromDevice, Stage::Whole, Layer::Ip)
}

/// What goes to a device by an interface without an Ethernet header.
#[inline(always)]
pub fn ip_egress(ctx: &TcContext) -> i32 {
    decide(ctx, Direction::ToDevice, Stage::Whole, Layer::Ip)
}

/// Goes on in another program; `otherwise` where there is none, as the agent has died.
#[inline(always)]
fn call(ctx: &TcContext, slot: u32, otherwise: i32) -> i32 {
    // SAFETY: nothing here needs to be dropped.
    unsafe { PROGRAMS_TC.tail_call(ctx, slot) };
    otherwise
}

/// Drops a packet without a word.
#[inline(always)]
pub fn drop(direction: Direction) -> i32 {
    match direction {
        Direction::FromDevice => TC_ACT_SHOT,
        // SAFETY: a helper with plain numbers. It returns TC_ACT_REDIRECT.
        Direction::ToDevice => unsafe { bpf_redirect(NOWHERE, 0) as i32 },
    }
}

/// How many bytes must be in the linear part to find the ports. A TCP sender's packets have its headers there with
/// nothing else, so this asks for no more than is needed: only what a driver left in fragments is pulled.
#[inline(always)]
fn before_payload(frame: &Linear, link: Link) -> usize {
    match link {
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

/// Whether the packet may be one of a target, by the filter. Most are not, so this comes before anything else, and reads no more than
/// what is in the linear part, which is all of the headers but for what some drivers leave in fragments.
#[inline(always)]
fn may_concern(ctx: &TcContext, direction: Direction, layer: Layer) -> bool {
    // SAFETY: dropped before anything moves the packet.
    let frame = unsafe { Linear::new(ctx.data(), ctx.data_end()) };
    if layer == Layer::Ethernet
        && let Some(spot) = packet::plain_spot(&frame, direction)
    {
        return filter::may_have(spot);
    }
    match packet::spot(&frame, layer.link(ctx, &frame), direction) {
        Some(spot) => filter::may_have(spot),
        None => is_more(ctx),
    }
}

/// Whether it is one of a target, or its address is not in the linear part.
#[inline(always)]
fn concerns(ctx: &TcContext, direction: Direction, layer: Layer) -> bool {
    // SAFETY: dropped before anything moves the packet.
    let frame = unsafe { Linear::new(ctx.data(), ctx.data_end()) };
    match packet::target(&frame, layer.link(ctx, &frame), direction) {
        Some(target) => gather::is_target(&target),
        None => is_more(ctx),
    }
}

/// Whether there is more of the packet than its linear part.
#[inline(always)]
fn is_more(ctx: &TcContext) -> bool {
    ctx.data() + ctx.len() as usize > ctx.data_end()
}

/// Finds the packets of targets, and gathers what is decided by.
#[inline(always)]
fn decide(ctx: &TcContext, direction: Direction, stage: Stage, layer: Layer) -> i32 {
    let errand = errand::take(ctx);
    match errand {
        Errand::Done => return NEXT,
        Errand::Held(departure) => {
            line::learn(departure);
            return NEXT;
        }
        Errand::Hold if layer == Layer::Ip && !bare::dress_held(ctx, direction) => return drop(direction),
        Errand::Hold => return line::enter_copy(ctx, direction),
        Errand::Split | Errand::None if !concerns(ctx, direction, layer) => return NEXT,
        Errand::Split => gather::note_arrival(SPLITTER_BEHIND),
        Errand::None => gather::note_arrival(if can_split(ctx) { SPLITTER_AHEAD } else { 0 }),
    }
    let length = ctx.len();
    if is_more(ctx) {
        // SAFETY: dropped before anything moves the packet.
        let frame = unsafe { Linear::new(ctx.data(), ctx.data_end()) };
        let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return NEXT };
        // Forgotten how it came about: the verifier would else walk all that follows once for each way.
        let needed = Forgetful::new(&frame, scratch).forget(before_payload(&frame, layer.link(ctx, &frame)));
        if ctx.data() + needed > ctx.data_end() {
            let _ = ctx.pull_data(if length < PULL { length } else { PULL });
        }
    }
    // SAFETY: no helper called from here on moves the packet.
    let frame = unsafe { Linear::new(ctx.data(), ctx.data_end()) };
    let measure = || {
        // SAFETY: the context that the kernel gave.
        (u64::from(length), unsafe { (*ctx.skb.skb).gso_size })
    };
    let link = layer.link(ctx, &frame);
    if gather::gather(&frame, link, Arrival { direction, stage }, measure) {
        return call(ctx, SLOT_TC_JUDGE, NEXT);
    }
    NEXT
}

/// Decides on the packet of a target by what [`decide`] has gathered.
#[inline(always)]
pub fn judge(ctx: &TcContext) -> i32 {
    let outcome = hook::outcome();
    let Some((direction, is_bare)) = hook::arrived() else { return NEXT };
    match direction {
        Direction::FromDevice => carry_out(ctx, outcome, Direction::FromDevice, is_bare),
        Direction::ToDevice => carry_out(ctx, outcome, Direction::ToDevice, is_bare),
    }
}

/// `is_bare`: the packet begins with IP.
#[inline(always)]
fn carry_out(ctx: &TcContext, outcome: Outcome, direction: Direction, is_bare: bool) -> i32 {
    let (act, reject) = match direction {
        Direction::FromDevice => (SLOT_TC_ACT_INGRESS, SLOT_TC_REJECT_INGRESS),
        Direction::ToDevice => (SLOT_TC_ACT_EGRESS, SLOT_TC_REJECT_EGRESS),
    };
    match outcome {
        Outcome::Pass => NEXT,
        Outcome::Drop => drop(direction),
        Outcome::Split if is_bare && !bare::dress(ctx, hook::author(), direction) => drop(direction),
        Outcome::Split => line::split(ctx, direction),
        Outcome::Plan => call(ctx, act, drop(direction)),
        Outcome::Reject => call(ctx, reject, drop(direction)),
    }
}

/// Whether there is a splitter that finds the way back to this interface.
#[inline(always)]
fn can_split(ctx: &TcContext) -> bool {
    // SAFETY: the context that the kernel gave.
    let interface = unsafe { (*ctx.skb.skb).ifindex };
    interface <= errand::MAX_INTERFACE && LINE.get(0).is_some_and(|line| line.splitter != 0)
}
