//! `FaultProfile`: which packets of which targets meet which faults, and until when.
//! Users write `spec`, the operator alone writes `status`, agents act on accepted profiles.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, MicroTime};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use crate::faults::{
    Corrupt, Delay, Distribution, Duplicate, Faults, GilbertElliott, Loss, Partition, PartitionMode, Rate,
    Reorder, Scope, TimelinePhase,
};
use crate::quantity::{Cidr, DurationString, Percent, PortRange, QuantityError};
use crate::{rules, schema};

/// One experiment: faults on the real packets of chosen targets, for a limited time.
#[expect(clippy::duplicated_attributes, reason = "columns share words such as type_ = \"string\"")]
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "edge-operator.dev",
    version = "v1alpha1",
    kind = "FaultProfile",
    plural = "faultprofiles",
    shortname = "fault",
    category = "edge",
    namespaced,
    status = "FaultProfileStatus",
    derive = "PartialEq",
    doc = "Faults on the real packets of chosen targets, for a limited time.",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Targets", type_ = "integer", json_path = ".status.targets.selected"),
    printcolumn(name = "Enforced", type_ = "integer", json_path = ".status.targets.enforced"),
    printcolumn(
        name = "Effective",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Effective\")].status"
    ),
    printcolumn(name = "Direction", type_ = "string", json_path = ".spec.direction"),
    printcolumn(name = "Loss", type_ = "string", json_path = ".spec.faults.loss.percent"),
    printcolumn(name = "Partition", type_ = "string", json_path = ".spec.faults.partition.mode"),
    printcolumn(name = "Expires", type_ = "string", json_path = ".status.expiresAt"),
    printcolumn(name = "Delay", type_ = "string", json_path = ".spec.faults.delay.time", priority = "1"),
    printcolumn(
        name = "Rate",
        type_ = "string",
        json_path = ".spec.faults.rate.bitsPerSecond",
        priority = "1"
    ),
    printcolumn(name = "Duration", type_ = "string", json_path = ".spec.duration", priority = "1"),
    printcolumn(name = "Seed", type_ = "integer", json_path = ".spec.seed", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::PROFILE_SPEC))]
pub struct FaultProfileSpec {
    /// Whose packets.
    pub targets: Targets,
    /// Which of their packets; all of them by default.
    #[serde(default, rename = "match", skip_serializing_if = "Option::is_none")]
    pub matching: Option<Match>,
    /// Which way, seen from the target.
    #[serde(default)]
    pub direction: Direction,
    /// What happens to them, in this order. Write it or a timeline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub faults: Option<Faults>,
    /// What happens to them in one phase after the other; the kernel goes from phase to phase by itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 64))]
    pub timeline: Vec<TimelinePhase>,
    /// Same seed, same packets, same fate; 0 to 9007199254740991.
    #[serde(default)]
    #[schemars(range(min = 0, max = 9_007_199_254_740_991_u64))]
    pub seed: u64,
    /// How long from startedAt on, such as 10m; the end is in the kernel and needs nobody alive. A timeline has the
    /// length of its phases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = rules::PROFILE_DURATION))]
    pub duration: Option<DurationString>,
    /// True lifts the faults. The clock goes on. The only field that may change once started.
    #[serde(default)]
    pub paused: bool,
}

/// A part of a profile's time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Phase<'a> {
    /// How long it lasts.
    pub lasts: Duration,
    /// What happens in it.
    pub faults: &'a Faults,
}

impl FaultProfileSpec {
    /// What happens when: the timeline, or one phase with the faults. None where neither is written, which the API
    /// server refuses.
    ///
    /// # Errors
    /// With a duration that is none.
    pub fn phases(&self) -> Result<Vec<Phase<'_>>, QuantityError> {
        if let (Some(faults), Some(duration)) = (&self.faults, &self.duration) {
            return Ok(vec![Phase { lasts: duration.parse()?, faults }]);
        }
        self.timeline
            .iter()
            .map(|phase| Ok(Phase { lasts: phase.lasts.parse()?, faults: &phase.faults }))
            .collect()
    }
}

/// Whose packets: exactly one of `devices`, `pods` and `cidrs`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::TARGETS))]
pub struct Targets {
    /// Devices of the profile's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices: Option<TargetSelector>,
    /// Pods of the profile's namespace, also none of ours; not those on the host network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<TargetSelector>,
    /// Networks outside the cluster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 64))]
    pub cidrs: Vec<Cidr>,
    /// How many of them; all by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub choose: Option<Choose>,
}

/// Objects by their labels.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TargetSelector {
    /// A label selector, as in a Deployment.
    #[schemars(schema_with = "schema::selector")]
    pub selector: LabelSelector,
}

