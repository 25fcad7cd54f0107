//! What cannot be done to a packet is not counted as done.

use std::net::IpAddr;

use fault_abi::key::{Direction, PROTOCOL_ICMP, PROTOCOL_TCP};
use fault_abi::line::Line;
use fault_abi::names::TC_INGRESS_DISPATCH;
use fault_abi::rule::{
    ALWAYS, CONFIG_HAS_LATER, CONFIG_HAS_REWRITES, Config, PHASE_PARTITION, PHASE_REJECT, Phase,
};
use fault_abi::verdict::{Effect, Verdict};
use fault_rig::Rig;
use fault_rig::frame::{Extension, Spec};

use crate::stage::*;

const MAGIC: u64 = 0x5eed_0000_0000_5eed;
/// SCTP, of which nothing is read.
const OTHER: u8 = 132;

/// A rig with a splitter, on which this rule acts.
fn rewriting(phase: Phase) -> Rig {
    let mut rig = rig_with(&[rule_of(phase)]);
    rig.line(&Line { magic: MAGIC, splitter: 1, ..roomy_line() }).unwrap();
    rig.config(&Config { flags: CONFIG_HAS_LATER | CONFIG_HAS_REWRITES, ..Config::default() }).unwrap();
    rig
}

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn a_packet_without_a_bit_to_flip_passes_and_is_not_counted_as_corrupted() {
    let mut rig = rewriting(Phase { corrupt: ALWAYS, ..Phase::default() });
    let mut flipped = |frame: &[u8], flips: bool| {
        let count =
            |rig: &mut Rig| rig.counter(0, Direction::FromDevice).unwrap().effects[Effect::Corrupt as usize];
        let before = count(&mut rig);
        let code = rig.run_split(TC_INGRESS_DISPATCH, frame, MAGIC).unwrap().code;
        // What would flip it is not there: who is to be flipped is dropped.
        assert_eq!((code == SHOT, count(&mut rig) - before), (flips, u64::from(flips)), "{frame:02x?}");
    };
    let other = |payload| Spec { protocol: OTHER, payload, ..from_device() };
    flipped(&from_device().bytes(), true);
    flipped(&Spec { payload: 0, ..from_device() }.bytes(), true);
    flipped(&other(5).bytes(), true);
    for payload in [0, 1, 4] {
        flipped(&other(payload).bytes(), false);
        let mut padded = other(payload).bytes();
        padded.resize(60, 0);
        flipped(&padded, false);
        flipped(&Spec { protocol: OTHER, payload, ..from_device6() }.bytes(), false);
    }
}

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn a_packet_that_is_not_answered_counts_as_dropped_in_silence() {
    let reject = Phase { flags: PHASE_PARTITION | PHASE_REJECT, ..Phase::default() };
    let mut rig = rewriting(reject);
    let mut counted = |frame: &[u8], verdict: Verdict, story: &str| {
        let count = |rig: &mut Rig| counted(rig, 0, Direction::FromDevice, verdict);
        let before = count(&mut rig);
        assert_eq!(rig.run_split(TC_INGRESS_DISPATCH, frame, MAGIC).unwrap().code, SHOT, "{story}");
        assert_eq!(count(&mut rig) - before, 1, "{story}: not {verdict:?}");
    };
    let tcp = Spec { protocol: PROTOCOL_TCP, ..from_device() };
    let icmp = |icmp_type| Spec { protocol: PROTOCOL_ICMP, icmp_type, ..from_device() };
    let to = |ip: &str| Spec { destination: ip.parse::<IpAddr>().unwrap(), ..from_device() };
    let of = |spec: &Spec| spec.bytes();
    counted(&of(&from_device()), Verdict::Reject, "a datagram");
    counted(&of(&from_device6()), Verdict::Reject, "one of IPv6");
    counted(&of(&tcp), Verdict::Reject, "TCP");
    counted(&of(&Spec { options: 2, ..tcp.clone() }), Verdict::Reject, "TCP behind IPv4 options");
    counted(&of(&icmp(8)), Verdict::Reject, "an echo request");
    let mut reset = of(&tcp);
    reset[14 + 20 + 13] = 4;
    counted(&reset, Verdict::Partition, "a reset");
    counted(&of(&icmp(3)), Verdict::Partition, "an error");
    counted(&of(&to("224.0.1.187")), Verdict::Partition, "multicast");
    counted(&of(&Spec { options: 1, ..from_device() }), Verdict::Partition, "a datagram behind IPv4 options");
    counted(&of(&Spec { fragment: (1, false), ..from_device() }), Verdict::Partition, "a later fragment");
    let later = Spec { extensions: vec![Extension::Fragment(1, false)], ..from_device6() };
    counted(&of(&later), Verdict::Partition, "one of IPv6");
    counted(
        &of(&Spec { protocol: OTHER, payload: 7, ..from_device() }),
        Verdict::Partition,
        "less than is quoted",
    );
    counted(
        &of(&Spec { protocol: OTHER, payload: 8, ..from_device() }),
        Verdict::Reject,
        "all that is quoted",
    );
}
