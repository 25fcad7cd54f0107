//! How long packets are held: the distributions and their correlation, and the token bucket.

use fault_abi::correlation::{after, index, last};
use fault_abi::delay::{delay_ns, deviation, innovation, turn};
use fault_abi::draw::{Draw, Position};
use fault_abi::key::{Direction, PROTOCOL_UDP};
use fault_abi::quantile::{SIGMA, normal, pareto, share_of_normal, uniform};
use fault_abi::rule::{MAX_DELAY_NS, PHASE_PARETO, PHASE_UNIFORM, Phase, WHOLE};
use proptest::prelude::*;
use statrs::distribution::{ContinuousCDF as _, Normal};

const PACKETS: u32 = 1_000_000;
const KEY: [u64; 2] = [3, 5];
/// What the issue asks for; 1.95 / √n for 10⁶ would be 0.002.
const KOLMOGOROV_SMIRNOV: f64 = 0.02;

fn draw(index: u64) -> Draw {
    let position = Position { ordinal: 0, index };
    Draw { direction: Direction::ToDevice, protocol: PROTOCOL_UDP, target_port: 5683, position, copy: 0 }
}

/// The delays of consecutive packets, in nanoseconds.
fn delays(phase: &Phase) -> Vec<u64> {
    let mut word = 0;
    let delay = |_| {
        let draw = draw(index(word));
        let away = deviation(phase, KEY, &draw, last(word, 0));
        word = after(word, 0, away);
        delay_ns(phase, KEY, &draw, away)
    };
    (0..PACKETS).map(delay).collect()
}

/// `correlation` in hundredths.
fn phase(flags: u32, correlation: u32) -> Phase {
    let correlation = WHOLE * correlation / 100;
    let innovation = innovation(correlation);
    Phase { flags, delay_ns: 80_000_000, jitter_ns: 10_000_000, correlation, innovation, ..Phase::default() }
}

fn standard_normal() -> Normal {
    Normal::standard()
}

/// The share of a distribution below `x` standard deviations.
fn below(flags: u32, x: f64) -> f64 {
    match flags {
        PHASE_UNIFORM => f64::midpoint(x, 1.0).clamp(0.0, 1.0),
        PHASE_PARETO => {
            let value = 1.5 + x * 0.75_f64.sqrt();
            if value <= 1.0 { 0.0 } else { 1.0 - value.powi(-3) }
        }
        _ => standard_normal().cdf(x),
    }
}

/// The largest difference between the shares found and asked.
fn distance(delays: &[u64], phase: &Phase) -> f64 {
    let mut sorted = delays.to_vec();
    sorted.sort_unstable();
    let n = sorted.len() as f64;
    let asked = |ns: u64| {
        let away = (ns as f64 - phase.delay_ns as f64) / phase.jitter_ns as f64;
        below(phase.flags & (PHASE_UNIFORM | PHASE_PARETO), away)
    };
    (0..).zip(&sorted).fold(0.0, |most: f64, (i, ns)| {
        let share = asked(*ns);
        most.max((share - f64::from(i) / n).abs()).max((f64::from(i + 1) / n - share).abs())
    })
}

/// The coefficient of correlation between values that follow each other.
fn autocorrelation(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>();
    values.windows(2).map(|pair| (pair[0] - mean) * (pair[1] - mean)).sum::<f64>() / variance
}

#[test]
fn the_tables_are_the_quantiles_that_they_say_to_be() {
    for part in 1..1024_u64 {
        let share = part as f64 / 1024.0;
        let bits = part << 54;
        let expected = standard_normal().inverse_cdf(share) * f64::from(SIGMA);
        assert!((f64::from(normal(bits)) - expected).abs() <= 1.0, "normal at {part}");
        let expected = ((1.0 - share).powf(-1.0 / 3.0) - 1.5) / 0.75_f64.sqrt() * f64::from(SIGMA);
        assert!((f64::from(pareto(bits)) - expected).abs() <= 1.0, "Pareto at {part}");
    }
    assert_eq!((normal(0), normal(u64::MAX)), (-4 * SIGMA, 4 * SIGMA - 1));
    assert_eq!((uniform(0), uniform(u64::MAX)), (-SIGMA, SIGMA - 1));
}

