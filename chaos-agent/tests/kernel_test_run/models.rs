//! Loss in bursts, each n-th packet, and phases: the kernel against the host, packet by packet, and against what was asked.

use fault_abi::channel::{after, in_burst, index};
use fault_abi::decide::decide;
use fault_abi::draw::{Draw, OF_TARGET, Position};
use fault_abi::key::{Direction, PROTOCOL_UDP};
use fault_abi::names::{TC_EGRESS_DISPATCH, TC_INGRESS_DISPATCH, XDP_DISPATCH};
use fault_abi::rule::{ALWAYS, PHASE_BURSTS, PHASE_PARTITION, PHASE_PER_FLOW, Phase, Rule};
use fault_abi::verdict::Verdict;
use fault_rig::Rig;
use fault_rig::frame::Spec;

use crate::stage::*;

const PACKETS: usize = 2_000;

/// Bursts of five packets on average, after a hundred outside; some are lost outside and some are spared inside.
fn bursts() -> Phase {
    Phase {
        flags: PHASE_BURSTS,
        enter_burst: ALWAYS / 100,
        leave_burst: ALWAYS / 5,
        loss: ALWAYS / 50,
        loss_in_burst: ALWAYS / 10 * 9,
        ..Phase::default()
    }
}

fn per_flow(phase: Phase) -> Phase {
    Phase { flags: phase.flags | PHASE_PER_FLOW, ..phase }
}

/// What the host says of the next packet of a sequence, whose state is `word`.
fn next(phase: &Phase, direction: Direction, ordinal: u64, word: &mut u64) -> bool {
    let position = Position { ordinal, index: index(*word) };
    let draw = Draw { direction, protocol: PROTOCOL_UDP, target_port: 5683, position, copy: 0 };
    let (verdict, burst) = decide(phase, KEY, &draw, in_burst(*word, 0));
    *word = after(*word, 0, burst);
    verdict.drops()
}

fn is_dropped(rig: &Rig, hook: &str, frame: &[u8]) -> bool {
    let code = rig.run(hook, frame, 1).unwrap().code;
    let (_, drop, pass, _) = HOOKS.into_iter().find(|(name, ..)| *name == hook).unwrap();
    assert!(code == drop || code == pass, "{hook} returned {code}");
    code == drop
}

fn frame(direction: Direction, peer_port: u16) -> Vec<u8> {
    let packet = Spec { destination_port: peer_port, ..from_device() };
    match direction {
        Direction::FromDevice => packet.bytes(),
        Direction::ToDevice => packet.reversed().bytes(),
    }
}

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn bursts_of_a_target_go_through_all_its_flows_and_are_those_that_the_host_computes() {
    let phase = bursts();
    for (hook, _, _, direction) in HOOKS {
        let rig = rig_with(&[rule_of(phase)]);
        let (mut word, mut lost) = (0, 0);
        for i in 0..PACKETS {
            let frame = frame(direction, [40_000, 51_111, 33_333][i % 3]);
            let expected = next(&phase, direction, OF_TARGET, &mut word);
            assert_eq!(is_dropped(&rig, hook, &frame), expected, "{hook}, packet {i}");
            lost += usize::from(expected);
        }
        assert!(lost > 10, "{lost} lost: too few to show anything");
    }
}

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn bursts_of_a_flow_do_not_depend_on_how_flows_interleave() {
    let phase = per_flow(bursts());
    let rig = rig_with(&[rule_of(phase)]);
    let mut words = [0; 3];
    for i in 0..PACKETS {
        // Flows begin in their order, and then take turns of different lengths.
        let flow = if i < 3 { i } else { i * i / 7 % 3 };
        let frame = frame(Direction::ToDevice, [40_000, 51_111, 33_333][flow]);
        let expected = next(&phase, Direction::ToDevice, flow as u64, &mut words[flow]);
        assert_eq!(is_dropped(&rig, TC_EGRESS_DISPATCH, &frame), expected, "flow {flow}, packet {i}");
    }
}

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn each_tenth_packet_is_lost_of_a_target_or_of_each_flow() {
    let every = Phase { every: 10, ..Phase::default() };
    for (phase, flows) in [(every, 1), (per_flow(every), 2)] {
        let rig = rig_with(&[rule_of(phase)]);
        let mut seen = [0_u32; 2];
        for i in 0..400_usize {
            let flow = i / 3 % 2;
            let counted = &mut seen[flow % flows];
            *counted += 1;
            let expected = counted.is_multiple_of(10);
            let frame = frame(Direction::FromDevice, [40_000, 51_111][flow]);
            assert_eq!(is_dropped(&rig, XDP_DISPATCH, &frame), expected, "{flows} sequences, packet {i}");
        }
    }
}

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn a_million_packets_are_lost_as_often_as_bursts_and_every_n_th_ask_for() {
    // Packets in a burst share their fate, so the count varies more than that of independent draws: by the factor
    // (1 + r) / (1 − r), where r = 1 − enter − leave is the correlation of neighbours, at most. Each n-th packet is nothing that varies.
    let bursts = bursts();
    let correlation = 1.0 - 0.01 - 0.2;
    let runs = packets(1_000_000);
    for (phase, spread) in [
        (bursts, (1.0 + correlation) / (1.0 - correlation)),
        (Phase { every: 7, ..Phase::default() }, 0.0),
        (Phase { flags: PHASE_BURSTS, loss: ALWAYS / 4, ..Phase::default() }, 1.0),
    ] {
        let mut rig = rig_with(&[rule_of(phase)]);
        for (hook, _, _, direction) in HOOKS {
            let before = counted(&mut rig, 0, direction, Verdict::Loss);
            rig.run(hook, &frame(direction, 40_000), runs).unwrap();
            let lost = counted(&mut rig, 0, direction, Verdict::Loss) - before;
            let (n, p) = (f64::from(runs), phase.asked());
            let half = 3.290_527 * (spread * n * p * (1.0 - p)).sqrt() + 1.0;
            let difference = f64::from(u32::try_from(lost).unwrap()) - n * p;
            assert!(difference.abs() <= half, "{hook}: {lost} of {runs} lost, {p} asked");
        }
    }
}

