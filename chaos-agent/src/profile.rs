//! A FaultProfile as this agent acts on it: parsed once, so that compiling cannot fail.

use std::net::IpAddr;

use edge_api::condition::{is_true, types};
use edge_api::fault_profile::{FaultPhase, FaultProfile, FaultProfileSpec, Protocol};
use edge_api::quantity::{Network, QuantityError};
use fault_abi::key::{PROTOCOL_ICMP, PROTOCOL_TCP, PROTOCOL_UDP};
use fault_abi::rule::{
    MAX_PHASES, MAX_PORT_RANGES, Phase, PortRange, RULE_FROM_DEVICE, RULE_LIFTS_PROBES, RULE_TO_DEVICE, Rule,
};
use jiff::Timestamp;
use kube::core::{ParseExpressionError, Selector};
use thiserror::Error;

use crate::peers::Peer;
use crate::table::Uid;

mod faults;

/// Why a profile cannot be acted on. The API server refuses such objects; seeing one means a bypassed schema.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProfileError {
    /// A quantity that is none.
    #[error(transparent)]
    Quantity(#[from] QuantityError),
    /// A selector that is none.
    #[error("the selector cannot be read: {0}")]
    Selector(String),
    /// No phase, or more than a rule holds.
    #[error("{0} phases; a rule holds 1 to {MAX_PHASES}")]
    Phases(usize),
    /// More port ranges than a rule holds.
    #[error("{0} port ranges; at most {MAX_PORT_RANGES} fit into a rule")]
    Ports(usize),
    /// A peer that is none, or of several kinds at once.
    #[error("a peer in match.peers needs exactly one of cidr, service and pods")]
    Peer,
    /// No name, namespace or uid.
    #[error("the object has no name, namespace or uid")]
    Identity,
}

impl From<ParseExpressionError> for ProfileError {
    fn from(error: ParseExpressionError) -> Self {
        Self::Selector(error.to_string())
    }
}

/// Namespace and name, the order in which profiles act on a packet.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectName {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl std::fmt::Display for ObjectName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Whose packets.
#[derive(Clone, Debug, PartialEq)]
pub enum Targets {
    /// Devices of the namespace.
    Devices(Selector),
    /// Pods of the namespace.
    Pods(Selector),
    /// Networks outside the cluster, with their text.
    Cidrs(Vec<Network>),
}

/// What the operator made of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Not accepted, not started, or paused: nothing in the kernel.
    Idle,
    /// It acts until then (the API server's clock) on targets up to [`Profile::cutoff`].
    Acting {
        /// `status.expiresAt`.
        until: Timestamp,
    },
    /// The operator has seen its end: nothing in the kernel, whatever this node's clock says.
    Ended {
        /// `status.expiresAt`.
        until: Timestamp,
    },
}

/// A parsed FaultProfile.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// Namespace and name.
    pub name: ObjectName,
    /// `metadata.uid`.
    pub uid: Uid,
    /// `metadata.generation`.
    pub generation: i64,
    /// Whether it acts.
    pub life: Life,
    /// Whether the operator accepted it and it has started: it has an entry in the FaultNode.
    pub is_started: bool,
    /// `status.cutoff`, also while it is paused.
    pub cutoff: Option<u64>,
    /// `spec.seed`.
    pub seed: u64,
    /// Whose packets.
    pub targets: Targets,
    /// The rule with its phases, without deadline, peers and what depends on the node.
    pub rule: Rule,
    /// `match.peers`.
    pub peers: Vec<Peer>,
}

impl Profile {
    /// Parses.
    ///
    /// # Errors
    /// When the schema was bypassed.
    pub fn parse(object: &FaultProfile) -> Result<Self, ProfileError> {
        let metadata = &object.metadata;
        let (Some(namespace), Some(name), Some(uid)) = (&metadata.namespace, &metadata.name, &metadata.uid)
        else {
            return Err(ProfileError::Identity);
        };
        Ok(Self {
            name: ObjectName { namespace: namespace.clone(), name: name.clone() },
            uid: uid.as_str().into(),
            generation: metadata.generation.unwrap_or_default(),
            life: life(object),
            is_started: is_started(object),
            cutoff: object.status.as_ref().and_then(|status| status.cutoff),
            seed: object.spec.seed,
            targets: targets(object)?,
            rule: rule(object)?,
            peers: peers(object)?,
        })
    }

