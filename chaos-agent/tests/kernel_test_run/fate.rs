//! Draws: how many packets are lost, and which.

use fault_abi::counter::Global;
use fault_abi::decide::decide;
use fault_abi::draw::{Draw, Position};
use fault_abi::key::{Direction, PROTOCOL_UDP};
use fault_abi::names::{TC_EGRESS_DISPATCH, TC_INGRESS_DISPATCH, XDP_DISPATCH};
use fault_abi::rule::Rule;
use fault_abi::verdict::Verdict;
use fault_rig::Rig;
use fault_rig::frame::Spec;

use crate::stage::*;

/// Half the width of the two-sided 99.9 % interval of a normal distribution, in standard deviations.
const DEVIATIONS: f64 = 3.290_527;

/// Whether a count lies in the 99.9 % interval of what was asked.
fn is_plausible(lost: u64, of: u32, ratio: f64) -> bool {
    let (n, p) = (f64::from(of), ratio);
    let half = DEVIATIONS * (n * p * (1.0 - p)).sqrt() + 0.5;
    #[expect(clippy::cast_precision_loss, reason = "counts below 2^53")]
    let lost = lost as f64;
    (lost - n * p).abs() <= half
}

/// What the host decides on the n-th packet of the n-th flow.
fn on_host(rule: &Rule, direction: Direction, ordinal: u64, index: u64) -> Verdict {
    let position = Position { ordinal, index };
    let draw = Draw { direction, protocol: PROTOCOL_UDP, target_port: 5683, position, copy: 0 };
    decide(&rule.phases[0], KEY, &draw, false).0
}

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn the_loss_that_is_counted_lies_in_the_interval_of_what_was_asked() {
    let runs = packets(1_000_000);
    for (millionths, ratio) in
        [(1, 0.000_001), (500, 0.000_5), (200_000, 0.2), (500_000, 0.5), (999_000, 0.999)]
    {
        let mut rig = rig_with(&[loss(millionths)]);
        for (hook, _, _, direction) in HOOKS {
            let before = rig.counter(0, direction).unwrap();
            let frame = match direction {
                Direction::FromDevice => from_device().bytes(),
                Direction::ToDevice => from_device().reversed().bytes(),
            };
            rig.run(hook, &frame, runs).unwrap();
            let after = rig.counter(0, direction).unwrap();
            let lost = after.packets[Verdict::Loss as usize] - before.packets[Verdict::Loss as usize];
            assert!(is_plausible(lost, runs, ratio), "{hook}: {lost} of {runs} lost, {ratio} asked");
            assert_eq!(after.seen() - before.seen(), u64::from(runs), "each packet is counted once");
            let bytes: u64 = after.bytes.iter().sum();
            assert_eq!(bytes, after.seen() * frame.len() as u64, "bytes are those on the wire");
            assert!(after.last_seen_ns > 0);
        }
    }
}

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn a_hundred_percent_loses_all_and_zero_loses_none() {
    let runs = packets(100_000);
    for (rule, verdict) in
        [(loss(1_000_000), Verdict::Loss), (loss(0), Verdict::Pass), (partition(), Verdict::Partition)]
    {
        let mut rig = rig_with(&[rule]);
        rig.run(TC_INGRESS_DISPATCH, &from_device().bytes(), runs).unwrap();
        assert_eq!(counted(&mut rig, 0, Direction::FromDevice, verdict), u64::from(runs), "{verdict:?}");
        assert_eq!(both(&mut rig, 0).seen(), u64::from(runs));
    }
}

/// The fates of packets, one by one.
fn fates(rig: &Rig, hook: &str, frame: &[u8], packets: usize) -> Vec<bool> {
    let passes = [NEXT, XDP_PASS];
    let drops = match hook {
        XDP_DISPATCH => XDP_DROP,
        TC_INGRESS_DISPATCH => SHOT,
        _ => REDIRECT,
    };
    (0..packets)
        .map(|_| {
            let code = rig.run(hook, frame, 1).unwrap().code;
            assert!(code == drops || passes.contains(&code), "{hook} returned {code}");
            code == drops
        })
        .collect()
}

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn xdp_tc_and_host_give_each_packet_the_same_fate() {
    const PACKETS: usize = 2_000;
    let rule = loss(200_000);
    for (hook, _, _, direction) in HOOKS {
        // A rig each: the same packets, from the first on.
        let rig = rig_with(&[rule]);
        let frame = match direction {
            Direction::FromDevice => from_device().bytes(),
            Direction::ToDevice => from_device().reversed().bytes(),
        };
        let expected: Vec<bool> =
            (0..).take(PACKETS).map(|index| on_host(&rule, direction, 0, index).drops()).collect();
        assert_eq!(fates(&rig, hook, &frame, PACKETS), expected, "{hook}");
        assert!(expected.contains(&true) && expected.contains(&false));
    }
}

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn flows_draw_apart_by_their_ordinal_and_both_directions_are_one_flow() {
    const PACKETS: usize = 200;
    let rule = loss(500_000);
    let rig = rig_with(&[rule]);
    for (ordinal, peer_port) in (0..4).zip([40_000, 51_111, 33_333, 60_000]) {
        let packet = Spec { destination_port: peer_port, ..from_device() };
        for (hook, direction, frame) in [
            (TC_EGRESS_DISPATCH, Direction::ToDevice, packet.reversed().bytes()),
            (TC_INGRESS_DISPATCH, Direction::FromDevice, packet.bytes()),
        ] {
            let expected: Vec<bool> =
                (0..).take(PACKETS).map(|index| on_host(&rule, direction, ordinal, index).drops()).collect();
            assert_eq!(fates(&rig, hook, &frame, PACKETS), expected, "flow {ordinal}, {direction:?}");
        }
    }
}

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn the_fate_does_not_depend_on_the_peers_address_or_port() {
    let rule = loss(500_000);
    let first = rig_with(&[rule]);
    let second = rig_with(&[rule]);
    let other = Spec { destination: "192.0.2.9".parse().unwrap(), destination_port: 9, ..from_device() };
    let one = fates(&first, XDP_DISPATCH, &from_device().bytes(), 300);
    assert_eq!(one, fates(&second, XDP_DISPATCH, &other.bytes(), 300));
}

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn when_the_table_of_flows_is_full_packets_draw_from_their_targets_counter() {
    let mut rig = rig_with(&[loss(200_000)]);
    let mut frame = from_device().bytes();
    // The peer's address and port, behind Ethernet: IPv4 destination at 30, UDP destination port at 36.
    for flow in 0..66_000_u32 {
        frame[32..34].copy_from_slice(&flow.to_be_bytes()[..2]);
        frame[36..38].copy_from_slice(&flow.to_be_bytes()[2..]);
        rig.run(TC_INGRESS_DISPATCH, &frame, 1).unwrap();
    }
    let untracked = global(&mut rig, Global::Untracked);
    assert!((400..=66_000).contains(&untracked), "{untracked} packets were of flows that did not fit");
    let counter = rig.counter(0, Direction::FromDevice).unwrap();
    assert_eq!(counter.seen(), 66_000, "all are counted");
    assert!(is_plausible(counter.packets[Verdict::Loss as usize], 66_000, 0.2), "{counter:?}");
    assert_eq!(global(&mut rig, Global::Orphaned), 0);
}

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn no_program_takes_more_than_a_quarter_of_what_the_verifier_walks() {
    let verified = rig().verified().unwrap();
    println!("{verified:?}");
    assert!(verified.iter().all(|(_, count)| *count <= 250_000), "{verified:?}");
}
