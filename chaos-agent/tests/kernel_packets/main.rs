//! The agent's kernel layer under real packets: numbered datagrams between network namespaces, captured at both
//! ends, beside what the kernel counted.
//!
//! ```text
//!  ┌ device ────┐        ┌ node ──────────────────────┐        ┌ peer ──────┐
//!  │ eth0 ──────┼─ veth ─┼─ cat-dev   agent   cat-up ─┼─ veth ─┼────── eth0 │
//!  │  ▲ capture │        │    ▲ hooks            ▲    │        │  ▲ capture │
//!  └────────────┘        └────────────────────────────┘        └────────────┘
//! ```
//!
//! The namespaces have no names, so they end with the process that made them, however that ends.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod support;

mod admission;
mod agree;
mod appear;
mod bare;
mod beside;
mod deadline;
mod death;
mod down;
mod ends;
mod follow;
mod fragments;
mod frames;
mod harness;
mod lacking;
mod later;
mod later_queue;
mod lines;
mod links;
mod loss;
mod marks;
mod mended;
mod moved;
mod padding;
mod partition;
mod protect;
mod queue;
mod quiet;
mod replace;
mod selection;
mod statistics;
mod stream;
mod taken;
mod timeline;
