//! The object that the agent loads: entry points only, the rest is in the library.
#![no_std]
#![no_main]
#![expect(missing_docs, reason = "the macros drop the documentation of entry points")]

use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};

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
