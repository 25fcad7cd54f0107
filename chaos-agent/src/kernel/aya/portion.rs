//! How many operations are handed to the kernel at once.

use super::table::AT_ONCE;

/// The first portion: where one operation after the other is refused, no more than these are collected again for each.
const FIRST: usize = 16;
/// So much more the next one is.
const GROWTH: usize = 4;

/// How many of the operations that are left are the next portion: few at first, and more as the kernel takes them.
pub(super) struct Portion(usize);

impl Portion {
    /// The first one.
    pub(super) const fn first() -> Self {
        Self(FIRST)
    }

    /// The portion of what is left.
    pub(super) fn of<'a, T>(&self, left: &'a [T]) -> &'a [T] {
        left.get(..self.0).unwrap_or(left)
    }

    /// The kernel has taken it: the next one is larger.
    pub(super) fn grow(&mut self) {
        self.0 = (self.0 * GROWTH).min(AT_ONCE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many operations are collected in all until each of `all` was taken or refused, as one pass after the other goes on behind
    /// what was refused.
    fn collected(all: usize, is_refused: impl Fn(usize) -> bool) -> usize {
        let ops: Vec<usize> = (0..all).collect();
        let (mut left, mut collected) = (ops.as_slice(), 0);
        while !left.is_empty() {
            let mut portion = Portion::first();
            loop {
                let part = portion.of(left);
                collected += part.len();
                let done = part.iter().take_while(|op| !is_refused(**op)).count();
                left = &left[done..];
                if done < part.len() {
                    left = &left[1..];
                    break;
                }
                if left.is_empty() {
                    break;
                }
                portion.grow();
            }
        }
        collected
    }

    #[test]
    fn what_is_refused_again_and_again_costs_a_small_portion_each_time() {
        assert!(collected(65_536, |_| true) <= 65_536 * FIRST);
        assert!(collected(65_536, |op| op % 3 == 0) <= 65_536 * FIRST);
    }

    #[test]
    fn what_is_taken_is_collected_once_and_soon_in_full_portions() {
        assert_eq!(collected(65_536, |_| false), 65_536);
        let mut portion = Portion::first();
        (0..3).for_each(|_| portion.grow());
        assert_eq!(portion.of(&[0; 1_000]).len(), AT_ONCE);
        assert_eq!(portion.of(&[0; 3]).len(), 3);
    }
}
