//! The kernel as the agent uses it: tables that operations change, hooks that interfaces get, counters that are
//! read. [`aya`] is the real one and the only caller of the library of that name; [`fake`] is for tests.
pub mod aya;
pub mod fake;
mod fds;
pub mod hooks;
pub mod object;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use edge_api::fault_node::HookKind;
use fault_abi::ABI_VERSION;
use fault_abi::counter::{Counter, Global};
use fault_abi::key::Direction;
use fault_abi::line::Held;
use thiserror::Error;

use crate::line::ends::{Device, Tell};
use crate::splitter::Splitter;
use crate::table::Op;

/// A call to the kernel that failed.
#[derive(Debug, Error)]
pub enum KernelError {
    /// No programs are built in.
    #[error(
        "this build has no kernel programs in it: build them with `cargo xtask build-ebpf`, then build the agent again"
    )]
    Stub,
    /// The object is not the one this agent was built for.
    #[error(
        "the kernel programs lack {0:?}: build them again with `cargo xtask build-ebpf`, and then the agent"
    )]
    Missing(&'static str),
    /// The object was built with another version of the ABI.
    #[error(
        "the kernel programs are of another version than this agent, which wants version {ABI_VERSION} of the ABI: build them again with `cargo xtask build-ebpf`, and then the agent"
    )]
    Abi,
    /// The kernel refused to load.
    #[error("the kernel refused the programs: {0}")]
    Load(String),
    /// The kernel refused a change of a table.
    #[error("{op}: {reason}")]
    Table {
        /// [`Op::name`].
        op: &'static str,
        /// What the kernel said.
        reason: String,
    },
    /// The kernel has no memory for an element of a table at the moment.
    #[error("{op}: the kernel has no memory for it at the moment")]
    Memory {
        /// [`Op::name`].
        op: &'static str,
    },
    /// The kernel refused a hook.
    #[error("{hook} on {interface}: {reason}", hook = .hook.as_str())]
    Attach {
        /// Which.
        hook: HookKind,
        /// Where.
        interface: String,
        /// What the kernel said.
        reason: String,
    },
    /// The kernel refused a program at an end of the delay line or the splitter.
    #[error("the program at the end of {interface}: {reason}")]
    Line {
        /// Where.
        interface: String,
        /// What the kernel said.
        reason: String,
    },
    /// The kernel refused a read.
    #[error("reading {map}: {reason}")]
    Read {
        /// Which table.
        map: &'static str,
        /// What the kernel said.
        reason: String,
    },
    /// A descriptor could not be moved out of the way.
    #[error("the descriptors of the program arrays: {0}")]
    Descriptors(String),
}

impl KernelError {
    /// Whether the same again may well succeed in a moment.
    #[must_use]
    pub const fn is_momentary(&self) -> bool {
        matches!(self, Self::Memory { .. })
    }
}

/// An operation of several that the kernel refused.
#[derive(Debug)]
pub struct Refusal {
    /// Which: those before it are performed, and none from it on.
    pub at: usize,
    /// Why.
    pub error: KernelError,
}

/// An interface by both its names.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Interface {
    /// The index, unique in the network namespace.
    pub index: u32,
    /// The name, which can change.
    pub name: String,
}

/// How packets of an interface begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Layer {
    /// With an Ethernet header.
    #[default]
    Ethernet,
    /// With IP.
    Ip,
}

/// The devices behind hooks, as far as they are there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Devices {
    /// A random number, never 0, by which the programs know packets of this load.
    pub magic: u64,
    /// The delay line.
    pub line: Option<LineEnds>,
    /// The splitter's ends: where packets enter, and where they come out.
    pub splitter: Option<(Interface, Interface)>,
}

/// Where the delay line begins and ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineEnds {
    /// Hooks send packets into it.
    pub entry: Interface,
    /// They come in by it.
    pub end: Interface,
    /// The kernel holds them, between the two; else the agent does, and the two are one.
    pub is_fq: bool,
}

/// How much may be in the delay line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LineLimits {
    /// Packets in all (`--line-packets`).
    pub packets: u32,
    /// Bytes in all (`--line-bytes`).
    pub bytes: u64,
    /// Packets of one target (`--line-target-packets`).
    pub target_packets: u32,
    /// Bytes of one target (`--line-target-bytes`).
    pub target_bytes: u64,
}

/// Tables and hooks. One owner at a time; dropping it ends all faults.
pub trait Kernel: Send {
    /// A round of so many operations begins: all of them together wait for the kernel's memory for no longer than that is worth.
    fn begin_round(&mut self, operations: usize);

    /// Performs one operation; repeating one does no harm.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn perform(&mut self, op: &Op) -> Result<(), KernelError>;

