//! Slots for rules, handles that stand for them and numbers for states: which are taken, which are free, which may be used again.

use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use fault_abi::rule::Rule;

use super::{QUARANTINE_NS, Referred};
use crate::compile::{EntrySpec, Plan, RuleSpec};
use crate::ledger::{Ledger, RuleRow, bindings};
use crate::table::{Capacity, Op, Prefix, TargetName, Uid};

/// A profile's handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Handle {
    /// Its number, which entries refer to.
    pub(super) number: u32,
    /// The slot that it stands for.
    slot: u32,
}

/// The handle of each rule and the number of each state that entries are going to refer to.
pub(super) struct Slots<'a> {
    ledger: &'a Ledger,
    plan: &'a Plan,
    capacity: Capacity,
    /// Of each profile: its handle, and the slot that this is going to stand for.
    pub(super) handles: BTreeMap<Uid, Handle>,
    /// Looked up for each place of each target, and never gone through in order.
    pub(super) states: HashMap<(Uid, TargetName), u32>,
    /// The highest generation given out.
    pub(super) generation: u64,
    peer_set: u32,
}

impl<'a> Slots<'a> {
    pub(super) fn new(ledger: &'a Ledger, plan: &'a Plan, capacity: Capacity) -> Self {
        Self {
            ledger,
            plan,
            capacity,
            handles: BTreeMap::new(),
            states: HashMap::new(),
            generation: ledger.generation,
            peer_set: ledger.last_peer_set,
        }
    }

    /// Finds or makes all that the plan's entries refer to.
    pub(super) fn allocate(&mut self, ops: &mut Vec<Op>) {
        let room = 0..self.capacity.rule_slots();
        let ledger = self.ledger;
        let mut free = room.clone().filter(|slot| !ledger.rules.contains_key(slot));
        let mut free_handles = room.filter(|handle| !ledger.handles.contains_key(handle));
        let plan = self.plan;
        let live = live(ledger);
        let left = LazyCell::new(|| left(ledger, plan));
        let bound: BTreeSet<&Uid> =
            plan.entries.values().flat_map(|spec| &spec.bindings).map(|bound| &bound.uid).collect();
        for (uid, spec) in plan.rules.iter().filter(|(uid, _)| bound.contains(uid)) {
            let live = live.get(uid);
            let same = live.and_then(|live| live.rules.iter().find(|(_, row)| self.is_same(row, spec)));
            let same = same.map(|(slot, _)| *slot);
            let held = live.and_then(|live| live.held(same));
            // Where all slots are in quarantine the old rule stays until one is released.
            let slot = same.or_else(|| Some(self.write_rule(uid, spec, free.next()?, ops)));
            // Those that go on with the same handle meet the other rule at once. Who leaves shall not.
            let stays = held.filter(|held| slot == Some(held.slot) || !left.contains(&held.number));
            let number = stays.map(|held| held.number).or_else(|| free_handles.next());
            let next = number.zip(slot).map(|(number, slot)| Handle { number, slot }).or(held);
            let Some(next) = next else { continue };
            if held.is_none_or(|held| (held.number, held.slot) != (next.number, next.slot)) {
                ops.push(Op::SetRule { handle: next.number, uid: Arc::clone(uid), slot: next.slot });
            }
            self.handles.insert(Arc::clone(uid), next);
        }
        self.allocate_states(ops);
    }

    /// Writes a rule into a free slot, which it returns.
    fn write_rule(&mut self, uid: &Uid, spec: &RuleSpec, slot: u32, ops: &mut Vec<Op>) -> u32 {
        let rule = self.write_peers(spec, ops);
        ops.push(Op::WriteRule { slot, uid: Arc::clone(uid), rule: Box::new(rule) });
        slot
    }

    fn is_same(&self, row: &RuleRow, spec: &RuleSpec) -> bool {
        let plain = Rule { generation: 0, peer_set: 0, ..row.rule };
        let none = BTreeSet::new();
        let peers =
            if row.rule.peer_set == 0 { &none } else { self.peers(row.rule.peer_set).unwrap_or(&none) };
        plain == spec.rule && (row.rule.peer_set == 0) == spec.peers.is_empty() && *peers == spec.peers
    }

    fn peers(&self, set: u32) -> Option<&BTreeSet<Prefix>> {
        self.ledger.peers.get(&set)
    }

    fn write_peers(&mut self, spec: &RuleSpec, ops: &mut Vec<Op>) -> Rule {
        self.generation += 1;
        let mut rule = Rule { generation: self.generation, ..spec.rule };
        if !spec.peers.is_empty() {
            self.peer_set += 1;
            rule.peer_set = self.peer_set;
            ops.extend(spec.peers.iter().map(|prefix| Op::AddPeer { set: self.peer_set, prefix: *prefix }));
        }
        rule
    }

    fn allocate_states(&mut self, ops: &mut Vec<Op>) {
        let mut missing: BTreeSet<(Uid, TargetName)> = BTreeSet::new();
        for bound in self.plan.entries.values().flat_map(|spec| &spec.bindings) {
            let key = (Arc::clone(&bound.uid), Arc::clone(&bound.target));
            if self.states.contains_key(&key) {
                continue;
            }
            if let Some(state) = self.ledger.state_of.get(&key) {
                self.states.insert(key, *state);
            } else {
                missing.insert(key);
            }
        }
        for (key, number) in missing.into_iter().zip(self.ledger.last_state + 1..) {
            ops.push(Op::MakeState { state: number, uid: Arc::clone(&key.0), target: Arc::clone(&key.1) });
            self.states.insert(key, number);
        }
    }
}

