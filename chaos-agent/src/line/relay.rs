//! Takes packets out of the TAP and gives them back when they are due. Knows no thread, no clock and no descriptor, and
//! allocates nothing after [`Relay::new`] (tests/line_allocation.rs).

use std::io::{self, IoSlice, IoSliceMut};
use std::sync::Arc;

use fault_abi::line::{Held, LONGEST_STAY_NS};
use fault_abi::ticket::TICKET;
use nix::libc;

use super::audit::Surplus;
use super::frame;
use super::pool::{CHAIN, CHUNK, LONGEST, Limits, Pool, TooMuch};
use super::stats::Stats;
use super::wheel::{Due, Wheel};

/// Frames that are read before what is due is looked at again: some 100 µs.
pub const READS: usize = 64;
/// Packets that are written before the clock is: some 50 µs.
pub const WRITES: usize = 16;
/// How often a packet is offered to a kernel that has no memory.
const TRIES: u32 = 3;

/// A TAP: a read gives one frame, a write takes one, and neither waits.
pub trait Device {
    /// Reads a frame; cut off where it is longer.
    ///
    /// # Errors
    /// `WouldBlock` when there is none.
    fn read(&self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize>;

    /// Writes a frame.
    ///
    /// # Errors
    /// When the kernel does not take it.
    fn write(&self, buffers: &[IoSlice<'_>]) -> io::Result<usize>;
}

/// What is left in the TAP after a batch of reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// Nothing.
    Empty,
    /// Perhaps more.
    Open,
    /// Perhaps more, but the pool is full.
    Blocked,
}

/// Packets in the line, and what leaves when.
#[derive(Debug)]
pub struct Relay {
    magic: u64,
    wheel: Wheel,
    pool: Pool,
    /// Where a long frame's rest is read to, until its length is known. A byte longer than it may be.
    rest: Box<[u8]>,
    /// Bytes in the line as hooks have counted them. A VLAN tag may be in a frame here that was beside it there.
    counted_bytes: u64,
    stats: Arc<Stats>,
}

impl Relay {
    /// An empty line for packets with this magic in their tickets.
    ///
    /// # Errors
    /// When the limits are beyond any sense.
    pub fn new(magic: u64, limits: Limits, stats: Arc<Stats>) -> Result<Self, TooMuch> {
        let pool = Pool::new(limits)?;
        let rest = vec![0; LONGEST - CHUNK + 1].into_boxed_slice();
        Ok(Self { magic, wheel: Wheel::new(pool.capacity()), pool, rest, counted_bytes: 0, stats })
    }

    /// When the next packet leaves.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        self.wheel.next_deadline()
    }

    /// Whether there is no packet.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.wheel.is_empty()
    }

    /// What was counted so far.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// The packets that are there: the state of each, and its bytes as hooks have counted them.
    pub fn held(&self) -> impl Iterator<Item = (u32, u64)> {
        let tickets = self.pool.slots().map(|slot| self.pool.start(slot));
        tickets.map(|ticket| (frame::state(ticket), frame::counted_bytes(ticket)))
    }

    /// How much they are in all.
    #[must_use]
    pub fn total(&self) -> Held {
        Held { packets: u64::from(self.pool.packets()), bytes: self.counted_bytes }
    }

    /// Has the far end count packets out that were lost on their way.
    ///
    /// # Errors
    /// When the device does not take the word.
    pub fn settle(&self, device: &impl Device, state: u32, surplus: Surplus) -> io::Result<()> {
        let (header, ticket) = ([0; frame::ETHERNET], frame::settlement(self.magic, state, surplus));
        device.write(&[IoSlice::new(&header), IoSlice::new(&ticket)])?;
        self.stats.settled.add(surplus.packets.unsigned_abs());
        Ok(())
    }

    /// Takes in up to [`READS`] frames.
    ///
    /// # Errors
    /// When the device is gone.
    pub fn take_in(&mut self, device: &impl Device, now_ns: u64) -> io::Result<Queue> {
        let (mut packets, mut bytes) = (0, 0);
        let queue = self.read_batch(device, now_ns, &mut packets, &mut bytes);
        if packets > 0 {
            let stats = &self.stats;
            stats.in_packets.add(packets);
            stats.in_bytes.add(bytes);
            stats.held_packets.add(packets);
            stats.held_bytes.add(bytes);
        }
        queue
    }

