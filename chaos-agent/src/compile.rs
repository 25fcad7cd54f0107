//! Profiles × targets → what the kernel's tables shall hold. Pure: the world and the deadlines are arguments.
//!
//! ```text
//!  World ─ select ─▶ targets with their places ─ union ─▶ Plan { rules, entries, protections, reports }
//! ```

mod select;
mod union;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use edge_api::quantity::Network;
use fault_abi::key::{Address, PortKey};
use fault_abi::rule::{
    CONFIG_HAS_CIDRS, CONFIG_HAS_LATER, CONFIG_HAS_REWRITES, Config, MAX_BINDINGS, Phase, Rule,
};
use sha2::{Digest as _, Sha256};

use crate::peers;
use crate::profile::{Life, ObjectName, Profile};
use crate::table::{Capacity, Place, Prefix, TargetName, Uid};
use crate::world::World;

/// What the kernel's tables shall hold, and what became of each target on the way.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The configuration.
    pub config: Config,
    /// This node's addresses.
    pub node_addresses: BTreeSet<Address>,
    /// Far ends of protected conversations.
    pub protected: BTreeMap<PortKey, u32>,
    /// Networks whose conversations with this node are protected.
    pub protected_cidrs: BTreeSet<Prefix>,
    /// Addresses by which the node is named and far ends of its conversations for which there is no room.
    pub unprotected: usize,
    /// Addresses of the node for which there is no room either, and which it does not name: profiles act all the same.
    pub unprotected_others: usize,
    /// Profiles that exist: their counters are kept.
    pub profiles: BTreeMap<Uid, ObjectName>,
    /// Rules of profiles that act.
    pub rules: BTreeMap<Uid, RuleSpec>,
    /// Entries.
    pub entries: BTreeMap<Place, EntrySpec>,
    /// Namespaces in which peers are looked up.
    pub peer_namespaces: usize,
    /// A report for each started profile but those that ended long ago, in their order.
    pub reports: Vec<Report>,
}

/// A rule without its slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleSpec {
    /// Without generation and set of peers.
    pub rule: Rule,
    /// The set of peers; empty: any.
    pub peers: BTreeSet<Prefix>,
}

/// An entry without slots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EntrySpec {
    /// The address has entries for its ports.
    pub has_ports: bool,
    /// In the order in which they act.
    pub bindings: Vec<Bound>,
}

/// A profile on a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// The profile.
    pub uid: Uid,
    /// The target.
    pub target: TargetName,
    /// Key of the draws.
    pub key: [u64; 2],
}

/// What became of a profile's targets.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Namespace and name.
    pub name: ObjectName,
    /// `metadata.uid`.
    pub uid: Uid,
    /// `metadata.generation`.
    pub generation: i64,
    /// Whether its rules shall be in the kernel now.
    pub is_acting: bool,
    /// Its rule without peers and what depends on the node; past its deadline while it does not act.
    pub rule: Arc<Rule>,
    /// Its chosen targets that concern this node.
    pub targets: Vec<TargetReport>,
}

/// Whose work a target is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// It is on this node.
    Local,
    /// It is outside the cluster: the work of each node with a route.
    External,
}

/// A chosen target.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetReport {
    /// Its name in metrics.
    pub name: TargetName,
    /// Whose work.
    pub scope: Scope,
    /// Where its packets are looked up.
    pub places: Vec<Place>,
    /// Its addresses, for finding the interfaces that lead there.
    pub networks: Vec<Network>,
    /// Why it cannot be enforced.
    pub problem: Option<Problem>,
}

/// Why a target cannot be enforced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Problem {
    /// More profiles on one target than an entry holds.
    Bindings,
    /// A table is full.
    Table,
    /// More profiles than there are rules for.
    Rules,
    /// More networks in the profiles' `match.peers` than there is room for.
    PeerNetworks,
    /// Another target of the profile has the same address and port.
    SameAddress,
    /// The profile names peers, and none of them has an address.
    Peers,
    /// Profiles of too many namespaces name Services or pods as peers.
    Namespaces,
    /// There is no room to protect all of the node's conversations.
    Protected,
}

