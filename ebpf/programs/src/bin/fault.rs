//! The object that the agent loads: entry points only, the rest is in the library.
#![no_std]
#![no_main]
#![expect(missing_docs, reason = "the macros drop the documentation of entry points")]

use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use fault_abi::key::Direction;

/// Attached to TC ingress.
#[classifier]
pub fn tc_ingress_dispatch(ctx: TcContext) -> i32 {
    fault_ebpf::tc::ingress_dispatch(&ctx)
}

/// Attached to TC egress.
#[classifier]
pub fn tc_egress_dispatch(ctx: TcContext) -> i32 {
    fault_ebpf::tc::egress_dispatch(&ctx)
}

/// Attached to XDP.
#[xdp(frags)]
pub fn xdp_dispatch(ctx: XdpContext) -> u32 {
    fault_ebpf::xdp::dispatch(&ctx)
}

/// Called by the dispatcher on TC ingress.
#[classifier]
pub fn tc_ingress(ctx: TcContext) -> i32 {
    fault_ebpf::tc::ingress(&ctx)
}

/// Called by the dispatcher on TC egress.
#[classifier]
pub fn tc_egress(ctx: TcContext) -> i32 {
    fault_ebpf::tc::egress(&ctx)
}

/// Attached to TC ingress where XDP decides about loss.
#[classifier]
pub fn tc_rest_dispatch(ctx: TcContext) -> i32 {
    fault_ebpf::tc::rest_dispatch(&ctx)
}

/// Called by that dispatcher.
#[classifier]
pub fn tc_rest(ctx: TcContext) -> i32 {
    fault_ebpf::tc::rest(&ctx)
}

/// Attached to TC ingress of an interface without an Ethernet header.
#[classifier]
pub fn tc_ip_ingress_dispatch(ctx: TcContext) -> i32 {
    fault_ebpf::tc::ip_ingress_dispatch(&ctx)
}

/// Attached to TC egress of an interface without an Ethernet header.
#[classifier]
pub fn tc_ip_egress_dispatch(ctx: TcContext) -> i32 {
    fault_ebpf::tc::ip_egress_dispatch(&ctx)
}

/// Called by the dispatcher on TC ingress of an interface without an Ethernet header.
#[classifier]
pub fn tc_ip_ingress(ctx: TcContext) -> i32 {
    fault_ebpf::tc::ip_ingress(&ctx)
}

/// Called by the dispatcher on TC egress of an interface without an Ethernet header.
#[classifier]
pub fn tc_ip_egress(ctx: TcContext) -> i32 {
    fault_ebpf::tc::ip_egress(&ctx)
}

/// Called on ingress and egress for a packet of a target.
#[classifier]
pub fn tc_judge(ctx: TcContext) -> i32 {
    fault_ebpf::tc::judge(&ctx)
}

/// Called on ingress for a packet that has a plan.
#[classifier]
pub fn tc_act_ingress(ctx: TcContext) -> i32 {
    fault_ebpf::act::act(&ctx, Direction::FromDevice)
}

/// Called on egress for a packet that has a plan.
#[classifier]
pub fn tc_act_egress(ctx: TcContext) -> i32 {
    fault_ebpf::act::act(&ctx, Direction::ToDevice)
}

/// Called on ingress for a packet that is rejected.
#[classifier]
pub fn tc_reject_ingress(ctx: TcContext) -> i32 {
    fault_ebpf::reject::reject(&ctx, Direction::FromDevice)
}

/// Called on egress for a packet that is rejected.
#[classifier]
pub fn tc_reject_egress(ctx: TcContext) -> i32 {
    fault_ebpf::reject::reject(&ctx, Direction::ToDevice)
}

/// Attached to egress of the delay line of the engine `fq`.
#[classifier]
pub fn line_start(ctx: TcContext) -> i32 {
    fault_ebpf::line::line_start(&ctx)
}

/// Attached to ingress of the delay line's end.
#[classifier]
pub fn line_end(ctx: TcContext) -> i32 {
    fault_ebpf::line::line_end(&ctx)
}

/// Attached to ingress of the splitter's far end.
#[classifier]
pub fn splitter_end(ctx: TcContext) -> i32 {
    fault_ebpf::line::splitter_end(&ctx)
}

/// Called by the dispatcher on XDP.
#[xdp(frags)]
pub fn xdp_ingress(ctx: XdpContext) -> u32 {
    fault_ebpf::xdp::ingress(&ctx)
}

/// A program that the verifier accepts never gets here.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Read by the kernel: these helpers are for programs under the GPL, alone or as one of two.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
pub static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
