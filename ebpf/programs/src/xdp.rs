//! XDP: the dispatcher, and the program for what comes from a device.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::helpers::generated::bpf_xdp_get_buff_len;
use aya_ebpf::programs::XdpContext;
use fault_abi::key::Direction;
use fault_abi::names::SLOT_XDP_INGRESS;
use fault_abi::packet;
use fault_abi::pass::Stage;

use crate::filter;
use crate::frame::Linear;
use crate::gather::{self, Arrival};
use crate::hook::{self, Outcome};
use crate::maps::PROGRAMS_XDP;

/// The dispatcher.
#[inline(always)]
pub fn dispatch(ctx: &XdpContext) -> u32 {
    // SAFETY: dropped before anything moves the packet.
    let frame = unsafe { Linear::new(ctx.data(), ctx.data_end()) };
    if packet::spot(&frame, packet::link(&frame), Direction::FromDevice).is_some_and(filter::may_have) {
        // SAFETY: nothing here needs to be dropped.
        unsafe { PROGRAMS_XDP.tail_call(ctx, SLOT_XDP_INGRESS) };
    }
    XDP_PASS
}

/// What comes from a device: partition and loss. The rest is TC's, which has the means.
#[inline(always)]
pub fn ingress(ctx: &XdpContext) -> u32 {
    // SAFETY: no helper called from here on moves the packet.
    let frame = unsafe { Linear::new(ctx.data(), ctx.data_end()) };
    // SAFETY: the context that the kernel gave. With `frags`, `data_end` is the end of the first part only.
    let measure = || (unsafe { bpf_xdp_get_buff_len(ctx.as_ptr().cast()) }, 0);
    let arrival = Arrival { direction: Direction::FromDevice, stage: Stage::Early };
    let link = packet::link(&frame);
    let is_target =
        packet::target(&frame, link, Direction::FromDevice).is_some_and(|target| gather::is_target(&target));
    if !is_target {
        return XDP_PASS;
    }
    gather::note_arrival(0);
    if !gather::gather(&frame, link, arrival, measure) {
        return XDP_PASS;
    }
    if hook::early_outcome() == Outcome::Drop { XDP_DROP } else { XDP_PASS }
}
