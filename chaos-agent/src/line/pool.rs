//! The bytes of packets in the line: chunks of 2 KiB out of one piece of memory, chained for frames that need more.
//! A packet is known by its first chunk. No allocation after [`Pool::new`]; memory counts as used once it was written
//! to, and the chunk that was given back last is the next one out.

use std::io::IoSlice;

use fault_abi::ticket::TICKET;
use thiserror::Error;

use super::frame::TAG;

/// A chunk's length: a ticket, a tag and a frame of 1,500 bytes fit.
pub const CHUNK: usize = 2048;
/// The longest that comes out of a TAP, ticket and tag included: an IP packet has at most 65,535 bytes.
pub const LONGEST: usize = 65_600;
/// So many chunks hold the longest.
pub const CHAIN: usize = LONGEST.div_ceil(CHUNK);
/// The end of a chain or of the free chunks.
const NONE: u32 = u32::MAX;

/// How much the line holds at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Packets.
    pub packets: u32,
    /// Bytes of their frames, without tickets.
    pub bytes: u64,
}

impl Limits {
    /// So many chunks hold whatever is within the limits, and one more frame of any length: each packet fills all of
    /// its chunks but one.
    fn chunks(self) -> Result<u32, TooMuch> {
        let beside = u64::from(self.packets) * (TICKET + TAG) as u64;
        let full = self.bytes.checked_add(beside).map(|bytes| bytes.div_ceil(CHUNK as u64));
        let all = full.and_then(|full| full.checked_add(u64::from(self.packets) + CHAIN as u64));
        // 2^24 chunks are 32 GiB.
        let all = all.filter(|chunks| *chunks <= 1 << 24).and_then(|chunks| u32::try_from(chunks).ok());
        all.ok_or(TooMuch(self))
    }
}

/// Limits beyond any sense.
#[derive(Clone, Copy, Debug, Error)]
#[error("{} packets and {} bytes in the delay line need more than 32 GiB: ask for less", .0.packets, .0.bytes)]
pub struct TooMuch(Limits);

#[derive(Clone, Copy, Debug)]
struct Chunk {
    /// The next of the chain, or the next free one.
    next: u32,
    /// Of the first one of a packet that is there: the packet's length; of all others 0.
    length: u32,
}

/// Packets in the line.
#[derive(Debug)]
pub struct Pool {
    memory: Box<[u8]>,
    chunks: Box<[Chunk]>,
    /// The first of the free ones.
    free: u32,
    /// How many are.
    left: usize,
    packets: u32,
    limit: u32,
}

impl Pool {
    /// A pool for so much.
    ///
    /// # Errors
    /// When that is beyond any sense.
    pub fn new(limits: Limits) -> Result<Self, TooMuch> {
        let count = limits.chunks()?;
        let next = |at| if at == count { NONE } else { at };
        let chunks = (1..=count).map(|at| Chunk { next: next(at), length: 0 }).collect();
        // Zeroes out of the kernel, which nothing writes to before it is needed (unlike those of an array of arrays).
        let memory = vec![0; count as usize * CHUNK].into_boxed_slice();
        Ok(Self { memory, chunks, free: 0, left: count as usize, packets: 0, limit: limits.packets })
    }

