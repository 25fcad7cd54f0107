//! The delay line and the splitter: the programs at their ends, and what the hooks know of them.

use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::{Array, HashMap, Map, MapData, MapError};
use edge_api::fault_node::Scheduling;
use fault_abi::counter::TargetState;
use fault_abi::line::{Held, LINE_IS_FQ, Line};
use fault_abi::names;

use super::load::convert;
use super::{AyaKernel, chain};
use crate::behind::{Behind, LineDevice, LineView, Queue};
use crate::kernel::{Interface, KernelError, LineLimits, QueueCounters};
use crate::line::audit::{Admission, Audit};
use crate::line::ends::{self, Device, Ends, Tell, gated};
use crate::line::engine::{Engine, Heartbeat, Options};
use crate::line::fq::Fq;
use crate::line::pool::Limits;

impl AyaKernel {
    /// Connects the delay line and the splitter, as far as they are there, to the programs, and starts the engine. Packets
    /// go there from then on.
    ///
    /// # Errors
    /// When the kernel refuses a program, a table or a thread.
    pub fn connect(&mut self, behind: Behind, limits: LineLimits) -> Result<LineView, KernelError> {
        let devices = behind.devices();
        let mut line = Line {
            magic: devices.magic,
            packets: u64::from(limits.packets),
            bytes: limits.bytes,
            target_packets: u64::from(limits.target_packets),
            target_bytes: limits.target_bytes,
            ..Line::default()
        };
        if let Some(ends) = &devices.line {
            line.entry = ends.entry.index;
            line.flags = if ends.is_fq { LINE_IS_FQ } else { 0 };
        }
        if let Some((near, _)) = &devices.splitter {
            line.splitter = near.index;
        }
        self.attach_ends(&devices)?;
        self.facts = line;
        let splitter = self.tell_of_splitter(line)?;
        let Behind { line, no_line, second_choice, no_splitter, magic, .. } = behind;
        let mut view = LineView { no_line, second_choice, no_splitter, limits, ..LineView::default() };
        view.splitter =
            devices.splitter.map(|(near, far)| Ends::new(Device::Splitter, vec![near, far], splitter));
        match line {
            None => {}
            Some(LineDevice::Tap(tap)) => {
                let name = tap.name().to_owned();
                let limits = Limits { packets: limits.packets, bytes: limits.bytes };
                let end = Interface { index: tap.index(), name: name.clone() };
                let (sign, tell) = gated(self.sign_of_life(Arc::clone(&view.sign_ns))?);
                view.ends = Some(Ends::new(Device::Line, vec![end], tell));
                let audit =
                    self.counts.take().map_or_else(Audit::default, |counts| Audit::new(Box::new(counts)));
                let options = Options { magic, limits, scheduling: Scheduling::RealTime };
                let engine = Engine::start(tap, &options, sign, audit)
                    .map_err(|error| KernelError::Line { interface: name, reason: error.to_string() })?;
                view.stats = Some(Arc::clone(engine.stats()));
                self.engine = Some(engine);
            }
            Some(LineDevice::Fq(Fq { near, far })) => {
                let tell = ends::lasting(self.sign_of_life(Arc::clone(&view.sign_ns))?);
                view.ends = Some(Ends::new(Device::Line, vec![near, far], tell));
                let counters = Arc::clone(&self.reader) as Arc<dyn QueueCounters>;
                view.queue = Some(Queue { counters, programs: Box::new(self.lasting.clone()) });
            }
        }
        Ok(view)
    }

    /// Writes what hooks know of line and splitter. Returns what tells them later whether there is a splitter.
    pub(super) fn tell_of_splitter(&self, line: Line) -> Result<Tell, KernelError> {
        let mut table: Array<MapData, Line> =
            convert(names::LINE, Map::Array(again(names::LINE, &self.line)?))?;
        let refused = |error: MapError| KernelError::Table { op: "Line", reason: chain(&error) };
        table.set(0, line, 0).map_err(refused)?;
        Ok(Box::new(move |carries| {
            let splitter = if carries { line.splitter } else { 0 };
            // It cannot fail for a table that is there, and all else in it stays the same.
            let _ = table.set(0, Line { splitter, ..line }, 0);
        }))
    }

    /// What the engine shows its life with, to the programs and here.
    fn sign_of_life(&self, seen: Arc<AtomicU64>) -> Result<Heartbeat, KernelError> {
        let data = again(names::ENGINE, &self.sign)?;
        let mut engine: Array<MapData, u64> = convert(names::ENGINE, Map::Array(data))?;
        Ok(Box::new(move |now_ns| {
            // It cannot fail for a table that is there; were it to, hooks would pass packets undelayed, and count them.
            let _ = engine.set(0, now_ns, 0);
            seen.store(now_ns, Ordering::Relaxed);
        }))
    }
}

/// A map by a descriptor of its own.
fn again(name: &'static str, map: &MapData) -> Result<MapData, KernelError> {
    let failed = |error: &dyn std::error::Error| KernelError::Load(format!("{name}: {}", chain(error)));
    let fd = map.fd().as_fd().try_clone_to_owned().map_err(|error| failed(&error))?;
    MapData::from_fd(fd).map_err(|error| failed(&error))
}

/// The hooks' counts of what is in the line.
pub(super) struct Counts {
    held: Array<MapData, Held>,
    states: HashMap<MapData, u32, TargetState>,
}

impl Counts {
    /// By descriptors of its own.
    pub(super) fn new(held: &Map, states: &Map) -> Result<Self, KernelError> {
        let Map::Array(held) = held else { return Err(KernelError::Missing(names::HELD)) };
        let Map::HashMap(states) = states else { return Err(KernelError::Missing(names::STATE)) };
        let held = Map::Array(again(names::HELD, held)?);
        let states = Map::HashMap(again(names::STATE, states)?);
        Ok(Self { held: convert(names::HELD, held)?, states: convert(names::STATE, states)? })
    }
}

impl Admission for Counts {
    fn held(&mut self) -> Result<Held, String> {
        self.held.get(&0, 0).map_err(|error| chain(&error))
    }

    fn states(&mut self) -> Result<Vec<u32>, String> {
        self.states.keys().map(|state| state.map_err(|error| chain(&error))).collect()
    }

    fn held_by(&mut self, state: u32) -> Result<Option<Held>, String> {
        match self.states.get(&state, 0) {
            Ok(state) => Ok(Some(Held { packets: state.line_packets, bytes: state.line_bytes })),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(chain(&error)),
        }
    }
}
