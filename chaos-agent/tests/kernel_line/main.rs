//! The delay line's userspace engine on a real TAP: what goes in with a ticket comes out at its time, whole, with the
//! ticket behind. Frames are put in and seen by packet sockets, which stand where the kernel programs do.

#![expect(clippy::expect_used, clippy::unwrap_used, reason = "helpers of tests")]

mod end;
mod packets;
mod support;
mod tag;
mod wire;
