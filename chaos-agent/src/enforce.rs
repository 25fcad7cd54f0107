//! The one owner of the kernel: brings it to a plan, gives interfaces their hooks, and shows what came of it.
//! Decisions are made elsewhere; here they are carried out, in order, and recorded.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::discriminant;
use std::sync::Arc;

use fault_abi::line::Held;
use fault_abi::rule::Binding;
use jiff::Timestamp;

use crate::clock::Deadlines;
use crate::compile::{Plan, Report, compile};
use crate::diff::{QUARANTINE_NS, Referred, diff, release};
use crate::kernel::hooks::{Hooked, XdpMode};
use crate::kernel::{Ahead, Flows, Kept, Kernel, KernelError, Refusal, Tickets};
use crate::ledger::{Ledger, bindings};
use crate::locate::Topology;
use crate::table::{Capacity, Op, Uid};
use crate::view::{self, Lacks, Usage, View};
use crate::world::World;

mod hooking;

/// What does not change while the agent runs.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Room in the tables.
    pub capacity: Capacity,
    /// `--xdp`.
    pub xdp: XdpMode,
    /// The kernel has TCX.
    pub has_tcx: bool,
}

/// What became of a change of the tables, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// The kernel took all of it.
    Done,
    /// It is short of memory for a moment; the same again goes on.
    Later,
    /// It refused a part.
    Refused,
}

/// Operations that clear what nothing refers to any more, in one go: some milliseconds.
const RELEASED_AT_ONCE: usize = 512;

/// The kernel, what it holds, and what it shall hold.
pub struct Enforcer<K> {
    kernel: K,
    settings: Settings,
    ledger: Ledger,
    plan: Plan,
    deadlines: Deadlines,
    topology: Topology,
    /// The interfaces of the topology that shall have hooks.
    wanted: BTreeSet<u32>,
    hooked: BTreeMap<u32, Hooked>,
    /// Interfaces whose hooks were tried since the topology last changed.
    tried: BTreeSet<u32>,
    /// Interfaces with hooks that somebody else may have removed.
    doubted: BTreeSet<u32>,
    /// Interfaces that have lost a hook since all that were refused were tried again.
    lost: BTreeSet<u32>,
    failure: Option<String>,
    lacks: Lacks,
    flows: u64,
    /// CLOCK_BOOTTIME of the last [`Self::apply`].
    applied_ns: u64,
}

impl<K: Kernel> Enforcer<K> {
    /// Takes the kernel, which holds nothing yet.
    pub fn new(kernel: K, settings: Settings) -> Self {
        Self {
            kernel,
            settings,
            ledger: Ledger::default(),
            plan: Plan::default(),
            deadlines: Deadlines::default(),
            topology: Topology::default(),
            wanted: BTreeSet::new(),
            hooked: BTreeMap::new(),
            tried: BTreeSet::new(),
            doubted: BTreeSet::new(),
            lost: BTreeSet::new(),
            failure: None,
            lacks: Lacks::default(),
            flows: 0,
            applied_ns: 0,
        }
    }

    /// [`Self::plan`], [`Self::carry_out`] and [`Self::release`] in one. Returns whether the kernel took everything.
    pub fn apply(&mut self, world: &World, server: Timestamp, boot_ns: u64) -> bool {
        self.plan(world, server, boot_ns);
        let mut outcome = self.carry_out(|| boot_ns);
        while outcome == Outcome::Done && self.next_release().is_some_and(|at| at <= boot_ns) {
            outcome = self.release(boot_ns);
        }
        outcome == Outcome::Done
    }

    /// Decides what the tables shall hold for this world; [`Self::carry_out`] brings them there. `server` is the API
    /// server's time at `boot_ns`.
    pub fn plan(&mut self, world: &World, server: Timestamp, boot_ns: u64) {
        self.deadlines.refresh(world.profiles.values(), server, boot_ns);
        self.applied_ns = boot_ns;
        let deadlines = &self.deadlines;
        self.plan = compile(world, self.settings.capacity, boot_ns, |profile| deadlines.of(&profile.uid));
    }

    /// Brings the tables to the plan. What is not done the same call again tries. `boot_ns` reads CLOCK_BOOTTIME: what is retired is in
    /// quarantine from its retirement on, which can be seconds behind the plan.
    pub fn carry_out(&mut self, boot_ns: impl Fn() -> u64) -> Outcome {
        let ops = diff(&self.ledger, &self.plan, self.settings.capacity);
        self.failure = None;
        self.perform(&ops, &boot_ns)
    }

