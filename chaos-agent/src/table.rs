//! What the kernel's tables are changed by: places that packets are looked up by, and operations as data.
//! Deciding on them is `diff`'s, performing them the kernel's.

use std::net::IpAddr;
use std::sync::Arc;

use edge_api::quantity::Network;
use fault_abi::filter::Filter;
use fault_abi::key::{Address, FULL_PREFIX, IPV4_PREFIX, PortKey};
use fault_abi::rule::{Config, Entry, Rule};

/// A network as the kernel's tries hold it: IPv4 as `::ffff:a.b.c.d`, so 96 bits longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    /// 0 to 128.
    pub bits: u8,
    /// The first address.
    pub address: Address,
}

impl Prefix {
    /// Whether it is a network of IPv4.
    #[must_use]
    pub const fn is_ipv4(self) -> bool {
        self.bits as u32 >= IPV4_PREFIX && self.address.is_ipv4()
    }

    /// Does it contain the address?
    #[must_use]
    pub fn contains(self, address: Address) -> bool {
        address.is_ipv4() == self.is_ipv4() && address.masked(u32::from(self.bits)) == self.address
    }
}

impl From<Network> for Prefix {
    fn from(network: Network) -> Self {
        let family = if network.address().is_ipv4() { IPV4_PREFIX } else { 0 };
        // At most 96 + 32.
        let bits = u8::try_from(family + u32::from(network.prefix())).unwrap_or(u8::MAX);
        Self { bits, address: network.address().into() }
    }
}

/// Where a packet's target is looked up. A packet is decided by the narrowest place that holds something for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// A port of an address.
    Port(PortKey),
    /// An address, whatever the port.
    Address(Address),
    /// A network of more than one address.
    Cidr(Prefix),
}

impl Place {
    /// The place of a network: a /32 or /128 is an address.
    #[must_use]
    pub fn of(network: Network) -> Self {
        if network.is_host() { Self::Address(network.address().into()) } else { Self::Cidr(network.into()) }
    }

    /// The place of a port of an address.
    #[must_use]
    pub fn port(address: IpAddr, protocol: u8, port: u16) -> Self {
        Self::Port(PortKey::new(address.into(), protocol, port))
    }

    /// Orders places from the narrowest to the widest: a packet is decided by the first that holds something.
    #[must_use]
    pub const fn width(self) -> u8 {
        match self {
            Self::Port(_) => 0,
            Self::Address(_) => 1,
            Self::Cidr(prefix) => u8::MAX - prefix.bits,
        }
    }

    /// The fields of an entry that say whose it is.
    #[must_use]
    pub fn blank(self) -> Entry {
        let whole = u8::try_from(FULL_PREFIX).unwrap_or(u8::MAX);
        match self {
            Self::Port(key) => Entry {
                address: key.address,
                port: key.port,
                protocol: key.protocol,
                prefix: whole,
                ..Entry::default()
            },
            Self::Address(address) => Entry { address, prefix: whole, ..Entry::default() },
            Self::Cidr(prefix) => Entry { address: prefix.address, prefix: prefix.bits, ..Entry::default() },
        }
    }
}

/// How much the kernel's tables have room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Entries of each table of targets, and profiles' targets in all (`--max-targets`).
    pub targets: u32,
    /// Profiles that act at the same time (`--max-rules`).
    pub rules: u32,
    /// Flows (`--max-flows`).
    pub flows: u32,
    /// Profiles that act on one target (`--max-profiles-per-target`), [`fault_abi::rule::MAX_BINDINGS`] at most.
    pub profiles_per_target: u32,
    /// Networks in `match.peers` of all profiles (`--max-peers`).
    pub peers: u32,
    /// Namespaces in which peers are looked up (`--max-peer-namespaces`).
    pub peer_namespaces: u32,
    /// Far ends of protected conversations (`--max-protected`).
    pub protected: u32,
    /// Addresses of this node (`--max-node-addresses`).
    pub node_addresses: u32,
}

impl Capacity {
    /// As many of everything; of profiles on a target [`compile`](crate::compile::compile) takes no more than the programs do.
    #[must_use]
    pub const fn of_each(number: u32) -> Self {
        Self {
            targets: number,
            rules: number,
            flows: number,
            profiles_per_target: number,
            peers: number,
            peer_namespaces: number,
            protected: number,
            node_addresses: number,
        }
    }

