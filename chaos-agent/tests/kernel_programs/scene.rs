//! The stage with all faults on it, and what was counted under each.

use std::cell::RefCell;
use std::thread;

use fault_abi::counter::{Counter, Global};
use fault_abi::key::Direction;
use fault_abi::verdict::{Effect, Verdict};
use serde_json::{Value, json};

use crate::kinds::Case;
use crate::process::{self, Ran, Running};
use crate::stack::Stack;
use crate::support::agent::{Agent, Hooks};
use crate::support::fault::Fault;
use crate::support::stage::{ETH, Family, Stage};
use crate::support::time::{boot_ns, eventually, is_emulated, ms_here};

/// A node with an agent between a device with many addresses and a peer.
pub(crate) struct Scene {
    pub(crate) stage: Stage,
    agent: Agent,
    cases: Vec<Case>,
    before: [Stack; 2],
    /// What programs said, for whoever has to find out why a story failed.
    said: RefCell<Vec<String>>,
}

/// What the kernel counted under a fault at one address, by direction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counted([Counter; 2]);

/// The peers of all conversations with [`Stage::peer`] by the addresses that programs take by themselves: it has two of each family.
pub(crate) fn peers() -> Value {
    let all = Family::BOTH.into_iter().flat_map(|family| [2, 3].map(|host| family.host(2, host)));
    all.map(|cidr| json!({"cidr": cidr})).collect()
}

/// So many of `all` programs keep their pace at the same time: where a processor is emulated, of twenty pings, or servers and clients,
/// none does.
pub(crate) fn at_a_time(all: usize) -> usize {
    if is_emulated() { all.min(4) } else { all }
}

impl Scene {
    /// Puts each case on its addresses, by a profile that `fault` may change, and the others beside them.
    pub(crate) fn new(
        hooks: Hooks,
        cases: &[Case],
        fault: impl Fn(&Case, Fault) -> Fault,
        others: &[Fault],
    ) -> Self {
        let stage = Stage::new();
        let lines = cases.iter().flat_map(Case::targets).map(|target| {
            let (ip, _) = target.split_once('/').unwrap();
            let length = if ip.contains(':') { 64 } else { 24 };
            format!("addr add {ip}/{length} dev {ETH}\n")
        });
        stage.device.ip(&lines.collect::<String>());
        let mut agent = Agent::start(&stage.node, hooks);
        let put = |case: &Case| fault(case, Fault::new(case.name, case.faults.clone())).on(&case.targets());
        // Where not all programs run at the same time they take that many times as long.
        let ends_ns = boot_ns() + ms_here(600_000);
        let faults = cases.iter().map(put).chain(others.iter().cloned()).map(|fault| fault.until(ends_ns));
        let faults: Vec<Fault> = faults.collect();
        agent.set(&faults);
        let before = [&stage.device, &stage.peer].map(Stack::of);
        Self { stage, agent, cases: cases.to_vec(), before, said: RefCell::default() }
    }

    /// Waits for a program, and keeps what it said.
    pub(crate) fn end(&self, running: Running) -> Ran {
        self.end_all(vec![running]).remove(0)
    }

    /// As [`Self::end`], for all of them.
    pub(crate) fn end_all(&self, running: Vec<Running>) -> Vec<Ran> {
        let ran = process::end_all(running);
        self.said.borrow_mut().extend(ran.iter().map(Ran::to_string));
        ran
    }

    /// Starts a program for each of these and waits for its end: as many at the same time as keep their pace.
    pub(crate) fn run_all<T>(&self, all: &[T], start: impl Fn(&T) -> Running) -> Vec<Ran> {
        let parts = all.chunks(at_a_time(all.len()));
        parts.flat_map(|part| self.end_all(part.iter().map(&start).collect())).collect()
    }

    /// What was counted for a case so far.
    pub(crate) fn counted(&self, case: &Case, family: Family) -> Counted {
        let target = &case.targets()[family as usize];
        Counted(Direction::ALL.map(|direction| self.agent.counter(case.name, target, direction)))
    }

    /// How much the stack that packets of this direction come to has counted since they began.
    pub(crate) fn stack(&self, direction: Direction, name: &str) -> u64 {
        let [device, peer] = &self.before;
        match direction {
            Direction::ToDevice => Stack::of(&self.stage.device).since(device, name),
            Direction::FromDevice => Stack::of(&self.stage.peer).since(peer, name),
        }
    }

