//! The `fq` engine's device: a veth pair whose near end has the kernel's queue of that name, which lets each packet go at
//! its time (`skb->tstamp`). The programs at its ends are the kernel's (`kernel::aya`), and nothing here touches a packet.
//!
//! ```text
//!  hook ─ clone ─▶ near ─ line_start: when ─▶ fq ─▶ far ─ line_end ─▶ where it was going
//! ```
//!
//! Pair and programs outlive a killed agent, whose hooks let nothing enter any more: what is held leaves at its time. The next
//! agent removes them before it makes its own, and so does `--cleanup`.

use std::time::Duration;

use fault_abi::line::LONGEST_STAY_NS;
use futures::{StreamExt as _, TryStreamExt as _};
use netlink_packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcOption, TcStats2};
use nix::libc;
use rtnetlink::Handle;
use thiserror::Error;

use crate::behind::LINE;
use crate::kernel::Interface;
use crate::pair::{MTU, Pair, PairError};

/// The end that packets come out of.
pub const FAR: &str = "edo-line-end";

const PAIR: Pair = Pair { near: LINE, far: FAR };
const KIND: &str = "fq";

/// How long packets in a line that goes away are waited for.
const DRAIN: Duration = Duration::from_secs(2);
/// How often is looked whether there are any.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Numbers of packets whose queues are apart: a packet waits for another only if 2^20 came between them. It is also how
/// many queues of some 100 bytes there are at most.
const ORPHAN_MASK: u32 = (1 << 20) - 1;
/// Trees in which queues are looked up, as a power of two: four in each when the line holds as many as it does by default.
const BUCKETS_LOG: u32 = 14;
/// Room for packets beside those that hooks admit.
const SPARE: u32 = 1024;

/// `TCA_FQ_*` of linux/pkt_sched.h.
mod option {
    pub(super) const PACKETS: u16 = 1;
    pub(super) const FLOW_PACKETS: u16 = 2;
    pub(super) const QUANTUM: u16 = 3;
    pub(super) const INITIAL_QUANTUM: u16 = 4;
    pub(super) const PACES: u16 = 5;
    pub(super) const BUCKETS_LOG: u16 = 8;
    pub(super) const ORPHAN_MASK: u16 = 10;
    pub(super) const TIMER_SLACK: u16 = 13;
    pub(super) const HORIZON: u16 = 14;
    pub(super) const DROPS_BEYOND_HORIZON: u16 = 15;
}

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
    #[error("the queue `fq` of {LINE}: {0}")]
    Queue(rtnetlink::Error),
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
        let queued = add_queue(netlink.clone(), ends[0].index, options(packets)).await;
        let queued =
            queued.map_err(|error| if is_unknown(&error) { FqError::Missing } else { FqError::Queue(error) });
        PAIR.or_nothing(netlink, queued).await?;
        PAIR.put_up(netlink, &ends).await?;
        let [near, far] = ends;
        Ok(Self { near, far })
    }
}

/// "Specified qdisc kind is unknown": neither there nor to be loaded.
fn is_unknown(error: &rtnetlink::Error) -> bool {
    let rtnetlink::Error::NetlinkError(error) = error else { return false };
    error.to_io().raw_os_error() == Some(libc::ENOENT)
}

/// The queue's options, by their numbers: it holds whatever hooks admit until its time, and nothing waits for anything else.
fn options(packets: u32) -> Vec<(u16, Vec<u8>)> {
    let room = packets.saturating_add(SPARE);
    let horizon = u32::try_from(LONGEST_STAY_NS / 1_000).unwrap_or(u32::MAX);
    let numbers = [
        (option::PACKETS, room),
        (option::FLOW_PACKETS, room),
        // What a queue may send before it is another's turn: more than one packet.
        (option::QUANTUM, 2 * MTU),
        (option::INITIAL_QUANTUM, 2 * MTU),
        (option::PACES, 0),
        (option::BUCKETS_LOG, BUCKETS_LOG),
        (option::ORPHAN_MASK, ORPHAN_MASK),
        // In nanoseconds.
        (option::TIMER_SLACK, 0),
        // In microseconds. What is due later leaves then, as it does with the other engine.
        (option::HORIZON, horizon),
    ];
    let numbers = numbers.map(|(option, number)| (option, number.to_ne_bytes().to_vec()));
    numbers.into_iter().chain([(option::DROPS_BEYOND_HORIZON, vec![0])]).collect()
}

