//! What the kernel's tables hold by now: each operation that succeeded is recorded here, so that the next
//! difference starts from the truth, also after a failure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fault_abi::filter::Filter;
use fault_abi::key::{Address, PortKey};
use fault_abi::rule::{Binding, Config, Entry, Rule};

use crate::table::{Op, Place, Prefix, TargetName, Uid};

/// A rule slot in use or in quarantine.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleRow {
    /// Whose.
    pub uid: Uid,
    /// What.
    pub rule: Rule,
    /// CLOCK_BOOTTIME of its retirement.
    pub retired_ns: Option<u64>,
}

/// What entries name as a profile's rule.
#[derive(Clone, Debug, PartialEq)]
pub struct HandleRow {
    /// Whose.
    pub uid: Uid,
    /// The slot of the rule that it stands for.
    pub slot: u32,
    /// CLOCK_BOOTTIME of its retirement.
    pub retired_ns: Option<u64>,
}

/// Counters and state of a profile on a target.
#[derive(Clone, Debug, PartialEq)]
pub struct StateRow {
    /// The profile.
    pub uid: Uid,
    /// The target.
    pub target: TargetName,
    /// CLOCK_BOOTTIME of its retirement.
    pub retired_ns: Option<u64>,
}

/// The kernel's tables as far as the agent fills them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ledger {
    /// The configuration, once written.
    pub config: Option<Config>,
    /// Of which addresses entries are looked up at all; of none before the first was written.
    pub filter: Box<Filter>,
    /// This node's addresses.
    pub node_addresses: BTreeSet<Address>,
    /// Far ends of protected conversations.
    pub protected: BTreeMap<PortKey, u32>,
    /// Networks of protected conversations.
    pub protected_cidrs: BTreeSet<Prefix>,
    /// Sets of peers.
    pub peers: BTreeMap<u32, BTreeSet<Prefix>>,
    /// Rules by slot.
    pub rules: BTreeMap<u32, RuleRow>,
    /// Handles by number.
    pub handles: BTreeMap<u32, HandleRow>,
    /// States by number.
    pub states: BTreeMap<u32, StateRow>,
    /// The number of each state that is not retired.
    pub state_of: BTreeMap<(Uid, TargetName), u32>,
    /// Entries.
    pub entries: BTreeMap<Place, Entry>,
    /// The highest generation written so far.
    pub generation: u64,
    /// The highest state number used so far: none is used twice, so no flow of an old one is ever found.
    pub last_state: u32,
    /// The highest set of peers used so far.
    pub last_peer_set: u32,
}

impl Ledger {
    /// Records an operation that the kernel has performed.
    pub fn record(&mut self, op: &Op, now_ns: u64) {
        match op {
            Op::SetConfig(config) => self.config = Some(*config),
            Op::SetFilter(filter) => self.filter.clone_from(filter),
            Op::AddNodeAddress(address) => drop(self.node_addresses.insert(*address)),
            Op::RemoveNodeAddress(address) => drop(self.node_addresses.remove(address)),
            Op::Protect(key, class) => drop(self.protected.insert(*key, *class)),
            Op::Unprotect(key) => drop(self.protected.remove(key)),
            Op::ProtectCidr(prefix) => drop(self.protected_cidrs.insert(*prefix)),
            Op::UnprotectCidr(prefix) => drop(self.protected_cidrs.remove(prefix)),
            Op::AddPeer { set, prefix } => self.add_peer(*set, *prefix),
            Op::RemovePeer { set, prefix } => self.remove_peer(*set, *prefix),
            Op::WriteEntry { place, entry } => {
                self.generation = self.generation.max(entry.generation);
                self.entries.insert(*place, **entry);
            }
            Op::RemoveEntry(place) => drop(self.entries.remove(place)),
            Op::WriteRule { .. } | Op::RetireRule { .. } | Op::ClearRule { .. } => {
                self.record_rule(op, now_ns);
            }
            Op::SetRule { .. } | Op::RetireHandle { .. } | Op::ClearHandle { .. } => {
                self.record_handle(op, now_ns);
            }
            Op::MakeState { .. } | Op::RetireState { .. } | Op::DropState { .. } => {
                self.record_state(op, now_ns);
            }
        }
    }

