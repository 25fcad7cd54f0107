//! Operations as calls to the kernel: those that are many, of entries and states, many in a call.

use aya::Pod;
use aya::maps::MapError;
use aya::maps::lpm_trie::Key;
use fault_abi::key::{Address, NetworkKey, PortKey, SPACE_BITS};
use fault_abi::rule::{Entry, NO_RULE, Rule};

use super::AyaKernel;
use super::table::Table;
use crate::table::{Op, Place, Prefix};

impl AyaKernel {
    /// Performs the first of these operations, with those that follow it and are of its kind on the same table. Returns how many were
    /// performed, and why the next one was not.
    pub(super) fn change(&mut self, ops: &[Op]) -> (usize, Result<(), MapError>) {
        let Some(first) = ops.first() else { return (0, Ok(())) };
        let outcome = match first {
            Op::WriteEntry { place: Place::Port(_), .. } => return put(&self.ports, ops, written_port),
            Op::WriteEntry { place: Place::Address(_), .. } => {
                return put(&self.targets, ops, written_address);
            }
            Op::RemoveEntry(Place::Port(_)) => return self.ports.remove(&run(ops, removed_port)),
            Op::RemoveEntry(Place::Address(_)) => return self.targets.remove(&run(ops, removed_address)),
            Op::MakeState { .. } => return self.states.take(&run(ops, made_state)),
            Op::DropState { .. } => return self.states.remove(&run(ops, dropped_state)),
            Op::WriteEntry { place: Place::Cidr(prefix), entry } => {
                self.cidrs.insert(&trie_key(*prefix), **entry, 0)
            }
            Op::RemoveEntry(Place::Cidr(prefix)) => gone_is_fine(self.cidrs.remove(&trie_key(*prefix))),
            Op::SetConfig(config) => self.config.set(0, config, 0),
            Op::SetFilter(filter) => self.filter.set(0, **filter, 0),
            Op::AddNodeAddress(address) => self.node_addresses.insert(address, 1, 0),
            Op::RemoveNodeAddress(address) => gone_is_fine(self.node_addresses.remove(address)),
            Op::Protect(key, class) => self.protected.insert(key, class, 0),
            Op::Unprotect(key) => gone_is_fine(self.protected.remove(key)),
            Op::ProtectCidr(prefix) => self.protected_cidrs.insert(&trie_key(*prefix), 1, 0),
            Op::UnprotectCidr(prefix) => gone_is_fine(self.protected_cidrs.remove(&trie_key(*prefix))),
            Op::AddPeer { set, prefix } => self.peers.insert(&peer_key(*set, *prefix), 1, 0),
            Op::RemovePeer { set, prefix } => gone_is_fine(self.peers.remove(&peer_key(*set, *prefix))),
            Op::WriteRule { slot, rule, .. } => self.rules.set(*slot, **rule, 0),
            Op::ClearRule { slot } => self.rules.set(*slot, Rule::default(), 0),
            Op::SetRule { handle, slot, .. } => self.handles.set(*handle, slot.saturating_add(1), 0),
            Op::ClearHandle { handle } => self.handles.set(*handle, NO_RULE, 0),
            Op::RetireRule { .. } | Op::RetireHandle { .. } | Op::RetireState { .. } => Ok(()),
        };
        (usize::from(outcome.is_ok()), outcome)
    }
}

/// What the operations are about, up to the first of another kind.
fn run<T>(ops: &[Op], about: impl Fn(&Op) -> Option<T>) -> Vec<T> {
    ops.iter().map_while(about).collect()
}

fn put<K: Pod>(
    table: &Table<K, Entry>,
    ops: &[Op],
    written: impl Fn(&Op) -> Option<(K, Entry)>,
) -> (usize, Result<(), MapError>) {
    let (keys, entries): (Vec<K>, Vec<Entry>) = ops.iter().map_while(written).unzip();
    table.put(&keys, &entries)
}

fn written_port(op: &Op) -> Option<(PortKey, Entry)> {
    match op {
        Op::WriteEntry { place: Place::Port(key), entry } => Some((*key, **entry)),
        _ => None,
    }
}

fn written_address(op: &Op) -> Option<(Address, Entry)> {
    match op {
        Op::WriteEntry { place: Place::Address(address), entry } => Some((*address, **entry)),
        _ => None,
    }
}

const fn removed_port(op: &Op) -> Option<PortKey> {
    match op {
        Op::RemoveEntry(Place::Port(key)) => Some(*key),
        _ => None,
    }
}

const fn removed_address(op: &Op) -> Option<Address> {
    match op {
        Op::RemoveEntry(Place::Address(address)) => Some(*address),
        _ => None,
    }
}

const fn made_state(op: &Op) -> Option<u32> {
    match op {
        Op::MakeState { state, .. } => Some(*state),
        _ => None,
    }
}

const fn dropped_state(op: &Op) -> Option<u32> {
    match op {
        Op::DropState { state } => Some(*state),
        _ => None,
    }
}

fn gone_is_fine(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

const fn trie_key(prefix: Prefix) -> Key<NetworkKey> {
    peer_key(0, prefix)
}

const fn peer_key(set: u32, prefix: Prefix) -> Key<NetworkKey> {
    let key = NetworkKey::of_set(set, prefix.address, prefix.is_ipv4());
    Key::new(SPACE_BITS + prefix.bits as u32, key)
}
