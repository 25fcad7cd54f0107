//! What is measured.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result, bail};
use fault_abi::delay::innovation;
use fault_abi::key::Address;
use fault_abi::names::{TC_EGRESS, TC_EGRESS_DISPATCH, TC_JUDGE, XDP_DISPATCH, XDP_INGRESS};
use fault_abi::rule::{
    ALWAYS, CONFIG_HAS_CIDRS, Config, PHASE_PARETO, PHASE_PARTITION, PHASE_REJECT, Phase, WHOLE,
};
use fault_rig::Rig;
use fault_rig::frame::Spec;
use serde::Serialize;

use super::rigs::{binding, crowd, later, prefix, split, to_device};
use crate::progress::Step;

/// A peer that sends and receives in all cases.
pub(super) const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 244, 1, 5));
/// Nobody's address.
const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 20, 0, 99));
/// Under a rule with 20 % loss.
pub(super) const LOSSY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 20, 0, 17));
/// Under a rule that drops everything.
pub(super) const PARTITIONED: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 20, 0, 18));
/// Its packets are lost in bursts.
pub(super) const BURSTY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 20, 0, 19));
/// Each tenth of its packets is lost.
pub(super) const COUNTED: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 20, 0, 20));
/// Marks what is ours on a packet.
pub(super) const MAGIC: u64 = 7;

/// Where a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Hook {
    /// On egress; ingress differs by the side of the address alone.
    Tc,
    /// On ingress.
    Xdp,
}

/// What a case shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A program that does nothing: TC passes, XDP drops.
    Baseline,
    /// Ours without any target.
    NoRule,
    /// A packet of nobody's among so many targets.
    Miss(u32),
    /// The same while a CIDR is a target.
    MissWithCidrs(u32),
    /// A packet under 20 % loss: flow, draw and counters.
    Loss,
    /// A packet under loss in bursts: two draws, and a state that changes.
    Bursts,
    /// A packet under a loss of each tenth: a state that changes, and no draw.
    Every,
    /// A packet under a partition: counters alone.
    Partition,
    /// A packet that a later fault acts on, as far as the decision goes; TC only.
    Later(Later),
    /// A packet that may be rewritten, on its way to the splitter; TC only.
    ToSplitter,
    /// The decision about one that comes from there, when all that it is made by has been read off the packet; TC only.
    Split(Split),
    /// A dispatcher with nothing behind it: all that is left when the agent is dead.
    Dispatcher,
    /// A miss among one target, by way of the dispatcher: what a bystander's packet pays.
    DispatchedMiss,
}

/// What is decided behind loss. What is decided then is carried out by another program, which here is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Later {
    /// The same delay for all: no draw.
    Delay,
    /// A normal delay: flow, draw, table.
    Jitter,
    /// A Pareto delay that is correlated: a state that changes as well.
    Correlated,
    /// Each packet twice.
    Duplicate,
    /// Half of the packets are later than the rest.
    Reorder,
    /// A token bucket that never empties.
    Rate,
}

/// What is decided behind the splitter alone. What is decided then is carried out by another program, which here is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Split {
    /// A bit of each packet is flipped: two draws.
    Corrupt,
    /// Each packet is answered in its target's stead: counters alone.
    Reject,
}

impl Split {
    pub(super) const ALL: [Self; 2] = [Self::Corrupt, Self::Reject];

    /// Its target.
    pub(super) fn address(self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 20, 2, if self == Self::Corrupt { 1 } else { 2 }))
    }

    pub(super) fn phase(self) -> Phase {
        match self {
            Self::Corrupt => Phase { corrupt: ALWAYS, ..Phase::default() },
            Self::Reject => Phase { flags: PHASE_PARTITION | PHASE_REJECT, ..Phase::default() },
        }
    }
}

impl Later {
    pub(super) const ALL: [Self; 6] =
        [Self::Delay, Self::Jitter, Self::Correlated, Self::Duplicate, Self::Reorder, Self::Rate];

