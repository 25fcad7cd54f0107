use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use fault_abi::ticket::GUARD;
use proptest::prelude::*;

use super::*;

const MAGIC: u64 = 0x5eed_5eed_5eed_5eed;
const LIMITS: Limits = Limits { packets: 100, bytes: 1_000_000 };

/// A TAP with frames in its queue, which keeps what is written and may refuse to take it.
#[derive(Default)]
struct Tap {
    queue: RefCell<VecDeque<Vec<u8>>>,
    written: RefCell<Vec<Vec<u8>>>,
    refusals: RefCell<VecDeque<i32>>,
    /// Bytes that each write leaves out.
    leaves_out: Cell<usize>,
}

impl Tap {
    fn with(frames: impl IntoIterator<Item = Vec<u8>>) -> Self {
        Self { queue: RefCell::new(frames.into_iter().collect()), ..Self::default() }
    }
}

impl Device for Tap {
    fn read(&self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let frame = self.queue.borrow_mut().pop_front().ok_or(io::ErrorKind::WouldBlock)?;
        let mut left = &frame[..];
        for buffer in buffers {
            let length = left.len().min(buffer.len());
            let (now, later) = left.split_at(length);
            buffer[..length].copy_from_slice(now);
            left = later;
        }
        Ok(frame.len() - left.len())
    }

    fn write(&self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        if let Some(code) = self.refusals.borrow_mut().pop_front() {
            return Err(io::Error::from_raw_os_error(code));
        }
        let frame: Vec<u8> = buffers.iter().flat_map(|buffer| buffer.to_vec()).collect();
        let length = frame.len() - self.leaves_out.get();
        self.written.borrow_mut().push(frame);
        Ok(length)
    }
}

fn ticket(release_ns: u64) -> Vec<u8> {
    let mut bytes = vec![0x77; TICKET];
    bytes[..8].copy_from_slice(&MAGIC.to_ne_bytes());
    bytes[12..16].copy_from_slice(&GUARD.to_ne_bytes());
    bytes[16..24].copy_from_slice(&release_ns.to_ne_bytes());
    bytes
}

/// As it comes out of the TAP, and as it has to go back.
fn packet(release_ns: u64, length: usize, seed: u8, tag: Option<[u8; 4]>) -> (Vec<u8>, Vec<u8>) {
    let ticket = ticket(release_ns);
    let frame: Vec<u8> = (seed..=u8::MAX).cycle().take(length).collect();
    let tag = tag.as_ref().map_or(&[][..], |tag| &tag[..]);
    let comes = [&ticket[..12], tag, &ticket[12..], &frame].concat();
    let goes = [&frame[..12], tag, &frame[12..], &ticket].concat();
    (comes, goes)
}

fn relay(limits: Limits) -> Relay {
    Relay::new(MAGIC, limits, Arc::default()).unwrap()
}