/// What a profile has in the kernel that is not retired, in the order of numbers.
#[derive(Default)]
struct Live<'a> {
    /// Its rules, by their slots: several while one takes another's place.
    rules: Vec<(u32, &'a RuleRow)>,
    /// Its handles.
    handles: Vec<Handle>,
}

impl Live<'_> {
    /// The handle that the profile has; of several the one that stands for this slot already.
    fn held(&self, slot: Option<u32>) -> Option<Handle> {
        self.handles.iter().min_by_key(|handle| Some(handle.slot) != slot).copied()
    }
}

/// Of each profile. In one go: there can be as many profiles as slots, and to look through all slots for each of them takes seconds.
fn live(ledger: &Ledger) -> BTreeMap<&Uid, Live<'_>> {
    let mut live: BTreeMap<&Uid, Live<'_>> = BTreeMap::new();
    for (slot, row) in ledger.rules.iter().filter(|(_, row)| row.retired_ns.is_none()) {
        live.entry(&row.uid).or_default().rules.push((*slot, row));
    }
    for (number, row) in ledger.handles.iter().filter(|(_, row)| row.retired_ns.is_none()) {
        let handle = Handle { number: *number, slot: row.slot };
        live.entry(&row.uid).or_default().handles.push(handle);
    }
    live
}

/// Handles of profiles that leave a place at which they are now.
fn left(ledger: &Ledger, plan: &Plan) -> BTreeSet<u32> {
    let stays = |uid: &Uid, spec: &EntrySpec| spec.bindings.iter().any(|bound| bound.uid == *uid);
    let mut left = BTreeSet::new();
    for (place, entry) in &ledger.entries {
        let spec = plan.entries.get(place);
        for binding in bindings(entry) {
            let uid = ledger.handles.get(&binding.rule).map(|row| &row.uid);
            if !uid.zip(spec).is_some_and(|(uid, spec)| stays(uid, spec)) {
                left.insert(binding.rule);
            }
        }
    }
    left
}

/// Retires what no entry is going to refer to: handles and their rules at once, states when their profile is gone, or when there
/// are too many of targets that are gone.
pub(super) fn retire(
    ledger: &Ledger,
    plan: &Plan,
    slots: &Slots<'_>,
    referred: &Referred,
    ops: &mut Vec<Op>,
) {
    let Referred { handles, states, .. } = referred;
    let live = ledger.handles.iter().filter(|(_, row)| row.retired_ns.is_none());
    let unused = live.filter(|(handle, _)| !handles.contains(handle));
    ops.extend(unused.map(|(handle, _)| Op::RetireHandle { handle: *handle }));
    let kept = slots.handles.values().filter(|handle| handles.contains(&handle.number));
    let kept: BTreeSet<u32> = kept.map(|handle| handle.slot).collect();
    let live = ledger.rules.iter().filter(|(_, row)| row.retired_ns.is_none());
    let unused = live.filter(|(slot, _)| !kept.contains(slot));
    ops.extend(unused.map(|(slot, _)| Op::RetireRule { slot: *slot }));
    let idle =
        ledger.states.iter().filter(|(state, row)| row.retired_ns.is_none() && !states.contains(state));
    let count =
        ledger.state_of.len() + slots.states.values().filter(|state| **state > ledger.last_state).count();
    let mut surplus = count.saturating_sub(usize::try_from(slots.capacity.states()).unwrap_or(usize::MAX));
    for (state, row) in idle {
        let is_gone = !plan.profiles.contains_key(&row.uid);
        if is_gone || surplus > 0 {
            surplus = surplus.saturating_sub(1);
            ops.push(Op::RetireState { state: *state });
        }
    }
}

/// Removes sets of peers of which a part was refused, so that no rule ever came to refer to them.
pub(super) fn forget_parts(ledger: &Ledger, ops: &mut Vec<Op>) {
    let used: BTreeSet<u32> = ledger.rules.values().map(|row| row.rule.peer_set).collect();
    for (set, prefixes) in ledger.peers.iter().filter(|(set, _)| !used.contains(set)) {
        ops.extend(prefixes.iter().map(|prefix| Op::RemovePeer { set: *set, prefix: *prefix }));
    }
}

/// What clears all that has been in quarantine for long enough, in its order.
pub(super) fn release(ledger: &Ledger, now_ns: u64) -> impl Iterator<Item = Op> {
    let is_over =
        move |retired: Option<u64>| retired.is_some_and(|at| now_ns.saturating_sub(at) >= QUARANTINE_NS);
    let rules = ledger.rules.iter().filter(move |(_, row)| is_over(row.retired_ns));
    let rules = rules.flat_map(|(slot, row)| {
        let set = row.rule.peer_set;
        let peers = ledger.peers.get(&set).into_iter().flatten();
        let peers = peers.map(move |prefix| Op::RemovePeer { set, prefix: *prefix });
        peers.chain([Op::ClearRule { slot: *slot }])
    });
    let handles = ledger.handles.iter().filter(move |(_, row)| is_over(row.retired_ns));
    let handles = handles.map(|(handle, _)| Op::ClearHandle { handle: *handle });
    let states = ledger.states.iter().filter(move |(_, row)| is_over(row.retired_ns));
    handles.chain(rules).chain(states.map(|(state, _)| Op::DropState { state: *state }))
}

#[cfg(test)]
mod tests;
