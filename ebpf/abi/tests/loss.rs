//! The models of loss, packet by packet: which rates and which bursts they give, and when a phase follows another.

use fault_abi::channel::{STEP, after, in_burst, index};
use fault_abi::decide::{decide, draws};
use fault_abi::draw::{Draw, Position};
use fault_abi::key::{Direction, PROTOCOL_UDP};
use fault_abi::rule::{ALWAYS, MAX_PHASES, PHASE_BURSTS, PHASE_PARTITION, Phase, Rule};
use fault_abi::verdict::Verdict;
use proptest::prelude::*;

const PACKETS: u32 = 1_000_000;

/// A share of [`ALWAYS`], in millionths.
const fn millionths(n: u64) -> u64 {
    ALWAYS * n / 1_000_000
}

/// The fates of consecutive packets under a phase: whether each is lost, and whether it was in a burst.
fn fates(phase: &Phase, key: [u64; 2]) -> Vec<(bool, bool)> {
    let mut word = 0;
    let fate = |_| {
        let before = in_burst(word, 0);
        let position = Position { ordinal: 0, index: index(word) };
        let draw = Draw {
            direction: Direction::ToDevice,
            protocol: PROTOCOL_UDP,
            target_port: 5683,
            position,
            copy: 0,
        };
        let (verdict, burst) = decide(phase, key, &draw, before);
        word = after(word, 0, burst);
        (verdict == Verdict::Loss, before)
    };
    (0..PACKETS).map(fate).collect()
}

fn number(n: usize) -> f64 {
    u32::try_from(n).map_or(f64::INFINITY, f64::from)
}

fn share(count: usize, of: usize) -> f64 {
    number(count) / number(of)
}

/// Whether a mean of `n` values, each with this variance, lies in the 99.9 % interval around `expected`.
fn is_plausible(mean: f64, expected: f64, variance: f64, n: usize) -> bool {
    (mean - expected).abs() <= 3.290_527 * (variance / number(n)).sqrt()
}

#[test]
fn every_tenth_is_exactly_each_tenth() {
    let phase = Phase { every: 10, ..Phase::default() };
    assert!(draws(&phase));
    let lost: Vec<usize> =
        (0..).zip(fates(&phase, [1, 2])).filter(|(_, fate)| fate.0).map(|(i, _)| i).collect();
    assert_eq!(lost.len(), PACKETS as usize / 10);
    assert!(lost.iter().all(|i| i % 10 == 9));
    let all = Phase { every: 1, ..Phase::default() };
    assert!(fates(&all, [1, 2]).iter().all(|(lost, _)| *lost));
}

#[test]
fn bursts_begin_and_end_as_often_as_asked_and_their_lengths_are_geometric() {
    let (enter, leave) = (0.01, 0.25);
    let phase = Phase {
        flags: PHASE_BURSTS,
        enter_burst: millionths(10_000),
        leave_burst: millionths(250_000),
        loss_in_burst: ALWAYS,
        ..Phase::default()
    };
    let fates = fates(&phase, [7, 11]);
    assert!(fates.iter().all(|(lost, burst)| lost == burst), "all is lost inside, nothing outside");
    let runs: Vec<usize> = fates.chunk_by(|a, b| a.1 == b.1).filter(|run| run[0].1).map(<[_]>::len).collect();
    let in_bursts: usize = runs.iter().sum();
    let mean = share(in_bursts, runs.len());
    assert!(
        is_plausible(mean, 1.0 / leave, (1.0 - leave) / (leave * leave), runs.len()),
        "mean length {mean}"
    );
    for length in 1..=8 {
        let expected = leave * (1.0_f64 - leave).powi(length - 1);
        let found =
            share(runs.iter().filter(|run| **run == usize::try_from(length).unwrap()).count(), runs.len());
        assert!(
            is_plausible(found, expected, expected * (1.0 - expected), runs.len()),
            "length {length}: {found}"
        );
    }
    let outside = fates.len() - in_bursts;
    assert!(is_plausible(share(runs.len(), outside), enter, enter * (1.0 - enter), outside));
}

