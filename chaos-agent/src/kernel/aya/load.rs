//! Loading: programs into the kernel, those that decide into the program arrays, maps into their types.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, OwnedFd};

use aya::Ebpf;
use aya::maps::{Map, MapData, MapError, ProgramArray};
use aya::programs::{Program, ProgramError, ProgramFd, SchedClassifier, Xdp};
use fault_abi::names;

use super::chain;
use crate::kernel::{KernelError, fds};

/// Loads all programs, and puts those that decide where the dispatchers find them.
pub(super) fn fill_arrays(
    programs: &mut Ebpf,
    with_xdp: bool,
) -> Result<(Vec<OwnedFd>, Vec<ProgramArray<MapData>>), KernelError> {
    let tc = names::TC_SLOTS.map(|(slot, name)| (names::PROGRAMS_TC, slot, name));
    let xdp = [(names::PROGRAMS_XDP, names::SLOT_XDP_INGRESS, names::XDP_INGRESS)];
    let attached = names::INGRESS_DISPATCHERS.into_iter().chain(names::EGRESS_DISPATCHERS);
    for name in attached.chain([names::LINE_START, names::LINE_END, names::SPLITTER_END]) {
        load::<SchedClassifier>(programs, name)?;
    }
    if with_xdp {
        load::<Xdp>(programs, names::XDP_DISPATCH)?;
    }
    let (mut high, mut arrays) = (Vec::new(), BTreeMap::new());
    for (map, slot, name) in tc.into_iter().chain(xdp) {
        let is_xdp = map == names::PROGRAMS_XDP;
        if is_xdp && !with_xdp {
            continue;
        }
        let fd = if is_xdp { load::<Xdp>(programs, name)? } else { load::<SchedClassifier>(programs, name)? };
        if !arrays.contains_key(map) {
            let array = take(programs, map)?;
            high.push(
                fds::duplicate_high(map_data(map, &array)?.fd().as_fd())
                    .map_err(|error| KernelError::Descriptors(error.to_string()))?,
            );
            arrays.insert(map, convert::<ProgramArray<MapData>>(map, array)?);
        }
        if let Some(array) = arrays.get_mut(map) {
            array.set(slot, &fd, 0).map_err(|error| KernelError::Load(chain(&error)))?;
        }
    }
    Ok((high, arrays.into_values().collect()))
}

/// What both kinds of programs can do.
trait Loadable {
    fn load_into_kernel(&mut self) -> Result<ProgramFd, ProgramError>;
}

impl Loadable for SchedClassifier {
    fn load_into_kernel(&mut self) -> Result<ProgramFd, ProgramError> {
        self.load()?;
        Ok(self.fd()?.try_clone()?)
    }
}

impl Loadable for Xdp {
    fn load_into_kernel(&mut self) -> Result<ProgramFd, ProgramError> {
        self.load()?;
        Ok(self.fd()?.try_clone()?)
    }
}

fn load<'a, P>(programs: &'a mut Ebpf, name: &'static str) -> Result<ProgramFd, KernelError>
where
    P: Loadable + 'a,
    &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    let program: &mut P = program(programs, name)?;
    program.load_into_kernel().map_err(|error| KernelError::Load(format!("{name}: {}", chain(&error))))
}

pub(super) fn program<'a, P>(programs: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, KernelError>
where
    &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    let program = programs.program_mut(name).ok_or(KernelError::Missing(name))?;
    program.try_into().map_err(|error: ProgramError| KernelError::Load(format!("{name}: {}", chain(&error))))
}

pub(super) fn take(programs: &mut Ebpf, name: &'static str) -> Result<Map, KernelError> {
    programs.take_map(name).ok_or(KernelError::Missing(name))
}

pub(super) fn convert<M: TryFrom<Map, Error = MapError>>(
    name: &'static str,
    map: Map,
) -> Result<M, KernelError> {
    map.try_into().map_err(|error| KernelError::Load(format!("{name}: {}", chain(&error))))
}

pub(super) fn typed<M: TryFrom<Map, Error = MapError>>(
    programs: &mut Ebpf,
    name: &'static str,
) -> Result<M, KernelError> {
    let map = take(programs, name)?;
    convert(name, map)
}

/// The descriptor behind a map of one of the kinds that are asked for.
pub(super) fn map_data<'a>(name: &'static str, map: &'a Map) -> Result<&'a MapData, KernelError> {
    match map {
        Map::PerCpuHashMap(data) | Map::ProgramArray(data) => Ok(data),
        _ => Err(KernelError::Missing(name)),
    }
}