/// Gives out all that is due.
fn give_out(relay: &mut Relay, tap: &Tap, now_ns: u64) {
    while relay.next_deadline().is_some_and(|at| at <= now_ns) {
        relay.give_out(tap, now_ns, || Ok(now_ns)).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn packets_leave_at_their_times_as_they_came_with_the_ticket_behind(
        packets in prop::collection::vec(
            (0u64..50, prop_oneof![Just(14), 14usize..2100, Just(65_535 + 14)], any::<u8>(), any::<bool>()), 0..40,
        ),
    ) {
        let tag = |has| if has { Some([0x81, 0x00, 0x20, 0x07]) } else { None };
        let (comes, mut goes): (Vec<_>, Vec<_>) = packets
            .iter()
            .map(|(at, length, seed, has)| packet(*at, *length, *seed, tag(*has)))
            .unzip();
        let tap = Tap::with(comes);
        let mut relay = relay(Limits { packets: 100, bytes: 100 * LONGEST as u64 });
        while relay.take_in(&tap, 0).unwrap() != Queue::Empty {}
        prop_assert_eq!(relay.stats().in_packets.get(), packets.len() as u64);
        prop_assert_eq!(relay.stats().held_packets.get(), packets.len() as u64);
        for now in 0..50 {
            give_out(&mut relay, &tap, now);
            let due = packets.iter().filter(|(at, ..)| *at <= now).count();
            prop_assert_eq!(tap.written.borrow().len(), due, "at {}", now);
        }
        let mut order: Vec<usize> = (0..packets.len()).collect();
        order.sort_by_key(|i| packets[*i].0);
        let wanted: Vec<_> = order.iter().map(|i| std::mem::take(&mut goes[*i])).collect();
        prop_assert!(*tap.written.borrow() == wanted);
        let stats = relay.stats();
        prop_assert_eq!((stats.held_packets.get(), stats.held_bytes.get()), (0, 0));
        prop_assert_eq!(stats.out_packets.get(), packets.len() as u64);
        prop_assert_eq!(stats.out_bytes.get(), stats.in_bytes.get());
    }
}

#[test]
fn what_is_none_of_ours_is_dropped_and_counted() {
    let (good, _) = packet(0, 60, 1, None);
    let mut other_magic = good.clone();
    other_magic[0] ^= 1;
    let too_long = [&ticket(0)[..], &vec![0; LONGEST]].concat();
    let tap = Tap::with([other_magic, good[..53].to_vec(), too_long, Vec::new(), good]);
    let mut relay = relay(LIMITS);
    assert_eq!(relay.take_in(&tap, 0).unwrap(), Queue::Empty);
    assert_eq!((relay.stats().malformed.get(), relay.stats().in_packets.get()), (4, 1));
}

#[test]
fn a_full_line_leaves_frames_in_the_queue_until_there_is_room() {
    let tap = Tap::with((0..5).map(|i| packet(10 + i, 60, 1, None).0));
    let mut relay = relay(Limits { packets: 3, bytes: 1_000 });
    assert_eq!(relay.take_in(&tap, 0).unwrap(), Queue::Blocked);
    assert_eq!((tap.queue.borrow().len(), relay.stats().full.get()), (2, 1));
    give_out(&mut relay, &tap, 12);
    assert_eq!(relay.take_in(&tap, 12).unwrap(), Queue::Empty);
    give_out(&mut relay, &tap, 14);
    assert_eq!((tap.written.borrow().len(), relay.stats().out_packets.get()), (5, 5));
}

#[test]
fn a_kernel_without_memory_is_asked_again_and_then_the_packet_counts_as_lost() {
    let tap = Tap::with((0..3).map(|i| packet(i, 60, 1, None).0));
    tap.refusals.borrow_mut().extend([
        libc::ENOBUFS,
        libc::EAGAIN,
        // The second one's.
        libc::ENOMEM,
        libc::ENOMEM,
        libc::ENOMEM,
    ]);
    let mut relay = relay(LIMITS);
    relay.take_in(&tap, 0).unwrap();
    give_out(&mut relay, &tap, 1);
    // Without it the first would have taken one refusal of the second's.
    assert_eq!(tap.written.borrow().len(), 1);
    let stats = relay.stats();
    assert_eq!((stats.write_retries.get(), stats.write_failures.get(), stats.out_packets.get()), (5, 1, 1));
    assert_eq!((stats.held_packets.get(), stats.held_bytes.get()), (1, 60));
}

#[test]
fn what_the_kernel_refuses_or_takes_half_of_counts_as_lost() {
    let tap = Tap::with((0..3).map(|i| packet(i, 60, 1, None).0));
    tap.refusals.borrow_mut().push_back(libc::EIO);
    let mut relay = relay(LIMITS);
    relay.take_in(&tap, 0).unwrap();
    give_out(&mut relay, &tap, 0);
    tap.leaves_out.set(1);
    give_out(&mut relay, &tap, 2);
    let stats = relay.stats();
    assert_eq!((stats.write_failures.get(), stats.out_packets.get(), stats.held_packets.get()), (3, 0, 0));
    assert_eq!(stats.lateness.figures().count(), 0);
}

#[test]
fn no_packet_stays_longer_than_any_profile_asks_for() {
    let tap = Tap::with([packet(u64::MAX, 60, 1, None).0]);
    let mut relay = relay(LIMITS);
    relay.take_in(&tap, 5).unwrap();
    assert_eq!(relay.next_deadline(), Some(5 + LONGEST_STAY_NS));
}

#[test]
fn lateness_runs_until_after_the_write() {
    let tap = Tap::with([packet(100, 60, 1, None).0]);
    let mut relay = relay(LIMITS);
    relay.take_in(&tap, 0).unwrap();
    assert_eq!(relay.give_out(&tap, 99, || panic!("nothing is due")).unwrap(), 99);
    assert_eq!(relay.give_out(&tap, 102, || Ok(104)).unwrap(), 104);
    let figures = relay.stats().lateness.figures();
    assert_eq!((figures.quantile(500), relay.stats().lateness.sum.get()), (Some(4), 4));
}