/// Makes the queue the root of an interface. (The library's own request has no room for options.)
async fn add_queue(
    mut netlink: Handle,
    index: u32,
    options: Vec<(u16, Vec<u8>)>,
) -> Result<(), rtnetlink::Error> {
    let mut message = TcMessage::with_index(i32::try_from(index).unwrap_or_default());
    message.header.parent = TcHandle::ROOT;
    let options = options.into_iter().map(|(option, bytes)| TcOption::Other(DefaultNla::new(option, bytes)));
    message.attributes = vec![TcAttribute::Kind(KIND.to_owned()), TcAttribute::Options(options.collect())];
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewQueueDiscipline(message));
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
    let mut answers = netlink.request(request)?;
    while let Some(answer) = answers.next().await {
        if let NetlinkPayload::Error(error) = answer.payload {
            return Err(rtnetlink::Error::NetlinkError(error));
        }
    }
    Ok(())
}

/// Waits until the line that is there holds no packet, for two seconds at most; what it holds then is lost with it, and the log
/// says how many. One that is no queue of the kernel's holds none.
///
/// # Errors
/// When the kernel does not tell.
pub async fn drain(netlink: &Handle) -> Result<(), rtnetlink::Error> {
    let looks = DRAIN.as_millis() / LOOK_EVERY.as_millis();
    let mut held = waiting(netlink).await?;
    for _ in 0..looks {
        if held == 0 {
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
        held = waiting(netlink).await?;
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
    drain(netlink).await.map_err(FqError::Queue)?;
    Ok(PAIR.remove(netlink).await?)
}

/// How many packets wait in the line.
async fn waiting(netlink: &Handle) -> Result<u32, rtnetlink::Error> {
    let Ok(index) = nix::net::if_::if_nametoindex(LINE) else { return Ok(0) };
    let mut queues = std::pin::pin!(netlink.qdisc().get().execute());
    let mut held = 0;
    while let Some(queue) = queues.try_next().await? {
        if u32::try_from(queue.header.index) == Ok(index) {
            held += length(&queue);
        }
    }
    Ok(held)
}

/// How many packets are in it, if it is one of ours.
fn length(queue: &TcMessage) -> u32 {
    if !queue.attributes.contains(&TcAttribute::Kind(KIND.to_owned())) {
        return 0;
    }
    let stats = queue.attributes.iter().filter_map(|attribute| match attribute {
        TcAttribute::Stats2(stats) => Some(stats),
        _ => None,
    });
    let lengths = stats.flatten().filter_map(|stats| match stats {
        TcStats2::Queue(queue) => Some(queue.qlen),
        _ => None,
    });
    lengths.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(packets: u32, wanted: u16) -> u32 {
        let bytes = options(packets).into_iter().find(|(option, _)| *option == wanted).unwrap().1;
        u32::from_ne_bytes(bytes.try_into().unwrap())
    }

    #[test]
    fn the_queue_has_room_for_all_that_hooks_admit_for_as_long_as_profiles_ask() {
        for packets in [1, 65_536, 1_048_576] {
            assert!(number(packets, option::PACKETS) > packets);
            assert!(number(packets, option::FLOW_PACKETS) > packets, "even if all have one number");
        }
        // delay + jitter + by, in microseconds.
        assert!(number(1, option::HORIZON) >= 60_000_000);
        assert!(options(1).contains(&(option::DROPS_BEYOND_HORIZON, vec![0])));
    }
}