/// Whether a mean of so many values, each with this variance, lies in the 99.9 % interval around `expected`.
fn is_plausible(mean: f64, expected: f64, variance: f64, values: usize) -> bool {
    (mean - expected).abs() <= 3.290_527 * (variance / values as f64).sqrt()
}

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn a_million_packets_are_lost_in_bursts_as_many_and_as_long_as_asked() {
    let (enter, leave) = (0.01, 0.2);
    // All is lost inside and nothing outside, so that what is lost shows the bursts themselves.
    let rig = rig_with(&[rule_of(Phase { loss: 0, loss_in_burst: ALWAYS, ..bursts() })]);
    let frame = frame(Direction::FromDevice, 40_000);
    let lost: Vec<bool> =
        (0..packets(1_000_000)).map(|_| is_dropped(&rig, TC_INGRESS_DISPATCH, &frame)).collect();
    let lengths: Vec<usize> = lost.chunk_by(|a, b| a == b).filter(|run| run[0]).map(<[bool]>::len).collect();
    let in_bursts: usize = lengths.iter().sum();
    let (mean, count) = (in_bursts as f64 / lengths.len() as f64, lengths.len());
    println!("{count} bursts in {} packets, {mean:.3} long on average", lost.len());
    assert!(
        is_plausible(mean, 1.0 / leave, (1.0 - leave) / (leave * leave), count),
        "{mean} long on average"
    );
    for length in 1..=8_i32 {
        let expected = leave * (1.0_f64 - leave).powi(length - 1);
        let found = lengths.iter().filter(|one| **one == usize::try_from(length).unwrap()).count();
        let share = found as f64 / count as f64;
        assert!(is_plausible(share, expected, expected * (1.0 - expected), count), "{length} long: {share}");
    }
    let outside = lost.len() - in_bursts;
    let share = count as f64 / outside as f64;
    assert!(is_plausible(share, enter, enter * (1.0 - enter), outside), "{share} begin one");
}

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn the_kernel_goes_from_phase_to_phase_by_itself() {
    // The rule's end says where in its time we are: each rule here is the same timeline, seen at another moment.
    let second = 1_000_000_000;
    let mut timeline = Rule { length_ns: 4_000 * second, phase_count: 4, ..rule() };
    for (phase, (until, flags)) in timeline.phases.iter_mut().zip([
        (1_000, 0),
        (2_000, PHASE_PARTITION),
        (3_000, 0),
        (4_000, PHASE_PARTITION),
    ]) {
        *phase = Phase { until_ns: until * second, flags, ..Phase::default() };
    }
    let now = fault_rig::now_ns().unwrap();
    for (elapsed, drops) in [(500, false), (1_500, true), (2_500, false), (3_500, true), (4_500, false)] {
        let end = now + 4_000 * second;
        // A machine that is not up for long has no moment before its start.
        let moment = Rule { deadline_ns: end.saturating_sub(elapsed * second), ..timeline };
        assert_fate(&rig_with(&[moment]), &from_device(), drops, &format!("{elapsed} s after the start"));
    }
}

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn what_a_phase_left_in_a_burst_begins_the_next_outside_of_one() {
    // In the first phase a burst begins at once and never ends; in the second none begins, and inside one all is lost.
    let second = 1_000_000_000;
    let first = Phase { flags: PHASE_BURSTS, enter_burst: ALWAYS, loss_in_burst: ALWAYS, ..Phase::default() };
    let then = Phase { flags: PHASE_BURSTS, loss_in_burst: ALWAYS, ..Phase::default() };
    let now = fault_rig::now_ns().unwrap();
    let mut timeline =
        Rule { length_ns: 2_000 * second, deadline_ns: now + 1_500 * second, phase_count: 2, ..rule() };
    timeline.phases[0] = Phase { until_ns: 1_000 * second, ..first };
    timeline.phases[1] = Phase { until_ns: 2_000 * second, ..then };
    let mut rig = rig_with(&[timeline]);
    let frame = frame(Direction::FromDevice, 40_000);
    let fates: Vec<bool> = (0..3).map(|_| is_dropped(&rig, TC_INGRESS_DISPATCH, &frame)).collect();
    assert_eq!(fates, [false, true, true], "the first packet is outside of a burst");
    rig.rule(0, &Rule { deadline_ns: now + 500 * second, ..timeline }).unwrap();
    assert!(!is_dropped(&rig, TC_INGRESS_DISPATCH, &frame), "a burst ends with its phase");
}
