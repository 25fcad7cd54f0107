//! Each place gets the bindings of all wider places around it, so that one lookup is enough and no profile is
//! hidden by a longer prefix.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fault_abi::key::{Address, FULL_PREFIX, IPV4_PREFIX};

use super::{Bound, EntrySpec, Problem, Report};
use crate::table::{Place, Prefix, TargetName, Uid};

/// Makes the entries, at most `limit` in a table, with the bindings of `most` profiles each; targets that get no place, or not all of it, get their problem.
pub(super) fn entries(
    own: &BTreeMap<Place, Vec<Bound>>,
    reports: &mut [Report],
    (limit, most): (usize, usize),
) -> BTreeMap<Place, EntrySpec> {
    let order: BTreeMap<&Uid, usize> =
        reports.iter().enumerate().map(|(i, report)| (&report.uid, i)).collect();
    let lengths = prefix_lengths(own);
    let mut left_out: BTreeMap<(Uid, TargetName), Problem> = BTreeMap::new();
    let mut entries: BTreeMap<Place, EntrySpec> = BTreeMap::new();
    let mut used = [0_usize; 3];
    for place in places(own) {
        let mut bindings = around(place, own, &lengths);
        bindings.sort_by_key(|bound| order.get(&bound.uid).copied());
        let used = &mut used[table(place)];
        // A port without its address's entry would not be looked at.
        let is_cut_off =
            port_address(place).is_some_and(|address| !entries.contains_key(&Place::Address(address)));
        if *used >= limit || is_cut_off {
            left_out.extend(bindings.into_iter().map(|bound| ((bound.uid, bound.target), Problem::Table)));
            continue;
        }
        *used += 1;
        let beyond = bindings.split_off(bindings.len().min(most));
        left_out.extend(beyond.into_iter().map(|bound| ((bound.uid, bound.target), Problem::Bindings)));
        entries.insert(place, EntrySpec { has_ports: false, bindings });
    }
    let with_ports: BTreeSet<Address> = entries.keys().filter_map(|place| port_address(*place)).collect();
    for address in with_ports {
        if let Some(entry) = entries.get_mut(&Place::Address(address)) {
            entry.has_ports = true;
        }
    }
    drop(order);
    for report in reports {
        for target in &mut report.targets {
            let problem = left_out.get(&(Arc::clone(&report.uid), Arc::clone(&target.name)));
            target.problem = target.problem.or(problem.copied());
        }
    }
    entries
}

/// All places, and the address of each port: without that entry its ports would not be looked at. Wide ones come
/// first, so that addresses come before their ports.
fn places(own: &BTreeMap<Place, Vec<Bound>>) -> Vec<Place> {
    let mut all: BTreeSet<Place> = own.keys().copied().collect();
    all.extend(own.keys().filter_map(|place| port_address(*place)).map(Place::Address));
    all.into_iter().rev().collect()
}

const fn port_address(place: Place) -> Option<Address> {
    match place {
        Place::Port(key) => Some(key.address),
        Place::Address(_) | Place::Cidr(_) => None,
    }
}

const fn table(place: Place) -> usize {
    match place {
        Place::Port(_) => 0,
        Place::Address(_) => 1,
        Place::Cidr(_) => 2,
    }
}

/// Lengths of the networks that there are, the longest first.
fn prefix_lengths(own: &BTreeMap<Place, Vec<Bound>>) -> Vec<u8> {
    let lengths: BTreeSet<u8> = own
        .keys()
        .filter_map(|place| match place {
            Place::Cidr(prefix) => Some(prefix.bits),
            Place::Port(_) | Place::Address(_) => None,
        })
        .collect();
    lengths.into_iter().rev().collect()
}

/// The bindings at a place and around it. A profile binds once: by its narrowest target.
fn around(place: Place, own: &BTreeMap<Place, Vec<Bound>>, lengths: &[u8]) -> Vec<Bound> {
    let (address, bits) = match place {
        Place::Port(key) => (key.address, u8::MAX),
        Place::Address(address) => (address, u8::MAX),
        Place::Cidr(prefix) => (prefix.address, prefix.bits),
    };
    let mut chain = vec![place];
    if matches!(place, Place::Port(_)) {
        chain.push(Place::Address(address));
    }
    let whole = u8::try_from(FULL_PREFIX).unwrap_or(u8::MAX);
    // A prefix shorter than IPv4's is one of IPv6.
    let shortest = if address.is_ipv4() && u32::from(bits) >= IPV4_PREFIX { IPV4_PREFIX } else { 0 };
    let wider = |length: &u8| *length < bits && *length < whole && u32::from(*length) >= shortest;
    for length in lengths.iter().copied().filter(wider) {
        chain.push(Place::Cidr(Prefix { bits: length, address: address.masked(u32::from(length)) }));
    }
    let mut bindings: Vec<Bound> = Vec::new();
    for bound in chain.iter().filter_map(|place| own.get(place)).flatten() {
        if !bindings.iter().any(|other| other.uid == bound.uid) {
            bindings.push(bound.clone());
        }
    }
    bindings
}