#[test]
fn inside_and_outside_of_bursts_packets_are_lost_as_often_as_asked() {
    let phase = Phase {
        flags: PHASE_BURSTS,
        enter_burst: millionths(50_000),
        leave_burst: millionths(100_000),
        loss: millionths(20_000),
        loss_in_burst: millionths(700_000),
        ..Phase::default()
    };
    for (burst, expected) in [(false, 0.02), (true, 0.7)] {
        let of: Vec<bool> =
            fates(&phase, [3, 5]).into_iter().filter(|fate| fate.1 == burst).map(|fate| fate.0).collect();
        let lost = share(of.iter().filter(|lost| **lost).count(), of.len());
        assert!(is_plausible(lost, expected, expected * (1.0 - expected), of.len()), "{burst}: {lost}");
    }
}

#[test]
fn what_is_asked_is_what_is_lost_in_the_long_run() {
    let bursts = Phase {
        flags: PHASE_BURSTS,
        enter_burst: millionths(20_000),
        leave_burst: millionths(300_000),
        loss: millionths(10_000),
        loss_in_burst: millionths(900_000),
        ..Phase::default()
    };
    // Consecutive packets are no independent draws: a burst's length adds to the variance.
    let spread = 12.0;
    for (phase, spread) in [
        (Phase { loss: millionths(200_000), ..Phase::default() }, 1.0),
        (Phase { every: 7, ..Phase::default() }, 1.0),
        (bursts, spread),
    ] {
        let lost = share(fates(&phase, [1, 3]).iter().filter(|fate| fate.0).count(), PACKETS as usize);
        let asked = phase.asked();
        assert!(
            is_plausible(lost, asked, spread * asked * (1.0 - asked), PACKETS as usize),
            "{lost}, {asked}"
        );
    }
    assert_eq!(Phase { flags: PHASE_PARTITION, ..Phase::default() }.asked().to_bits(), 1.0_f64.to_bits());
    assert_eq!(Phase { flags: PHASE_BURSTS, loss_in_burst: ALWAYS, ..Phase::default() }.asked().to_bits(), 0);
}

#[test]
fn a_burst_ends_with_its_phase() {
    let word = after(0, 3, true);
    assert!(in_burst(word, 3) && !in_burst(word, 4));
    assert_eq!(index(word), 1);
    let last = after(word, MAX_PHASES - 1, true);
    assert!(in_burst(last, MAX_PHASES - 1) && !in_burst(last, 0));
    assert_eq!((index(last), index(last + STEP)), (2, 3));
}

#[test]
fn what_is_partitioned_or_left_alone_draws_nothing() {
    assert!(!draws(&Phase::default()));
    assert!(!draws(&Phase { flags: PHASE_PARTITION, loss: 1, ..Phase::default() }));
}

/// Phases that end at these times after 1,000, when the first one begins.
fn rule(ends: &[u64]) -> Rule {
    let mut rule = Rule { deadline_ns: 9_000, length_ns: 8_000, ..Rule::default() };
    for (phase, end) in rule.phases.iter_mut().zip(ends) {
        phase.until_ns = *end;
        rule.phase_count += 1;
    }
    rule
}

#[test]
fn a_phase_begins_where_the_one_before_it_ends() {
    let rule = rule(&[10, 30, 31]);
    assert_eq!(rule.phase_at(0), 0, "a clock that is off shows the first phase before its time");
    for (after_start, phase) in [(0, 0), (9, 0), (10, 1), (29, 1), (30, 2), (31, 2), (99, 2)] {
        assert_eq!(rule.phase_at(1_000 + after_start), phase, "{after_start} ns after the start");
    }
}

proptest! {
    #[test]
    fn halving_finds_the_phase_that_counting_finds(
        mut ends in prop::collection::vec(0..2_000_u64, 1..=MAX_PHASES),
        elapsed in 0..2_100_u64,
    ) {
        ends.sort_unstable();
        let counted = ends.iter().filter(|end| **end <= elapsed).count().min(ends.len() - 1);
        prop_assert_eq!(rule(&ends).phase_at(1_000 + elapsed), counted);
    }

    #[test]
    fn a_word_counts_whatever_its_burst_and_phase(word: u64, phase in 0..MAX_PHASES, burst: bool) {
        let next = after(word, phase, burst);
        prop_assert_eq!(index(next), index(word).wrapping_add(1) % (1 << 55));
        prop_assert_eq!(in_burst(next, phase), burst);
    }
}
