//! What there is to show of the kernel: by profile how many targets are enforced and why the others are not, by
//! target where its counters are, and how full the tables are. Pure; status and metrics are made of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use edge_api::fault_node::{HookKind, LimitStatus};
use edge_api::quantity::Network;
use fault_abi::rule::{Phase, Rule};

use crate::compile::{Plan, Problem, Report, Scope, TargetReport};
use crate::kernel::hooks::Hooked;
use crate::ledger::Ledger;
use crate::locate::{NO_LINK_HEADER, Topology, Way};
use crate::profile::ObjectName;
use crate::table::{Capacity, Place, TargetName, Uid};

/// Profiles that a status has room for, those that act first; `edge_agent_usage` counts all.
pub const MAX_PROFILES: u32 = 1024;

/// A picture of the kernel at one moment.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// A line for each started profile.
    pub profiles: Vec<ProfileView>,
    /// Where the counters of each profile on each target are, those of paused and ended ones included.
    pub states: Vec<StateView>,
    /// Those of them that are of targets outside the cluster, under profiles that name peers.
    pub peers_outside: BTreeSet<u32>,
    /// Hooks by interface.
    pub hooked: BTreeMap<u32, Hooked>,
    /// How full the tables are.
    pub limits: Vec<LimitStatus>,
    /// Whether the node has addresses that are not protected, since there are too many.
    pub has_unprotected: bool,
    /// The last change that the kernel refused.
    pub failure: Option<String>,
}

impl View {
    /// The same profiles, and nothing of them in the kernel.
    #[must_use]
    pub fn without_kernel(&self) -> Self {
        let idle = |one: &ProfileView| ProfileView {
            is_acting: false,
            local: (one.local.0, 0),
            external: (one.external.0, 0),
            hooks: BTreeSet::new(),
            trouble: None,
            ..one.clone()
        };
        Self { profiles: self.profiles.iter().map(idle).collect(), ..Self::default() }
    }
}

/// Counters of a profile on a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateView {
    /// The profile.
    pub profile: ObjectName,
    /// Its uid.
    pub uid: Uid,
    /// The target.
    pub target: TargetName,
    /// The number of its counters.
    pub state: u32,
}

/// One profile as this kernel holds it.
#[derive(Clone, Debug, PartialEq)]
pub struct ProfileView {
    /// Namespace and name.
    pub name: ObjectName,
    /// `metadata.uid`.
    pub uid: Uid,
    /// `metadata.generation`.
    pub generation: i64,
    /// Whether it shall act.
    pub is_acting: bool,
    /// Its rule without peers and what depends on the node; past its deadline while it does not act.
    pub rule: Arc<Rule>,
    /// Targets of this node: all, and those enforced.
    pub local: (u32, u32),
    /// Targets outside the cluster: all, and those enforced.
    pub external: (u32, u32),
    /// Kinds of hooks that its targets' packets meet.
    pub hooks: BTreeSet<HookKind>,
    /// Why some are not enforced: a CamelCase reason and a sentence.
    pub trouble: Option<(&'static str, String)>,
}

impl ProfileView {
    /// Whether it needs the delay line in some phase.
    #[must_use]
    pub fn delays(&self) -> bool {
        asks(&self.rule, Phase::delays)
    }

    /// All that it lacks is outside, where other nodes may hold it; some of that is held here.
    #[must_use]
    pub const fn holds_what_it_can(&self) -> bool {
        self.local.1 == self.local.0 && self.external.1 > 0
    }

    /// The kernel holds the rules of all that counts as enforced, and there is something.
    #[must_use]
    pub const fn is_installed(&self) -> bool {
        self.is_acting && self.local.1 + self.external.1 > 0
    }
}

/// What this node lacks for some faults, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lacks {
    /// No delay line.
    pub line: Option<String>,
    /// No splitter.
    pub splitter: Option<String>,
}

impl Lacks {
    /// Why a rule cannot be enforced as a whole: a CamelCase reason and a sentence.
    fn trouble(&self, rule: &Rule) -> Option<(&'static str, String)> {
        let line = self.line.as_ref().filter(|_| asks(rule, Phase::delays));
        let splitter = self.splitter.as_ref().filter(|_| asks(rule, Phase::rewrites));
        line.map(|why| ("EngineMissing", format!("packets pass without their delay: {why}"))).or_else(|| {
            splitter.map(|why| ("SplitterMissing", format!("nothing is corrupted or rejected: {why}")))
        })
    }
}

/// Whether a phase of the rule does.
fn asks(rule: &Rule, what: fn(&Phase) -> bool) -> bool {
    rule.phases.iter().take(usize::from(rule.phase_count)).any(what)
}

