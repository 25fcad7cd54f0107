//! What the agent compiles: an [`Entry`] for each address (or port, or CIDR) with its [`Binding`]s, each of
//! which names a [`Rule`]; and the [`Config`] of all.

use crate::key::{Address, Direction};

/// Bindings of an entry at most: profiles that act on one target at the same time.
pub const MAX_BINDINGS: usize = 8;
/// Port ranges of a rule at most.
pub const MAX_PORT_RANGES: usize = 16;
/// Phases of a rule at most. A power of two: [`Rule::phase_at`] halves it.
pub const MAX_PHASES: usize = 64;

/// [`Entry::flags`]: `PORT_TARGETS` has entries for ports of this address.
pub const ENTRY_HAS_PORTS: u16 = 1;

/// [`Rule::flags`]: the rule acts on what the target sends ([`Direction::FromDevice`]`.bit()`).
pub const RULE_FROM_DEVICE: u32 = 1;
/// [`Rule::flags`]: the rule acts on what the target receives ([`Direction::ToDevice`]`.bit()`).
pub const RULE_TO_DEVICE: u32 = 2;
/// [`Rule::flags`]: the rule acts on a node's probes of the target too (`match.peers` names the node's address).
pub const RULE_LIFTS_PROBES: u32 = 4;

/// [`Phase::flags`]: everything is dropped.
pub const PHASE_PARTITION: u32 = 1;
/// [`Phase::flags`]: loss comes in bursts (Gilbert-Elliott): `loss` outside of them, `loss_in_burst` inside.
pub const PHASE_BURSTS: u32 = 2;
/// [`Phase::flags`]: bursts, and every n-th packet, are those of a flow; else those of the target.
pub const PHASE_PER_FLOW: u32 = 4;
/// [`Phase::flags`]: a partition tells the sender: a reset for TCP, else an ICMP error.
pub const PHASE_REJECT: u32 = 8;
/// [`Phase::flags`]: `jitter_ns` is that of a uniform distribution; without this or the next, of a normal one.
pub const PHASE_UNIFORM: u32 = 16;
/// [`Phase::flags`]: `jitter_ns` is that of a Pareto distribution.
pub const PHASE_PARETO: u32 = 32;
/// [`Phase::flags`]: delays are correlated with those of the flow; else with those of the target.
pub const PHASE_DELAY_PER_FLOW: u32 = 64;

/// [`Config::flags`]: `CIDRS` is not empty.
pub const CONFIG_HAS_CIDRS: u32 = 1;
/// [`Config::flags`]: a rule [has later faults](Phase::has_later) in some phase.
pub const CONFIG_HAS_LATER: u32 = 2;
/// [`Config::flags`]: a rule [rewrites](Phase::rewrites) in some phase.
pub const CONFIG_HAS_REWRITES: u32 = 4;

/// Value in `PROTECTED`: this node's own conversation (API server, DNS); nothing lifts it.
pub const PROTECTED_NODE: u32 = 1;
/// Value in `PROTECTED`: a node's probe of a pod; [`RULE_LIFTS_PROBES`] lifts it.
pub const PROTECTED_PROBE: u32 = 2;

/// Beside those: the packet's peer is an address of this node.
pub const PEER_IS_NODE: u32 = 4;

/// A probability of 100 %.
pub const ALWAYS: u64 = 1 << 32;
/// A correlation of 100 %.
pub const WHOLE: u32 = 1 << 16;
/// The longest delay that one packet gets, all faults together: one minute.
pub const MAX_DELAY_NS: u64 = 60_000_000_000;

/// In `HANDLES`: the handle stands for no rule.
pub const NO_RULE: u32 = 0;

/// A profile on a target.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Binding {
    /// Of an entry: the profile's handle in `HANDLES`, which stays while its rule is replaced. Of a packet's copy: the slot in `RULES`
    /// that the handle stood for when the packet came.
    pub rule: u32,
    /// Slot of counters and state of this profile on this target.
    pub state: u32,
    /// Key of all draws: a hash of the profile's seed, namespace and name and the target's namespace and name
    /// (or address).
    pub key: [u64; 2],
}

