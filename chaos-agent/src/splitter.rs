//! The splitter: a veth pair without offloads. What a hook sends into it comes out of the far end as it would be on the wire:
//! one packet at a time, checksums filled in. The programs at its ends are the kernel's (`kernel::aya`).
//!
//! It outlives a killed agent, unlike hooks; those are inert then, so nothing enters it. The next agent removes it
//! before it makes its own, and so does `--cleanup`.

use rtnetlink::Handle;

use crate::kernel::Interface;
use crate::pair::{Offload, Pair, PairError};

/// The end that hooks send packets into.
pub const NEAR: &str = "edo-split";
/// The end that they come out of.
pub const FAR: &str = "edo-split-end";

const PAIR: Pair = Pair { near: NEAR, far: FAR };

/// What is turned off, so that the kernel does it before the packet leaves.
const OFFLOADS: [Offload; 3] =
    [(0x17, "transmit checksums"), (0x19, "scatter-gather"), (0x1f, "segmentation of TCP")];

/// Both ends: where packets enter, and where they come out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Splitter {
    /// Hooks send packets into it.
    pub near: Interface,
    /// They come in by it.
    pub far: Interface,
}

impl Splitter {
    /// Makes the pair in the network namespace of `netlink`: no address, no ARP, up.
    ///
    /// # Errors
    /// When the kernel refuses; nothing is left then.
    pub async fn make(netlink: &Handle) -> Result<Self, PairError> {
        PAIR.make(netlink, &OFFLOADS).await.map(|[near, far]| Self { near, far })
    }
}

/// Makes a splitter in the place of one that another agent left, or that somebody has removed; of such a one these ends may `remain`.
///
/// # Errors
/// When the kernel refuses; nothing is left then.
pub async fn renew(netlink: &Handle, remain: &[Interface]) -> Result<Splitter, PairError> {
    remove(netlink).await?;
    for end in remain {
        PAIR.remove_end(netlink, end).await?;
    }
    Splitter::make(netlink).await
}

/// Removes the pair, if it is there; says whether it was.
///
/// # Errors
/// When the kernel refuses.
pub async fn remove(netlink: &Handle) -> Result<bool, PairError> {
    PAIR.remove(netlink).await
}

/// What the splitter has lost, over all that were made: each begins to count at 0.
#[derive(Debug, Default)]
pub struct Losses {
    before: u64,
    /// Of the one that is there.
    last: u64,
}

impl Losses {
    /// Packets that were lost so far, those of the one that is there included.
    pub const fn with(&mut self, of_this: u64) -> u64 {
        if of_this < self.last {
            self.before += self.last;
        }
        self.last = of_this;
        self.before + of_this
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_splitter_has_lost_that_was_removed_stays_counted() {
        let mut losses = Losses::default();
        let seen = [0, 3, 5, 0, 0, 2].map(|of_this| losses.with(of_this));
        assert_eq!(seen, [0, 3, 5, 5, 5, 7]);
    }
}
