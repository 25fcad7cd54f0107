//! The buckets of lateness: each an eighth of a power of two wide, so that a quantile is off by 6.25 % at most.

#![expect(clippy::cast_possible_truncation, reason = "numbers of buckets, which are below 500")]

/// Buckets for each power of two.
const PARTS: usize = 8;
const PART_BITS: u32 = PARTS.ilog2();

/// How many there are. Numbers below 8 have a bucket each; above, each of the powers up to 2^63 has eight.
pub const BUCKETS: usize = (u64::BITS - PART_BITS + 1) as usize * PARTS;

/// Entries of the per-CPU array `LATENESS`: the buckets, and behind them the sum in nanoseconds.
pub const LATENESS_ENTRIES: u32 = BUCKETS as u32 + 1;

/// The bucket of a number.
#[inline(always)]
#[must_use]
pub const fn bucket(number: u64) -> usize {
    let highest = (number | (PARTS as u64 - 1)).ilog2();
    let shift = (highest + 1).saturating_sub(PART_BITS + 1);
    // The bits below the highest: an eighth of a power each. Below 8 they are the number itself.
    shift as usize * PARTS + (number >> shift) as usize
}

/// The smallest number of a bucket, and how many it has.
#[must_use]
pub const fn bounds(bucket: usize) -> (u64, u64) {
    let (power, part) = (bucket / PARTS, bucket % PARTS);
    if power <= 1 {
        return (bucket as u64, 1);
    }
    let shift = power - 1;
    (((PARTS + part) as u64) << shift, 1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_within_its_bucket() {
        for number in (0..64).flat_map(|bits| [u64::MAX >> bits, 0x0123_4567_89ab_cdef >> bits, 1 << bits]) {
            let (low, width) = bounds(bucket(number));
            assert!(low <= number && number - low < width, "{number} in {low} + {width}");
            assert!(width == 1 || width <= low / 8, "{width} at {low}");
        }
    }

    #[test]
    fn buckets_follow_each_other_without_a_gap() {
        for at in 1..BUCKETS {
            let (low, width) = bounds(at - 1);
            assert_eq!(bounds(at).0, low + width, "bucket {at}");
        }
        let (low, width) = bounds(BUCKETS - 1);
        assert_eq!(low + (width - 1), u64::MAX);
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }
}
