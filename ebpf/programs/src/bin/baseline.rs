//! What `cargo xtask bench` compares ours with: programs that do nothing. Never shipped.
#![no_std]
#![no_main]
#![expect(missing_docs, reason = "the macros drop the documentation of entry points")]

use aya_ebpf::bindings::TC_ACT_UNSPEC;
use aya_ebpf::bindings::xdp_action::XDP_DROP;
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};

/// Lets each packet go on.
#[classifier]
pub fn empty_tc(_ctx: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

/// Drops each packet.
#[xdp(frags)]
pub fn drop_xdp(_ctx: XdpContext) -> u32 {
    XDP_DROP
}

/// A program that the verifier accepts never gets here.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Read by the kernel.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
pub static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