    /// Its target.
    pub(super) fn address(self) -> IpAddr {
        let host = Self::ALL.iter().position(|one| *one == self).and_then(|at| u8::try_from(at).ok());
        IpAddr::V4(Ipv4Addr::new(10, 20, 1, host.unwrap_or_default()))
    }

    pub(super) fn phase(self) -> Phase {
        let delay = Phase { delay_ns: 20_000_000, ..Phase::default() };
        let jitter = Phase { jitter_ns: 5_000_000, ..delay };
        match self {
            Self::Delay => delay,
            Self::Jitter => jitter,
            Self::Correlated => {
                let correlation = WHOLE / 4;
                Phase { flags: PHASE_PARETO, correlation, innovation: innovation(correlation), ..jitter }
            }
            Self::Duplicate => Phase { duplicate: ALWAYS, ..Phase::default() },
            Self::Reorder => Phase { reorder: ALWAYS / 2, reorder_ns: 5_000_000, ..Phase::default() },
            Self::Rate => Phase {
                rate: 100_000_000_000,
                burst_ns: 60_000_000_000,
                queue_ns: 60_000_000_000,
                ..Phase::default()
            },
        }
    }
}

/// One figure of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Case {
    /// Where.
    pub(super) hook: Hook,
    /// What.
    pub(super) kind: Kind,
}

/// The rigs of all cases.
#[derive(Debug)]
pub(super) struct Bench {
    baseline: Rig,
    bare: Rig,
    crowds: Vec<(u32, Rig)>,
    with_cidrs: Vec<(u32, Rig)>,
    later: Rig,
    split: Rig,
    dispatched: Rig,
}