/// What tells how full the tables are.
#[derive(Clone, Copy)]
pub struct Usage<'a> {
    /// What shall be there.
    pub plan: &'a Plan,
    /// What is there.
    pub ledger: &'a Ledger,
    /// Room.
    pub capacity: Capacity,
    /// Flows.
    pub flows: u64,
    /// What this node lacks.
    pub lacks: &'a Lacks,
}

/// Takes the picture.
#[must_use]
pub fn make(
    usage: Usage<'_>,
    topology: &Topology,
    hooked: &BTreeMap<u32, Hooked>,
    failure: Option<&str>,
) -> View {
    let attached: BTreeSet<u32> =
        hooked.iter().filter(|(_, one)| one.is_complete()).map(|(index, _)| *index).collect();
    let mut ways = Ways { topology, hooked, attached, known: BTreeMap::new() };
    let reports = usage.plan.reports.iter().filter(|report| !report.targets.is_empty());
    let profiles: Vec<_> = reports.map(|report| profile(report, usage, &mut ways, failure)).collect();
    let states = usage.ledger.state_of.iter().filter_map(|((uid, target), state)| {
        let profile = usage.plan.profiles.get(uid)?.clone();
        Some(StateView { profile, uid: Arc::clone(uid), target: Arc::clone(target), state: *state })
    });
    View {
        limits: limits(usage, profiles.len()),
        has_unprotected: usage.plan.unprotected_others > 0,
        profiles,
        states: states.collect(),
        peers_outside: peers_outside(usage).collect(),
        hooked: hooked.clone(),
        failure: failure.map(str::to_owned),
    }
}

/// The states of targets outside, under profiles that name peers.
fn peers_outside(usage: Usage<'_>) -> impl Iterator<Item = u32> {
    let has_peers =
        move |report: &&Report| usage.plan.rules.get(&report.uid).is_some_and(|spec| !spec.peers.is_empty());
    let reports = usage.plan.reports.iter().filter(has_peers);
    reports.flat_map(move |report| {
        let outside = report.targets.iter().filter(|target| target.scope == Scope::External);
        outside.filter_map(move |target| {
            let key = (Arc::clone(&report.uid), Arc::clone(&target.name));
            usage.ledger.state_of.get(&key).copied()
        })
    })
}

/// The way to each network, looked up once.
struct Ways<'a> {
    topology: &'a Topology,
    hooked: &'a BTreeMap<u32, Hooked>,
    attached: BTreeSet<u32>,
    known: BTreeMap<(Scope, Network), Way>,
}

impl Ways<'_> {
    fn to(&mut self, scope: Scope, network: Network) -> &Way {
        self.known.entry((scope, network)).or_insert_with(|| match scope {
            Scope::Local => self.topology.way_to_pod(network, &self.attached),
            Scope::External => self.topology.way(network, &self.attached),
        })
    }
}

fn profile(report: &Report, usage: Usage<'_>, ways: &mut Ways<'_>, failure: Option<&str>) -> ProfileView {
    let mut view = ProfileView {
        name: report.name.clone(),
        uid: Arc::clone(&report.uid),
        generation: report.generation,
        is_acting: report.is_acting,
        rule: Arc::clone(&report.rule),
        local: (0, 0),
        external: (0, 0),
        hooks: BTreeSet::new(),
        trouble: None,
    };
    let mut troubles: BTreeMap<&'static str, (u32, String)> = BTreeMap::new();
    for target in &report.targets {
        let outcome = enforced(target, report, usage, ways, &mut view.hooks, failure);
        let counts = match target.scope {
            Scope::Local => &mut view.local,
            Scope::External => &mut view.external,
        };
        counts.0 += 1;
        match outcome {
            Ok(()) => counts.1 += 1,
            Err((reason, sentence)) => troubles.entry(reason).or_insert((0, sentence)).0 += 1,
        }
    }
    let worst = troubles.into_iter().max_by_key(|(_, (count, _))| *count);
    if let (true, Some((reason, (count, sentence)))) = (report.is_acting, worst) {
        let others = if count > 1 { format!(" (and {} more targets)", count - 1) } else { String::new() };
        view.trouble = Some((reason, format!("{sentence}{others}")));
    }
    view
}

