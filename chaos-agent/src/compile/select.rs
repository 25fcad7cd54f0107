//! Which targets of a profile concern this node, and where their packets are looked up.

use std::net::IpAddr;

use edge_api::choose::{MAX_RANK, is_chosen, rank};
use edge_api::quantity::Network;
use fault_abi::key::PROTOCOL_UDP;
use kube::core::{Selector, SelectorExt as _};

use super::{Problem, Scope, TargetReport, size};
use crate::profile::{Profile, Targets};
use crate::table::{Capacity, Place};
use crate::world::World;

/// What is left of the limits, given out in the order of profiles.
pub(super) struct Room {
    rules: usize,
    peers: usize,
    targets: usize,
}

impl Room {
    pub(super) fn new(capacity: Capacity) -> Self {
        Self { rules: size(capacity.rules), peers: size(capacity.peers), targets: size(capacity.targets) }
    }

    /// Takes a rule with so many peers.
    ///
    /// # Errors
    /// Which of the two there is no room for.
    pub(super) fn take_rule(&mut self, peers: usize) -> Result<(), Problem> {
        let rules = self.rules.checked_sub(1).ok_or(Problem::Rules)?;
        let left = self.peers.checked_sub(peers).ok_or(Problem::PeerNetworks)?;
        (self.rules, self.peers) = (rules, left);
        Ok(())
    }

    /// Takes a target with its counters; `false`: there is no room.
    pub(super) fn take_target(&mut self) -> bool {
        let left = self.targets.checked_sub(1);
        self.targets = left.unwrap_or(0);
        left.is_some()
    }
}

/// The chosen targets that concern this node, in order of name.
pub(super) fn targets(world: &World, profile: &Profile) -> Vec<TargetReport> {
    match &profile.targets {
        Targets::Devices(selector) => devices(world, profile, selector),
        Targets::Pods(selector) => pods(world, profile, selector),
        Targets::Cidrs(networks) => networks
            .iter()
            .filter(|network| chosen(profile, &network.to_string()))
            .map(|network| external(&network.to_string(), vec![Place::of(*network)], vec![*network]))
            .collect(),
    }
}

/// Ranks are hashes: none is needed where all are chosen.
fn chosen(profile: &Profile, name: &str) -> bool {
    profile.cutoff == Some(MAX_RANK)
        || is_chosen(rank(profile.seed, &profile.name.namespace, name), profile.cutoff)
}

fn devices(world: &World, profile: &Profile, selector: &Selector) -> Vec<TargetReport> {
    let mut found = Vec::new();
    for (name, device) in in_namespace(&world.devices, &profile.name.namespace) {
        // Most are other nodes' work.
        let concerns = |node: &Option<String>| node.as_ref().is_none_or(|node| *node == world.node);
        let is_ours = device.addresses.iter().any(|(_, node)| concerns(node));
        if !is_ours || !selector.matches(&device.labels) || !chosen(profile, name) {
            continue;
        }
        for scope in [Scope::Local, Scope::External] {
            let is_ours = |node: &Option<String>| match scope {
                Scope::Local => node.as_deref() == Some(&world.node),
                Scope::External => node.is_none(),
            };
            let addresses: Vec<IpAddr> =
                device.addresses.iter().filter(|(_, node)| is_ours(node)).map(|(ip, _)| *ip).collect();
            if !addresses.is_empty() {
                let places = addresses.iter().map(|ip| Place::port(*ip, PROTOCOL_UDP, device.port)).collect();
                found.push(target(name, scope, places, &addresses));
            }
        }
    }
    found
}

fn pods(world: &World, profile: &Profile, selector: &Selector) -> Vec<TargetReport> {
    in_namespace(&world.pods, &profile.name.namespace)
        .filter(|(name, pod)| selector.matches(&pod.labels) && chosen(profile, name))
        .map(|(name, pod)| {
            let addresses: Vec<IpAddr> = pod.addresses.iter().copied().collect();
            let places = addresses.iter().map(|ip| Place::Address((*ip).into())).collect();
            target(name, Scope::Local, places, &addresses)
        })
        .collect()
}

fn in_namespace<'a, T>(
    objects: &'a std::collections::BTreeMap<crate::profile::ObjectName, T>,
    namespace: &'a str,
) -> impl Iterator<Item = (&'a str, &'a T)> {
    let first = crate::profile::ObjectName { namespace: namespace.to_owned(), name: String::new() };
    objects
        .range(first..)
        .take_while(move |(name, _)| name.namespace == namespace)
        .map(|(name, object)| (name.name.as_str(), object))
}

fn target(name: &str, scope: Scope, places: Vec<Place>, addresses: &[IpAddr]) -> TargetReport {
    let networks = addresses.iter().map(|ip| Network::host(*ip)).collect();
    TargetReport { name: name.into(), scope, places, networks, problem: None }
}

fn external(name: &str, places: Vec<Place>, networks: Vec<Network>) -> TargetReport {
    TargetReport { name: name.into(), scope: Scope::External, places, networks, problem: None }
}