/// What is known about an address, a port of an address, or a CIDR: its profiles, in the order in which they
/// act, those of all wider rules included. Only one entry is applied to a packet.
///
/// The kernel gives the memory of a removed element to another one at once, also while a program still reads
/// it. So a program reads from the end to the start, and the entry is right only if both generations agree and
/// the address is the one looked for; the kernel writes from the start to the end.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Entry {
    /// Differs for each entry that is written; the agent counts it up.
    pub generation: u64,
    /// The address, or the CIDR's first one.
    pub address: Address,
    /// The port (host order) of an entry of `PORT_TARGETS`, else 0.
    pub port: u16,
    /// IP protocol number of an entry of `PORT_TARGETS`, else 0.
    pub protocol: u8,
    /// Bits of the address that count: [`FULL_PREFIX`](crate::key::FULL_PREFIX) but for CIDRs.
    pub prefix: u8,
    /// `ENTRY_*`.
    pub flags: u16,
    /// Bindings in use, at most [`MAX_BINDINGS`].
    pub count: u16,
    /// The first `count` are in use.
    pub bindings: [Binding; MAX_BINDINGS],
    /// Equal to `generation`.
    pub generation_again: u64,
}

/// A range of ports, host order, both ends included.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PortRange {
    /// The first port.
    pub first: u16,
    /// The last port.
    pub last: u16,
}

/// What happens to packets in a part of a rule's time. Probabilities are in 2⁻³²: 0 = never, [`ALWAYS`] = always.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Phase {
    /// When it ends, in nanoseconds after the beginning of the first phase.
    pub until_ns: u64,
    /// Probability of loss; with [`PHASE_BURSTS`] that outside of bursts.
    pub loss: u64,
    /// Probability of loss inside a burst.
    pub loss_in_burst: u64,
    /// Probability that a burst begins behind a packet outside of one.
    pub enter_burst: u64,
    /// Probability that the burst ends behind a packet inside it.
    pub leave_burst: u64,
    /// Each n-th packet is lost: the n-th, the 2n-th, …; 0: none for that.
    pub every: u32,
    /// `PHASE_*`.
    pub flags: u32,
    /// Probability that a bit is flipped.
    pub corrupt: u64,
    /// Probability that a second one goes out.
    pub duplicate: u64,
    /// Probability that the packet is `reorder_ns` later than the rest.
    pub reorder: u64,
    /// Nanoseconds; 0: none.
    pub reorder_ns: u64,
    /// Mean delay in nanoseconds.
    pub delay_ns: u64,
    /// Half the width of a uniform distribution, the standard deviation of any other, in nanoseconds; 0: all delays are
    /// `delay_ns`.
    pub jitter_ns: u64,
    /// How much a delay is like the one before it, in 2⁻¹⁶: the coefficient of a first-order autoregressive process.
    pub correlation: u32,
    /// What is new in it, in 2⁻¹⁶: √(1 − correlation²).
    pub innovation: u32,
    /// Bits a second that leave; 0: as many as come.
    pub rate: u64,
    /// The bucket's depth, in nanoseconds at that rate.
    pub burst_ns: u64,
    /// Who would wait longer is dropped, in nanoseconds.
    pub queue_ns: u64,
}

/// What a profile does. Once a handle stands for it, it never changes: the agent writes a new slot, then the
/// handle, and uses a slot again only after a quarantine.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Differs for each rule that is written; 0: the slot is empty and does nothing.
    pub generation: u64,
    /// CLOCK_BOOTTIME in nanoseconds from which on the rule does nothing more.
    pub deadline_ns: u64,
    /// How long before that its first phase begins, in nanoseconds. (That can be before this machine was booted.)
    pub length_ns: u64,
    /// `RULE_*`.
    pub flags: u32,
    /// Set of peers in `PEERS`; 0: any peer.
    pub peer_set: u32,
    /// IP protocol number; 0: any; that of ICMP means ICMPv6, too.
    pub protocol: u8,
    /// Port ranges in use, at most [`MAX_PORT_RANGES`]; 0: any port, and none.
    pub port_ranges: u8,
    /// Phases in use, 1 to [`MAX_PHASES`].
    pub phase_count: u8,
    /// Always 0.
    pub zero: [u8; 5],
    /// The target's ports; the first `port_ranges` are in use.
    pub ports: [PortRange; MAX_PORT_RANGES],
    /// What happens when: the first `phase_count` are in use, each begins where the one before it ends.
    pub phases: [Phase; MAX_PHASES],
}

impl Default for Rule {
    fn default() -> Self {
        Self {
            generation: 0,
            deadline_ns: 0,
            length_ns: 0,
            flags: 0,
            peer_set: 0,
            protocol: 0,
            port_ranges: 0,
            phase_count: 0,
            zero: [0; 5],
            ports: [PortRange::default(); MAX_PORT_RANGES],
            phases: [Phase::default(); MAX_PHASES],
        }
    }
}

impl Phase {
    /// Whether a packet that is not lost meets any more faults: corrupt, duplicate, delay, reorder, rate.
    #[inline(always)]
    #[must_use]
    pub const fn has_later(&self) -> bool {
        self.corrupt | self.duplicate | self.delay_ns | self.jitter_ns | self.rate != 0 || self.reorders()
    }

