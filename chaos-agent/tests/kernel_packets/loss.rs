//! Loss: what is missing between both captures is what the kernel counted, and what the host computes.

mod cpus;

use std::collections::BTreeSet;

use fault_abi::channel;
use fault_abi::decide::decide;
use fault_abi::draw::{Draw, OF_TARGET, Position};
use fault_abi::key::{Direction, PROTOCOL_UDP};
use fault_abi::rule::{ALWAYS, PHASE_BURSTS, Phase};
use fault_abi::verdict::Verdict;
use serde_json::json;

use crate::support::agent::{Agent, Hooks, is_lost, key_of};
use crate::support::capture::Capture;
use crate::support::fault::Fault;
use crate::support::stage::{ETH, Family, Stage};
use crate::support::time::eventually;
use crate::support::traffic::{End, paced};

/// Packets of a story, each way.
const COUNT: u32 = 2_000;
/// The share that is asked for.
const SHARE: f64 = 0.2;
/// How far the normal distribution reaches at 99.9 %, in standard deviations.
const REACH: f64 = 3.290_53;

/// Numbers of the packets that are missing, by direction.
type Fates = [BTreeSet<u32>; 2];

/// Sends numbered packets both ways at the same time.
fn exchange(device: &End, peer: &End, seen: impl Fn(Direction) -> u64) {
    let send = |number| {
        device.send(peer, number).unwrap();
        peer.send(device, number).unwrap();
    };
    paced(COUNT, send, || Direction::ALL.map(&seen).into_iter().min().unwrap());
}

/// Runs 20 % of loss on the device's address and returns the fates.
fn lossy_exchange(stage: &Stage, agent: &mut Agent, family: Family, seed: u64) -> Fates {
    exchange_under(stage, agent, family, Fault::loss("20%").seed(seed))
}

/// Runs a fault on the device's address, checks all counters against both captures, and returns the fates.
fn exchange_under(stage: &Stage, agent: &mut Agent, family: Family, fault: Fault) -> Fates {
    let target = family.host(1, 2);
    // Nothing is left of the profile before: counters start at zero.
    agent.set(&[]);
    agent.set(&[fault.on(std::slice::from_ref(&target))]);
    let (mut at_device, mut at_peer) = (Capture::new(&stage.device, ETH), Capture::new(&stage.peer, ETH));
    let (device, peer) = (stage.device_end(family), stage.peer_end(family));
    exchange(&device, &peer, |direction| agent.counter("loss", &target, direction).seen());
    let counters = Direction::ALL.map(|direction| {
        let counter = || agent.counter("loss", &target, direction);
        let all = || (counter().seen() == u64::from(COUNT)).then(counter);
        eventually(all, || format!("{direction:?} of {COUNT}: {:?}", counter()))
    });
    let passed = |direction: Direction| counters[direction as usize].packets[Verdict::Pass as usize];
    let is_complete = || {
        at_device.look();
        at_peer.look();
        let arrived = [at_peer.received.len(), at_device.received.len()].map(|count| count as u64);
        (arrived == Direction::ALL.map(passed)).then_some(())
    };
    eventually(is_complete, || "what passed has not arrived, or more than that has".to_owned());
    assert_eq!((at_device.repeated, at_peer.repeated), (0, 0));
    let ways = [(&at_device.sent, &at_peer.received), (&at_peer.sent, &at_device.received)];
    Direction::ALL.map(|direction| {
        let (sent, received) = ways[direction as usize];
        let counter = &counters[direction as usize];
        assert_eq!(sent.len(), COUNT as usize, "the capture at the sender is complete");
        let missing = sent.keys().filter(|id| !received.contains_key(id));
        let missing: BTreeSet<u32> = missing.map(|(number, _)| *number).collect();
        assert_eq!(counter.packets[Verdict::Loss as usize], missing.len() as u64, "{direction:?}");
        let bytes_missing = sent.iter().filter(|(id, _)| !received.contains_key(id)).map(|(_, bytes)| bytes);
        assert_eq!(counter.bytes[Verdict::Loss as usize], bytes_missing.sum::<u64>(), "{direction:?}");
        assert_eq!(counter.bytes[Verdict::Pass as usize], received.values().sum::<u64>(), "{direction:?}");
        missing
    })
}

