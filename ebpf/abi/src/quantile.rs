//! How far a packet's delay lies from the mean, by a uniform draw: quantile functions as tables with straight lines
//! between, in whole numbers, so that the kernel (which has no others) and the host agree to the last bit.

#![expect(clippy::cast_possible_truncation, reason = "between two entries of a table of i32")]

mod tables;

use tables::{NORMAL, PARETO};

/// Parts of a table.
const PARTS: usize = 1 << PARTS_BITS;
const PARTS_BITS: u32 = 10;
/// Entries of a table: both ends of each part.
const POINTS: usize = PARTS + 1;

/// One standard deviation.
pub const SIGMA: i32 = 1 << 16;

/// The normal distribution's quantile of `bits` / 2⁶⁴: mean 0, at most 4 standard deviations from it.
#[inline(always)]
#[must_use]
pub fn normal(bits: u64) -> i32 {
    between(&NORMAL, bits)
}

/// That of the Pareto distribution with shape 3, moved and scaled to mean 0 and standard deviation 1: from −0.58 to 21.5.
/// (`tc netem`'s table of that name has the same shape.)
#[inline(always)]
#[must_use]
pub fn pareto(bits: u64) -> i32 {
    between(&PARETO, bits)
}

/// That of the uniform distribution from −1 to 1.
#[inline(always)]
#[must_use]
pub const fn uniform(bits: u64) -> i32 {
    (bits >> 47) as i32 - SIGMA
}

/// The `bits` whose [`normal`] quantile is `x`: its share of the distribution.
#[inline(always)]
#[must_use]
pub fn share_of_normal(x: i32) -> u64 {
    let mut part = 0;
    let mut step = PARTS / 2;
    while step > 0 {
        let at = NORMAL[(part + step) & (PARTS - 1)];
        // Without a branch, of which there would be 2¹⁰ ways through here for the verifier: all ones where `at` is at most `x`.
        let is_below = (at as i64 - x as i64 - 1) >> 63;
        part += step & is_below as usize;
        step /= 2;
    }
    let part = part & (PARTS - 1);
    let (low, high) = (NORMAL[part], NORMAL[part + 1]);
    let width = (high - low) as u64;
    let width = if width == 0 { 1 } else { width };
    let over = if x < low { 0 } else { (x - low) as u64 };
    let over = if over < width { over } else { width - 1 };
    (part as u64) << (64 - PARTS_BITS) | ((over << 32) / width) << (32 - PARTS_BITS)
}

#[inline(always)]
fn between(table: &[i32; POINTS], bits: u64) -> i32 {
    let part = (bits >> (64 - PARTS_BITS)) as usize;
    let inside = ((bits >> (32 - PARTS_BITS)) & 0xffff_ffff) as i64;
    let (low, high) = (table[part] as i64, table[part + 1] as i64);
    (low + (((high - low) * inside) >> 32)) as i32
}
