//! Which addresses may have an entry. Dispatchers ask this of each packet before any table is, since most packets are no target's:
//! it is one bit at a place that follows from the address (a Bloom filter of one hash; Bloom 1970).
//!
//! A bit that is set says nothing. One that is not says that the address has no entry and is in no network that has one: the agent
//! sets bits before it writes entries, and clears them after it has removed those.

use crate::key::Address;

/// Bits of a place.
const PLACE_BITS: u32 = 18;
const BITS_OF_A_BYTE: u32 = u8::BITS.ilog2();

/// Length in bytes: 32 KiB. Of the packets of others one in 260 is looked up in vain with 1,000 targets, one in 5 with 65,536.
pub const BYTES: usize = 1 << (PLACE_BITS - BITS_OF_A_BYTE);

/// The odd number next to 2⁶⁴ / φ: multiples of it differ in their highest bits also where the numbers follow each other
/// (Knuth, The Art of Computer Programming, volume 3, §6.4).
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// A bit for each place.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Filter {
    bytes: [u8; BYTES],
}

/// Where an address has its bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spot {
    /// The byte, below [`BYTES`].
    pub byte: usize,
    /// The bit in it, below 8.
    pub bit: u32,
}

impl Spot {
    /// That of an IPv4 address whose four octets were read in network order as one word.
    #[inline(always)]
    #[must_use]
    pub const fn of_ipv4_word(word: u32) -> Self {
        Self::of_number(word as u64)
    }

    /// That of an address.
    #[inline(always)]
    #[must_use]
    pub const fn of(address: &Address) -> Self {
        let [a, b, c, d] = address.words;
        if address.is_ipv4() {
            return Self::of_ipv4_word(d);
        }
        // One word after the other, so that few are needed at a time.
        let network = (a as u64).wrapping_mul(MULTIPLIER) ^ b as u64;
        let host = network.wrapping_mul(MULTIPLIER) ^ c as u64;
        Self::of_number(host.wrapping_mul(MULTIPLIER) ^ d as u64)
    }

    #[inline(always)]
    const fn of_number(number: u64) -> Self {
        let product = number.wrapping_mul(MULTIPLIER);
        let byte = (product >> (u64::BITS - PLACE_BITS + BITS_OF_A_BYTE)) as usize;
        Self { byte, bit: (product >> (u64::BITS - PLACE_BITS)) as u32 & (u8::BITS - 1) }
    }
}

impl Filter {
    /// No address has an entry.
    pub const NONE: Self = Self { bytes: [0; BYTES] };
    /// Each may have one.
    pub const ALL: Self = Self { bytes: [u8::MAX; BYTES] };

    /// Says that this address may have an entry.
    pub fn add(&mut self, address: &Address) {
        let Spot { byte, bit } = Spot::of(address);
        // Below BYTES always.
        if let Some(byte) = self.bytes.get_mut(byte) {
            *byte |= 1 << bit;
        }
    }

    /// Whether this address may have an entry.
    #[must_use]
    pub fn may_have(&self, address: &Address) -> bool {
        let Spot { byte, bit } = Spot::of(address);
        self.bytes.get(byte).is_none_or(|byte| byte >> bit & 1 != 0)
    }

    /// Of all addresses that may have an entry by one or the other.
    #[must_use]
    pub fn or(mut self, other: &Self) -> Self {
        for (byte, more) in self.bytes.iter_mut().zip(other.bytes) {
            *byte |= more;
        }
        self
    }
}

impl Default for Filter {
    fn default() -> Self {
        Self::NONE
    }
}

impl core::fmt::Debug for Filter {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let set: u32 = self.bytes.iter().map(|byte| byte.count_ones()).sum();
        write!(f, "Filter({set} of {} bits)", 1 << PLACE_BITS)
    }
}

#[cfg(feature = "user")]
mod user {
    use super::Filter;

    // SAFETY: `repr(C)`, bytes only, no padding (tests/layout.rs), every bit pattern valid.
    unsafe impl aya::Pod for Filter {}
}
