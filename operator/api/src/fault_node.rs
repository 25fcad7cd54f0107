//! `FaultNode`: what one node's agent did. Named after its node, owned by it, and written by that agent alone;
//! the operator makes profiles' statuses out of these.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::quantity::DurationString;

/// Nothing is asked of a FaultNode: all of it is status.
#[expect(clippy::duplicated_attributes, reason = "columns share words such as type_ = \"string\"")]
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "edge-operator.dev",
    version = "v1alpha1",
    kind = "FaultNode",
    plural = "faultnodes",
    shortname = "fnode",
    category = "edge",
    status = "FaultNodeStatus",
    derive = "PartialEq",
    doc = "What one node's agent holds in its kernel, and what it saw.",
    printcolumn(name = "Kernel", type_ = "string", json_path = ".status.kernel"),
    printcolumn(name = "Engine", type_ = "string", json_path = ".status.engine.kind"),
    printcolumn(name = "Line", type_ = "string", json_path = ".status.engine.state"),
    printcolumn(name = "Hooks", type_ = "string", json_path = ".status.hooks[*].hook"),
    printcolumn(name = "Profiles", type_ = "string", json_path = ".status.profiles[*].name", priority = "1"),
    printcolumn(name = "Renewed", type_ = "date", json_path = ".status.renewedAt"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct FaultNodeSpec {}

/// A heartbeat older than this, in seconds: the agent is taken as dead and its entries as Unknown.
pub const STALE_AFTER_SECONDS: i64 = 40;
/// How often an agent renews its heartbeat, in seconds.
pub const RENEW_EVERY_SECONDS: u64 = 10;

/// What the agent of a node holds and saw. Written on change and at each heartbeat.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FaultNodeStatus {
    /// The heartbeat, in the API server's time. 40 s old: the entries count as Unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renewed_at: Option<MicroTime>,
    /// When this agent's hooks and rules were first all in the kernel, in the API server's time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub installed_at: Option<MicroTime>,
    /// When the agent has ended in good order, and all of this node's faults with it. The next one takes it away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped_at: Option<MicroTime>,
    /// How long this node was without faults between the agent before and this one; absent where there was none before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap: Option<EnforcementGap>,
    /// The delay line of this node.
    #[serde(default)]
    pub engine: EngineStatus,
    /// Where programs sit, by kind.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub hooks: Vec<HookStatus>,
    /// Every limit, and how much of it is used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub limits: Vec<LimitStatus>,
    /// The kernel's release, as `uname -r` says.
    #[serde(default)]
    #[schemars(length(max = 256))]
    pub kernel: String,
    /// This node's clock against the API server's, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_offset: Option<ClockOffset>,
    /// Version of the agent.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub agent_version: String,
    /// An entry for each accepted profile with something to do here, in order of namespace and name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024))]
    pub profiles: Vec<ProfileOnNode>,
}

/// A time without faults on a node, since one agent had ended and the next had not yet begun: packets passed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnforcementGap {
    /// The end of the agent before, in the API server's time.
    pub since: MicroTime,
    /// When the next one's hooks and rules were all in the kernel.
    pub until: MicroTime,
    /// How well the beginning is known.
    pub bound: GapBound,
}

impl EnforcementGap {
    /// Its length, in seconds.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.until.0.duration_since(self.since.0).as_secs_f64()
    }
}

/// How well the beginning of a gap is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum GapBound {
    /// The agent said when it ended.
    Exact,
    /// It was killed: its last heartbeat is the beginning, and the gap was this long at most.
    AtMost,
}

impl GapBound {
    /// The name as the API and the metrics write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "Exact",
            Self::AtMost => "AtMost",
        }
    }
}

/// How packets are kept until they are due.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum Engine {
    /// Not at all: no delay, reorder or rate.
    #[default]
    None,
    /// By the kernel's queue `fq`, which lets packets go at their time (EDT).
    Fq,
    /// By the agent itself, in a timing wheel.
    Userspace,
}

impl Engine {
    /// The name as the API and the metrics write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Fq => "Fq",
            Self::Userspace => "Userspace",
        }
    }
}

/// The delay line of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EngineStatus {
    /// Which one.
    #[serde(default)]
    pub kind: Engine,
    /// How it is.
    #[serde(default)]
    pub state: EngineState,
    /// Why it is not running, or why it is the second choice; one sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
    /// How soon its thread runs when a packet is due, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduling: Option<Scheduling>,
    /// How late packets leave it, where that is measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lateness: Option<Lateness>,
    /// Packets that were lost in it, against all rules: must stay 0.
    #[serde(default)]
    pub dropped: u64,
}

/// How soon a thread of the agent runs when it is woken. On a node whose CPUs are all taken it decides how late packets
/// leave the delay line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Scheduling {
    /// Before everything that is not real-time (`SCHED_FIFO`): needs CAP_SYS_NICE, or the limit RTPRIO.
    RealTime,
    /// Soon, by a slice of 0.1 ms (Linux 6.12).
    ShortSlice,
    /// When it is its turn.
    Ordinary,
}