    /// The flags that depend on this node: a peer that is one address of this node lifts the protection of its
    /// probes, for pods only.
    #[must_use]
    pub fn node_flags(&self, is_node_address: impl Fn(IpAddr) -> bool) -> u32 {
        // A Service's or pod's address is never meant so, although it may be the node's: IPVS gives it the former.
        let names_node = self.peers.iter().any(|peer| match peer {
            Peer::Network(network) => network.is_host() && is_node_address(network.address()),
            Peer::Service(_) | Peer::Pods(_) => false,
        });
        if names_node && matches!(self.targets, Targets::Pods(_)) { RULE_LIFTS_PROBES } else { 0 }
    }
}

/// Accepted, for this generation, and started. Once started nothing but `paused` can change, so an older
/// generation's word still holds then: a pause and its end work without the operator.
fn is_started(object: &FaultProfile) -> bool {
    let Some(status) = &object.status else { return false };
    is_true(&status.conditions, types::ACCEPTED) && status.started_at.is_some() && status.expires_at.is_some()
}

fn life(object: &FaultProfile) -> Life {
    if object.spec.paused || object.metadata.deletion_timestamp.is_some() || !is_started(object) {
        return Life::Idle;
    }
    let status = object.status.as_ref();
    let until = status.and_then(|status| status.expires_at.as_ref());
    if let (Some(FaultPhase::Expired), Some(until)) = (status.map(|status| status.phase), until) {
        return Life::Ended { until: until.0 };
    }
    match (until, status.and_then(|status| status.cutoff)) {
        (Some(until), Some(_)) => Life::Acting { until: until.0 },
        _ => Life::Idle,
    }
}

fn targets(object: &FaultProfile) -> Result<Targets, ProfileError> {
    let targets = &object.spec.targets;
    if let Some(devices) = &targets.devices {
        return Ok(Targets::Devices(devices.selector.clone().try_into()?));
    }
    if let Some(pods) = &targets.pods {
        return Ok(Targets::Pods(pods.selector.clone().try_into()?));
    }
    let mut networks = targets.cidrs.iter().map(|cidr| cidr.parse()).collect::<Result<Vec<_>, _>>()?;
    networks.sort_unstable();
    networks.dedup();
    Ok(Targets::Cidrs(networks))
}

fn peers(object: &FaultProfile) -> Result<Vec<Peer>, ProfileError> {
    object.spec.matching.iter().flat_map(|matching| &matching.peers).map(Peer::parse).collect()
}

fn rule(object: &FaultProfile) -> Result<Rule, ProfileError> {
    let spec = &object.spec;
    let mut rule = Rule::default();
    if spec.direction.from_device() {
        rule.flags |= RULE_FROM_DEVICE;
    }
    if spec.direction.to_device() {
        rule.flags |= RULE_TO_DEVICE;
    }
    if let Some(matching) = &spec.matching {
        rule.protocol = match matching.protocol {
            Some(Protocol::Udp) => PROTOCOL_UDP,
            Some(Protocol::Tcp) => PROTOCOL_TCP,
            Some(Protocol::Icmp) => PROTOCOL_ICMP,
            None => 0,
        };
        let ranges = matching.ports.iter().map(|range| range.parse()).collect::<Result<Vec<_>, _>>()?;
        if ranges.len() > MAX_PORT_RANGES {
            return Err(ProfileError::Ports(ranges.len()));
        }
        rule.port_ranges = u8::try_from(ranges.len()).unwrap_or(u8::MAX);
        for (slot, range) in rule.ports.iter_mut().zip(ranges) {
            *slot = PortRange { first: *range.start(), last: *range.end() };
        }
    }
    phases(spec, &mut rule)?;
    Ok(rule)
}

