//! The arithmetic of the report: how sure a counted share is, and what losses mean for a request. Pure.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use statrs::function::beta::beta_reg;

/// The demo claims what it counts with this confidence: one run of 1,000 may miss by chance.
pub const CONFIDENCE: f64 = 0.999;

/// A share counted out of a sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Share {
    /// How many of them.
    pub hits: u64,
    /// Out of how many.
    pub of: u64,
    /// `hits / of`, 0 to 1; 0 when there is nothing to divide.
    pub share: f64,
    /// Lower end of the 99.9 % interval.
    pub low: f64,
    /// Upper end of the 99.9 % interval.
    pub high: f64,
}

impl Share {
    /// Counts `hits` out of `of` with the exact interval of Clopper and Pearson (Biometrika 26, 1934): its ends are the
    /// probabilities at which so many, or so few, would be seen in a half of `1 - CONFIDENCE` of all runs.
    #[must_use]
    pub fn counted(hits: u64, of: u64) -> Self {
        let hits = hits.min(of);
        if of == 0 {
            return Self { hits, of, share: 0.0, low: 0.0, high: 1.0 };
        }
        let (k, n) = (float(hits), float(of));
        let tail = (1.0 - CONFIDENCE) / 2.0;
        let low = if hits == 0 { 0.0 } else { inverse(k, n - k + 1.0, tail) };
        let high = if hits == of { 1.0 } else { inverse(k + 1.0, n - k, 1.0 - tail) };
        Self { hits, of, share: k / n, low, high }
    }

    /// Whether `asked` (0 to 1) lies within the interval.
    #[must_use]
    pub fn admits(&self, asked: f64) -> bool {
        (self.low..=self.high).contains(&asked)
    }
}

/// Share of transmissions that get no answer when requests are lost with `to_device` and answers with `from_device`
/// (0 to 1 each, independent): 1 − (1 − p)(1 − q).
#[must_use]
pub fn unanswered(to_device: f64, from_device: f64) -> f64 {
    1.0 - (1.0 - to_device) * (1.0 - from_device)
}

/// The x at which the regularised incomplete beta function of a and b reaches `p`, by halving: it rises steadily, so this
/// always ends, with all the digits that a float between 0 and 1 has.
fn inverse(a: f64, b: f64, p: f64) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if beta_reg(a, b, middle) < p {
            low = middle;
        } else {
            high = middle;
        }
    }
    f64::midpoint(low, high)
}

/// Exact up to 2^53, which no demo counts.
#[expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^53")]
pub fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use statrs::distribution::{Binomial, DiscreteCDF};

    fn near(found: f64, wanted: f64) {
        assert!((found - wanted).abs() < 1e-4, "{found} is not {wanted}");
    }

    #[test]
    fn the_ends_of_the_interval_leave_half_of_a_thousandth_on_each_side() {
        for (hits, of) in [(200_u64, 1000_u64), (3, 40), (19_912, 100_000), (999, 1000)] {
            let counted = Share::counted(hits, of);
            let above = Binomial::new(counted.low, of).unwrap().sf(hits - 1);
            let below = Binomial::new(counted.high, of).unwrap().cdf(hits);
            assert!((above - 0.0005).abs() < 1e-6, "{hits} of {of}: {above} above");
            assert!((below - 0.0005).abs() < 1e-6, "{hits} of {of}: {below} below");
        }
    }

    #[test]
    fn all_and_nothing_have_open_ends() {
        let nothing = Share::counted(0, 100);
        // 1 - 0.0005^(1/100)
        near(nothing.high, 0.0732);
        assert!(nothing.low == 0.0 && nothing.admits(0.0) && !nothing.admits(0.2));
        let all = Share::counted(100, 100);
        near(all.low, 0.9268);
        assert!(all.admits(1.0) && !all.admits(0.9));
    }

    #[test]
    fn an_empty_sample_refutes_nothing_and_more_hits_than_samples_are_all() {
        assert!(Share::counted(0, 0).admits(0.2));
        assert_eq!(Share::counted(5, 3), Share::counted(3, 3));
    }

    #[test]
    fn a_loss_that_is_off_by_a_quarter_is_seen_within_two_thousand_packets() {
        assert!(Share::counted(400, 2000).admits(0.2));
        assert!(!Share::counted(500, 2000).admits(0.2));
        assert!(!Share::counted(310, 2000).admits(0.2));
    }

    #[test]
    fn loss_both_ways_compounds() {
        near(unanswered(0.2, 0.2), 0.36);
        near(unanswered(1.0, 0.0), 1.0);
        near(unanswered(0.0, 0.0), 0.0);
    }
}
