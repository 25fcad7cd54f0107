//! The operations that bring the kernel's tables from the ledger to a plan. Pure.
//!
//! Their order leaves no gap: what a rule needs comes before it, a rule before its handle stands for it, that before the entries that
//! refer to it, all entries that are written before any that is removed, and what is no longer referred to stays readable for a
//! quarantine, since a program may still be looking at it. The filter knows an entry from before it is written until after it is removed.

mod slots;

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

use fault_abi::filter::Filter;
use fault_abi::rule::{Binding, CONFIG_HAS_CIDRS, ENTRY_HAS_PORTS, Entry};

use crate::compile::{EntrySpec, Plan};
use crate::ledger::{Ledger, bindings};
use crate::table::{Capacity, Op, Place};
use slots::Slots;

/// How long a rule or state that nothing refers to is kept. A program holds what it has read for microseconds.
pub const QUARANTINE_NS: u64 = 1_000_000_000;

/// Compares. Performing the operations in their order, and recording each, makes the ledger agree with the plan (but for what is in
/// quarantine: see [`release`]).
#[must_use]
pub fn diff(ledger: &Ledger, plan: &Plan, capacity: Capacity) -> Vec<Op> {
    let mut ops = Vec::new();
    protect(ledger, plan, &mut ops);
    let mut slots = Slots::new(ledger, plan, capacity);
    slots.allocate(&mut ops);
    let wanted = filter(plan);
    let either = Box::new(wanted.or(&ledger.filter));
    let (grows, shrinks) = (*either != *ledger.filter, *either != wanted);
    ops.extend(grows.then_some(Op::SetFilter(either)));
    let referred = write_entries(ledger, plan, &slots, &mut ops);
    remove_entries(ledger, plan, &mut ops);
    ops.extend(shrinks.then(|| Op::SetFilter(Box::new(wanted))));
    unprotect(ledger, plan, &mut ops);
    slots::retire(ledger, plan, &slots, &referred, &mut ops);
    slots::forget_parts(ledger, &mut ops);
    ops
}

/// Up to `at_most` operations that clear what has been in quarantine for long enough at `now_ns`, CLOCK_BOOTTIME. They make room, and
/// change no packet's fate.
#[must_use]
pub fn release(ledger: &Ledger, now_ns: u64, at_most: usize) -> Vec<Op> {
    slots::release(ledger, now_ns).take(at_most).collect()
}

fn protect(ledger: &Ledger, plan: &Plan, ops: &mut Vec<Op>) {
    ops.extend(plan.node_addresses.difference(&ledger.node_addresses).copied().map(Op::AddNodeAddress));
    let ends = plan.protected.iter().filter(|(key, class)| ledger.protected.get(*key) != Some(*class));
    ops.extend(ends.map(|(key, class)| Op::Protect(*key, *class)));
    ops.extend(plan.protected_cidrs.difference(&ledger.protected_cidrs).copied().map(Op::ProtectCidr));
    // What the configuration protects holds before the first rule; networks of targets are looked at only later.
    let mut early = plan.config;
    let had_cidrs = ledger.config.map_or(0, |config| config.flags & CONFIG_HAS_CIDRS);
    early.flags = early.flags & !CONFIG_HAS_CIDRS | had_cidrs;
    if ledger.config != Some(early) {
        ops.push(Op::SetConfig(early));
    }
}

fn unprotect(ledger: &Ledger, plan: &Plan, ops: &mut Vec<Op>) {
    ops.extend(ledger.node_addresses.difference(&plan.node_addresses).copied().map(Op::RemoveNodeAddress));
    let ends = ledger.protected.keys().filter(|key| !plan.protected.contains_key(*key));
    ops.extend(ends.copied().map(Op::Unprotect));
    ops.extend(ledger.protected_cidrs.difference(&plan.protected_cidrs).copied().map(Op::UnprotectCidr));
}

