//! The real kernel, by way of the `aya` library; nothing else in the agent calls that.

mod attach;
mod change;
mod ends;
mod filters;
mod flows;
mod line;
mod load;
pub mod log;
mod portion;
mod read;
mod spare;
mod states;
mod table;
mod tickets;
mod xdp;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, ProgramArray};
use aya::util::nr_cpus;
use aya::{Ebpf, EbpfLoader};
use edge_api::fault_node::HookKind;
use fault_abi::filter::Filter;
use fault_abi::key::{Address, CounterKey, Direction, NetworkKey, PortKey};
use fault_abi::line::{Held, Line};
use fault_abi::names;
use fault_abi::rule::{Config, Entry, Rule};

use super::{Ahead, Counters, Flows, Interface, Kernel, KernelError, Layer, Refusal, Tickets};
use crate::line::ends::{Device, Tell};
use crate::line::engine::Engine;
use crate::splitter::Splitter;
use crate::table::{Capacity, Op};
use attach::Link;
pub use attach::detach_filters;
use ends::EndPrograms;
use flows::FlowTable;
use line::Counts;
use load::{fill_arrays, take, typed};
use portion::Portion;
use read::Reader;
use states::States;
use table::Table;
use tickets::TicketTable;

/// Room for those that are lost behind the queue, which must not be.
const SPARE_TICKETS: u32 = 1_024;

/// How long the operations of a round wait for the kernel's memory, all together. Then others have their turn.
const REFILL: Duration = Duration::from_millis(250);
/// With each so many operations more it is that time more: to find out what is left of them takes longer, too.
const PORTION: usize = 32_768;

/// The programs and tables in this machine's kernel. Dropping it, like the end of the process, ends all faults.
pub struct AyaKernel {
    // First: these go first when it is dropped, too. See `fds`.
    _high: Vec<OwnedFd>,
    _arrays: Vec<ProgramArray<MapData>>,
    links: BTreeMap<u32, Vec<Link>>,
    programs: Ebpf,
    targets: Table<Address, Entry>,
    ports: Table<PortKey, Entry>,
    cidrs: LpmTrie<MapData, NetworkKey, Entry>,
    rules: Array<MapData, Rule>,
    handles: Array<MapData, u32>,
    peers: LpmTrie<MapData, NetworkKey, u32>,
    states: States,
    flows: Arc<FlowTable>,
    tickets: Arc<TicketTable>,
    node_addresses: HashMap<MapData, Address, u32>,
    protected: HashMap<MapData, PortKey, u32>,
    protected_cidrs: LpmTrie<MapData, NetworkKey, u32>,
    config: Array<MapData, Config>,
    filter: Array<MapData, Filter>,
    line: MapData,
    /// What it holds of line and splitter.
    facts: Line,
    sign: MapData,
    /// For the engine, until it starts.
    counts: Option<Counts>,
    /// Gives out all that the line holds when it is dropped: the hooks must be gone then, and the ends still there.
    engine: Option<Engine>,
    /// Programs at the ends of line and splitter.
    ends: EndPrograms,
    /// Those of a line of the engine `fq`: what is in it when this goes leaves at its time.
    lasting: EndPrograms,
    added_qdiscs: BTreeSet<u32>,
    /// How long this round still waits for the kernel's memory.
    patience: Duration,
    reader: Arc<Reader>,
    /// The programs write lines that nobody has asked for yet.
    has_lines: bool,
}

/// What of the programs is wanted, beside hooks on TC.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Those of XDP.
    pub xdp: bool,
    /// Room for so many packets in a line of the engine `fq`: some 110 bytes each.
    pub queued: u32,
    /// A line for each packet of a target, see [`AyaKernel::lines`].
    pub lines: bool,
    /// Where the table of flows has hardly any room left, those are forgotten that were silent for longer.
    pub flow_idle: Duration,
}

impl Default for Wanted {
    fn default() -> Self {
        Self { xdp: false, queued: 16_384, lines: false, flow_idle: flows::IDLE }
    }
}

impl AyaKernel {
    /// Loads the object's programs and fills the program arrays. `with_xdp` loads the XDP programs too. A delay line of
    /// the engine `fq` has room for some packets.
    ///
    /// # Errors
    /// When the kernel refuses, with what it said.
    pub fn load(object: &[u8], capacity: Capacity, with_xdp: bool) -> Result<Self, KernelError> {
        Self::load_with(object, capacity, Wanted { xdp: with_xdp, ..Wanted::default() })
    }