    /// Slots are below this.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        u32::try_from(self.chunks.len()).unwrap_or(NONE)
    }

    /// How many packets there are.
    #[must_use]
    pub const fn packets(&self) -> u32 {
        self.packets
    }

    /// Whether a packet of any length can be taken in.
    #[must_use]
    pub const fn has_room(&self) -> bool {
        self.packets < self.limit && self.left >= CHAIN
    }

    /// The chunk that the next packet begins with, to be written to before [`Self::take`]; none without room.
    pub fn vacant(&mut self) -> Option<&mut [u8; CHUNK]> {
        if self.has_room() { Some(self.chunk_mut(self.free)) } else { None }
    }

    /// Makes a packet of what is in [`Self::vacant`], `length` bytes of it, and of `rest` behind a full one. Returns
    /// its slot.
    ///
    /// There must be room, and no more than [`LONGEST`] bytes in all.
    pub fn take(&mut self, length: usize, rest: &[u8]) -> u32 {
        debug_assert!(self.has_room() && length <= CHUNK && (rest.is_empty() || length == CHUNK));
        let first = self.free;
        let mut last = first;
        for piece in rest.chunks(CHUNK) {
            last = self.chunks[last as usize].next;
            self.chunk_mut(last)[..piece.len()].copy_from_slice(piece);
        }
        self.free = std::mem::replace(&mut self.chunks[last as usize].next, NONE);
        self.left -= 1 + rest.len().div_ceil(CHUNK);
        let all = u32::try_from(length + rest.len()).unwrap_or(u32::MAX);
        self.chunks[first as usize].length = all;
        self.packets += 1;
        first
    }

    /// A packet's length.
    #[must_use]
    pub fn length(&self, slot: u32) -> usize {
        self.chunks[slot as usize].length as usize
    }

    /// A packet's first bytes: all of them, if it fits a chunk.
    #[must_use]
    pub fn start(&self, slot: u32) -> &[u8] {
        &self.chunk(slot)[..self.length(slot).min(CHUNK)]
    }

    /// The slots of all packets.
    pub fn slots(&self) -> impl Iterator<Item = u32> {
        (0..).zip(&self.chunks).filter(|(_, chunk)| chunk.length != 0).map(|(slot, _)| slot)
    }

    /// A packet's pieces in order, into `pieces`, [`CHAIN`] of them or more; returns how many they are.
    pub fn pieces<'a>(&'a self, slot: u32, pieces: &mut [IoSlice<'a>]) -> usize {
        let (mut at, mut left, mut count) = (slot, self.length(slot), 0);
        for piece in pieces {
            if left == 0 {
                break;
            }
            let length = left.min(CHUNK);
            *piece = IoSlice::new(&self.chunk(at)[..length]);
            (at, left, count) = (self.chunks[at as usize].next, left - length, count + 1);
        }
        count
    }

    /// Gives a packet's chunks back.
    pub fn give_back(&mut self, slot: u32) {
        let mut last = slot;
        self.chunks[slot as usize].length = 0;
        self.left += 1;
        while self.chunks[last as usize].next != NONE {
            last = self.chunks[last as usize].next;
            self.left += 1;
        }
        self.chunks[last as usize].next = self.free;
        self.free = slot;
        self.packets -= 1;
    }

    fn chunk(&self, at: u32) -> &[u8; CHUNK] {
        &self.memory.as_chunks().0[at as usize]
    }

    fn chunk_mut(&mut self, at: u32) -> &mut [u8; CHUNK] {
        &mut self.memory.as_chunks_mut().0[at as usize]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn add(pool: &mut Pool, bytes: &[u8]) -> Option<u32> {
        let (first, rest) = bytes.split_at(bytes.len().min(CHUNK));
        pool.vacant()?[..first.len()].copy_from_slice(first);
        Some(pool.take(first.len(), rest))
    }

    fn read(pool: &Pool, slot: u32) -> Vec<u8> {
        let mut pieces = [IoSlice::new(&[]); CHAIN];
        let count = pool.pieces(slot, &mut pieces);
        pieces[..count].iter().flat_map(|piece| piece.to_vec()).collect()
    }

    fn length() -> impl Strategy<Value = usize> {
        prop_oneof![3 => 1..CHUNK, 1 => CHUNK - 1..CHUNK + 2, 2 => CHUNK..LONGEST, 1 => Just(LONGEST)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn packets_keep_their_bytes_whatever_comes_and_goes(
            steps in prop::collection::vec((length(), any::<u8>(), any::<bool>()), 1..80),
        ) {
            let limits = Limits { packets: 8, bytes: 8 * LONGEST as u64 };
            let mut pool = Pool::new(limits).unwrap();
            let all = pool.left;
            let mut held = BTreeMap::new();
            for (length, seed, gives_back) in steps {
                if gives_back && let Some((slot, bytes)) = held.pop_first() {
                    prop_assert_eq!(read(&pool, slot), bytes);
                    pool.give_back(slot);
                }
                let bytes: Vec<u8> = (seed..=u8::MAX).cycle().take(length).collect();
                match add(&mut pool, &bytes) {
                    Some(slot) => prop_assert!(held.insert(slot, bytes).is_none(), "{} was taken", slot),
                    None => prop_assert_eq!(held.len(), 8),
                }
                prop_assert_eq!(pool.packets() as usize, held.len());
                prop_assert!(pool.slots().eq(held.keys().copied()));
            }
            for (slot, bytes) in held {
                prop_assert_eq!(pool.length(slot), bytes.len());
                prop_assert_eq!(read(&pool, slot), bytes);
                pool.give_back(slot);
            }
            prop_assert_eq!(pool.left, all);
        }

        #[test]
        fn whatever_is_within_the_limits_has_room(
            lengths in prop::collection::vec(prop_oneof![Just(14_usize), Just(1_961), Just(4_009), 14..9_000_usize], 1..60),
        ) {
            let bytes = lengths.iter().sum::<usize>() as u64;
            let packets = u32::try_from(lengths.len()).unwrap();
            let mut pool = Pool::new(Limits { packets, bytes }).unwrap();
            for length in lengths {
                prop_assert!(add(&mut pool, &vec![0; length + TICKET + TAG]).is_some());
            }
            prop_assert!(!pool.has_room());
        }
    }

    #[test]
    fn memory_is_taken_from_the_kernel_as_packets_come() {
        let resident = || {
            let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
            pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
        };
        let (before, gigabyte) = (resident(), 1 << 30);
        let pool = Pool::new(Limits { packets: 1_000, bytes: gigabyte as u64 }).unwrap();
        let used = resident().saturating_sub(before);
        assert!(pool.memory.len() > gigabyte && used < gigabyte / 4, "{used} bytes");
    }

    #[test]
    fn senseless_limits_are_refused_with_a_sentence() {
        for limits in [
            Limits { packets: u32::MAX, bytes: 0 },
            Limits { packets: 1, bytes: u64::MAX },
            Limits { packets: u32::MAX, bytes: u64::MAX },
        ] {
            let said = Pool::new(limits).unwrap_err().to_string();
            assert!(said.contains("ask for less"), "{said}");
        }
    }
}