impl Bench {
    /// Loads the programs and fills their maps.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn prepare(object: &[u8], baseline: &[u8]) -> Result<Self> {
        let step = Step::start("loading the kernel programs and 65,536 targets");
        let mut crowds = Vec::new();
        for targets in [1, 1_000, 65_536] {
            crowds.push((targets, crowd(object, targets)?));
        }
        let mut with_cidrs = Vec::new();
        for targets in [1, 65_536] {
            let mut rig = crowd(object, targets)?;
            rig.cidr(Address::from(Ipv4Addr::new(172, 20, 0, 0)), prefix(16), &[binding(0)])?;
            rig.config(&Config { flags: CONFIG_HAS_CIDRS, ..Config::default() })?;
            with_cidrs.push((targets, rig));
        }
        let mut dispatched = crowd(object, 1)?;
        dispatched.connect_all()?;
        let bench = Self {
            baseline: Rig::load(baseline).context("the programs to compare with")?,
            bare: Rig::load(object)?,
            crowds,
            with_cidrs,
            later: later(object)?,
            split: split(object)?,
            dispatched,
        };
        step.done("");
        Ok(bench)
    }

    /// All cases, each hook's baseline first.
    #[expect(clippy::unused_self, reason = "cases exist only for rigs that were prepared")]
    pub(super) fn cases(&self) -> Vec<Case> {
        let kinds = [
            Kind::Baseline,
            Kind::NoRule,
            Kind::Miss(1),
            Kind::Miss(1_000),
            Kind::Miss(65_536),
            Kind::MissWithCidrs(1),
            Kind::MissWithCidrs(65_536),
            Kind::Loss,
            Kind::Bursts,
            Kind::Every,
            Kind::Partition,
            Kind::Dispatcher,
            Kind::DispatchedMiss,
        ];
        let both = [Hook::Tc, Hook::Xdp].into_iter().flat_map(|hook| kinds.map(|kind| Case { hook, kind }));
        let of_tc = Later::ALL.map(Kind::Later).into_iter().chain([Kind::ToSplitter]);
        let of_tc = of_tc.chain(Split::ALL.map(Kind::Split));
        both.chain(of_tc.map(|kind| Case { hook: Hook::Tc, kind })).collect()
    }

    /// Nanoseconds a run, on average over `repeat` runs.
    ///
    /// # Errors
    /// When the kernel refuses, or the program does not return what the case is about.
    pub(super) fn run(&self, case: &Case, repeat: u32) -> Result<u64> {
        let device = match case.kind {
            Kind::Loss => LOSSY,
            Kind::Bursts => BURSTY,
            Kind::Every => COUNTED,
            Kind::Partition => PARTITIONED,
            Kind::Later(later) => later.address(),
            Kind::ToSplitter => Split::Corrupt.address(),
            Kind::Split(split) => split.address(),
            _ => STRANGER,
        };
        let (program, frame) = match case.hook {
            Hook::Tc => (tc_program(case.kind), to_device(device)),
            Hook::Xdp => (xdp_program(case.kind), Spec::udp((device, 5683), (PEER, 40_000)).bytes()),
        };
        let rig = self.rig(case.kind)?;
        if matches!(case.kind, Kind::Split(_)) {
            // The errand of a packet is done once. What is read off it then stays in this processor's memory for whoever decides.
            rig.run_split(TC_EGRESS, &frame, MAGIC)?;
        }
        let outcome = rig.run(program, &frame, repeat)?;
        let expected = expected(*case);
        if !expected.contains(&outcome.code) {
            bail!("{program} returned {} where {case:?} needs one of {expected:?}", outcome.code);
        }
        Ok(u64::try_from(outcome.duration.as_nanos())?)
    }

    fn rig(&self, kind: Kind) -> Result<&Rig> {
        let sized = |rigs: &[(u32, Rig)], targets: u32| rigs.iter().position(|(n, _)| *n == targets);
        match kind {
            Kind::Baseline => Ok(&self.baseline),
            Kind::NoRule | Kind::Dispatcher => Ok(&self.bare),
            Kind::Miss(n) => sized(&self.crowds, n).map(|i| &self.crowds[i].1).context("no such rig"),
            Kind::MissWithCidrs(n) => {
                sized(&self.with_cidrs, n).map(|i| &self.with_cidrs[i].1).context("no such rig")
            }
            Kind::Loss | Kind::Bursts | Kind::Every | Kind::Partition => Ok(&self.crowds[1].1),
            Kind::Later(_) => Ok(&self.later),
            Kind::ToSplitter | Kind::Split(_) => Ok(&self.split),
            Kind::DispatchedMiss => Ok(&self.dispatched),
        }
    }
}

const fn tc_program(kind: Kind) -> &'static str {
    match kind {
        Kind::Baseline => "empty_tc",
        Kind::Dispatcher | Kind::DispatchedMiss => TC_EGRESS_DISPATCH,
        Kind::Split(_) => TC_JUDGE,
        _ => TC_EGRESS,
    }
}

const fn xdp_program(kind: Kind) -> &'static str {
    match kind {
        Kind::Baseline => "drop_xdp",
        Kind::Dispatcher | Kind::DispatchedMiss => XDP_DISPATCH,
        _ => XDP_INGRESS,
    }
}

/// What the program may return: a case that measures something else than it says is worse than none.
const fn expected(case: Case) -> &'static [u32] {
    const NEXT: u32 = u32::MAX;
    const REDIRECT: u32 = 7;
    const DROP: u32 = 1;
    const PASS: u32 = 2;
    match (case.hook, case.kind) {
        (Hook::Tc, Kind::Partition | Kind::ToSplitter | Kind::Split(_)) => &[REDIRECT],
        (Hook::Tc, Kind::Loss | Kind::Bursts | Kind::Every | Kind::Later(_)) => &[REDIRECT, NEXT],
        (Hook::Tc, _) => &[NEXT],
        (Hook::Xdp, Kind::Partition | Kind::Baseline) => &[DROP],
        (Hook::Xdp, Kind::Loss | Kind::Bursts | Kind::Every) => &[DROP, PASS],
        (Hook::Xdp, _) => &[PASS],
    }
}
