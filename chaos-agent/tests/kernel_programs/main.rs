//! Programs that nobody here wrote, each under every kind of fault: what they say of it is what the kernel counted.
//!
//! ```text
//!  ┌ device ────────────┐        ┌ node ─────────────┐        ┌ peer ────────────┐
//!  │ httpd, iperf3 -s,  ├─ veth ─┤  agent's hooks    ├─ veth ─┤ ping, iperf3 -c, │
//!  │ device-sim         │        │                   │        │ curl, coap-client│
//!  └────────────────────┘        └───────────────────┘        └──────────────────┘
//! ```
//!
//! The device has an address of each family for each kind of fault, so all of them act at the same time, each under a profile
//! of its own; where a processor is emulated, some at a time. `cargo xtask test` brings the programs; the modules have their names, by which stories are skipped where one
//! cannot be had.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod coap;
mod curl;
mod iperf3;
mod kinds;
mod nft;
mod ping;
mod process;
mod scene;
mod stack;
mod support;
