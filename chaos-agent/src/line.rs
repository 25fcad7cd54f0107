//! The engines of the delay line. [`fq`] is the kernel's own queue, and its device. `userspace`, for kernels without
//! `sch_fq`, is a TAP and a thread that holds each packet until the time that its ticket says (`fault_abi::ticket`). Putting packets into the TAP with their tickets, and
//! sending them on from its ingress, is the kernel programs' work and not here.
//!
//! ```text
//!  TAP ──read──▶ frame ─ release_ns ─▶ wheel ─ due ─▶ write ──▶ TAP
//!                  └──── bytes ──────▶ pool  ────────────┘
//! ```
//!
//! * [`frame`]: reads a ticket off the bytes, and mends what a VLAN tag did to them (pure)
//! * [`wheel`]: what leaves when, in exact order (pure)
//! * [`pool`]: the bytes of packets in the line, within limits (pure)
//! * [`audit`]: compares what hooks count as in the line with what is there (pure)
//! * [`relay`]: takes packets in and gives them out; knows no thread and no clock
//! * [`stats`]: what the engine counts, and how late packets leave
//! * [`tap`]: the device
//! * [`schedule`]: how soon the thread runs when it is woken
//! * [`engine`]: the thread
//! * [`fq`]: the device of the other engine
//! * [`queue`]: the kernel's queue there
//! * [`ends`]: whether packets can go through that device

pub mod audit;
pub mod ends;
pub mod engine;
pub mod fq;
pub mod frame;
pub mod pool;
pub mod queue;
pub mod relay;
pub mod schedule;
pub mod stats;
pub mod tap;
pub mod wheel;

/// Name of the delay line's device, whichever it is.
pub const NAME: &str = "edo-line";
