//! An in-memory kernel for tests: the same tables, looked up as the programs do, and hooks that can be refused.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use edge_api::fault_node::HookKind;
use fault_abi::counter::{Counter, Global};
use fault_abi::filter::Filter;
use fault_abi::key::{Address, Direction, PortKey};
use fault_abi::line::Held;
use fault_abi::rule::{Binding, CONFIG_HAS_CIDRS, Config, ENTRY_HAS_PORTS, Entry, Rule};
use fault_abi::verdict::Effect;

use super::{Ahead, Counters, Flows, Interface, Kept, Kernel, KernelError, Layer, Swept, Tickets};
use crate::ledger::bindings;
use crate::line::ends::{Device, Tell};
use crate::splitter::Splitter;
use crate::table::{Op, Place, Prefix};

pub(crate) type CounterTable = Arc<Mutex<BTreeMap<(u32, u32), Counter>>>;

/// Tables in memory.
#[derive(Default)]
pub struct FakeKernel {
    /// The configuration.
    pub config: Config,
    /// Of which addresses entries are looked up at all.
    pub filter: Box<Filter>,
    /// Entries.
    pub entries: BTreeMap<Place, Entry>,
    /// Rules by slot; a cleared slot is not there.
    pub rules: BTreeMap<u32, Rule>,
    /// The slot that each handle stands for.
    pub handles: BTreeMap<u32, u32>,
    /// Sets of peers.
    pub peers: BTreeSet<(u32, Prefix)>,
    /// States.
    pub states: BTreeSet<u32>,
    /// Hooks by interface.
    pub hooks: BTreeMap<u32, BTreeSet<HookKind>>,
    /// Hooks that somebody else has removed since they were looked at last.
    pub removed: BTreeSet<(u32, HookKind)>,
    /// What is told when the ends of line and splitter are looked at next.
    pub bare_ends: Vec<(Device, Option<String>)>,
    /// How often they were looked at.
    pub mended: usize,
    /// Splitters that were made anew.
    pub splitters: Vec<Splitter>,
    /// How often hooks were attached.
    pub attached: usize,
    /// How packets of an interface begin, as its hooks take it.
    pub layers: BTreeMap<u32, Layer>,
    /// Kinds of hooks that are refused.
    pub refused_hooks: BTreeSet<HookKind>,
    /// Operations with this name fail.
    pub refused_op: Option<&'static str>,
    /// … and with this one, once so many operations have been performed.
    pub refuse_from: Option<(&'static str, usize)>,
    /// So often counters are refused for want of memory.
    pub short: Arc<AtomicUsize>,
    /// Room for states, those in quarantine included; none: for any number.
    pub room: Option<usize>,
    /// Operations performed so far.
    pub performed: usize,
    pub(crate) counters: CounterTable,
    /// What it answers when it is asked to work ahead.
    pub ahead: FakeAhead,
    /// What each sweep of its flows comes to.
    pub swept: Swept,
    /// What is lost in its line each time that is looked.
    pub lost: BTreeMap<u32, Held>,
    /// What was counted out of it.
    pub settled: Vec<BTreeMap<u32, Held>>,
}

/// What [`FakeKernel`] answers when it is asked to work ahead, one after the other; then that it is done.
#[derive(Clone, Debug, Default)]
pub struct FakeAhead(Arc<Mutex<VecDeque<Ahead>>>);

impl FakeAhead {
    /// These are the answers.
    pub fn set(&self, answers: impl IntoIterator<Item = Ahead>) {
        *self.lock() = answers.into_iter().collect();
    }