    fn add_peer(&mut self, set: u32, prefix: Prefix) {
        self.last_peer_set = self.last_peer_set.max(set);
        self.peers.entry(set).or_default().insert(prefix);
    }

    fn remove_peer(&mut self, set: u32, prefix: Prefix) {
        let Some(prefixes) = self.peers.get_mut(&set) else { return };
        prefixes.remove(&prefix);
        if prefixes.is_empty() {
            self.peers.remove(&set);
        }
    }

    fn record_rule(&mut self, op: &Op, now_ns: u64) {
        match op {
            Op::WriteRule { slot, uid, rule } => {
                self.generation = self.generation.max(rule.generation);
                let row = RuleRow { uid: Arc::clone(uid), rule: **rule, retired_ns: None };
                self.rules.insert(*slot, row);
            }
            Op::RetireRule { slot } => {
                if let Some(row) = self.rules.get_mut(slot) {
                    row.retired_ns = Some(now_ns);
                }
            }
            Op::ClearRule { slot } => drop(self.rules.remove(slot)),
            _ => {}
        }
    }

    fn record_handle(&mut self, op: &Op, now_ns: u64) {
        match op {
            Op::SetRule { handle, uid, slot } => {
                let row = HandleRow { uid: Arc::clone(uid), slot: *slot, retired_ns: None };
                self.handles.insert(*handle, row);
            }
            Op::RetireHandle { handle } => {
                if let Some(row) = self.handles.get_mut(handle) {
                    row.retired_ns = Some(now_ns);
                }
            }
            Op::ClearHandle { handle } => drop(self.handles.remove(handle)),
            _ => {}
        }
    }

    fn record_state(&mut self, op: &Op, now_ns: u64) {
        match op {
            Op::MakeState { state, uid, target } => {
                self.last_state = self.last_state.max(*state);
                let row = StateRow { uid: Arc::clone(uid), target: Arc::clone(target), retired_ns: None };
                self.states.insert(*state, row);
                self.state_of.insert((Arc::clone(uid), Arc::clone(target)), *state);
            }
            Op::RetireState { state } => {
                if let Some(row) = self.states.get_mut(state) {
                    row.retired_ns = Some(now_ns);
                    self.state_of.remove(&(Arc::clone(&row.uid), Arc::clone(&row.target)));
                }
            }
            Op::DropState { state } => drop(self.states.remove(state)),
            _ => {}
        }
    }

    /// Whether the place holds this profile on this target, with a rule of it that acts.
    #[must_use]
    pub fn holds(&self, place: Place, uid: &Uid, target: &TargetName) -> bool {
        let Some(state) = self.state_of.get(&(Arc::clone(uid), Arc::clone(target))) else { return false };
        let entry = self.entries.get(&place);
        let is_live = |handle: &u32| {
            let row = self.handles.get(handle).filter(|row| row.uid == *uid && row.retired_ns.is_none());
            row.and_then(|row| self.rules.get(&row.slot)).is_some_and(|row| row.retired_ns.is_none())
        };
        let is_it = |binding: &Binding| binding.state == *state && is_live(&binding.rule);
        entry.is_some_and(|entry| bindings(entry).iter().any(is_it))
    }

    /// When the next quarantine is over, in CLOCK_BOOTTIME.
    #[must_use]
    pub fn next_release(&self, quarantine_ns: u64) -> Option<u64> {
        let rules = self.rules.values().filter_map(|row| row.retired_ns);
        let states = self.states.values().filter_map(|row| row.retired_ns);
        let handles = self.handles.values().filter_map(|row| row.retired_ns);
        rules.chain(handles).chain(states).min().map(|retired| retired.saturating_add(quarantine_ns))
    }
}

/// The bindings in use.
#[must_use]
pub fn bindings(entry: &Entry) -> &[Binding] {
    entry.bindings.get(..usize::from(entry.count)).unwrap_or(&entry.bindings)
}