/// The fates as the host computes them: the threshold is 20 % of 2³², rounded.
fn expected(family: Family, seed: u64) -> Fates {
    let threshold = (ALWAYS + 2) / 5;
    Direction::ALL.map(|direction| {
        let is_lost = |index: &u32| is_lost(seed, &family.host(1, 2), direction, 5683, *index, threshold);
        (0..COUNT).filter(is_lost).collect()
    })
}

fn what_captures_miss_is_what_was_counted(hooks: Hooks) {
    let stage = Stage::new();
    let mut agent = Agent::start(&stage.node, hooks);
    for family in Family::BOTH {
        let fates = lossy_exchange(&stage, &mut agent, family, 7);
        assert_eq!(fates, expected(family, 7), "{family:?}");
        assert_ne!(fates[0], fates[1], "both directions draw apart");
        let count = f64::from(COUNT);
        let margin = REACH * (SHARE * (1.0 - SHARE) * count).sqrt();
        for lost in fates {
            let deviation = (lost.len() as f64 - SHARE * count).abs();
            assert!(deviation <= margin, "{} of {COUNT} were lost ({family:?})", lost.len());
        }
    }
    let other = lossy_exchange(&stage, &mut agent, Family::V4, 8);
    assert_eq!(other, expected(Family::V4, 8));
    let first = expected(Family::V4, 7);
    assert!(first[0] != other[0] && first[1] != other[1], "another seed, other fates");
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn packets_missing_between_captures_are_those_counted_on_tcx() {
    what_captures_miss_is_what_was_counted(Hooks::Tcx);
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn packets_missing_between_captures_are_those_counted_on_clsact() {
    what_captures_miss_is_what_was_counted(Hooks::Clsact);
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn packets_missing_between_captures_are_those_counted_on_native_xdp() {
    what_captures_miss_is_what_was_counted(Hooks::XdpNative);
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn each_tenth_packet_of_a_target_is_missing_on_tc_and_native_xdp() {
    let stage = Stage::new();
    let tenth: BTreeSet<u32> = (9..COUNT).step_by(10).collect();
    for hooks in [Hooks::Tcx, Hooks::XdpNative] {
        let mut agent = Agent::start(&stage.node, hooks);
        let fates = exchange_under(&stage, &mut agent, Family::V6, Fault::loss_by(json!({"every": 10})));
        assert_eq!(fates, [tenth.clone(), tenth.clone()], "{hooks:?}");
    }
}

/// The fates in bursts, each way, as the host computes them.
fn bursts_on_host(family: Family, enter: u64, leave: u64) -> Fates {
    let (key, target_port) = (key_of(7, &family.host(1, 2)), 5683);
    let phase = Phase {
        flags: PHASE_BURSTS,
        enter_burst: enter,
        leave_burst: leave,
        loss_in_burst: ALWAYS,
        ..Phase::default()
    };
    Direction::ALL.map(|direction| {
        let mut word = 0;
        let mut is_lost = |_: &u32| {
            let draw = Draw {
                direction,
                protocol: PROTOCOL_UDP,
                target_port,
                position: Position { ordinal: OF_TARGET, index: channel::index(word) },
                copy: 0,
            };
            let before = channel::in_burst(word, 0);
            let (verdict, burst) = decide(&phase, key, &draw, before);
            word = channel::after(word, 0, burst);
            verdict.drops()
        };
        (0..COUNT).filter(&mut is_lost).collect()
    })
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn bursts_are_missing_between_captures_where_the_host_computes_them() {
    let stage = Stage::new();
    let mut agent = Agent::start(&stage.node, Hooks::Tcx);
    let model = json!({"gilbertElliott": {"enterBurst": "5%", "leaveBurst": "25%"}});
    let fates = exchange_under(&stage, &mut agent, Family::V4, Fault::loss_by(model));
    assert_eq!(fates, bursts_on_host(Family::V4, (ALWAYS + 10) / 20, ALWAYS / 4));
    assert!(fates.iter().all(|lost| lost.len() > 100), "{fates:?}");
}
