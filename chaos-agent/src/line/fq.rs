//! The `fq` engine's device: a veth pair whose near end has the kernel's queue of that name, which lets each packet go at
//! its time (`skb->tstamp`). The programs at its ends are the kernel's (`kernel::aya`), and nothing here touches a packet.
//!
//! ```text
//!  hook ─ clone ─▶ near ─ line_start: when ─▶ fq ─▶ far ─ line_end ─▶ where it was going
//! ```
//!
//! Pair and programs outlive a killed agent, whose hooks let nothing enter any more: what is held leaves at its time. The next
//! agent removes them before it makes its own, and so does `--cleanup`.

use std::io;
use std::time::Duration;

use rtnetlink::Handle;
use thiserror::Error;

use super::{NAME, queue};
use crate::kernel::Interface;
use crate::pair::{Pair, PairError};

/// The end that packets come out of.
pub const FAR: &str = "edo-line-end";

const PAIR: Pair = Pair { near: NAME, far: FAR };

/// How long packets in a line that goes away are waited for.
const DRAIN: Duration = Duration::from_secs(2);
/// How often is looked whether there are any.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Why there is no such line, and what to do.
#[derive(Debug, Error)]
pub enum FqError {
    /// No pair.
    #[error(transparent)]
    Pair(#[from] PairError),
    /// The kernel has no such queue.
    #[error(
        "this kernel has no queue `fq`: load the module sch_fq on the node (`modprobe sch_fq`), or use --engine userspace"
    )]
    Missing,
    /// The kernel refuses the queue for another reason.
    #[error("the queue `fq` of {NAME}: {0}")]
    Queue(io::Error),
}

/// Both ends of the line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fq {
    /// Hooks send packets into it.
    pub near: Interface,
    /// They come in by it.
    pub far: Interface,
}

impl Fq {
    /// Makes the pair in the network namespace of `netlink`, with a queue that holds `packets` and refuses none of them.
    ///
    /// # Errors
    /// When the kernel refuses, or has no such queue; nothing is left then.
    pub async fn make(netlink: &Handle, packets: u32) -> Result<Self, FqError> {
        let ends = PAIR.lay(netlink, &[]).await?;
        // While they are down: for a moment, in which the queue takes another's place, the kernel drops what is sent, and since Linux 6.11
        // it counts that (`noop_enqueue` of net/sched/sch_generic.c). A router says something of each interface that comes up.
        let queued = queue::set(ends[0].index, packets).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => FqError::Missing,
            _ => FqError::Queue(error),
        });
        PAIR.or_nothing(netlink, queued).await?;
        PAIR.put_up(netlink, &ends).await?;
        let [near, far] = ends;
        Ok(Self { near, far })
    }
}

/// Waits until the line that is there holds no packet, for two seconds at most; what it holds then is lost with it, and the log
/// says how many. One that is no queue of the kernel's holds none.
///
/// # Errors
/// When the kernel does not tell.
pub async fn drain() -> io::Result<()> {
    let looks = DRAIN.as_millis() / LOOK_EVERY.as_millis();
    let mut held = waiting()?;
    for _ in 0..looks {
        if held == 0 {
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
        held = waiting()?;
    }
    if held > 0 {
        tracing::warn!(held, "packets that the delay line holds for longer are lost with it");
    }
    Ok(())
}

/// Removes the line that is there, once it is empty; says whether there was one.
///
/// # Errors
/// When the kernel refuses.
pub async fn remove(netlink: &Handle) -> Result<bool, FqError> {
    drain().await.map_err(FqError::Queue)?;
    Ok(PAIR.remove(netlink).await?)
}

/// How many packets wait in the line.
fn waiting() -> io::Result<u32> {
    nix::net::if_::if_nametoindex(NAME).map_or(Ok(0), queue::length)
}