    /// Slots for rules: more than rules, so that each can be replaced.
    #[must_use]
    pub const fn rule_slots(self) -> u32 {
        Self::with_replacements(self.rules)
    }

    /// States with their counters: those of targets that are gone make room when they are needed.
    #[must_use]
    pub const fn states(self) -> u32 {
        self.targets
    }

    /// Size of a table in which the new is written before the old is removed.
    #[must_use]
    pub const fn with_replacements(room: u32) -> u32 {
        room.saturating_mul(2)
    }
}

/// A profile's uid.
pub type Uid = Arc<str>;

/// A target's name as metrics show it: a device's or pod's name, or the network.
pub type TargetName = Arc<str>;

/// One change of the kernel's tables. An operation can be repeated.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// Replaces the configuration.
    SetConfig(Config),
    /// Replaces the filter, which says of which addresses entries are looked up at all.
    SetFilter(Box<Filter>),
    /// This node has this address.
    AddNodeAddress(Address),
    /// It has it no more.
    RemoveNodeAddress(Address),
    /// Conversations of this node with this end are left alone, see `PROTECTED_*`.
    Protect(PortKey, u32),
    /// They no longer are.
    Unprotect(PortKey),
    /// Conversations of this node with this network are left alone.
    ProtectCidr(Prefix),
    /// They no longer are.
    UnprotectCidr(Prefix),
    /// Puts a network into a set of peers.
    AddPeer {
        /// The set, 1 or more.
        set: u32,
        /// The network.
        prefix: Prefix,
    },
    /// Takes it out.
    RemovePeer {
        /// The set, 1 or more.
        set: u32,
        /// The network.
        prefix: Prefix,
    },
    /// Fills a slot that nothing refers to.
    WriteRule {
        /// The slot.
        slot: u32,
        /// Whose rule.
        uid: Uid,
        /// The rule.
        rule: Box<Rule>,
    },
    /// Lets a handle stand for a rule, at once for all entries that refer to it.
    SetRule {
        /// The handle.
        handle: u32,
        /// Whose.
        uid: Uid,
        /// The rule's slot.
        slot: u32,
    },
    /// No entry refers to this handle any more; its quarantine starts.
    RetireHandle {
        /// The handle.
        handle: u32,
    },
    /// The quarantine is over.
    ClearHandle {
        /// The handle.
        handle: u32,
    },
    /// No handle stands for this slot any more, but a program may still read it: its quarantine starts.
    RetireRule {
        /// The slot.
        slot: u32,
    },
    /// The quarantine is over.
    ClearRule {
        /// The slot.
        slot: u32,
    },
    /// Makes counters and state, all zero.
    MakeState {
        /// Its number, never used before.
        state: u32,
        /// The profile.
        uid: Uid,
        /// The target.
        target: TargetName,
    },
    /// Nothing refers to this state any more; its quarantine starts.
    RetireState {
        /// Its number.
        state: u32,
    },
    /// Removes counters, state and flows.
    DropState {
        /// Its number.
        state: u32,
    },
    /// Writes or replaces an entry, at once and without a gap.
    WriteEntry {
        /// Where.
        place: Place,
        /// What.
        entry: Box<Entry>,
    },
    /// Removes an entry.
    RemoveEntry(Place),
}

impl Op {
    /// Bounded name, for logs and metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::SetConfig(_) => "SetConfig",
            Self::SetFilter(_) => "SetFilter",
            Self::AddNodeAddress(_) => "AddNodeAddress",
            Self::RemoveNodeAddress(_) => "RemoveNodeAddress",
            Self::Protect(..) => "Protect",
            Self::Unprotect(_) => "Unprotect",
            Self::ProtectCidr(_) => "ProtectCidr",
            Self::UnprotectCidr(_) => "UnprotectCidr",
            Self::AddPeer { .. } => "AddPeer",
            Self::RemovePeer { .. } => "RemovePeer",
            Self::WriteRule { .. } => "WriteRule",
            Self::SetRule { .. } => "SetRule",
            Self::RetireHandle { .. } => "RetireHandle",
            Self::ClearHandle { .. } => "ClearHandle",
            Self::RetireRule { .. } => "RetireRule",
            Self::ClearRule { .. } => "ClearRule",
            Self::MakeState { .. } => "MakeState",
            Self::RetireState { .. } => "RetireState",
            Self::DropState { .. } => "DropState",
            Self::WriteEntry { .. } => "WriteEntry",
            Self::RemoveEntry(_) => "RemoveEntry",
        }
    }
}
