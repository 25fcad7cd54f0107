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
        Self { hits, of, share: k / n, low: lower(k, n), high: upper(k, n) }
    }

    /// Counts `hits` out of `of` where hits come in bursts (Gilbert 1960), which `enter` and `leave` with these probabilities behind
    /// each packet, in `chains` sequences that each begin outside of a burst. The interval is for the long-run share.
    ///
    /// Neighbours of such a chain are correlated by λ = 1 − enter − leave, so the mean of n of them strays as that of
    /// n (1 − λ) / (1 + λ) independent ones (Kemeny and Snell, Finite Markov Chains, 1960): the interval of Clopper and Pearson
    /// is taken for a sample of that size. A chain's beginning outside of a burst costs it 1 / (1 − λ) packets' worth of losses at
    /// most, so the upper end is that of a sample without those packets. Both are cautious: the interval is wide for a few
    /// hundred packets.
    #[must_use]
    pub fn in_bursts(hits: u64, of: u64, enter: f64, leave: f64, chains: u64) -> Self {
        let plain = Self::counted(hits, of);
        if of == 0 {
            return plain;
        }
        let (k, n) = (float(plain.hits), float(of));
        let memory = 1.0 - enter - leave;
        let each = (1.0 - memory) / (1.0 + memory);
        // Without any hit no burst was entered, so often: that is known exactly.
        let entered = 1.0 - ((1.0 - CONFIDENCE) / 2.0).powf(1.0 / (n - float(chains)).max(1.0));
        let none_lost = entered / (entered + leave);
        let settled = (n - float(chains) / (1.0 - memory)).max(k);
        let high = upper(k * each, settled * each);
        Self {
            low: lower(k * each, n * each),
            high: if hits == 0 { high.min(none_lost) } else { high },
            ..plain
        }
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

/// A mean out of a sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Mean {
    /// Of how many.
    pub of: u64,
    /// The mean; 0 when there is nothing to divide.
    pub mean: f64,
    /// Lower end of the 99.9 % interval.
    pub low: f64,
    /// Upper end of the 99.9 % interval.
    pub high: f64,
}

impl Mean {
    /// Fewer than this refute nothing: the sum of so few is not near enough to a normal distribution.
    const FEW: u64 = 30;

    /// The mean of `of` values that add up to `sum` and stray by `deviation` each, as their distribution says.
    #[must_use]
    pub fn of(sum: f64, of: u64, deviation: f64) -> Self {
        if of == 0 {
            return Self::default();
        }
        let mean = sum / float(of);
        // 99.9 % of a normal distribution lie so many standard deviations around its mean.
        let reach = 3.290_53 * deviation / float(of).sqrt();
        Self { of, mean, low: mean - reach, high: mean + reach }
    }

    /// Whether `asked` lies within the interval, or the sample is too small to tell.
    #[must_use]
    pub fn admits(&self, asked: f64) -> bool {
        self.of < Self::FEW || (self.low..=self.high).contains(&asked)
    }
}

/// The probability at which `k` or more of `n` are seen in a half of `1 - CONFIDENCE` of all runs. Neither need be whole.
fn lower(k: f64, n: f64) -> f64 {
    if k <= 0.0 { 0.0 } else { inverse(k, n - k + 1.0, (1.0 - CONFIDENCE) / 2.0) }
}

/// As [`lower`], for `k` or fewer.
fn upper(k: f64, n: f64) -> f64 {
    if k >= n { 1.0 } else { inverse(k + 1.0, n - k, f64::midpoint(1.0, CONFIDENCE)) }
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

    /// SplitMix64 (Steele, Lea, Flood 2014), as a number from 0 to 1.
    fn draw(state: &mut u64) -> f64 {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        float((z ^ (z >> 31)) >> 11) / float(1 << 53)
    }

    /// Lost and sent packets of `chains` devices in 15 s: a request every two seconds, and what is lost is sent again after 0.5 s, 1 s,
    /// 2 s and 4 s. So who loses much sends more.
    fn run(chains: u64, (enter, leave): (f64, f64), state: &mut u64) -> (u64, u64) {
        let (mut lost, mut sent) = (0, 0);
        for _ in 0..chains {
            let (mut at, mut wait, mut burst) = (2.0 * draw(state), 0.5, false);
            while at < 15.0 {
                sent += 1;
                lost += u64::from(burst);
                let step = if burst && wait <= 4.0 { wait } else { 2.0 };
                wait = if burst && wait <= 4.0 { wait * 2.0 } else { 0.5 };
                at += step;
                burst = if burst { draw(state) >= leave } else { draw(state) < enter };
            }
        }
        (lost, sent)
    }

    #[test]
    fn the_interval_for_bursts_admits_what_was_asked_in_999_runs_of_1000_and_not_everything() {
        let (enter, leave) = (0.028, 0.25);
        let asked = enter / (enter + leave);
        for chains in [5, 50, 500] {
            let mut state = 7;
            let admits = |_| {
                let (lost, sent) = run(chains, (enter, leave), &mut state);
                Share::in_bursts(lost, sent, enter, leave, chains).admits(asked)
            };
            let missed = (0..1000).map(admits).filter(|admitted| !admitted).count();
            assert!(missed <= 1, "{chains} chains: {missed} of 1000 missed");
        }
        // As many packets as half a minute of fifty devices has.
        assert!(!Share::in_bursts(400, 1000, enter, leave, 50).admits(asked), "four times too many");
        assert!(!Share::in_bursts(0, 1000, enter, leave, 50).admits(asked), "none at all");
        assert!(!Share::in_bursts(0, 450, enter, leave, 50).admits(asked), "none, in fifteen seconds");
        let independent = Share::in_bursts(20, 100, 0.2, 0.8, 0);
        near(independent.low, Share::counted(20, 100).low);
        near(independent.high, Share::counted(20, 100).high);
    }

    #[test]
    fn a_mean_strays_by_what_its_values_stray_over_the_root_of_their_number() {
        let mean = Mean::of(80.0, 1000, 0.02);
        near(mean.mean, 0.08);
        near(mean.high - mean.mean, 3.29053 * 0.02 / 1000_f64.sqrt());
        assert!(mean.admits(0.081) && !mean.admits(0.083));
        assert!(Mean::of(0.9, 10, 0.02).admits(0.08), "ten say nothing");
        assert_eq!(Mean::of(0.0, 0, 0.02), Mean::default());
    }
}
