//! The kernel programs: what decides on the packets of targets.
//!
//! ```text
//!  interface ─▶ dispatcher ─ tail call ─▶ xdp_ingress | tc_ingress | tc_egress
//!                    │ (nobody's packet,              │
//!                    │  or array empty: pass)         │
//!                    ▼                                ▼ hook: lookup, protection, pass
//!                 NEXT / XDP_PASS            drop, or NEXT / XDP_PASS
//! ```
//!
//! What is decided is in `fault-abi`, which the host tests run too; here are only the ways in and out:
//! [`maps`], [`filter`] (whose packets are looked at), [`frame`] (the packet's bytes), [`gather`] (what is decided by), [`hook`] (the verdict on a packet), [`entry`] (its target's profiles), [`tc`] and
//! [`xdp`]; [`act`] carries out what is decided beside the verdict, [`reject`] answers in a packet's stead, [`line`] leads into
//! the delay line and the splitter and out of them, [`bare`] is what they need where interfaces have no Ethernet header,
//! [`trouble`] counts what the kernel refuses meanwhile, [`note`] writes lines for people, and [`errand`] is what one program tells another about a packet.
#![no_std]
// For the one instruction in `world::add`.
#![feature(asm_experimental_arch)]

pub mod act;
pub mod bare;
pub mod entry;
pub mod errand;
pub mod filter;
pub mod frame;
pub mod gather;
pub mod hook;
pub mod line;
pub mod maps;
pub mod note;
pub mod reject;
pub mod tc;
pub mod trouble;
pub mod world;
pub mod xdp;
