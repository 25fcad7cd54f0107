//! A target's entry: how it is found, and copied while the agent may be writing it; and which conversations are protected.

use aya_ebpf::maps::lpm_trie::Key;
use fault_abi::counter::Global;
use fault_abi::decide::Packet;
use fault_abi::key::{Address, FULL_PREFIX, NetworkKey, PortKey, SPACE_BITS};
use fault_abi::pass::{self, Bindings, World as _};
use fault_abi::rule::{CONFIG_HAS_CIDRS, Config, ENTRY_HAS_PORTS, Entry, MAX_BINDINGS, PROTECTED_NODE};

use crate::maps::{
    CIDRS, LATER_FRAGMENT, NODE_ADDRESSES, PORT_TARGETS, PROTECTED, PROTECTED_CIDRS, TARGETS, TOO_BIG,
};
use crate::world::Maps;

/// How often an entry that was changed while it was read is looked up again.
const ATTEMPTS: usize = 2;

/// The entry of an address, or of the CIDR around it.
#[inline(always)]
pub fn find(target: &Address, config: &Config) -> Option<*const Entry> {
    if let Some(entry) = TARGETS.get_ptr(target) {
        return Some(entry);
    }
    if config.flags & CONFIG_HAS_CIDRS == 0 {
        return None;
    }
    CIDRS.get(network(target)).map(core::ptr::from_ref)
}

/// The key by which the networks around an address are found.
#[inline(always)]
const fn network(address: &Address) -> Key<NetworkKey> {
    Key::new(SPACE_BITS + FULL_PREFIX, NetworkKey::new(*address, address.is_ipv4()))
}

/// Which conversations of this packet are protected; `notes` are those of [`Scratch`](crate::maps::Scratch).
#[inline(always)]
pub fn protected(packet: &Packet, notes: u32, config: &Config) -> u32 {
    if NODE_ADDRESSES.get_ptr(packet.peer).is_none() {
        return 0;
    }
    let end = PortKey::new(packet.target, packet.protocol, packet.target_port);
    // SAFETY: a word, read once.
    let in_protected = if pass::has_end(packet, notes & LATER_FRAGMENT != 0) {
        PROTECTED.get_ptr(end).map_or(0, |bits| unsafe { *bits })
    } else {
        0
    };
    let in_cidr = PROTECTED_CIDRS.get(network(&packet.target)).is_some();
    let of_way = if pass::tells_of_way(packet, notes & TOO_BIG != 0) { PROTECTED_NODE } else { 0 };
    of_way | pass::protection(packet, config.kubelet_port, in_protected, in_cidr)
}

/// Copies the bindings for this packet: those of its port if it has an entry, else those of its address.
/// `false`: there are none, or they changed as often as they were read.
#[inline(always)]
pub fn read(packet: &Packet, first: *const Entry, config: &Config, into: &mut Bindings) -> bool {
    let mut entry = first;
    let mut attempt = 0;
    while attempt < ATTEMPTS {
        // SAFETY: a map value; if it is another's by now, the check in `copy` tells.
        let flags = unsafe { (&raw const (*entry).flags).read_volatile() };
        let port = if flags & ENTRY_HAS_PORTS != 0 && packet.has_ports {
            PORT_TARGETS.get_ptr(PortKey::new(packet.target, packet.protocol, packet.target_port))
        } else {
            None
        };
        let is_right = match port {
            Some(port) => copy(port, packet, None, into),
            None => copy(entry, packet, Some(flags), into),
        };
        if is_right {
            return into.count != 0;
        }
        Maps.count_global(Global::Reread);
        match find(&packet.target, config) {
            Some(again) => entry = again,
            None => return false,
        }
        attempt += 1;
    }
    false
}

/// Copies an entry's bindings from the end to the start; `false`: it was given to another target meanwhile.
/// See [`Entry`] for why that is seen. `address_flags` are those by which the address's own entry was chosen; none
/// for the entry of a port.
#[inline(always)]
fn copy(entry: *const Entry, packet: &Packet, address_flags: Option<u16>, into: &mut Bindings) -> bool {
    // SAFETY: a live map value, which the kernel may write at the same time: hence volatile, field by field.
    unsafe {
        let generation = (&raw const (*entry).generation_again).read_volatile();
        let count = (&raw const (*entry).count).read_volatile();
        // All of them: a branch for each would cost the verifier more than the copy costs a packet.
        let mut i = MAX_BINDINGS;
        while i > 0 {
            i -= 1;
            into.bindings[i] = (&raw const (*entry).bindings[i]).read_volatile();
        }
        into.count = count;
        let is_chosen = match address_flags {
            Some(flags) => (&raw const (*entry).flags).read_volatile() == flags,
            None => {
                (&raw const (*entry).port).read_volatile() == packet.target_port
                    && (&raw const (*entry).protocol).read_volatile() == packet.protocol
            }
        };
        let is_of_target = pass::is_entry_of(&*entry, &packet.target);
        // Last, as it is what the kernel writes first.
        let generation_first = (&raw const (*entry).generation).read_volatile();
        generation == generation_first && is_chosen && is_of_target
    }
}
