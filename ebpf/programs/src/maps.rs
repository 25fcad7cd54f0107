//! All maps. Their sizes are defaults: the agent sets them by its limits when it loads the object.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, PerCpuArray, PerCpuHashMap, ProgramArray};
use fault_abi::counter::{Counter, Flow, GLOBALS, TargetState};
use fault_abi::decide::Packet;
use fault_abi::key::{Address, CounterKey, FlowKey, NetworkKey, PortKey};
use fault_abi::lateness::LATENESS_ENTRIES;
use fault_abi::later::{Met, Plan};
use fault_abi::lead::Lead;
use fault_abi::line::{Held, Line};
use fault_abi::pass::Bindings;
use fault_abi::rule::{Config, Entry, Rule};
use fault_abi::ticket::Queued;

/// Targets by address.
#[map]
pub static TARGETS: HashMap<Address, Entry> = HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);

/// Targets by CIDR.
#[map]
pub static CIDRS: LpmTrie<NetworkKey, Entry> = LpmTrie::with_max_entries(16_384, BPF_F_NO_PREALLOC);

/// Targets by address, protocol and port.
#[map]
pub static PORT_TARGETS: HashMap<PortKey, Entry> = HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);

/// Rules by slot.
#[map]
pub static RULES: Array<Rule> = Array::with_max_entries(1_024, 0);

/// The slot of the rule that each handle stands for, plus one.
#[map]
pub static HANDLES: Array<u32> = Array::with_max_entries(1_024, 0);

/// Sets of peers.
#[map]
pub static PEERS: LpmTrie<NetworkKey, u32> = LpmTrie::with_max_entries(16_384, BPF_F_NO_PREALLOC);

/// Counters by state slot and direction.
#[map]
pub static COUNTERS: PerCpuHashMap<CounterKey, Counter> =
    PerCpuHashMap::with_max_entries(131_072, BPF_F_NO_PREALLOC);

/// State by slot.
#[map]
pub static STATE: HashMap<u32, TargetState> = HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);

/// Flows. The only map that packets fill: it is allocated at load, so that no packet waits for memory.
#[map]
pub static FLOWS: HashMap<FlowKey, Flow> = HashMap::with_max_entries(65_536, 0);

/// This node's addresses.
#[map]
pub static NODE_ADDRESSES: HashMap<Address, u32> = HashMap::with_max_entries(1_024, BPF_F_NO_PREALLOC);

/// Far ends of protected conversations.
#[map]
pub static PROTECTED: HashMap<PortKey, u32> = HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);

/// Far ends of protected conversations, whatever their port.
#[map]
pub static PROTECTED_CIDRS: LpmTrie<NetworkKey, u32> = LpmTrie::with_max_entries(1_024, BPF_F_NO_PREALLOC);

/// The configuration. The name is `fault_abi::names::CONFIG`, and tells the version of the ABI.
#[map(name = "CONFIG_8")]
pub static CONFIG: Array<Config> = Array::with_max_entries(1, 0);

/// Counters of the node.
#[map]
pub static GLOBAL: PerCpuArray<u64> = PerCpuArray::with_max_entries(GLOBALS, 0);

/// The delay line and the splitter.
#[map]
pub static LINE: Array<Line> = Array::with_max_entries(1, 0);

/// What is in the delay line.
#[map]
pub static HELD: Array<Held> = Array::with_max_entries(1, 0);

/// The engine's last sign of life.
#[map]
pub static ENGINE: Array<u64> = Array::with_max_entries(1, 0);

/// Tickets of packets in the line of the engine `fq`. Allocated at load, so that no packet waits for memory.
#[map]
pub static TICKETS: HashMap<u32, Queued> = HashMap::with_max_entries(1_024, 0);

/// The number of the next packet that goes into the line of the engine `fq`.
#[map]
pub static SEQUENCE: Array<u64> = Array::with_max_entries(1, 0);

/// How much before its time a packet leaves the queue of the engine `fq`.
#[map]
pub static LEAD: Array<Lead> = Array::with_max_entries(1, 0);

/// How late packets left the line of the engine `fq`.
#[map]
pub static LATENESS: PerCpuArray<u64> = PerCpuArray::with_max_entries(LATENESS_ENTRIES, 0);

/// What the TC dispatchers call.
#[map]
pub static PROGRAMS_TC: ProgramArray = ProgramArray::with_max_entries(16, 0);

/// What the XDP dispatcher calls.
#[map]
pub static PROGRAMS_XDP: ProgramArray = ProgramArray::with_max_entries(8, 0);

/// Working memory of a program that holds a packet of a target.
///
/// It is a map and not the stack for two reasons: the stack has 512 bytes (before Linux 6.8 each call takes a multiple of 32
/// of them, and zeroing a few bytes can be a call of `memset`), and the verifier keeps apart all that it knows about values on the stack, but
/// nothing about values in a map.
pub struct Scratch {
    /// The packet.
    pub packet: Packet,
    /// Its target's bindings.
    pub bindings: Bindings,
    /// What becomes of it.
    pub plan: Plan,
    /// Where it stands among those that met the later faults of the binding at hand.
    pub met: Met,
    /// How many copies there were before that binding.
    pub before: u32,
    /// When it came: CLOCK_BOOTTIME in nanoseconds.
    pub now_ns: u64,
    /// Which of its conversations are protected: `PROTECTED_*`.
    pub protection: u32,
    /// Where its IP header begins; 0: the interface has no Ethernet header.
    pub network: u32,
    /// Where that begins which stands behind IP.
    pub payload: u32,
    /// Where it ends, as IP says.
    pub end: u32,
    /// ICMP's type, or 0, and what else there is to know about it: [`LATER_FRAGMENT`], [`RESET`], [`TOO_BIG`],
    /// [`MALFORMED`].
    pub notes: u32,
    /// Where the splitter is: `SPLITTER_*`, or 0.
    pub splitter: u32,
    /// The state of the binding by which it goes to the splitter, or is answered.
    pub author: u32,
    /// What is decided at the packet's hook: a [`Stage`](fault_abi::pass::Stage) as a number.
    pub stage: u32,
    /// What the verifier shall forget: see [`crate::frame::Forgetful`] and `fault_abi::pass::World::forget`.
    pub forgotten: u64,
    /// The key of its flow; what is always zero in it is never written.
    pub flow_key: FlowKey,
    /// The flow that begins with it. Its channels are never written here, and so are zero.
    pub flow: Flow,
}

/// [`Scratch::notes`]: the packet is a fragment but not the first one.
pub const LATER_FRAGMENT: u32 = 1 << 8;
/// [`Scratch::notes`]: the packet is a reset of TCP.
pub const RESET: u32 = 1 << 9;
/// [`Scratch::notes`]: it says that a packet was too large for its way.
pub const TOO_BIG: u32 = 1 << 10;
/// [`Scratch::notes`]: it is shorter than it says, or has too many extension headers.
pub const MALFORMED: u32 = 1 << 11;
/// [`Scratch::splitter`]: there is one that it has not passed yet.
pub const SPLITTER_AHEAD: u32 = 1;
/// [`Scratch::splitter`]: it has passed it.
pub const SPLITTER_BEHIND: u32 = 2;

/// One for each CPU: hooks run with bottom halves off, so no two of them interleave on one CPU.
#[map]
pub static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);