/// How many of the selected targets: exactly one of `percent` and `count`. Which ones depends on the seed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::CHOOSE))]
pub struct Choose {
    /// This share of them, rounded up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<Percent>,
    /// So many of them, or all when there are fewer. At least 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub count: Option<u32>,
}

/// Which packets of a target. What is not named matches everything.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::MATCH))]
pub struct Match {
    /// Only this transport protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// Only these ports at the target's end; none with ICMP. Empty: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16))]
    pub ports: Vec<PortRange>,
    /// Only these at the other end. Empty: anybody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16))]
    pub peers: Vec<Peer>,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// RFC 768.
    Udp,
    /// RFC 9293.
    Tcp,
    /// ICMP on IPv4 (RFC 792), ICMPv6 on IPv6 (RFC 4443).
    Icmp,
}

/// The other end of a conversation, as the packet carries it at the hook: exactly one of `cidr`, `service` and `pods`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::PEER))]
pub struct Peer {
    /// A network, or one address as /32 or /128.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cidr: Option<Cidr>,
    /// A Service of the profile's namespace: its cluster, external and load balancer addresses, as its clients see it,
    /// never the pods behind it; where it is headless, what its EndpointSlices name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63), extend("x-kubernetes-validations" = rules::SERVICE))]
    pub service: Option<String>,
    /// Pods of the profile's namespace, by a label selector as in a Deployment; not those on the host network, whose
    /// addresses are their nodes'.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::selector")]
    pub pods: Option<LabelSelector>,
}

/// Which way, seen from the target.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum Direction {
    /// Both ways.
    #[default]
    Both,
    /// Packets that the target would receive.
    ToDevice,
    /// Packets that the target sent.
    FromDevice,
}

impl Direction {
    /// Does it cover packets that the target would receive?
    pub const fn to_device(self) -> bool {
        matches!(self, Self::Both | Self::ToDevice)
    }

    /// Does it cover packets that the target sent?
    pub const fn from_device(self) -> bool {
        matches!(self, Self::Both | Self::FromDevice)
    }
}

/// What became of a profile. Written by the operator alone, out of the FaultNodes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FaultProfileStatus {
    /// `metadata.generation` that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Epoch of the leader that wrote it; never falls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// The one word for it.
    #[serde(default)]
    pub phase: FaultPhase,
    /// When it was accepted and had its first target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<MicroTime>,
    /// The end: startedAt and duration together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<MicroTime>,
    /// Targets with a rank at or below this number are hit; a rank comes of the seed, namespace and name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cutoff: Option<u64>,
    /// How many.
    #[serde(default)]
    pub targets: TargetCounts,
    /// Nodes with a problem, and only those.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub nodes: Vec<NodeProblem>,
    /// Accepted, Installed, Effective.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// The one word for a profile's state.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum FaultPhase {
    /// Not started: not looked at yet, or no target so far. Or just started or resumed, and the agents have not
    /// answered yet; after 10 s of that it is Degraded.
    #[default]
    Pending,
    /// Every chosen target's rules are in a kernel.
    Active,
    /// Some chosen target's are not; `nodes` and the conditions say why.
    Degraded,
    /// `spec.paused`.
    Paused,
    /// Past `expiresAt`. Kept for its report; to run it again, delete and apply.
    Expired,
    /// It asks for what it may not reach.
    Rejected,
}

impl FaultPhase {
    /// Every phase, for metrics that show all of them.
    pub const ALL: [Self; 6] =
        [Self::Pending, Self::Active, Self::Degraded, Self::Paused, Self::Expired, Self::Rejected];

    /// The name as the API and the metrics write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Active => "Active",
            Self::Degraded => "Degraded",
            Self::Paused => "Paused",
            Self::Expired => "Expired",
            Self::Rejected => "Rejected",
        }
    }
}

/// How many targets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TargetCounts {
    /// Chosen: selected, and with a rank at or below the cutoff.
    #[serde(default)]
    pub selected: u32,
    /// Of those, with rules in a kernel.
    #[serde(default)]
    pub enforced: u32,
}

/// What is wrong on one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeProblem {
    /// The node.
    #[schemars(length(max = 253))]
    pub name: String,
    /// CamelCase, bounded: `AgentLost`, `NoAnswer`, or the `reason` of the node's entry in its FaultNode: `NoRoute`,
    /// `NoHook`, `Limit`, `EngineMissing`, `EngineStalled`, `LineDrops`, `SplitterDrops`, `PeersUnknown`, …
    #[schemars(length(max = 64))]
    pub state: String,
    /// One sentence a person can act on.
    #[serde(default)]
    #[schemars(length(max = 1024))]
    pub message: String,
}
