//! Reading counters through descriptors of their own, so that a scrape waits for nobody and nobody for it.

use std::os::fd::AsFd as _;

use aya::Ebpf;
use aya::maps::{Array, Map, MapData, MapError, PerCpuArray, PerCpuHashMap};
use fault_abi::counter::{Counter, Global};
use fault_abi::key::{CounterKey, Direction};
use fault_abi::lateness::LATENESS_ENTRIES;
use fault_abi::lead::Lead;
use fault_abi::line::Held;
use fault_abi::names;

use super::load::{convert, map_data, typed};
use super::{chain, counter_key};
use crate::kernel::{Counters, KernelError, QueueCounters};

/// The counters' tables.
pub(super) struct Reader {
    counters: PerCpuHashMap<MapData, CounterKey, Counter>,
    global: PerCpuArray<MapData, u64>,
    held: Array<MapData, Held>,
    lateness: PerCpuArray<MapData, u64>,
    lead: Array<MapData, Lead>,
}

impl Reader {
    /// Takes `held`, others of its tables out of `programs`, and a second descriptor of `counters`.
    pub(super) fn new(counters: &Map, held: Map, programs: &mut Ebpf) -> Result<Self, KernelError> {
        let failed = |error: &dyn std::error::Error| KernelError::Load(format!("COUNTERS: {}", chain(error)));
        let fd = map_data(names::COUNTERS, counters)?.fd().as_fd().try_clone_to_owned();
        let again = MapData::from_fd(fd.map_err(|error| failed(&error))?).map_err(|error| failed(&error))?;
        Ok(Self {
            counters: convert(names::COUNTERS, Map::PerCpuHashMap(again))?,
            global: typed(programs, names::GLOBAL)?,
            held: convert(names::HELD, held)?,
            lateness: typed(programs, names::LATENESS)?,
            lead: typed(programs, names::LEAD)?,
        })
    }
}

impl Counters for Reader {
    fn counter(&self, state: u32, direction: Direction) -> Result<Option<Counter>, KernelError> {
        match self.counters.get(&counter_key(state, direction), 0) {
            Ok(values) => Ok(Some(values.iter().fold(Counter::default(), |mut sum, one| {
                sum.add(one);
                sum
            }))),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(KernelError::Read { map: names::COUNTERS, reason: chain(&error) }),
        }
    }

    fn global(&self, what: Global) -> Result<u64, KernelError> {
        sum(&self.global, what as u32, names::GLOBAL)
    }
}

impl QueueCounters for Reader {
    fn held(&self) -> Result<Held, KernelError> {
        self.held.get(&0, 0).map_err(|error| KernelError::Read { map: names::HELD, reason: chain(&error) })
    }

    fn lateness(&self) -> Result<Vec<u64>, KernelError> {
        (0..LATENESS_ENTRIES).map(|entry| sum(&self.lateness, entry, names::LATENESS)).collect()
    }

    fn lead_ns(&self) -> Result<u64, KernelError> {
        let read = |error| KernelError::Read { map: names::LEAD, reason: chain(&error) };
        self.lead.get(&0, 0).map(|lead| lead.ns).map_err(read)
    }

    fn refused(&self) -> Result<u64, KernelError> {
        self.global(Global::LineRefused)
    }

    fn settled(&self) -> Result<u64, KernelError> {
        self.global(Global::LineSettled)
    }
}

/// An entry, over all CPUs.
fn sum(table: &PerCpuArray<MapData, u64>, entry: u32, name: &'static str) -> Result<u64, KernelError> {
    match table.get(&entry, 0) {
        Ok(values) => Ok(values.iter().fold(0_u64, |sum, one| sum.wrapping_add(*one))),
        Err(error) => Err(KernelError::Read { map: name, reason: chain(&error) }),
    }
}