/// So long an ended profile is still reported, for the operator to read the last word of it.
const TOLD_NS: u64 = 60_000_000_000;

/// Compiles. `deadline_ns` says when a profile that acts until some time ends in kernel time
/// (CLOCK_BOOTTIME); one whose deadline is not after `now_ns` has nothing in the plan.
#[must_use]
pub fn compile(
    world: &World,
    capacity: Capacity,
    now_ns: u64,
    deadline_ns: impl Fn(&Profile) -> u64,
) -> Plan {
    let mut plan = Plan {
        profiles: world.profiles.values().map(|one| (Arc::clone(&one.uid), one.name.clone())).collect(),
        ..Plan::default()
    };
    protect(&mut plan, world, capacity);
    let watched = peers::wanted(world.profiles.values(), size(capacity.peer_namespaces));
    plan.peer_namespaces = watched.iter().map(|source| &source.namespace).collect::<BTreeSet<_>>().len();
    let mut own: BTreeMap<Place, Vec<Bound>> = BTreeMap::new();
    let mut room = select::Room::new(capacity);
    for profile in world.profiles.values().filter(|profile| profile.is_started) {
        let deadline = if matches!(profile.life, Life::Idle) { 0 } else { deadline_ns(profile) };
        let is_ended = matches!(profile.life, Life::Ended { .. });
        if is_ended && deadline.saturating_add(TOLD_NS) <= now_ns {
            continue;
        }
        let targets = select::targets(world, profile);
        // One whose peers are not known yet is not held yet.
        let peers = peers::find(profile, world, &watched).transpose();
        let is_acting = !is_ended && deadline > now_ns && peers.is_some();
        let mut report = report(profile, targets, deadline, is_acting);
        if let (true, false, Some(peers)) = (is_acting, report.targets.is_empty(), peers) {
            place(&mut plan, world, profile, peers, &mut report, &mut own, &mut room);
        }
        plan.reports.push(report);
    }
    let most = size(capacity.profiles_per_target).min(MAX_BINDINGS);
    plan.entries = union::entries(&own, &mut plan.reports, (size(capacity.targets), most));
    if plan.entries.keys().any(|place| matches!(place, Place::Cidr(_))) {
        plan.config.flags |= CONFIG_HAS_CIDRS;
    }
    plan.config.flags |= plan.rules.values().fold(0, |flags, spec| flags | asked(&spec.rule));
    plan
}

/// What the programs shall look for since this rule is there.
fn asked(rule: &Rule) -> u32 {
    let phases = || rule.phases.iter().take(usize::from(rule.phase_count));
    let later = if phases().any(Phase::has_later) { CONFIG_HAS_LATER } else { 0 };
    let rewrites = if phases().any(Phase::rewrites) { CONFIG_HAS_REWRITES } else { 0 };
    later | rewrites
}

fn protect(plan: &mut Plan, world: &World, capacity: Capacity) {
    plan.config = Config { kubelet_port: world.kubelet_port, ..Config::default() };
    // Those that the Node names come first: by them it talks to others. IPVS adds one for each Service.
    let addresses =
        world.named_addresses.iter().chain(world.node_addresses.difference(&world.named_addresses));
    plan.node_addresses =
        addresses.take(size(capacity.node_addresses)).map(|ip| Address::from(*ip)).collect();
    plan.unprotected = world.named_addresses.len().saturating_sub(plan.node_addresses.len());
    let all = world.node_addresses.union(&world.named_addresses).count();
    plan.unprotected_others = all - plan.node_addresses.len() - plan.unprotected;
    // The node's own conversations come first where room is short.
    let mut ends: Vec<(PortKey, u32)> = world.protected().into_iter().collect();
    ends.sort_by_key(|(_, class)| *class);
    plan.unprotected += ends.len().saturating_sub(size(capacity.protected));
    plan.protected = ends.into_iter().take(size(capacity.protected)).collect();
    let networks: BTreeSet<Prefix> = world.protect.iter().map(|network| Prefix::from(*network)).collect();
    plan.unprotected += networks.len().saturating_sub(size(capacity.protected));
    plan.protected_cidrs = networks.into_iter().take(size(capacity.protected)).collect();
}