    /// Performs operations in their order until one is refused; repeating them does no harm.
    ///
    /// # Errors
    /// When the kernel refuses one.
    fn perform_all(&mut self, ops: &[Op]) -> Result<(), Refusal> {
        for (at, op) in ops.iter().enumerate() {
            self.perform(op).map_err(|error| Refusal { at, error })?;
        }
        Ok(())
    }

    /// Attaches a dispatcher for packets that begin so, before all others. Takes about 16 ms under the kernel's network lock.
    ///
    /// # Errors
    /// When the kernel refuses, as drivers may for native XDP.
    fn attach(&mut self, interface: &Interface, layer: Layer, hook: HookKind) -> Result<(), KernelError>;

    /// Looks which of this interface's hooks somebody else has removed, and forgets those. Takes some tens of microseconds.
    ///
    /// # Errors
    /// When the kernel does not tell.
    fn lose(&mut self, interface: &Interface) -> Result<BTreeSet<HookKind>, KernelError>;

    /// Looks whether the programs at the ends of the delay line and the splitter are there, and the queue of a line of the engine `fq`, and
    /// puts back what somebody else has removed. `tell` is told why packets cannot go through a device, and then, once they can, nothing. Takes some hundreds of microseconds.
    fn mend_ends(&mut self, tell: &mut dyn FnMut(Device, Option<String>));

    /// Takes a splitter in the place of the one that somebody has removed. Returns what tells hooks of it.
    ///
    /// # Errors
    /// When the kernel refuses its program, or the table.
    fn take_splitter(&mut self, splitter: &Splitter) -> Result<Tell, KernelError>;

    /// Detaches what is attached to this interface, or forgets it where the interface is gone.
    fn detach(&mut self, index: u32);

    /// Does some work ahead of what may be asked for; returns what is left of it.
    fn prepare(&mut self) -> Ahead;

    /// The flows, for a thread of its own.
    fn flows(&self) -> Arc<dyn Flows>;

    /// The tickets of a line of the engine `fq`, for a thread of its own.
    fn tickets(&self) -> Arc<dyn Tickets>;

    /// Counts packets out of the line that were lost in it, by their states.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn settle(&mut self, lost: &BTreeMap<u32, Held>) -> Result<(), KernelError>;

    /// Interfaces that were given a clsact qdisc, which outlives this.
    fn added_qdiscs(&self) -> BTreeSet<u32>;

    /// A reader of the counters that needs no lock of this.
    fn counters(&self) -> Arc<dyn Counters>;
}

/// States whose flows are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// These.
    pub states: BTreeSet<u32>,
    /// And those above, which are newer than this list.
    pub known: u32,
}

impl Kept {
    /// Whether the flows of this state are.
    #[must_use]
    pub fn has(&self, state: u32) -> bool {
        state > self.known || self.states.contains(&state)
    }
}

/// What is left of the work ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ahead {
    /// Nothing.
    Done,
    /// More, at once.
    More,
    /// More, but the kernel is short of memory for a moment.
    Later,
}

/// What a sweep of the flows came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// So many are left.
    pub left: u64,
    /// So many were forgotten since their profile has ended, or has left their target.
    pub ended: u64,
    /// So many were forgotten to make room: when their next packet comes it is the first of a new flow.
    pub made_room: u64,
}

/// Flows, which the programs fill in.
pub trait Flows: Send + Sync {
    /// Removes the flows of all other states, and where there is hardly any room left those that were silent for longest. Looks at each
    /// flow: up to seconds.
    fn sweep(&self, kept: &Kept) -> Swept;
}

/// Tickets of the packets in a line of the engine `fq`: one that is there long after its packet's time is that of a packet which was lost in
/// the line, with its queue or at its end.
pub trait Tickets: Send + Sync {
    /// Takes away those of packets that were lost as of `now_ns` (CLOCK_BOOTTIME). Returns what they are by their states, to be counted out of
    /// the line. Looks at each ticket.
    fn take_lost(&self, now_ns: u64) -> BTreeMap<u32, Held>;
}

/// What the programs count of a delay line of the engine `fq`.
pub trait QueueCounters: Send + Sync {
    /// What is in the line.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn held(&self) -> Result<Held, KernelError>;

    /// The entries of `LATENESS`, over all CPUs.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn lateness(&self) -> Result<Vec<u64>, KernelError>;

    /// How much before its time a packet is sent off now, in nanoseconds.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn lead_ns(&self) -> Result<u64, KernelError>;

    /// Packets that the queue refused.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn refused(&self) -> Result<u64, KernelError>;

    /// Packets that were lost in the line and have been counted out of it.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn settled(&self) -> Result<u64, KernelError>;
}

/// Counters, read when they are asked for and never copied.
pub trait Counters: Send + Sync {
    /// The sum over all CPUs; none when there is no such state.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn counter(&self, state: u32, direction: Direction) -> Result<Option<Counter>, KernelError>;

    /// A counter of the whole node, over all CPUs.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn global(&self, what: Global) -> Result<u64, KernelError>;
}
