//! A million delays as the kernel's program gives them, packet by packet: how they are distributed, and how much each is like the one before
//! it.

use fault_abi::counter::Counter;
use fault_abi::delay::innovation;
use fault_abi::key::Direction;
use fault_abi::names::TC_INGRESS_DISPATCH;
use fault_abi::rule::{CONFIG_HAS_LATER, Config, PHASE_PARETO, PHASE_UNIFORM, Phase, WHOLE};
use statrs::distribution::{ContinuousCDF as _, Normal};

use crate::stage::*;

const MEAN_NS: u64 = 80_000_000;
const JITTER_NS: u64 = 10_000_000;
/// What the project asks for; 1.95 / √n for 10⁶ would be 0.002.
const KOLMOGOROV_SMIRNOV: f64 = 0.02;
/// How far a coefficient of correlation may be off; 3.3 / √n for 10⁶ would be 0.0033.
const OFF: f64 = 0.01;

/// The delays of consecutive packets, in nanoseconds: what the sum of all has grown by with each.
fn delays(flags: u32, correlation: u32) -> Vec<u64> {
    let correlation = WHOLE * correlation / 100;
    let phase = Phase {
        flags,
        delay_ns: MEAN_NS,
        jitter_ns: JITTER_NS,
        correlation,
        innovation: innovation(correlation),
        ..Phase::default()
    };
    let mut rig = rig_with(&[rule_of(phase)]);
    rig.line(&roomy_line()).unwrap();
    rig.config(&Config { flags: CONFIG_HAS_LATER, ..Config::default() }).unwrap();
    let frame = from_device().bytes();
    let mut sum = 0;
    let delay = |_| {
        rig.run(TC_INGRESS_DISPATCH, &frame, 1).unwrap();
        let Counter { delay_ns, .. } = rig.counter(0, Direction::FromDevice).unwrap();
        delay_ns - std::mem::replace(&mut sum, delay_ns)
    };
    (0..packets(1_000_000)).map(delay).collect()
}

/// The share of a distribution below a delay.
fn share(flags: u32, ns: u64) -> f64 {
    let x = (ns as f64 - MEAN_NS as f64) / JITTER_NS as f64;
    match flags {
        PHASE_UNIFORM => f64::midpoint(x, 1.0).clamp(0.0, 1.0),
        PHASE_PARETO => {
            let value = 1.5 + x * 0.75_f64.sqrt();
            if value <= 1.0 { 0.0 } else { 1.0 - value.powi(-3) }
        }
        _ => Normal::standard().cdf(x),
    }
}

/// The largest difference between the shares found and asked.
fn distance(flags: u32, delays: &[u64]) -> f64 {
    let mut sorted = delays.to_vec();
    sorted.sort_unstable();
    let n = sorted.len() as f64;
    (0..).zip(&sorted).fold(0.0, |most: f64, (i, ns)| {
        let asked = share(flags, *ns);
        most.max((asked - f64::from(i) / n).abs()).max((f64::from(i + 1) / n - asked).abs())
    })
}

/// The coefficient of correlation between values that follow each other.
fn autocorrelation(values: &[f64]) -> f64 {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>();
    values.windows(2).map(|pair| (pair[0] - mean) * (pair[1] - mean)).sum::<f64>() / variance
}

/// Each delay as the value of a normal distribution that has the same share below it. A correlation is asked of these: of other
/// distributions the values themselves have another one, and of Pareto's one that a million of them do not show, as the rarest count most.
fn as_normal(flags: u32, delays: &[u64]) -> Vec<f64> {
    let end = 0.5 / delays.len() as f64;
    let normal = Normal::standard();
    delays.iter().map(|ns| normal.inverse_cdf(share(flags, *ns).clamp(end, 1.0 - end))).collect()
}

/// With each of these correlations, in hundredths.
fn are_as_asked(flags: u32, name: &str, correlations: &[u32]) {
    for percent in correlations.iter().copied() {
        let delays = delays(flags, percent);
        let (far, like) = (distance(flags, &delays), autocorrelation(&as_normal(flags, &delays)));
        println!(
            "{name}, correlation {percent} %: distance {far:.4}, correlation {like:.4} of {}",
            delays.len()
        );
        // Fewer than a million are judged as what they are.
        let wider = (1e6 / delays.len() as f64).sqrt();
        assert!(far <= KOLMOGOROV_SMIRNOV, "{name}, {percent} %: {far}");
        assert!((like - f64::from(percent) / 100.0).abs() <= OFF * wider, "{name}, {percent} %: {like}");
    }
}

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn a_million_normal_delays_of_the_kernels_are_distributed_and_correlated_as_asked() {
    are_as_asked(0, "normal", &[0, 25]);
}

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn a_million_uniform_delays_of_the_kernels_are_distributed_and_correlated_as_asked() {
    are_as_asked(PHASE_UNIFORM, "uniform", &[25]);
}

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn a_million_pareto_delays_of_the_kernels_are_distributed_and_correlated_as_asked() {
    are_as_asked(PHASE_PARETO, "Pareto", &[0, 25]);
}
