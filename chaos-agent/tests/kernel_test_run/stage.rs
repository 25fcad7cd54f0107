//! What the stories share: a rig with one device, and the words for what became of a frame.

use std::net::IpAddr;

use chaos_agent::kernel::object;
use fault_abi::counter::{Counter, Global};
use fault_abi::key::{Address, Direction};
use fault_abi::line::Line;
use fault_abi::names::{TC_EGRESS_DISPATCH, TC_INGRESS_DISPATCH, XDP_DISPATCH};
use fault_abi::rule::{ALWAYS, Binding, PHASE_PARTITION, Phase, RULE_FROM_DEVICE, RULE_TO_DEVICE, Rule};
use fault_abi::verdict::Verdict;
use fault_rig::Rig;
use fault_rig::frame::Spec;

/// `TC_ACT_UNSPEC`, `TCX_NEXT`: the next program decides.
pub(crate) const NEXT: u32 = u32::MAX;
/// `TC_ACT_SHOT`.
pub(crate) const SHOT: u32 = 2;
/// `TC_ACT_REDIRECT`, with which an egress drop is silent.
pub(crate) const REDIRECT: u32 = 7;
/// `XDP_DROP`.
pub(crate) const XDP_DROP: u32 = 1;
/// `XDP_PASS`.
pub(crate) const XDP_PASS: u32 = 2;

/// The key of all draws here.
pub(crate) const KEY: [u64; 2] = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];

/// The device's address in stories for IPv4.
pub(crate) const DEVICE: &str = "10.20.0.17";
/// The operator's, at the other end.
pub(crate) const PEER: &str = "10.244.1.5";
/// The device's address in stories for IPv6.
pub(crate) const DEVICE6: &str = "fd00:20::17";
/// The operator's.
pub(crate) const PEER6: &str = "fd00:244::5";

/// What is attached, what each says to drop and to pass, and the direction that it sees. The programs that decide are behind them.
pub(crate) const HOOKS: [(&str, u32, u32, Direction); 3] = [
    (XDP_DISPATCH, XDP_DROP, XDP_PASS, Direction::FromDevice),
    (TC_INGRESS_DISPATCH, SHOT, NEXT, Direction::FromDevice),
    (TC_EGRESS_DISPATCH, REDIRECT, NEXT, Direction::ToDevice),
];

/// So many packets on a real machine, and a twentieth in an emulated one, where a million take a minute.
pub(crate) fn packets(on_a_real_machine: u32) -> u32 {
    if fault_rig::slower() > 1 { on_a_real_machine / 20 } else { on_a_real_machine }
}

/// A rig with the built-in object and no targets, and nothing behind its dispatchers.
pub(crate) fn disconnected() -> Rig {
    let object = object::built_in().expect("cargo xtask build-ebpf, then build the tests again");
    Rig::load(object).expect("the kernel takes the programs")
}

/// A rig with the built-in object and no targets. What is to be done with a packet beside dropping it is not done.
pub(crate) fn rig() -> Rig {
    let mut rig = disconnected();
    rig.connect_deciding().expect("the kernel takes the connections");
    rig
}

pub(crate) fn address(text: &str) -> Address {
    text.parse::<IpAddr>().expect("an address").into()
}

/// A packet from the device to the operator.
pub(crate) fn from_device() -> Spec {
    Spec::udp((DEVICE.parse().unwrap(), 5683), (PEER.parse().unwrap(), 40_000))
}

/// The same in IPv6.
pub(crate) fn from_device6() -> Spec {
    Spec::udp((DEVICE6.parse().unwrap(), 5683), (PEER6.parse().unwrap(), 40_000))
}

/// A rule that acts on all packets in both directions from now on, for an hour, and does nothing to them.
pub(crate) fn rule() -> Rule {
    rule_of(Phase::default())
}

/// How long rules act from when they are made.
pub(crate) const LASTS_NS: u64 = 3_600_000_000_000;

/// A rule that does this.
pub(crate) fn rule_of(phase: Phase) -> Rule {
    let now = fault_rig::now_ns().expect("the clock");
    Rule {
        generation: 1,
        deadline_ns: now + LASTS_NS,
        flags: RULE_FROM_DEVICE | RULE_TO_DEVICE,
        ..Rule::of(phase)
    }
}

/// A delay line that is never full. Nothing is put into it, since what would do that is not there.
pub(crate) fn roomy_line() -> Line {
    let most = 1_u64 << 62;
    Line { entry: 1, packets: most, bytes: most, target_packets: most, target_bytes: most, ..Line::default() }
}

pub(crate) fn partition() -> Rule {
    rule_of(Phase { flags: PHASE_PARTITION, ..Phase::default() })
}

/// Loss of so many parts of a million.
pub(crate) fn loss(millionths: u64) -> Rule {
    rule_of(Phase { loss: ALWAYS * millionths / 1_000_000, ..Phase::default() })
}

/// Rule and state of the same slot.
pub(crate) const fn binding(slot: u32) -> Binding {
    Binding { rule: slot, state: slot, key: KEY }
}

/// Writes rules into the slots from 0 on, each with a state, and returns their bindings.
pub(crate) fn profiles(rig: &mut Rig, rules: &[Rule]) -> Vec<Binding> {
    (0..)
        .zip(rules)
        .map(|(slot, rule)| {
            rig.rule(slot, rule).unwrap();
            rig.state(slot).unwrap();
            binding(slot)
        })
        .collect()
}

/// A rig on which these rules act on both of the device's addresses.
pub(crate) fn rig_with(rules: &[Rule]) -> Rig {
    let mut rig = rig();
    let bindings = profiles(&mut rig, rules);
    rig.target(address(DEVICE), 0, &bindings).unwrap();
    rig.target(address(DEVICE6), 0, &bindings).unwrap();
    rig
}

/// Runs a frame as seen from the device through all hooks and asserts that each drops or passes it.
pub(crate) fn assert_fate(rig: &Rig, packet: &Spec, drops: bool, story: &str) {
    for (hook, drop, pass, direction) in HOOKS {
        let frame = match direction {
            Direction::FromDevice => packet.bytes(),
            Direction::ToDevice => packet.reversed().bytes(),
        };
        let code = rig.run(hook, &frame, 1).unwrap().code;
        assert_eq!(code, if drops { drop } else { pass }, "{story}: {hook} on {packet:?}");
    }
}

pub(crate) fn assert_drops(rig: &Rig, packet: &Spec, story: &str) {
    assert_fate(rig, packet, true, story);
}

pub(crate) fn assert_passes(rig: &Rig, packet: &Spec, story: &str) {
    assert_fate(rig, packet, false, story);
}

/// What was counted under a slot, both directions together.
pub(crate) fn both(rig: &mut Rig, slot: u32) -> Counter {
    let mut sum = rig.counter(slot, Direction::FromDevice).unwrap();
    sum.add(&rig.counter(slot, Direction::ToDevice).unwrap());
    sum
}

pub(crate) fn counted(rig: &mut Rig, slot: u32, direction: Direction, verdict: Verdict) -> u64 {
    rig.counter(slot, direction).unwrap().packets[verdict as usize]
}

pub(crate) fn global(rig: &mut Rig, what: Global) -> u64 {
    rig.global(what).unwrap()
}