    /// Whether some packets are later than the rest.
    #[inline(always)]
    #[must_use]
    pub const fn reorders(&self) -> bool {
        self.reorder != 0 && self.reorder_ns != 0
    }

    /// Whether it needs the delay line.
    #[inline(always)]
    #[must_use]
    pub const fn delays(&self) -> bool {
        self.delay_ns | self.jitter_ns | self.rate != 0 || self.reorders()
    }

    /// Whether it needs packets one by one with whole checksums, also those that are no super-packets: a flipped bit must
    /// show, and an answer in the packet's stead must have a right sum.
    #[inline(always)]
    #[must_use]
    pub const fn rewrites(&self) -> bool {
        self.corrupt != 0 || self.flags & PHASE_REJECT != 0
    }

    /// Whether the segments of a super-packet may differ in their fate, so that each has to be decided on for itself. What is
    /// asked of all alike, as a partition or a delay without jitter, is the same for the super-packet as a whole.
    #[inline(always)]
    #[must_use]
    pub const fn parts_segments(&self) -> bool {
        let by_loss = self.loss != 0 || self.every != 0 || self.flags & PHASE_BURSTS != 0;
        let by_later = self.corrupt | self.duplicate | self.jitter_ns | self.rate != 0 || self.reorders();
        self.flags & PHASE_REJECT != 0 || self.flags & PHASE_PARTITION == 0 && (by_loss || by_later)
    }

    /// The share of packets that it asks to lose in the long run, 0 to 1.
    #[must_use]
    pub fn asked(&self) -> f64 {
        let share = |threshold: u64| threshold as f64 / ALWAYS as f64;
        if self.flags & PHASE_PARTITION != 0 {
            return 1.0;
        }
        if self.every != 0 {
            return 1.0 / f64::from(self.every);
        }
        let outside = share(self.loss);
        let (enter, leave) = (share(self.enter_burst), share(self.leave_burst));
        if self.flags & PHASE_BURSTS == 0 || enter == 0.0 {
            return outside;
        }
        // The stationary distribution of a chain of two states.
        let in_burst = enter / (enter + leave);
        in_burst * share(self.loss_in_burst) + (1.0 - in_burst) * outside
    }
}

impl Rule {
    /// A rule of one phase, which lasts as long as the rule.
    #[must_use]
    pub fn of(phase: Phase) -> Self {
        let mut rule = Self { phase_count: 1, ..Self::default() };
        rule.phases[0] = Phase { until_ns: u64::MAX, ..phase };
        rule
    }

    /// The number of the phase at `now_ns` (CLOCK_BOOTTIME): how many of them are over, found by halving. Behind the
    /// last one's end it is still the last.
    #[inline(always)]
    #[must_use]
    pub fn phase_at(&self, now_ns: u64) -> usize {
        if self.phase_count <= 1 {
            return 0;
        }
        let elapsed = self.length_ns.saturating_sub(self.deadline_ns.saturating_sub(now_ns));
        let last = self.phase_count as usize - 1;
        let mut over = 0;
        let mut step = MAX_PHASES / 2;
        while step > 0 {
            let next = over + step;
            if next <= last && self.phases[(next - 1) & (MAX_PHASES - 1)].until_ns <= elapsed {
                over = next;
            }
            step /= 2;
        }
        over & (MAX_PHASES - 1)
    }

    /// Whether the rule acts at `now_ns` (CLOCK_BOOTTIME).
    #[inline(always)]
    #[must_use]
    pub const fn is_active(&self, now_ns: u64) -> bool {
        self.generation != 0 && now_ns < self.deadline_ns
    }

    /// Whether the rule acts in this direction.
    #[inline(always)]
    #[must_use]
    pub const fn acts(&self, direction: Direction) -> bool {
        self.flags & direction.bit() != 0
    }
}

/// What all programs read once a packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Config {
    /// `CONFIG_*`.
    pub flags: u32,
    /// This node's kubelet port (host order); 0: not protected.
    pub kubelet_port: u16,
    /// Always 0.
    pub zero: u16,
}

#[cfg(feature = "user")]
mod user {
    use super::{Binding, Config, Entry, Phase, PortRange, Rule};

    // SAFETY: `repr(C)`, integers only, no padding (tests/layout.rs), every bit pattern valid.
    unsafe impl aya::Pod for Binding {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Entry {}
    // SAFETY: as above.
    unsafe impl aya::Pod for PortRange {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Phase {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Rule {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Config {}
}