    /// How many of them were not given yet.
    #[must_use]
    pub fn left(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Ahead>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FakeKernel {
    /// The bindings that a packet of this target meets, as the programs look them up.
    #[must_use]
    pub fn visible(&self, target: Address, protocol: u8, port: u16) -> &[Binding] {
        if !self.filter.may_have(&target) {
            return &[];
        }
        let address = self.entries.get(&Place::Address(target)).or_else(|| self.network(target));
        let Some(address) = address else { return &[] };
        let has_ports = address.flags & ENTRY_HAS_PORTS != 0;
        let port = self.entries.get(&Place::Port(PortKey::new(target, protocol, port)));
        bindings(port.filter(|_| has_ports).unwrap_or(address))
    }

    /// The rule of a binding, as the programs find it.
    #[must_use]
    pub fn rule_of(&self, binding: &Binding) -> Option<&Rule> {
        self.rules.get(self.handles.get(&binding.rule)?)
    }

    fn network(&self, target: Address) -> Option<&Entry> {
        if self.config.flags & CONFIG_HAS_CIDRS == 0 {
            return None;
        }
        let networks = self.entries.iter().filter_map(|(place, entry)| match place {
            Place::Cidr(prefix) if prefix.contains(target) => Some((prefix.bits, entry)),
            _ => None,
        });
        networks.max_by_key(|(bits, _)| *bits).map(|(_, entry)| entry)
    }

    /// Counts packets, as the programs would.
    pub fn count(&self, state: u32, direction: Direction, change: impl FnOnce(&mut Counter)) {
        self.packets().count(state, direction, change);
    }

    /// What counts packets also when the kernel has another owner.
    #[must_use]
    pub fn packets(&self) -> FakePackets {
        FakePackets(Arc::clone(&self.counters))
    }

    fn is_short(&self) -> bool {
        self.short.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }

    fn is_too_full_for(&self, op: &Op) -> bool {
        matches!(op, Op::MakeState { .. }) && self.room.is_some_and(|room| self.states.len() >= room)
    }

    fn make_state(&mut self, state: u32) {
        if self.states.insert(state) {
            let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
            counters.extend(Direction::ALL.map(|way| ((state, way as u32), Counter::default())));
        }
    }

    fn drop_state(&mut self, state: u32) {
        self.states.remove(&state);
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        for way in Direction::ALL {
            counters.remove(&(state, way as u32));
        }
    }
}

impl Kernel for FakeKernel {
    fn begin_round(&mut self, _operations: usize) {}

    fn perform(&mut self, op: &Op) -> Result<(), KernelError> {
        let is_late = self.refuse_from.is_some_and(|(name, n)| name == op.name() && self.performed >= n);
        if self.refused_op == Some(op.name()) || is_late || self.is_too_full_for(op) {
            return Err(KernelError::Table { op: op.name(), reason: "refused by the test".to_owned() });
        }
        if matches!(op, Op::MakeState { .. }) && self.is_short() {
            return Err(KernelError::Memory { op: op.name() });
        }
        self.performed += 1;
        match op {
            Op::SetConfig(config) => self.config = *config,
            Op::SetFilter(filter) => self.filter.clone_from(filter),
            Op::AddPeer { set, prefix } => drop(self.peers.insert((*set, *prefix))),
            Op::RemovePeer { set, prefix } => drop(self.peers.remove(&(*set, *prefix))),
            Op::WriteRule { slot, rule, .. } => drop(self.rules.insert(*slot, **rule)),
            Op::ClearRule { slot } => drop(self.rules.remove(slot)),
            Op::SetRule { handle, slot, .. } => drop(self.handles.insert(*handle, *slot)),
            Op::ClearHandle { handle } => drop(self.handles.remove(handle)),
            Op::MakeState { state, .. } => self.make_state(*state),
            Op::DropState { state } => self.drop_state(*state),
            Op::WriteEntry { place, entry } => drop(self.entries.insert(*place, **entry)),
            Op::RemoveEntry(place) => drop(self.entries.remove(place)),
            Op::AddNodeAddress(_)
            | Op::RemoveNodeAddress(_)
            | Op::Protect(..)
            | Op::Unprotect(_)
            | Op::ProtectCidr(_)
            | Op::UnprotectCidr(_)
            | Op::RetireRule { .. }
            | Op::RetireHandle { .. }
            | Op::RetireState { .. } => {}
        }
        Ok(())
    }

    fn attach(&mut self, interface: &Interface, layer: Layer, hook: HookKind) -> Result<(), KernelError> {
        if self.refused_hooks.contains(&hook) {
            let reason = "refused by the test".to_owned();
            return Err(KernelError::Attach { hook, interface: interface.name.clone(), reason });
        }
        self.hooks.entry(interface.index).or_default().insert(hook);
        self.layers.insert(interface.index, layer);
        self.attached += 1;
        Ok(())
    }

    fn lose(&mut self, interface: &Interface) -> Result<BTreeSet<HookKind>, KernelError> {
        let of_it = |(index, _): &(u32, HookKind)| *index == interface.index;
        let lost: BTreeSet<HookKind> = self.removed.extract_if(.., of_it).map(|(_, hook)| hook).collect();
        if let Some(hooks) = self.hooks.get_mut(&interface.index) {
            hooks.retain(|hook| !lost.contains(hook));
        }
        Ok(lost)
    }

    fn mend_ends(&mut self, tell: &mut dyn FnMut(Device, Option<String>)) {
        self.mended += 1;
        for (device, lack) in self.bare_ends.drain(..) {
            tell(device, lack);
        }
    }

    fn take_splitter(&mut self, splitter: &Splitter) -> Result<Tell, KernelError> {
        self.splitters.push(splitter.clone());
        Ok(Box::new(|_| {}))
    }

    fn detach(&mut self, index: u32) {
        self.hooks.remove(&index);
    }

    fn prepare(&mut self) -> Ahead {
        self.ahead.lock().pop_front().unwrap_or(Ahead::Done)
    }

    fn flows(&self) -> Arc<dyn Flows> {
        Arc::new(FakeFlows(self.swept))
    }

    fn tickets(&self) -> Arc<dyn Tickets> {
        Arc::new(FakeTickets(self.lost.clone()))
    }

    fn settle(&mut self, lost: &BTreeMap<u32, Held>) -> Result<(), KernelError> {
        self.settled.push(lost.clone());
        Ok(())
    }

    fn added_qdiscs(&self) -> BTreeSet<u32> {
        BTreeSet::new()
    }

    fn counters(&self) -> Arc<dyn Counters> {
        Arc::new(FakeCounters { table: Arc::clone(&self.counters) })
    }
}

/// What each sweep of a fake kernel's flows comes to.
struct FakeFlows(Swept);

impl Flows for FakeFlows {
    fn sweep(&self, _: &Kept) -> Swept {
        self.0
    }
}

/// What is lost in a fake kernel's line each time that is looked.
struct FakeTickets(BTreeMap<u32, Held>);

impl Tickets for FakeTickets {
    fn take_lost(&self, _: u64) -> BTreeMap<u32, Held> {
        self.0.clone()
    }
}

/// Counts packets in a fake kernel.
#[derive(Clone)]
pub struct FakePackets(CounterTable);

impl FakePackets {
    /// Counts packets, as the programs would.
    pub fn count(&self, state: u32, direction: Direction, change: impl FnOnce(&mut Counter)) {
        let mut counters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(counter) = counters.get_mut(&(state, direction as u32)) {
            change(counter);
        }
    }
}

struct FakeCounters {
    table: CounterTable,
}

impl Counters for FakeCounters {
    fn counter(&self, state: u32, direction: Direction) -> Result<Option<Counter>, KernelError> {
        let counters = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(counters.get(&(state, direction as u32)).copied())
    }

    fn global(&self, what: Global) -> Result<u64, KernelError> {
        let counters = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = |of: fn(&Counter) -> u64| counters.values().map(of).sum();
        Ok(match what {
            Global::GsoFrames => sum(|counter| counter.gso_frames),
            Global::LineFull => sum(|counter| counter.effects[Effect::LineFull as usize]),
            Global::Unduplicated => sum(|counter| counter.effects[Effect::Unduplicated as usize]),
            Global::Stray => sum(|counter| counter.effects[Effect::Stray as usize]),
            Global::Untracked => sum(|counter| counter.untracked),
            _ => 0,
        })
    }
}
