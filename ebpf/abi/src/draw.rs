//! The keyed hash behind each draw: the same seed gives the same packets the same fate, in the kernel and on
//! the host, in another run and in XDP and TC alike.

use crate::key::Direction;

/// Which fault a draw is for, so that two faults of one packet draw apart.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `faults.loss`: whether the packet is lost.
    Loss = 1,
    /// `faults.loss.gilbertElliott`: whether a burst begins or ends behind the packet.
    Burst = 2,
    /// `faults.corrupt`: whether a bit is flipped.
    Corrupt = 3,
    /// `faults.corrupt`: which one.
    Bit = 4,
    /// `faults.duplicate`: whether a second packet goes out.
    Duplicate = 5,
    /// `faults.delay`: how long.
    Delay = 6,
    /// `faults.reorder`: whether the packet is later than the rest.
    Reorder = 7,
}

/// Where a packet stands: which flow of its target, and which packet of the flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Position {
    /// The flow's ordinal among those of the target; [`UNTRACKED`] where it is not tracked, [`OF_TARGET`] where flows
    /// do not count.
    pub ordinal: u64,
    /// The packet's index among those of its flow (or of all untracked ones, or of its target) that reached a draw.
    pub index: u64,
}

/// [`Position::ordinal`] of all packets whose flow is not tracked.
pub const UNTRACKED: u64 = u64::MAX;
/// [`Position::ordinal`] of all packets of a target, under a fault whose `scope` is `Target`.
pub const OF_TARGET: u64 = u64::MAX - 1;

/// What of a packet goes into its draws. Peers and their ports do not: they differ from run to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Draw {
    /// Which way.
    pub direction: Direction,
    /// IP protocol number.
    pub protocol: u8,
    /// The target's port, host order; 0: none.
    pub target_port: u16,
    /// Which flow and packet.
    pub position: Position,
    /// 0 for the packet itself, else the number of its duplicate.
    pub copy: u8,
}

impl Draw {
    /// 64 bits, uniformly distributed: SipHash-1-3 under `key` of three words, each little-endian:
    /// `kind | direction << 8 | protocol << 16 | target port << 32 | copy << 48`, the ordinal, the index.
    #[inline(always)]
    #[must_use]
    pub fn bits(&self, key: [u64; 2], kind: Kind) -> u64 {
        let head = kind as u64
            | (self.direction as u64) << 8
            | (self.protocol as u64) << 16
            | (self.target_port as u64) << 32
            | (self.copy as u64) << 48;
        siphash13(key, [head, self.position.ordinal, self.position.index])
    }

    /// Whether something of this probability happens: `threshold` in 2⁻³², 0 = never, 2³² = always.
    #[inline(always)]
    #[must_use]
    pub fn happens(&self, key: [u64; 2], kind: Kind, threshold: u64) -> bool {
        (self.bits(key, kind) >> 32) < threshold
    }
}

/// SipHash-1-3 (Aumasson, Bernstein) of 24 bytes, given as three little-endian words.
#[inline(always)]
#[must_use]
pub fn siphash13(key: [u64; 2], words: [u64; 3]) -> u64 {
    let mut v = [
        key[0] ^ 0x736f_6d65_7073_6575,
        key[1] ^ 0x646f_7261_6e64_6f6d,
        key[0] ^ 0x6c79_6765_6e65_7261,
        key[1] ^ 0x7465_6462_7974_6573,
    ];
    absorb(&mut v, words[0]);
    absorb(&mut v, words[1]);
    absorb(&mut v, words[2]);
    // The last block holds the length modulo 256 and no bytes.
    absorb(&mut v, 24 << 56);
    v[2] ^= 0xff;
    round(&mut v);
    round(&mut v);
    round(&mut v);
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

#[inline(always)]
fn absorb(v: &mut [u64; 4], word: u64) {
    v[3] ^= word;
    round(v);
    v[0] ^= word;
}

#[inline(always)]
fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[2] = v[2].rotate_left(32);
}