    /// Clears a part of what nothing refers to any more, at `boot_ns` (CLOCK_BOOTTIME): a change of rules need not wait for all of it.
    pub fn release(&mut self, boot_ns: u64) -> Outcome {
        let ops = release(&self.ledger, boot_ns, RELEASED_AT_ONCE);
        self.perform(&ops, &|| boot_ns)
    }

    fn perform(&mut self, ops: &[Op], boot_ns: &dyn Fn() -> u64) -> Outcome {
        let mut broken = Broken::default();
        let mut outcome = Outcome::Done;
        self.kernel.begin_round(ops.len());
        for alike in ops.chunk_by(|one, next| discriminant(one) == discriminant(next)) {
            // Once for all of them: there can be as many as entries.
            let referred =
                (broken.reference && alike.first().is_some_and(retires)).then(|| Referred::now(&self.ledger));
            let is_kept = |op: &Op| referred.as_ref().is_some_and(|referred| referred.keeps(op));
            let is_held = |op: &Op| broken.is_needed_by(op) || is_kept(op);
            let parts = alike.chunk_by(|one, next| is_held(one) == is_held(next));
            let parts: Vec<(bool, &[Op])> =
                parts.map(|part| (part.first().is_some_and(is_held), part)).collect();
            for (is_held, part) in parts {
                if is_held {
                    part.iter().for_each(|op| broken.add(op));
                } else {
                    outcome = outcome.max(self.perform_alike(part, &mut broken, boot_ns));
                }
            }
        }
        outcome
    }

    /// Performs operations of one kind, none of which needs another one. Each that the kernel refuses is left out; where it has no
    /// memory at the moment all that follow are.
    fn perform_alike(&mut self, ops: &[Op], broken: &mut Broken, boot_ns: &dyn Fn() -> u64) -> Outcome {
        let mut rest = ops;
        let mut outcome = Outcome::Done;
        loop {
            let refusal = self.kernel.perform_all(rest).err();
            let (done, left) = rest.split_at(refusal.as_ref().map_or(rest.len(), |refusal| refusal.at));
            let now_ns = boot_ns();
            done.iter().for_each(|op| self.ledger.record(op, now_ns));
            let Some(Refusal { error, .. }) = refusal else { return outcome };
            let (left_out, further) =
                if error.is_momentary() { (left, [].as_slice()) } else { left.split_at(left.len().min(1)) };
            left_out.iter().for_each(|op| broken.add(op));
            outcome = outcome.max(self.refused(&error));
            rest = further;
        }
    }

    /// Takes in why something is left undone; the first such reason is told.
    fn refused(&mut self, error: &KernelError) -> Outcome {
        let is_first = self.failure.is_none();
        let _ = self.failure.get_or_insert_with(|| error.to_string());
        if error.is_momentary() {
            return Outcome::Later;
        }
        if is_first {
            tracing::warn!(%error, "the kernel refused a change; it is tried again");
        }
        Outcome::Refused
    }

    /// Does some work ahead of what may be asked for; returns what is left.
    pub fn prepare(&mut self) -> Ahead {
        self.kernel.prepare()
    }

    /// The flows, and the states for which they are kept: those of profiles that act, or are paused and may again.
    #[must_use]
    pub fn flows(&self) -> (Arc<dyn Flows>, Kept) {
        let lives = |report: &&Report| report.is_acting || report.rule.deadline_ns == 0;
        let living: BTreeSet<&Uid> =
            self.plan.reports.iter().filter(lives).map(|report| &report.uid).collect();
        let states = self.ledger.state_of.iter().filter(|((uid, _), _)| living.contains(uid));
        let kept = Kept { states: states.map(|(_, state)| *state).collect(), known: self.ledger.last_state };
        (self.kernel.flows(), kept)
    }

    /// See [`Kernel::tickets`].
    #[must_use]
    pub fn tickets(&self) -> Arc<dyn Tickets> {
        self.kernel.tickets()
    }

    /// Counts packets out of the line that were lost in it.
    pub fn settle(&mut self, lost: &BTreeMap<u32, Held>) {
        let packets: u64 = lost.values().map(|held| held.packets).sum();
        match self.kernel.settle(lost) {
            Ok(()) if packets == 0 => {}
            Ok(()) => tracing::warn!(packets, "lost in the delay line, which nobody asked for"),
            Err(error) => {
                tracing::warn!(packets, %error, "lost in the delay line, where they take room until the agent is started again");
            }
        }
    }

