//! The queue of the engine `fq`, by netlink: the root of the line's near end, with options by which nothing in it waits for anything else.
//! Somebody may remove it, or put another one in its place: packets would then leave before their time.

use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;

use fault_abi::line::LONGEST_STAY_NS;
use netlink_packet_core::{DefaultNla, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, Nla as _};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcOption, TcStats2};

use crate::ask::ask;
use crate::pair::MTU;

const KIND: &str = "fq";

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

/// The queue's options, by their numbers: it holds whatever hooks admit until its time, and nothing waits for anything else.
fn options(packets: u32) -> BTreeMap<u16, Vec<u8>> {
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

/// Makes a queue for so many packets the root of an interface, in the place of whatever is there. Blocking: the kernel may have to load
/// a module.
///
/// # Errors
/// What the kernel said; `NotFound`: it has no such queue ("Specified qdisc kind is unknown": neither there nor to be loaded).
pub fn set(interface: u32, packets: u32) -> io::Result<()> {
    let mut message = TcMessage::with_index(i32::try_from(interface).unwrap_or_default());
    message.header.parent = TcHandle::ROOT;
    let options = options(packets).into_iter();
    let options = options.map(|(option, bytes)| TcOption::Other(DefaultNla::new(option, bytes))).collect();
    message.attributes = vec![TcAttribute::Kind(KIND.to_owned()), TcAttribute::Options(options)];
    let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
    ask(RouteNetlinkMessage::NewQueueDiscipline(message), flags, |_| ControlFlow::Continue(()))
}

/// Whether the root of an interface is a queue as [`set`] makes it.
///
/// # Errors
/// When the kernel does not tell.
pub fn is_set(interface: u32, packets: u32) -> io::Result<bool> {
    Ok(root(interface)?.is_some_and(|queue| has(&queue, &options(packets))))
}

/// How many packets wait in the queue of an interface; none where its root is another one.
///
/// # Errors
/// When the kernel does not tell.
pub fn length(interface: u32) -> io::Result<u32> {
    Ok(root(interface)?.map_or(0, |queue| waiting(&queue)))
}

/// The root of an interface, if it is one of this kind.
fn root(interface: u32) -> io::Result<Option<TcMessage>> {
    let mut found = None;
    // All are asked for: before Linux 6.4 a question about one is answered with an event for everybody, but not for who asks
    // (`tc_get_qdisc` of net/sched/sch_api.c).
    ask(RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default()), NLM_F_DUMP, |told| {
        if let RouteNetlinkMessage::NewQueueDiscipline(queue) = told
            && u32::try_from(queue.header.index) == Ok(interface)
            && queue.header.parent == TcHandle::ROOT
            && queue.attributes.contains(&TcAttribute::Kind(KIND.to_owned()))
        {
            found = Some(queue.clone());
        }
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

/// Whether a queue has all these options.
fn has(queue: &TcMessage, options: &BTreeMap<u16, Vec<u8>>) -> bool {
    let told = queue.attributes.iter().filter_map(|attribute| match attribute {
        TcAttribute::Options(told) => Some(told),
        _ => None,
    });
    let told: BTreeMap<u16, Vec<u8>> = told.flatten().map(|option| (option.kind(), value(option))).collect();
    options.iter().all(|(option, bytes)| told.get(option) == Some(bytes))
}

fn value(option: &TcOption) -> Vec<u8> {
    let mut bytes = vec![0; option.value_len()];
    option.emit_value(&mut bytes);
    bytes
}

fn waiting(queue: &TcMessage) -> u32 {
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
        u32::from_ne_bytes(options(packets)[&wanted].clone().try_into().unwrap())
    }

    #[test]
    fn the_queue_has_room_for_all_that_hooks_admit_for_as_long_as_profiles_ask() {
        for packets in [1, 65_536, 1_048_576] {
            assert!(number(packets, option::PACKETS) > packets);
            assert!(number(packets, option::FLOW_PACKETS) > packets, "even if all have one number");
        }
        // delay + jitter + by, in microseconds.
        assert!(number(1, option::HORIZON) >= 60_000_000);
        assert_eq!(options(1)[&option::DROPS_BEYOND_HORIZON], [0]);
    }

    #[test]
    fn a_queue_with_one_other_option_is_not_ours() {
        let queue = |options: BTreeMap<u16, Vec<u8>>| {
            let options = options.into_iter();
            let options = options.map(|(option, bytes)| TcOption::Other(DefaultNla::new(option, bytes)));
            let mut message = TcMessage::default();
            message.attributes = vec![TcAttribute::Options(options.collect())];
            message
        };
        let ours = options(7);
        let more: BTreeMap<_, _> = ours.clone().into_iter().chain([(99, vec![1])]).collect();
        assert!(has(&queue(more), &ours), "the kernel tells all that it knows");
        for option in ours.keys() {
            let (mut other, mut without) = (ours.clone(), ours.clone());
            other.get_mut(option).unwrap()[0] ^= 1;
            without.remove(option);
            assert!(!has(&queue(other), &ours) && !has(&queue(without), &ours), "{option}");
        }
        assert!(!has(&TcMessage::default(), &ours));
    }
}