    /// Waits until the stacks have counted as many TCP segments as came out of all faults, to the last one. Packets that were
    /// answered in their target's stead bring the peer a reset each.
    pub(crate) fn all_segments_arrive(&self) {
        let sum = |direction| {
            let all = self.cases.iter().flat_map(|case| Family::BOTH.map(|family| (case, family)));
            let came = all.map(|(case, family)| {
                let counted = self.counted(case, family);
                let back = if direction == Direction::FromDevice { counted.told_back() } else { 0 };
                counted.came(direction) + back
            });
            came.sum::<u64>()
        };
        for direction in Direction::ALL {
            let both = || (sum(direction), self.stack(direction, "TcpInSegs"));
            let state = || format!("{direction:?}: {:?} came out of all faults, and arrived", both());
            eventually(|| (both().0 == both().1).then_some(()), state);
        }
    }

    /// Nothing went wrong in the kernel that no fault asked for.
    pub(crate) fn nothing_else_happened(&self) {
        for what in
            [Global::Stray, Global::LineFull, Global::EngineStalled, Global::Orphaned, Global::Unsplit]
        {
            assert_eq!(self.agent.global(what), 0, "{what:?}");
        }
        assert_eq!(self.agent.line.dropped(), 0, "packets lost in the line");
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        for said in self.said.borrow().iter() {
            eprintln!("{said}");
        }
        for (case, family) in self.cases.iter().flat_map(|case| Family::BOTH.map(|family| (case, family))) {
            eprintln!("{} {family:?} {}", case.name, case.faults);
            for direction in Direction::ALL {
                let counter = self.counted(case, family).0[direction as usize];
                let verdicts = Verdict::ALL.map(|verdict| (verdict, counter.packets[verdict as usize]));
                let effects = Effect::ALL.map(|effect| (effect, counter.effects[effect as usize]));
                let some = effects.into_iter().filter(|(_, count)| *count > 0).collect::<Vec<_>>();
                eprintln!("  {direction:?}: {verdicts:?} {some:?}");
            }
        }
        for what in Global::ALL {
            eprintln!("{what:?}: {}", self.agent.global(what));
        }
    }
}

impl Counted {
    /// Packets that met the fault.
    pub(crate) fn seen(&self, direction: Direction) -> u64 {
        self.0[direction as usize].seen()
    }

    /// Packets with a verdict.
    pub(crate) fn verdict(&self, direction: Direction, verdict: Verdict) -> u64 {
        self.0[direction as usize].packets[verdict as usize]
    }

    /// Packets with an effect.
    pub(crate) fn effect(&self, direction: Direction, effect: Effect) -> u64 {
        self.0[direction as usize].effects[effect as usize]
    }

    /// Packets that came out of it, whole or not.
    pub(crate) fn came(&self, direction: Direction) -> u64 {
        self.verdict(direction, Verdict::Pass) + self.effect(direction, Effect::Duplicate)
            - self.effect(direction, Effect::Overflow)
    }

    /// Packets that came out of it whole.
    pub(crate) fn came_whole(&self, direction: Direction) -> u64 {
        self.came(direction) - self.effect(direction, Effect::Corrupt)
    }

    /// Packets that the fault itself answered to the peer.
    fn told_back(&self) -> u64 {
        self.verdict(Direction::ToDevice, Verdict::Reject)
    }

    /// How often the fault has done what it is for, one way.
    pub(crate) fn hits(&self, case: &Case, direction: Direction) -> u64 {
        let verdicts = [Verdict::Loss, Verdict::Partition, Verdict::Reject];
        let dropped: u64 = verdicts.into_iter().map(|verdict| self.verdict(direction, verdict)).sum();
        let effects = [
            ("corrupt", Effect::Corrupt),
            ("duplicate", Effect::Duplicate),
            ("delay", Effect::Delay),
            ("reorder", Effect::Reorder),
            ("rate", Effect::Rate),
        ];
        let effect = effects.into_iter().find(|(name, _)| case.has(name));
        dropped + effect.map_or(0, |(_, effect)| self.effect(direction, effect))
    }
}