fn phases(spec: &FaultProfileSpec, rule: &mut Rule) -> Result<(), ProfileError> {
    let phases = spec.phases()?;
    if !(1..=MAX_PHASES).contains(&phases.len()) {
        return Err(ProfileError::Phases(phases.len()));
    }
    rule.phase_count = u8::try_from(phases.len()).unwrap_or(u8::MAX);
    for (slot, phase) in rule.phases.iter_mut().zip(phases) {
        let lasts = u64::try_from(phase.lasts.as_nanos()).unwrap_or(u64::MAX);
        rule.length_ns = rule.length_ns.saturating_add(lasts);
        *slot = Phase { until_ns: rule.length_ns, ..faults::phase(phase.faults)? };
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use fault_abi::rule::{ALWAYS, PHASE_BURSTS, PHASE_PARTITION, PHASE_PER_FLOW};
    use serde_json::{Value, json};

    use super::*;

    /// A started profile `demo/<name>` with uid `uid-<name>`, changed by a merge patch of its spec.
    pub(crate) fn object(name: &str, spec: &Value) -> FaultProfile {
        serde_json::from_value(json!({
            "apiVersion": "edge-operator.dev/v1alpha1", "kind": "FaultProfile",
            "metadata": {"namespace": "demo", "name": name, "uid": format!("uid-{name}"), "generation": 1},
            "spec": spec,
            "status": {
                "phase": "Active", "startedAt": "2026-01-01T00:00:00.000000Z",
                "expiresAt": "2026-01-01T00:10:00.500000Z", "cutoff": edge_api::choose::MAX_RANK,
                "conditions": [{"type": "Accepted", "status": "True", "reason": "Accepted", "message": "",
                    "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1}],
            },
        }))
        .unwrap()
    }

    fn loss(percent: &str) -> Value {
        json!({"targets": {"cidrs": ["10.20.0.0/24"]}, "faults": {"loss": {"percent": percent}}, "duration": "10m"})
    }

    #[test]
    fn a_percentage_becomes_a_threshold_that_is_exact_at_both_ends() {
        for (percent, expected) in [("0%", 0), ("100%", ALWAYS), ("50%", ALWAYS / 2), ("0.0001%", 4295)] {
            assert_eq!(
                Profile::parse(&object("p", &loss(percent))).unwrap().rule.phases[0].loss,
                expected,
                "{percent}"
            );
        }
    }

    #[test]
    fn only_an_accepted_and_started_profile_acts() {
        let parse = |change: &dyn Fn(&mut FaultProfile)| {
            let mut object = object("p", &loss("20%"));
            change(&mut object);
            Profile::parse(&object).unwrap().life
        };
        assert!(matches!(parse(&|_| ()), Life::Acting { .. }));
        assert_eq!(parse(&|p| p.status = None), Life::Idle);
        assert_eq!(parse(&|p| p.spec.paused = true), Life::Idle);
        assert_eq!(parse(&|p| p.status.as_mut().unwrap().conditions[0].status = "False".into()), Life::Idle);
        assert_eq!(parse(&|p| p.status.as_mut().unwrap().cutoff = None), Life::Idle);
        let ended = parse(&|p| p.status.as_mut().unwrap().phase = FaultPhase::Expired);
        assert!(matches!(ended, Life::Ended { .. }), "whatever this node's clock says");
        let after_a_pause = parse(&|p| p.metadata.generation = Some(3));
        assert!(matches!(after_a_pause, Life::Acting { .. }), "a pause and its end need no operator");
    }

    #[test]
    fn what_matches_becomes_the_rule() {
        let spec = json!({
            "targets": {"cidrs": ["10.20.0.0/24"]}, "direction": "ToDevice", "duration": "10m",
            "match": {"protocol": "UDP", "ports": ["5683", "7000-7100"], "peers": [{"cidr": "10.0.0.0/8"}]},
            "faults": {"partition": {}, "loss": {"percent": "20%"}},
        });
        let profile = Profile::parse(&object("p", &spec)).unwrap();
        assert_eq!(profile.rule.flags, RULE_TO_DEVICE);
        assert_eq!((profile.rule.phase_count, profile.rule.length_ns), (1, 600_000_000_000));
        assert_eq!(profile.rule.phases[0].flags, PHASE_PARTITION);
        assert_eq!(profile.rule.protocol, PROTOCOL_UDP);
        assert_eq!(profile.rule.port_ranges, 2);
        assert_eq!(profile.rule.ports[1], PortRange { first: 7000, last: 7100 });
        assert_eq!(profile.peers, [Peer::Network("10.0.0.0/8".parse().unwrap())]);
    }

    #[test]
    fn a_timeline_becomes_the_rules_phases_each_with_its_end() {
        let spec = json!({
            "targets": {"cidrs": ["10.20.0.0/24"]},
            "timeline": [
                {"for": "60s", "faults": {"loss": {"gilbertElliott": {"enterBurst": "1%", "leaveBurst": "25%"}}}},
                {"for": "500ms", "faults": {"loss": {"every": 10, "scope": "Flow"}}},
                {"for": "30s", "faults": {"partition": {}}},
            ],
        });
        let rule = Profile::parse(&object("p", &spec)).unwrap().rule;
        assert_eq!((rule.phase_count, rule.length_ns), (3, 90_500_000_000));
        let bursts = Phase {
            until_ns: 60_000_000_000,
            loss_in_burst: ALWAYS,
            enter_burst: (ALWAYS + 50) / 100,
            leave_burst: ALWAYS / 4,
            flags: PHASE_BURSTS,
            ..Phase::default()
        };
        assert_eq!(rule.phases[0], bursts);
        let every = Phase { until_ns: 60_500_000_000, every: 10, flags: PHASE_PER_FLOW, ..Phase::default() };
        assert_eq!(rule.phases[1], every);
        assert_eq!((rule.phases[2].flags, rule.phases[2].until_ns), (PHASE_PARTITION, 90_500_000_000));
    }
}
