//! Which targets a profile hits: every target has a rank, and those at or below the cutoff are chosen.
//! The operator moves the cutoff, agents compare; nobody needs a list of the rest.

use std::num::NonZeroU32;

use sha2::{Digest, Sha256};

use crate::quantity::Share;

/// The highest rank, and so the cutoff that chooses every target: 2^53 − 1 (exact in any JSON reader).
pub const MAX_RANK: u64 = (1 << 53) - 1;

/// How many of the selected targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// Every one.
    All,
    /// This share of them, rounded up.
    Share(Share),
    /// So many, or all when there are fewer.
    Count(NonZeroU32),
}

/// A target's rank under a seed: the first 53 bits of SHA-256 of the seed (8 bytes, big endian) followed by
/// `namespace/name`. Same seed and name, same rank, on every machine and in every run.
pub fn rank(seed: u64, namespace: &str, name: &str) -> u64 {
    let mut hash = Sha256::new();
    hash.update(seed.to_be_bytes());
    hash.update(namespace.as_bytes());
    hash.update(b"/");
    hash.update(name.as_bytes());
    let digest = hash.finalize();
    let first = digest.iter().take(8).fold(0u64, |bits, byte| (bits << 8) | u64::from(*byte));
    first >> 11
}

/// Is a target of this rank chosen? Without a cutoff nobody is.
pub fn is_chosen(rank: u64, cutoff: Option<u64>) -> bool {
    cutoff.is_some_and(|cutoff| rank <= cutoff)
}

/// How many of `total` targets shall be chosen.
pub fn wanted(amount: Amount, total: usize) -> usize {
    match amount {
        Amount::All => total,
        Amount::Share(share) => share.of_rounded_up(total),
        Amount::Count(count) => total.min(usize::try_from(count.get()).unwrap_or(usize::MAX)),
    }
}

/// The cutoff at which exactly [`wanted`] of the targets with these ranks are chosen; none when nobody shall be.
///
/// `All` needs no ranks and never moves. Two targets of one rank (odds of 2^-53 a pair) are chosen together.
pub fn cutoff(amount: Amount, ranks: &mut [u64]) -> Option<u64> {
    if amount == Amount::All {
        return Some(MAX_RANK);
    }
    let last = wanted(amount, ranks.len()).checked_sub(1)?;
    let (_, cutoff, _) = ranks.select_nth_unstable(last);
    Some(*cutoff)
}

#[cfg(test)]
mod tests;