    /// The same, as it is wanted.
    ///
    /// # Errors
    /// When the kernel refuses, with what it said.
    pub fn load_with(object: &[u8], capacity: Capacity, wanted: Wanted) -> Result<Self, KernelError> {
        // Those that are retired rest for a while.
        let state_room = Capacity::with_replacements(capacity.states());
        let cpus = nr_cpus().map_err(|(path, error)| KernelError::Load(format!("{path}: {error}")))?;
        let mut programs = Self::make_maps(object, capacity, &wanted, state_room)?;
        let (high, arrays) = fill_arrays(&mut programs, wanted.xdp)?;
        let counters = take(&mut programs, names::COUNTERS)?;
        let states = take(&mut programs, names::STATE)?;
        let Map::Array(sign) = take(&mut programs, names::ENGINE)? else {
            return Err(KernelError::Missing(names::ENGINE));
        };
        let Map::Array(line) = take(&mut programs, names::LINE)? else {
            return Err(KernelError::Missing(names::LINE));
        };
        let held = take(&mut programs, names::HELD)?;
        let counts = Counts::new(&held, &states)?;
        let reader = Arc::new(Reader::new(&counters, held, &mut programs)?);
        Ok(Self {
            _high: high,
            _arrays: arrays,
            links: BTreeMap::new(),
            targets: Table::new(names::TARGETS, take(&mut programs, names::TARGETS)?, 1)?,
            ports: Table::new(names::PORT_TARGETS, take(&mut programs, names::PORT_TARGETS)?, 1)?,
            cidrs: typed(&mut programs, names::CIDRS)?,
            rules: typed(&mut programs, names::RULES)?,
            handles: typed(&mut programs, names::HANDLES)?,
            peers: typed(&mut programs, names::PEERS)?,
            states: States::new(counters, states, cpus, state_room)?,
            flows: Arc::new(FlowTable::new(
                typed(&mut programs, names::FLOWS)?,
                capacity.flows,
                wanted.flow_idle,
            )),
            tickets: Arc::new(TicketTable::new(typed(&mut programs, names::TICKETS)?)),
            node_addresses: typed(&mut programs, names::NODE_ADDRESSES)?,
            protected: typed(&mut programs, names::PROTECTED)?,
            protected_cidrs: typed(&mut programs, names::PROTECTED_CIDRS)?,
            config: typed(&mut programs, names::CONFIG)?,
            filter: typed(&mut programs, names::FILTER)?,
            line,
            facts: Line::default(),
            sign,
            counts: Some(counts),
            engine: None,
            ends: EndPrograms::default(),
            lasting: EndPrograms::default(),
            added_qdiscs: BTreeSet::new(),
            patience: REFILL,
            reader,
            has_lines: wanted.lines,
            programs,
        })
    }

    /// The object with its maps, as large as they shall be.
    fn make_maps(
        object: &[u8],
        capacity: Capacity,
        wanted: &Wanted,
        state_room: u32,
    ) -> Result<Ebpf, KernelError> {
        let level = if wanted.lines { aya_log::Level::Debug as u8 } else { 0 };
        let programs = EbpfLoader::new()
            .override_global(names::LOG_LEVEL, &level, true)
            .map_max_entries(names::TARGETS, capacity.targets)
            .map_max_entries(names::PORT_TARGETS, capacity.targets)
            .map_max_entries(names::CIDRS, capacity.targets)
            .map_max_entries(names::RULES, capacity.rule_slots())
            .map_max_entries(names::HANDLES, capacity.rule_slots())
            .map_max_entries(names::STATE, state_room)
            .map_max_entries(names::COUNTERS, state_room.saturating_mul(2))
            .map_max_entries(names::FLOWS, capacity.flows)
            .map_max_entries(names::TICKETS, wanted.queued.saturating_add(SPARE_TICKETS))
            .map_max_entries(names::PEERS, Capacity::with_replacements(capacity.peers))
            .map_max_entries(names::PROTECTED, Capacity::with_replacements(capacity.protected))
            .map_max_entries(names::PROTECTED_CIDRS, Capacity::with_replacements(capacity.protected))
            .map_max_entries(names::NODE_ADDRESSES, Capacity::with_replacements(capacity.node_addresses))
            .load(object)
            .map_err(|error| KernelError::Load(chain(&error)))?;
        if programs.map(names::CONFIG).is_none() {
            return Err(KernelError::Abi);
        }
        Ok(programs)
    }
}