/// Whether a target is enforced: its rules are in the kernel, and every way to it is hooked.
fn enforced(
    target: &TargetReport,
    report: &Report,
    usage: Usage<'_>,
    ways: &mut Ways<'_>,
    kinds: &mut BTreeSet<HookKind>,
    failure: Option<&str>,
) -> Result<(), (&'static str, String)> {
    let name = &target.name;
    if let Some(problem) = target.problem {
        return Err(sentence(problem, name));
    }
    if let Some(trouble) = usage.lacks.trouble(&report.rule) {
        return Err(trouble);
    }
    let is_held = |place: &Place| usage.ledger.holds(*place, &report.uid, name);
    if target.places.is_empty() || !target.places.iter().all(is_held) {
        let why = failure.map_or_else(String::new, |failure| format!(": {failure}"));
        return Err(("NotInstalled", format!("the kernel does not hold the rules for {name}{why}")));
    }
    for network in &target.networks {
        match ways.to(target.scope, *network).clone() {
            Way::Hooked(hooks) => {
                kinds.extend(hooks.iter().filter_map(|index| ways.hooked.get(index)).flat_map(Hooked::kinds));
            }
            Way::NoRoute => {
                return Err(("NoRoute", format!("no route leads to {name} ({network}) from this node")));
            }
            Way::NoHook { interface, because } => {
                let why = because.map_or_else(|| refusal(&interface, ways.hooked), str::to_owned);
                let line =
                    format!("packets of {name} ({network}) pass {interface}, which has no hook: {why}");
                let reason = if because == Some(NO_LINK_HEADER) { "NoLinkHeader" } else { "NoHook" };
                return Err((reason, line));
            }
        }
    }
    Ok(())
}

fn refusal(interface: &str, hooked: &BTreeMap<u32, Hooked>) -> String {
    let one = hooked.values().find(|one| one.name == interface);
    let last = one.and_then(|one| one.refused.values().next_back());
    last.cloned().unwrap_or_else(|| "it is new and gets one soon".to_owned())
}

fn sentence(problem: Problem, name: &str) -> (&'static str, String) {
    match problem {
        Problem::Bindings => (
            "Limit",
            format!(
                "more profiles than the agent takes act on {name}: the first in order of namespace and name do; end others, or \
                 start the agent with more --max-profiles-per-target (8 at most)"
            ),
        ),
        Problem::Table => (
            "Limit",
            format!("no room for {name}: choose fewer targets, or start the agent with more --max-targets"),
        ),
        Problem::Rules => (
            "Limit",
            format!(
                "no room for a rule for {name}: end other profiles, or start the agent with more --max-rules"
            ),
        ),
        Problem::PeerNetworks => (
            "Limit",
            format!(
                "no room for all peers of the profile on {name}: name fewer networks, Services and pods in match.peers, end other profiles that \
                 name some, or start the agent with more --max-peers"
            ),
        ),
        Problem::SameAddress => {
            ("SameAddress", format!("{name} has the same address and port as another target of this profile"))
        }
        Problem::Peers => (
            "PeersUnknown",
            format!(
                "no peer of this profile has an address, so nothing happens to {name}: is there such a Service, do such pods run in its namespace?"
            ),
        ),
        Problem::Protected => (
            "Limit",
            format!(
                "no room to protect all conversations of this node's own, so nothing is done to {name}: give it fewer pods with probes, DNS servers, addresses and networks to --protect, or start the agent with more --max-protected (far ends, and networks) and --max-node-addresses"
            ),
        ),
        Problem::Namespaces => (
            "Limit",
            format!(
                "no room to look up peers for {name}: end profiles that name Services or pods in other namespaces, or start the agent with more --max-peer-namespaces"
            ),
        ),
    }
}

fn limits(usage: Usage<'_>, profiles: usize) -> Vec<LimitStatus> {
    let count = |of: fn(&Place) -> bool| usage.ledger.entries.keys().filter(|place| of(place)).count();
    let peers = usage.ledger.peers.values().map(BTreeSet::len).sum();
    // Those in quarantine do nothing any more.
    let rules = usage.ledger.rules.values().filter(|row| row.retired_ns.is_none()).count();
    let (capacity, ledger) = (usage.capacity, usage.ledger);
    let addresses = ledger.node_addresses.len() + usage.plan.unprotected_others;
    let most = usage.plan.entries.values().map(|entry| entry.bindings.len()).max().unwrap_or(0);
    let rows = [
        ("targets", capacity.targets, count(|place| matches!(place, Place::Address(_)))),
        ("ports", capacity.targets, count(|place| matches!(place, Place::Port(_)))),
        ("cidrs", capacity.targets, count(|place| matches!(place, Place::Cidr(_)))),
        ("profilesPerTarget", capacity.profiles_per_target, most),
        ("rules", capacity.rules, rules),
        ("counters", capacity.states(), ledger.state_of.len()),
        ("peers", capacity.peers, peers),
        ("peerNamespaces", capacity.peer_namespaces, usage.plan.peer_namespaces),
        ("protected", capacity.protected, ledger.protected.len()),
        ("protectedNetworks", capacity.protected, ledger.protected_cidrs.len()),
        ("nodeAddresses", capacity.node_addresses, addresses),
        ("flows", capacity.flows, usize::try_from(usage.flows).unwrap_or(usize::MAX)),
        ("profiles", MAX_PROFILES, profiles),
    ];
    let row = |(name, limit, used): (&str, u32, usize)| LimitStatus {
        name: name.to_owned(),
        limit: u64::from(limit),
        used: used as u64,
    };
    rows.into_iter().map(row).collect()
}

#[cfg(test)]
mod tests;