/// Writes what differs, narrow places first: a wide one that is new never decides what a narrow one shall, and
/// ports are there before the address that points at them. Returns what the entries will refer to.
fn write_entries(ledger: &Ledger, plan: &Plan, slots: &Slots<'_>, ops: &mut Vec<Op>) -> Referred {
    let mut generation = slots.generation;
    let mut referred = Referred::default();
    let mut wanted: Vec<(&Place, &EntrySpec)> = plan.entries.iter().collect();
    wanted.sort_by_key(|(place, _)| place.width());
    for (place, spec) in wanted {
        let mut entry = entry(*place, spec, slots);
        referred.add(&entry);
        let current = ledger.entries.get(place);
        if current.is_some_and(|current| is_same(current, &entry)) {
            continue;
        }
        generation += 1;
        entry.generation = generation;
        entry.generation_again = generation;
        ops.push(Op::WriteEntry { place: *place, entry: Box::new(entry) });
    }
    let has_cidrs = plan.config.flags & CONFIG_HAS_CIDRS != 0;
    if has_cidrs && ledger.config.is_none_or(|config| config.flags & CONFIG_HAS_CIDRS == 0) {
        ops.push(Op::SetConfig(plan.config));
    }
    referred
}

/// Knows all places. A network has more addresses than bits are worth: where there is one each address is looked up.
fn filter(plan: &Plan) -> Filter {
    let mut filter = Filter::NONE;
    for place in plan.entries.keys() {
        match place {
            Place::Port(key) => filter.add(&key.address),
            Place::Address(address) => filter.add(address),
            Place::Cidr(_) => return Filter::ALL,
        }
    }
    filter
}

fn entry(place: Place, spec: &EntrySpec, slots: &Slots<'_>) -> Entry {
    let mut entry = place.blank();
    if spec.has_ports {
        entry.flags |= ENTRY_HAS_PORTS;
    }
    let known = spec.bindings.iter().filter_map(|bound| {
        let state = slots.states.get(&(Arc::clone(&bound.uid), Arc::clone(&bound.target)))?;
        Some(Binding { rule: slots.handles.get(&bound.uid)?.number, state: *state, key: bound.key })
    });
    for (slot, binding) in entry.bindings.iter_mut().zip(known) {
        *slot = binding;
        entry.count += 1;
    }
    entry
}

fn is_same(current: &Entry, next: &Entry) -> bool {
    let blank = |entry: &Entry| Entry { generation: 0, generation_again: 0, ..*entry };
    blank(current) == blank(next)
}

/// Removes wide places first: a narrow one that is gone would hand its packets to them.
fn remove_entries(ledger: &Ledger, plan: &Plan, ops: &mut Vec<Op>) {
    let gone = ledger.entries.keys().filter(|place| !plan.entries.contains_key(*place));
    let mut gone: Vec<Place> = gone.copied().collect();
    gone.sort_by_key(|place| Reverse(place.width()));
    ops.extend(gone.into_iter().map(Op::RemoveEntry));
    let had_cidrs = ledger.config.is_some_and(|config| config.flags & CONFIG_HAS_CIDRS != 0);
    if had_cidrs && plan.config.flags & CONFIG_HAS_CIDRS == 0 {
        ops.push(Op::SetConfig(plan.config));
    }
}

/// What is referred to: handles and states by entries, slots by those handles.
#[derive(Default)]
pub(crate) struct Referred {
    handles: BTreeSet<u32>,
    rules: BTreeSet<u32>,
    states: BTreeSet<u32>,
}

impl Referred {
    /// In this state of the kernel.
    pub(crate) fn now(ledger: &Ledger) -> Self {
        let mut referred = Self::default();
        ledger.entries.values().for_each(|entry| referred.add(entry));
        let live = ledger.handles.values().filter(|row| row.retired_ns.is_none());
        referred.rules = live.map(|row| row.slot).collect();
        referred
    }

    /// Whether an operation would retire one of them.
    pub(crate) fn keeps(&self, op: &Op) -> bool {
        match op {
            Op::RetireHandle { handle } => self.handles.contains(handle),
            Op::RetireRule { slot } => self.rules.contains(slot),
            Op::RetireState { state } => self.states.contains(state),
            _ => false,
        }
    }

    fn add(&mut self, entry: &Entry) {
        for binding in bindings(entry) {
            self.handles.insert(binding.rule);
            self.states.insert(binding.state);
        }
    }
}

#[cfg(test)]
mod tests;