impl Kernel for AyaKernel {
    fn begin_round(&mut self, operations: usize) {
        let portions = u32::try_from(operations / PORTION).unwrap_or(u32::MAX);
        self.patience = REFILL.saturating_mul(portions.saturating_add(1));
    }

    fn perform(&mut self, op: &Op) -> Result<(), KernelError> {
        self.perform_all(std::slice::from_ref(op)).map_err(|refusal| refusal.error)
    }

    fn perform_all(&mut self, ops: &[Op]) -> Result<(), Refusal> {
        let (mut rest, mut portion) = (ops, Portion::first());
        while let Some(first) = rest.first() {
            let (done, outcome) = self.change(portion.of(rest));
            rest = rest.get(done..).unwrap_or_default();
            match outcome {
                Ok(()) => portion.grow(),
                Err(error) if is_short_of_memory(&error) && !self.patience.is_zero() => {
                    let began = Instant::now();
                    wait_for_refill();
                    self.patience = self.patience.saturating_sub(began.elapsed());
                }
                Err(error) => {
                    let (at, op) = (ops.len() - rest.len(), first.name());
                    let error = match error {
                        error if is_short_of_memory(&error) => KernelError::Memory { op },
                        error => KernelError::Table { op, reason: chain(&error) },
                    };
                    return Err(Refusal { at, error });
                }
            }
        }
        Ok(())
    }

    fn attach(&mut self, interface: &Interface, layer: Layer, hook: HookKind) -> Result<(), KernelError> {
        let link = self.attach_link(interface, layer, hook).map_err(|reason| KernelError::Attach {
            hook,
            interface: interface.name.clone(),
            reason,
        })?;
        self.links.entry(interface.index).or_default().push(link);
        Ok(())
    }

    fn lose(&mut self, interface: &Interface) -> Result<BTreeSet<HookKind>, KernelError> {
        self.forget_lost(interface).map_err(|reason| KernelError::Read { map: "hooks", reason })
    }

    fn mend_ends(&mut self, tell: &mut dyn FnMut(Device, Option<String>)) {
        self.mend_all_ends(tell);
    }

    fn take_splitter(&mut self, splitter: &Splitter) -> Result<Tell, KernelError> {
        self.attach_splitter(splitter)?;
        self.facts.splitter = splitter.near.index;
        self.tell_of_splitter(self.facts)
    }

    fn detach(&mut self, index: u32) {
        self.links.remove(&index);
    }

    fn prepare(&mut self) -> Ahead {
        self.states.prepare()
    }

    fn flows(&self) -> Arc<dyn Flows> {
        Arc::clone(&self.flows) as Arc<dyn Flows>
    }

    fn tickets(&self) -> Arc<dyn Tickets> {
        Arc::clone(&self.tickets) as Arc<dyn Tickets>
    }

    fn settle(&mut self, lost: &BTreeMap<u32, Held>) -> Result<(), KernelError> {
        self.count_out(lost)
    }

    fn added_qdiscs(&self) -> BTreeSet<u32> {
        self.added_qdiscs.clone()
    }

    fn counters(&self) -> Arc<dyn Counters> {
        Arc::clone(&self.reader) as Arc<dyn Counters>
    }
}

/// The kernel takes elements of these tables from a small reserve that a worker of its refills (a page of
/// per-CPU memory holds 15 counters): in a burst it says `ENOMEM` for a millisecond or so.
fn is_short_of_memory(error: &MapError) -> bool {
    const ENOMEM: i32 = 12;
    matches!(error, MapError::SyscallError(error) if error.io_error.raw_os_error() == Some(ENOMEM))
}

#[expect(clippy::disallowed_methods, reason = "the kernel's reserve tells nobody when it is refilled")]
fn wait_for_refill() {
    std::thread::sleep(Duration::from_micros(200));
}

const fn counter_key(state: u32, direction: Direction) -> CounterKey {
    CounterKey { state, direction: direction as u32 }
}

/// Makes and drops a map: whether this process may use the kernel's BPF at all.
///
/// # Errors
/// What the kernel said.
pub fn probe() -> Result<(), String> {
    let map = Array::<MapData, u32>::create(1, 0);
    map.map(drop).map_err(|error| chain(&error))
}

/// An error with all its causes; the kernel's own word is mostly the last of them.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
