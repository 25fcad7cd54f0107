//! Reading counters through descriptors of their own, so that a scrape waits for nobody and nobody for it.

use std::os::fd::AsFd as _;

use aya::maps::{Map, MapData, MapError, PerCpuArray, PerCpuHashMap};
use fault_abi::counter::{Counter, Global};
use fault_abi::key::{CounterKey, Direction};
use fault_abi::names;

use super::load::{convert, map_data};
use super::{chain, counter_key};
use crate::kernel::{Counters, KernelError};

/// The counters' tables.
pub(super) struct Reader {
    counters: PerCpuHashMap<MapData, CounterKey, Counter>,
    global: PerCpuArray<MapData, u64>,
}

impl Reader {
    /// Takes `global`, and a second descriptor of `counters`.
    pub(super) fn new(counters: &Map, global: Map) -> Result<Self, KernelError> {
        let failed = |error: &dyn std::error::Error| KernelError::Load(format!("COUNTERS: {}", chain(error)));
        let fd = map_data(names::COUNTERS, counters)?.fd().as_fd().try_clone_to_owned();
        let again = MapData::from_fd(fd.map_err(|error| failed(&error))?).map_err(|error| failed(&error))?;
        Ok(Self {
            counters: convert(names::COUNTERS, Map::PerCpuHashMap(again))?,
            global: convert(names::GLOBAL, global)?,
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
        match self.global.get(&(what as u32), 0) {
            Ok(values) => Ok(values.iter().fold(0_u64, |sum, one| sum.wrapping_add(*one))),
            Err(error) => Err(KernelError::Read { map: names::GLOBAL, reason: chain(&error) }),
        }
    }
}