    /// So many flows there are, as a sweep has counted.
    pub const fn set_flows(&mut self, flows: u64) {
        self.flows = flows;
    }

    /// What this node lacks for some faults; nothing at first.
    pub fn set_lacks(&mut self, lacks: Lacks) {
        self.lacks = lacks;
    }

    /// See [`Kernel::added_qdiscs`].
    #[must_use]
    pub fn added_qdiscs(&self) -> BTreeSet<u32> {
        self.kernel.added_qdiscs()
    }

    /// When rules end although nothing changes, in CLOCK_BOOTTIME.
    #[must_use]
    pub fn next_due(&self) -> Option<u64> {
        self.deadlines.next(self.applied_ns)
    }

    /// When there is something for [`Self::release`] to do, in CLOCK_BOOTTIME.
    #[must_use]
    pub fn next_release(&self) -> Option<u64> {
        self.ledger.next_release(QUARANTINE_NS)
    }

    /// Whether all slots for rules are taken, those in quarantine among them: then a rule that has changed keeps its old one.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.ledger.rules.len() as u64 >= u64::from(self.settings.capacity.rule_slots())
    }

    /// What there is to show.
    #[must_use]
    pub fn view(&self) -> View {
        let usage = Usage {
            plan: &self.plan,
            ledger: &self.ledger,
            capacity: self.settings.capacity,
            flows: self.flows,
            lacks: &self.lacks,
        };
        view::make(usage, &self.topology, &self.hooked, self.failure.as_deref())
    }

    /// A reader of the counters that needs no lock.
    #[must_use]
    pub fn counters(&self) -> Arc<dyn crate::kernel::Counters> {
        self.kernel.counters()
    }

    /// The kernel, for tests.
    #[must_use]
    pub const fn kernel(&self) -> &K {
        &self.kernel
    }

    /// The kernel, for tests.
    pub const fn kernel_mut(&mut self) -> &mut K {
        &mut self.kernel
    }
}

/// What could not be made, so that nothing is written that would refer to it, and nothing is retired that the entry
/// which was to be replaced still refers to.
#[derive(Default)]
struct Broken {
    rules: BTreeSet<u32>,
    handles: BTreeSet<u32>,
    states: BTreeSet<u32>,
    peer_sets: BTreeSet<u32>,
    /// Some conversation of this node is not protected: no rule may come under a target.
    protection: bool,
    /// The filter does not know all entries that are to come.
    filter: bool,
    /// An entry was not written or removed, or a handle stands for another rule than it shall.
    reference: bool,
}

impl Broken {
    fn add(&mut self, op: &Op) {
        match op {
            Op::WriteRule { slot, .. } => drop(self.rules.insert(*slot)),
            Op::MakeState { state, .. } => drop(self.states.insert(*state)),
            Op::AddPeer { set, .. } => drop(self.peer_sets.insert(*set)),
            Op::SetRule { handle, .. } => {
                self.handles.insert(*handle);
                self.reference = true;
            }
            Op::WriteEntry { .. } | Op::RemoveEntry(_) => self.reference = true,
            Op::SetFilter(_) => self.filter = true,
            Op::SetConfig(_) | Op::AddNodeAddress(_) | Op::Protect(..) | Op::ProtectCidr(_) => {
                self.protection = true;
            }
            _ => {}
        }
    }

    /// Whether an operation would refer to what is not there.
    fn is_needed_by(&self, op: &Op) -> bool {
        match op {
            Op::WriteRule { rule, .. } => self.peer_sets.contains(&rule.peer_set),
            Op::SetRule { slot, .. } => self.rules.contains(slot),
            Op::WriteEntry { entry, .. } => {
                let lacks = |binding: &Binding| {
                    self.handles.contains(&binding.rule) || self.states.contains(&binding.state)
                };
                self.protection || self.filter || bindings(entry).iter().any(lacks)
            }
            _ => false,
        }
    }
}

/// Whether it takes something out of use.
const fn retires(op: &Op) -> bool {
    matches!(op, Op::RetireHandle { .. } | Op::RetireRule { .. } | Op::RetireState { .. })
}

#[cfg(test)]
mod tests;