/// Whether packets can be delayed on a node.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum EngineState {
    /// There is no delay line: what asks for one is not enforced.
    #[default]
    Missing,
    /// Packets leave at their time.
    Running,
    /// It has not been heard for 500 ms: packets pass undelayed, and are counted.
    Stalled,
}

/// How much later than their time packets leave the delay line, since the agent's start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Lateness {
    /// Half of them by no more than this, such as 12us.
    pub p50: DurationString,
    /// 99 of a hundred by no more than this.
    pub p99: DurationString,
}

/// Programs of one kind on this node. The interfaces are in the agent's metric `edge_agent_hooks`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HookStatus {
    /// Which kind.
    pub hook: HookKind,
    /// On so many interfaces.
    #[serde(default)]
    pub attached: u32,
    /// So many interfaces refused it.
    #[serde(default)]
    pub failed: u32,
    /// Which refused and why, or what is used instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
}

/// A place where the kernel runs our programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum HookKind {
    /// XDP in the driver.
    XdpNative,
    /// TCX, what comes in (Linux 6.6).
    TcxIngress,
    /// TCX, what goes out (Linux 6.6).
    TcxEgress,
    /// clsact filter, what comes in.
    ClsactIngress,
    /// clsact filter, what goes out.
    ClsactEgress,
}

impl HookKind {
    /// The name as the API and the metrics write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::XdpNative => "XdpNative",
            Self::TcxIngress => "TcxIngress",
            Self::TcxEgress => "TcxEgress",
            Self::ClsactIngress => "ClsactIngress",
            Self::ClsactEgress => "ClsactEgress",
        }
    }
}

/// One limit and its use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LimitStatus {
    /// As in the metrics `edge_agent_limit` and `edge_agent_usage`: `targets`, `rules`, `flows`, …
    #[schemars(length(max = 64))]
    pub name: String,
    /// At most so many.
    #[serde(default)]
    pub limit: u64,
    /// So many now.
    #[serde(default)]
    pub used: u64,
}

/// A clock against the API server's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClockOffset {
    /// This node's clock minus the API server's, in milliseconds.
    pub milliseconds: i64,
    /// The answer could have been written that much earlier or later, in milliseconds.
    #[serde(default)]
    pub uncertainty: u32,
}

/// One profile as this node's kernel holds it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProfileOnNode {
    /// The profile's namespace.
    #[schemars(length(max = 63))]
    pub namespace: String,
    /// The profile's name.
    #[schemars(length(max = 253))]
    pub name: String,
    /// The profile's uid: a profile made again under the same name is another.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub uid: String,
    /// The profile's `metadata.generation` that this entry speaks of.
    #[serde(default)]
    pub observed_generation: i64,
    /// Chosen targets that are this node's own: addresses whose node is this one.
    #[serde(default)]
    pub targets: u32,
    /// Of `targets`, those with rules in this kernel.
    #[serde(default)]
    pub enforced: u32,
    /// Chosen targets without a node (outside the cluster, or `cidrs`), the same for every node.
    #[serde(default)]
    pub external_targets: u32,
    /// Of `externalTargets`, those that a hooked interface of this node has a route to, with rules in this kernel.
    /// The operator takes the largest of all nodes.
    #[serde(default)]
    pub external_enforced: u32,
    /// How its delays are kept.
    #[serde(default)]
    pub engine: Engine,
    /// Where its packets are decided: the kinds of hooks its targets' interfaces have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub hooks: Vec<HookKind>,
    /// The kernel holds the rules of all that is counted as enforced.
    #[serde(default)]
    pub installed: bool,
    /// The kernel's own counters show that the rules acted on packets.
    #[serde(default)]
    pub effective: bool,
    /// CamelCase, bounded; absent when all is well. Why targets are not enforced: `NoRoute`, `NoHook`, `NotInstalled`,
    /// `Limit`, `SameAddress`, `HostNetwork`, `NoLinkHeader` (an interface that a delayed packet cannot be put back on),
    /// `EngineMissing`, `EngineStalled` (the delay line), `PeersMasqueraded` (packets show this node's address, never a peer's),
    /// `PeersUnknown` (its peers have none now).
    /// Beside a complete `enforced` it is a remark, which the profile shows in `status.nodes`; by `LineFull`, `LineDrops`, `SplitterDrops`,
    /// `PacketsStrayed` (packets were lost that nobody asked for, within the last minute), `CopiesMissing` (others were not duplicated),
    /// `FlowsUntracked` (flows draw their fates together) and `AddressesUnprotected` (the node's own conversations meet them, too) it is Degraded, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub reason: Option<String>,
    /// One sentence a person can act on; absent when all is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
}
