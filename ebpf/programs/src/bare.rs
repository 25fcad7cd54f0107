//! Packets of interfaces without an Ethernet header. The line and the splitter carry Ethernet frames, and the kernel lets
//! nothing else into them: so such a packet gets a header of its own before it goes there. On its way back onto its
//! interface the kernel takes the header off by itself, as that wants none.
//!
//! ```text
//! [IP] ─ dress ─▶ [zeros, EtherType][IP] ─▶ line or splitter ─ redirect, cut by the kernel ─▶ [IP]
//! ```

use aya_ebpf::helpers::{bpf_skb_change_head, bpf_skb_store_bytes};
use aya_ebpf::programs::TcContext;
use fault_abi::key::Direction;
use fault_abi::packet::ETHERNET;

use crate::errand;
use crate::trouble::stray;
use crate::world::leave_line;

/// Where an Ethernet header says what it carries.
const KIND: u32 = ETHERNET as u32 - 2;

/// Puts an Ethernet header in front; `false`: the kernel refused, and the packet, which is counted under this state, is to be dropped.
#[inline(always)]
pub fn dress(ctx: &TcContext, state: u32, direction: Direction) -> bool {
    let skb = ctx.skb.skb;
    // SAFETY: the context that the kernel gave; helpers that check what they are given, and leave zeros in front.
    let is_dressed = unsafe {
        let kind = (*skb).protocol as u16;
        bpf_skb_change_head(skb, ETHERNET as u32, 0) == 0
            && bpf_skb_store_bytes(skb, KIND, (&raw const kind).cast(), 2, 0) == 0
    };
    if !is_dressed {
        stray(ctx, state, direction);
    }
    is_dressed
}

/// As [`dress`], for a packet that this state has counted into the line: where that fails it is counted out again.
#[inline(always)]
pub fn dress_counted(ctx: &TcContext, state: u32, direction: Direction) -> bool {
    let bytes = u64::from(ctx.len()) + ETHERNET as u64;
    let is_dressed = dress(ctx, state, direction);
    if !is_dressed {
        leave_line(state, bytes);
    }
    is_dressed
}

/// As [`dress_counted`], for a duplicate whose errand says the state.
#[inline(always)]
pub fn dress_held(ctx: &TcContext, direction: Direction) -> bool {
    let (_, state) = errand::held(ctx, 0);
    dress_counted(ctx, state, direction)
}
