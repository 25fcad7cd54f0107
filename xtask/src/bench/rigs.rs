//! The rigs that cases run on: programs, with their maps filled.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Result, bail};
use fault_abi::key::{Direction, IPV4_PREFIX};
use fault_abi::line::Line;
use fault_abi::names::{TC_EGRESS, TC_JUDGE};
use fault_abi::rule::{
    ALWAYS, Binding, CONFIG_HAS_LATER, CONFIG_HAS_REWRITES, Config, PHASE_BURSTS, PHASE_PARTITION, Phase,
    RULE_FROM_DEVICE, RULE_TO_DEVICE, Rule,
};
use fault_abi::verdict::{Effect, Verdict};
use fault_rig::Rig;
use fault_rig::frame::Spec;

use super::cases::{BURSTY, COUNTED, LOSSY, Later, MAGIC, PARTITIONED, PEER, Split};

/// The other targets have addresses from here on.
const CROWD: u32 = 0x0a80_0000;

/// A rig with so many targets, those with faults among them where they fit.
pub(super) fn crowd(object: &[u8], targets: u32) -> Result<Rig> {
    let mut rig = Rig::load(object)?;
    let all = [(LOSSY, loss()), (PARTITIONED, partition()), (BURSTY, bursts()), (COUNTED, every_tenth())];
    for (slot, (_, phase)) in (0..).zip(&all) {
        let flags = RULE_FROM_DEVICE | RULE_TO_DEVICE;
        let rule = Rule { generation: 1, deadline_ns: u64::MAX, flags, ..Rule::of(*phase) };
        rig.rule(slot, &rule)?;
        rig.state(slot)?;
    }
    let faulty = if targets > 4 { 4 } else { 0 };
    for (slot, (address, _)) in (0..faulty).zip(&all) {
        rig.target((*address).into(), 0, &[binding(slot)])?;
    }
    for i in 0..targets - faulty {
        rig.target(Ipv4Addr::from(CROWD + i).into(), 0, &[binding(0)])?;
    }
    Ok(rig)
}

/// A rig with a target for each later fault, and a line that takes all.
pub(super) fn later(object: &[u8]) -> Result<Rig> {
    let mut rig = Rig::load(object)?;
    let most = 1_u64 << 62;
    let line = Line {
        entry: 1,
        packets: most,
        bytes: most,
        target_packets: most,
        target_bytes: most,
        ..Line::default()
    };
    rig.line(&line)?;
    rig.config(&Config { flags: CONFIG_HAS_LATER, ..Config::default() })?;
    for (slot, later) in (0..).zip(Later::ALL) {
        let flags = RULE_FROM_DEVICE | RULE_TO_DEVICE;
        let rule = Rule { generation: 1, deadline_ns: u64::MAX, flags, ..Rule::of(later.phase()) };
        rig.rule(slot, &rule)?;
        rig.state(slot)?;
        rig.target(later.address().into(), 0, &[binding(slot)])?;
    }
    Ok(rig)
}

/// A rig with a splitter, and targets whose packets pass it.
pub(super) fn split(object: &[u8]) -> Result<Rig> {
    let mut rig = Rig::load(object)?;
    rig.line(&Line { magic: MAGIC, splitter: 1, ..Line::default() })?;
    rig.config(&Config { flags: CONFIG_HAS_LATER | CONFIG_HAS_REWRITES, ..Config::default() })?;
    for (slot, split) in (0..).zip(Split::ALL) {
        let flags = RULE_FROM_DEVICE | RULE_TO_DEVICE;
        let rule = Rule { generation: 1, deadline_ns: u64::MAX, flags, ..Rule::of(split.phase()) };
        rig.rule(slot, &rule)?;
        rig.state(slot)?;
        rig.target(split.address().into(), 0, &[binding(slot)])?;
        // What these return does not tell whether it was decided that a packet goes to the splitter or what becomes of it behind that.
        let frame = to_device(split.address());
        rig.run_split(TC_EGRESS, &frame, MAGIC)?;
        rig.run(TC_JUDGE, &frame, 1)?;
        let counter = rig.counter(slot, Direction::ToDevice)?;
        let met = match split {
            Split::Corrupt => counter.effects[Effect::Corrupt as usize],
            Split::Reject => counter.packets[Verdict::Reject as usize],
        };
        if met != 2 {
            bail!("{split:?} was decided on {met} times in place of 2: {counter:?}");
        }
    }
    Ok(rig)
}

/// A packet to a device.
pub(super) fn to_device(device: IpAddr) -> Vec<u8> {
    Spec::udp((PEER, 40_000), (device, 5683)).bytes()
}

fn loss() -> Phase {
    Phase { loss: ALWAYS / 5, ..Phase::default() }
}

fn partition() -> Phase {
    Phase { flags: PHASE_PARTITION, ..Phase::default() }
}

fn every_tenth() -> Phase {
    Phase { every: 10, ..Phase::default() }
}

fn bursts() -> Phase {
    Phase {
        flags: PHASE_BURSTS,
        loss_in_burst: ALWAYS,
        enter_burst: ALWAYS / 20,
        leave_burst: ALWAYS / 5,
        ..Phase::default()
    }
}

pub(super) const fn binding(slot: u32) -> Binding {
    Binding { rule: slot, state: slot, key: [1, 2] }
}

pub(super) fn prefix(bits: u8) -> u8 {
    u8::try_from(IPV4_PREFIX).unwrap_or_default() + bits
}
