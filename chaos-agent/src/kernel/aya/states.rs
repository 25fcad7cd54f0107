//! Counters and states of targets: made ahead of time and when they are asked for, and dropped.

use aya::maps::{Map, MapError};
use fault_abi::counter::{Counter, TargetState};
use fault_abi::key::{CounterKey, Direction};
use fault_abi::names;

use super::spare::spare;
use super::table::Table;
use super::{counter_key, is_short_of_memory};
use crate::kernel::{Ahead, KernelError};

/// How many spare counters are made in one go.
const PREPARED_AT_ONCE: u32 = 32;

/// The tables `COUNTERS` and `STATE`. Numbers are given out by the caller, each higher than all before.
pub(super) struct States {
    counters: Table<CounterKey, Counter>,
    states: Table<u32, TargetState>,
    cpus: usize,
    /// The highest state in use so far, and the highest that is made: those in between are spare.
    highest: u32,
    prepared: u32,
    /// States in use, and retired ones that are still there.
    used: u32,
    /// Room for states.
    room: u32,
}

impl States {
    /// Takes both tables, on a machine with so many CPUs, with room for so many states.
    pub(super) fn new(counters: Map, states: Map, cpus: usize, room: u32) -> Result<Self, KernelError> {
        Ok(Self {
            counters: Table::new(names::COUNTERS, counters, cpus)?,
            states: Table::new(names::STATE, states, 1)?,
            cpus,
            highest: 0,
            prepared: 0,
            used: 0,
            room,
        })
    }

    /// Takes those that were prepared, and makes the others now. Returns how many are there, from the first on, and why the next
    /// one is not.
    pub(super) fn take(&mut self, states: &[u32]) -> (usize, Result<(), MapError>) {
        let spare = states.iter().take_while(|state| **state <= self.prepared).count();
        let (_, missing) = states.split_at(spare);
        let (made, outcome) = self.make(missing);
        let done = spare + made;
        if let Some(last) = states.get(..done).and_then(|taken| taken.last())
            && *last > self.highest
        {
            self.used += last - self.highest;
            self.highest = *last;
        }
        (done, outcome)
    }

    /// Makes some of the spare ones that are wanted; returns what is left of that.
    pub(super) fn prepare(&mut self) -> Ahead {
        let wanted = self.highest.saturating_add(spare(self.used, self.cpus, self.room));
        let next: Vec<u32> = (self.prepared + 1..=wanted).take(PREPARED_AT_ONCE as usize).collect();
        match self.make(&next) {
            (_, Ok(())) if self.prepared < wanted => Ahead::More,
            (_, Ok(())) => Ahead::Done,
            (_, Err(error)) if is_short_of_memory(&error) => Ahead::Later,
            // The table is full: those that are asked for will say so.
            (_, Err(_)) => Ahead::Done,
        }
    }

    /// Makes counters and states, all zero. Returns as [`Self::take`].
    fn make(&mut self, states: &[u32]) -> (usize, Result<(), MapError>) {
        let keys = keys(states);
        let (counters, outcome) = self.counters.fill(&keys, Counter::default());
        let counted = states.get(..counters / Direction::ALL.len()).unwrap_or_default();
        let (made, second) = self.states.fill(counted, TargetState::default());
        if let Some(last) = states.get(..made).and_then(|made| made.last()) {
            self.prepared = self.prepared.max(*last);
        }
        (made, second.and(outcome))
    }

    /// Drops counters and states. Returns as [`Self::take`].
    pub(super) fn remove(&mut self, states: &[u32]) -> (usize, Result<(), MapError>) {
        let (counters, outcome) = self.counters.remove(&keys(states));
        let uncounted = states.get(..counters / Direction::ALL.len()).unwrap_or_default();
        let (done, second) = self.states.remove(uncounted);
        self.used = self.used.saturating_sub(u32::try_from(done).unwrap_or(u32::MAX));
        (done, second.and(outcome))
    }
}

/// The keys of the counters of these states.
fn keys(states: &[u32]) -> Vec<CounterKey> {
    states.iter().flat_map(|state| Direction::ALL.map(|direction| counter_key(*state, direction))).collect()
}