    fn read_batch(
        &mut self,
        device: &impl Device,
        now_ns: u64,
        packets: &mut u64,
        bytes: &mut u64,
    ) -> io::Result<Queue> {
        for _ in 0..READS {
            let Some(start) = self.pool.vacant() else {
                self.stats.full.add(1);
                return Ok(Queue::Blocked);
            };
            let mut buffers = [IoSliceMut::new(start), IoSliceMut::new(&mut self.rest)];
            let length = match device.read(&mut buffers) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Queue::Empty),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let first = length.min(CHUNK);
            let release = frame::straighten(&mut start[..first], self.magic);
            let (Ok(release_ns), 0..=LONGEST) = (release, length) else {
                self.stats.malformed.add(1);
                continue;
            };
            self.counted_bytes = self.counted_bytes.wrapping_add(frame::counted_bytes(start));
            let slot = self.pool.take(first, &self.rest[..length - first]);
            self.wheel.insert(release_ns.min(now_ns.saturating_add(LONGEST_STAY_NS)), slot);
            *packets += 1;
            *bytes += (length - TICKET) as u64;
        }
        Ok(Queue::Open)
    }

    /// Gives out up to [`WRITES`] packets that are due at `now_ns`, and returns the time after that, which `clock` tells
    /// if there were any.
    ///
    /// # Errors
    /// When the clock fails.
    pub fn give_out(
        &mut self,
        device: &impl Device,
        now_ns: u64,
        clock: impl FnOnce() -> io::Result<u64>,
    ) -> io::Result<u64> {
        let mut releases = [0; WRITES];
        let (mut written, mut packets, mut bytes, mut gone) = (0, 0, 0, 0);
        while packets < WRITES as u64
            && let Some(Due { release_ns, slot }) = self.wheel.pop(now_ns)
        {
            let length = (self.pool.length(slot) - TICKET) as u64;
            packets += 1;
            bytes += length;
            let counted = frame::counted_bytes(self.pool.start(slot));
            self.counted_bytes = self.counted_bytes.wrapping_sub(counted);
            if self.write(device, slot) {
                releases[written] = release_ns;
                written += 1;
                gone += length;
            }
            self.pool.give_back(slot);
        }
        if packets == 0 {
            return Ok(now_ns);
        }
        let after_ns = clock()?;
        let stats = &self.stats;
        for release_ns in &releases[..written] {
            stats.lateness.record(after_ns.saturating_sub(*release_ns));
        }
        stats.out_packets.add(written as u64);
        stats.out_bytes.add(gone);
        stats.write_failures.add(packets - written as u64);
        stats.held_packets.set(u64::from(self.pool.packets()));
        stats.held_bytes.set(stats.held_bytes.get().wrapping_sub(bytes));
        Ok(after_ns)
    }

    /// Whether the device took the packet.
    fn write(&self, device: &impl Device, slot: u32) -> bool {
        for _ in 0..TRIES {
            match self.offer(device, slot) {
                Ok(written) => return written == self.pool.length(slot),
                Err(error) if may_pass(&error) => self.stats.write_retries.add(1),
                Err(_) => return false,
            }
        }
        false
    }

    fn offer(&self, device: &impl Device, slot: u32) -> io::Result<usize> {
        let start = self.pool.start(slot);
        if start.len() < self.pool.length(slot) {
            return self.offer_long(device, slot);
        }
        let (ticket, frame) = start.split_at(TICKET);
        device.write(&[IoSlice::new(frame), IoSlice::new(ticket)])
    }

    fn offer_long(&self, device: &impl Device, slot: u32) -> io::Result<usize> {
        let mut pieces = [IoSlice::new(&[]); CHAIN + 1];
        let count = self.pool.pieces(slot, &mut pieces);
        pieces[0].advance(TICKET);
        pieces[count] = IoSlice::new(&self.pool.start(slot)[..TICKET]);
        device.write(&pieces[..=count])
    }
}

/// What the kernel says when it has no memory at this moment, or was interrupted.
fn may_pass(error: &io::Error) -> bool {
    const PASSING: [i32; 4] = [libc::EAGAIN, libc::ENOBUFS, libc::ENOMEM, libc::EINTR];
    error.raw_os_error().is_some_and(|code| PASSING.contains(&code))
}

#[cfg(test)]
mod tests;