/// A number of the tables as one of collections.
pub(crate) fn size(room: u32) -> usize {
    usize::try_from(room).unwrap_or(usize::MAX)
}

fn report(profile: &Profile, targets: Vec<TargetReport>, deadline_ns: u64, is_acting: bool) -> Report {
    Report {
        name: profile.name.clone(),
        uid: Arc::clone(&profile.uid),
        generation: profile.generation,
        is_acting,
        rule: Arc::new(Rule { generation: 1, deadline_ns, ..profile.rule }),
        targets,
    }
}

/// Puts a profile that acts into the plan: its rule, and itself at each place of its targets.
fn place(
    plan: &mut Plan,
    world: &World,
    profile: &Profile,
    peers: Result<BTreeSet<Network>, Problem>,
    report: &mut Report,
    own: &mut BTreeMap<Place, Vec<Bound>>,
    room: &mut select::Room,
) {
    let fits = |peers: BTreeSet<Network>| room.take_rule(peers.len()).map(|()| peers);
    // A node that would cut itself off does nothing to anybody.
    let is_safe = (plan.unprotected == 0).then_some(()).ok_or(Problem::Protected);
    let peers = match is_safe.and(peers).and_then(fits) {
        Ok(peers) => peers,
        Err(problem) => {
            report.targets.iter_mut().for_each(|target| target.problem = Some(problem));
            return;
        }
    };
    let flags = profile.node_flags(|ip| world.node_addresses.contains(&ip));
    let mut rule = profile.rule;
    rule.flags |= flags;
    rule.deadline_ns = report.rule.deadline_ns;
    let peers = peers.into_iter().map(Prefix::from).collect();
    plan.rules.insert(Arc::clone(&profile.uid), RuleSpec { rule, peers });
    let mut named = HashSet::new();
    for target in &mut report.targets {
        // A target that is both here and outside is one target with one state.
        if !named.contains(&target.name) && !room.take_target() {
            target.problem = Some(Problem::Table);
            continue;
        }
        named.insert(Arc::clone(&target.name));
        let key = draw_key(profile.seed, &profile.name, &profile.name.namespace, &target.name);
        for place in &target.places {
            let bound = Bound { uid: Arc::clone(&profile.uid), target: Arc::clone(&target.name), key };
            let at = own.entry(*place).or_default();
            match at.iter().find(|other| other.uid == profile.uid) {
                Some(other) if other.target != target.name => target.problem = Some(Problem::SameAddress),
                Some(_) => {}
                None => at.push(bound),
            }
        }
    }
}

/// Key of all draws of a profile on a target: the first 16 bytes, as two little-endian words, of SHA-256 over the
/// seed (8 bytes, big endian) and `namespace/name` of both, each behind its length (4 bytes, big endian). Same
/// names and seed, same fates, on every machine.
#[must_use]
pub fn draw_key(seed: u64, profile: &ObjectName, namespace: &str, target: &str) -> [u64; 2] {
    let mut hash = Sha256::new();
    hash.update(seed.to_be_bytes());
    for name in [profile.to_string(), format!("{namespace}/{target}")] {
        hash.update(u32::try_from(name.len()).unwrap_or(u32::MAX).to_be_bytes());
        hash.update(name.as_bytes());
    }
    let digest = hash.finalize();
    let word = |from: usize| {
        digest.iter().skip(from).take(8).rev().fold(0, |bits, byte| bits << 8 | u64::from(*byte))
    };
    [word(0), word(8)]
}

#[cfg(test)]
mod tests;
