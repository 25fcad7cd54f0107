//! What a device and its CoAP messages may do, without any I/O.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod device;
mod misbehaviour;
mod wire;
