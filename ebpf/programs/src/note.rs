//! A line for each packet of a target, with what becomes of it, for a person who asks for it (`--kernel-log`).
//!
//! The agent writes the level into the object before it loads it. The kernel knows it as a constant then, and where no lines are
//! wanted it removes what would write them.

use aya_log_ebpf::debug;
use aya_log_ebpf::macro_support::{Level, level_enabled};

use crate::hook::Outcome;
use crate::maps::SCRATCH;

/// Whether lines are wanted.
#[inline(always)]
pub fn is_wanted() -> bool {
    level_enabled(Level::Debug)
}

/// Writes the line of the packet in `SCRATCH`. Returns nothing of use: a global function has to return a number.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn note(outcome: u32) -> u32 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return 0 };
    // SAFETY: this CPU's own memory, which nobody else writes to while a program holds a packet.
    let packet = unsafe { &(*scratch).packet };
    // SAFETY: as many octets, in network order.
    let target: [u8; 16] = unsafe { core::mem::transmute(packet.target.words) };
    let way = packet.direction as u32;
    let (protocol, port, bytes) = (packet.protocol, packet.target_port, packet.bytes);
    macro_rules! tell {
        ($fate:literal) => {
            debug!(
                (),
                "{:i} port {} protocol {} direction {} bytes {}: {}",
                target,
                port,
                protocol,
                way,
                bytes,
                $fate
            )
        };
    }
    match Outcome::of(outcome) {
        Outcome::Pass => tell!("passes"),
        Outcome::Drop => tell!("is dropped"),
        Outcome::Reject => tell!("is rejected"),
        Outcome::Split => tell!("goes to the splitter"),
        Outcome::Plan => tell!("goes by its plan"),
    }
    0
}