#[test]
fn a_million_delays_are_distributed_as_asked_also_when_they_are_correlated() {
    for flags in [0, PHASE_UNIFORM, PHASE_PARETO] {
        for correlation in [0, 25] {
            let phase = phase(flags, correlation);
            let found = distance(&delays(&phase), &phase);
            assert!(found <= KOLMOGOROV_SMIRNOV, "flags {flags}, correlation {correlation}: {found}");
        }
    }
}

#[test]
fn delays_are_as_much_like_those_before_them_as_asked() {
    for percent in [0, 25, 90] {
        let asked = f64::from(percent) / 100.0;
        let values: Vec<f64> = delays(&phase(0, percent)).into_iter().map(|ns| ns as f64).collect();
        let found = autocorrelation(&values);
        assert!((found - asked).abs() < 0.01, "asked {asked}, found {found}");
        // Of other distributions the ranks are, and so nearly the values.
        let values: Vec<f64> =
            delays(&phase(PHASE_UNIFORM, percent)).into_iter().map(|ns| ns as f64).collect();
        let found = autocorrelation(&values);
        assert!((found - asked).abs() < 0.03, "uniform, asked {asked}, found {found}");
    }
}

#[test]
fn a_correlation_begins_anew_with_each_phase() {
    let word = after(0, 3, 12_345);
    assert_eq!((last(word, 3), last(word, 4), index(word)), (Some(12_345), None, 1));
}

proptest! {
    #[test]
    fn a_delay_is_never_negative_and_never_above_a_minute(
        delay_ns_asked in 0_u64..=MAX_DELAY_NS, jitter_ns in 0_u64..=MAX_DELAY_NS, bits: u64, flags in 0_u32..4,
    ) {
        let flags = flags * PHASE_UNIFORM;
        let phase = Phase { flags, delay_ns: delay_ns_asked, jitter_ns, ..Phase::default() };
        prop_assert!(delay_ns(&phase, [bits, 1], &draw(bits), 0) <= MAX_DELAY_NS);
    }

    #[test]
    fn a_share_of_the_normal_distribution_is_where_its_quantile_is(bits: u64) {
        let x = normal(bits);
        let again = normal(share_of_normal(x));
        prop_assert!((x - again).abs() <= 1, "{x} and {again}");
    }

    #[test]
    fn a_deviation_survives_its_word(deviation in -4 * SIGMA..=4 * SIGMA, phase in 0_usize..64, before: u64) {
        let word = after(before, phase, deviation);
        prop_assert_eq!(last(word, phase), Some(deviation));
        prop_assert_eq!(index(word), (index(before) + 1) % (1 << 37));
    }

    /// No more leaves in any time than the bucket holds and the rate fills in.
    #[test]
    fn a_token_bucket_lets_out_no_more_than_its_depth_and_its_rate(
        rate in 1_000_u64..10_000_000_000, burst in 2_000_u64..1 << 24, queue_ns in 0_u64..60_000_000_000,
        packets in prop::collection::vec((60_u64..1_514, 0_u64..5_000_000), 1..200),
    ) {
        let burst_ns = burst * 8_000_000_000 / rate;
        let phase = Phase { rate, burst_ns, queue_ns, ..Phase::default() };
        let (mut full, mut now, mut left) = (0, 1_000_000_000_000_u64, Vec::new());
        for (bytes, gap) in packets {
            now += gap;
            let turn = turn(&phase, bytes, full, now);
            prop_assert!(turn.wait_ns.is_none_or(|wait| wait <= queue_ns));
            if let Some(wait) = turn.wait_ns {
                left.push((now + wait, bytes));
            } else {
                prop_assert_eq!(turn.full_ns, full, "who is dropped takes no tokens");
            }
            full = turn.full_ns;
        }
        prop_assert!(left.is_sorted_by_key(|(at, _)| *at), "nobody overtakes");
        for (i, (begin, _)) in left.iter().enumerate() {
            let mut sum = 0;
            for (end, bytes) in &left[i..] {
                sum += bytes;
                let allowed = burst as f64 + (end - begin) as f64 * rate as f64 / 8e9;
                prop_assert!(sum as f64 <= allowed * 1.000_001 + 2.0, "{sum} bytes, {allowed} allowed");
            }
        }
    }
}
