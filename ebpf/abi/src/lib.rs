//! What the kernel programs and the agent share: the types in the maps, and the decision about a packet.
//!
//! Nothing here reads a clock, a map or a random number: the kernel programs and the host tests bring those
//! along, so that both run the same code.
//!
//! ```text
//!  frame ─ packet ─▶ Link ─ key ─▶ Entry{bindings} ─ pass ─▶ Verdict
//!                                       │            │ ▲
//!                                rule slot, key      │ │ draw (SipHash of key, flow, index)
//!                                                    ▼ │
//!                                              decide(rule, …)
//! ```
//!
//! * [`key`]: addresses and the keys of all maps
//! * [`filter`]: which addresses may have an [`Entry`](rule::Entry) at all
//! * [`rule`]: [`Entry`](rule::Entry) → [`Binding`](rule::Binding) → [`Rule`](rule::Rule)
//! * [`counter`]: what the kernel counts, the state of targets and flows
//! * [`channel`]: what a sequence of packets has behind it
//! * [`verdict`]: the fate of a packet
//! * [`draw`]: the keyed hash behind each draw
//! * [`decide`]: the decision on one packet under one rule
//! * [`pass`]: a packet's way through partition and loss of all bindings of its target
//! * [`later`]: the way of those that are not lost through all other faults
//! * [`delay`]: how long a packet is held; [`quantile`], [`correlation`]: by which distribution
//! * [`line`]: the delay line and the splitter
//! * [`lateness`]: how much later than their time packets leave it; [`lead`]: how much earlier they are sent off
//! * [`ticket`]: what a packet carries through the delay line
//! * [`packet`]: where a frame's addresses and ports are
//! * [`names`]: names of maps and programs in the object, and the slots of the program arrays
#![no_std]

pub mod channel;
pub mod correlation;
pub mod counter;
pub mod decide;
pub mod delay;
pub mod draw;
pub mod filter;
pub mod key;
pub mod lateness;
pub mod later;
pub mod lead;
pub mod line;
pub mod names;
pub mod packet;
pub mod pass;
pub mod quantile;
pub mod remake;
pub mod rule;
pub mod ticket;
pub mod verdict;

/// The version of everything in this crate: it changes with every change of a layout, a flag, a verdict or a draw.
/// The object tells its own by the name of its map [`names::CONFIG`], and the agent refuses any other.
pub const ABI_VERSION: u32 = 8;

#[cfg(test)]
mod tests {
    extern crate std;

    use super::{ABI_VERSION, names};

    #[test]
    fn the_name_of_a_map_tells_the_version() {
        assert_eq!(names::CONFIG, std::format!("CONFIG_{ABI_VERSION}"));
    }
}
