//! Devices over real sockets of the loopback interface: as a library, and as the program itself.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod client;
mod conversation;
mod misbehaviour;
mod process;
