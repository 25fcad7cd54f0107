//! `Device`: what one device shall be (`spec`) and what the operator knows of it (`status`).
//! Users and fleets write `spec`, the operator alone writes `status`.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::quantity::DurationString;
use crate::rules;

/// The finalizer of a Device whose device may obey it: it is released before the object goes.
pub const FINALIZER: &str = "edge-operator.dev/release";
/// The annotation by which a person gives a Device a device that obeys another one, or obeys this one from a later
/// epoch on: `UID:EPOCH`, as the condition Consistent names it. It is taken away once that is done.
pub const ADOPT: &str = "edge-operator.dev/adopt";

/// The declared state of one edge device and how to reach it.
#[expect(clippy::duplicated_attributes, reason = "columns share words such as type_ = \"string\"")]
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "edge-operator.dev",
    version = "v1alpha1",
    kind = "Device",
    plural = "devices",
    shortname = "dev",
    category = "edge",
    namespaced,
    status = "DeviceStatus",
    derive = "PartialEq",
    doc = "An edge device: where it is, what it shall run, and what is known of it.",
    selectable = ".status.phase",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Desired", type_ = "string", json_path = ".spec.desired.firmware"),
    printcolumn(name = "Running", type_ = "string", json_path = ".status.reported.firmware"),
    printcolumn(
        name = "Reachable",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Reachable\")].status"
    ),
    printcolumn(name = "Host", type_ = "string", json_path = ".spec.endpoint.host", priority = "1"),
    printcolumn(name = "Node", type_ = "string", json_path = ".status.addresses[0].node", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct DeviceSpec {
    /// Where the device listens for CoAP.
    pub endpoint: Endpoint,
    /// What the device shall run. Without it nothing is commanded, and Ready means Reachable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired: Option<Desired>,
    /// How soon silence counts as trouble.
    #[serde(default)]
    pub liveness: Liveness,
    /// True: the operator sends nothing to this device.
    #[serde(default)]
    pub paused: bool,
}

/// A UDP endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// An IPv4 address, an IPv6 address or a DNS name.
    #[schemars(length(min = 1, max = 253), extend("x-kubernetes-validations" = rules::HOST))]
    pub host: String,
    /// UDP port, 1 to 65535; CoAP's own (RFC 7252 §12.8) by default.
    #[serde(default = "default_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
}

fn default_port() -> u16 {
    5683
}

/// What a device shall run. One value: it is replaced as a whole and has one owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct Desired {
    /// Firmware version, as the device reports it.
    #[schemars(length(min = 1, max = 64), extend("x-kubernetes-validations" = rules::FIRMWARE))]
    pub firmware: String,
    /// Settings; at most 32 entries and 900 bytes as CBOR.
    #[serde(default)]
    #[schemars(schema_with = "config_schema")]
    pub config: BTreeMap<String, String>,
}

fn config_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 32,
        "x-kubernetes-map-type": "atomic",
        "x-kubernetes-validations": rules::CONFIG,
        "additionalProperties": {"type": "string", "maxLength": 880},
    })
}

/// How soon silence counts as trouble. `probeInterval < suspectAfter < lostAfter`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::LIVENESS))]
pub struct Liveness {
    /// Time between two reads of a quiet device, jittered.
    #[serde(default = "default_probe_interval")]
    #[schemars(extend("x-kubernetes-validations" = rules::LIVENESS_DURATION))]
    pub probe_interval: DurationString,
    /// Silence after which Reachable becomes Unknown.
    #[serde(default = "default_suspect_after")]
    #[schemars(extend("x-kubernetes-validations" = rules::LIVENESS_DURATION))]
    pub suspect_after: DurationString,
    /// Silence after which Reachable becomes False and the phase Unreachable.
    #[serde(default = "default_lost_after")]
    #[schemars(extend("x-kubernetes-validations" = rules::LIVENESS_DURATION))]
    pub lost_after: DurationString,
}

impl Default for Liveness {
    fn default() -> Self {
        Self {
            probe_interval: default_probe_interval(),
            suspect_after: default_suspect_after(),
            lost_after: default_lost_after(),
        }
    }
}

fn default_probe_interval() -> DurationString {
    DurationString::new("10s")
}

fn default_suspect_after() -> DurationString {
    DurationString::new("30s")
}

fn default_lost_after() -> DurationString {
    DurationString::new("2m")
}

/// What the operator knows of a device. Written on transitions only; freshness is in memory and in metrics.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeviceStatus {
    /// `metadata.generation` that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The one word for it.
    #[serde(default)]
    pub phase: DevicePhase,
    /// The endpoint as the operator resolved it; agents use these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub addresses: Vec<DeviceAddress>,
    /// The last report that was believed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported: Option<Reported>,
    /// The command under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync: Option<Sync>,
    /// Ready, Reachable, Synced, Consistent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// The one word for a device's state.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum DevicePhase {
    /// Nothing was sent yet: not resolved, not allowed, or not tried.
    #[default]
    Pending,
    /// Commanded, and not yet reported as running.
    Syncing,
    /// Reported firmware and config digest equal the desired ones.
    InSync,
    /// Silent for longer than `lostAfter`.
    Unreachable,
    /// Its reports contradict themselves, or it belongs to somebody else.
    Conflicted,
    /// It refused this desired state, or failed to install it three times.
    Failed,
    /// `spec.paused`.
    Paused,
}

impl DevicePhase {
    /// Every phase, for metrics that show all of them.
    pub const ALL: [Self; 7] = [
        Self::Pending,
        Self::Syncing,
        Self::InSync,
        Self::Unreachable,
        Self::Conflicted,
        Self::Failed,
        Self::Paused,
    ];

    /// The name as the API and the metrics write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Syncing => "Syncing",
            Self::InSync => "InSync",
            Self::Unreachable => "Unreachable",
            Self::Conflicted => "Conflicted",
            Self::Failed => "Failed",
            Self::Paused => "Paused",
        }
    }
}

/// One address of a device, and the node whose pod it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeviceAddress {
    /// IPv4 or IPv6 address, canonical text.
    #[schemars(length(max = 45))]
    pub ip: String,
    /// Node of the pod that has this address; absent for what is outside the cluster. Only that node's agent
    /// enforces faults on it, so nothing is enforced twice; without it, each node with a route does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub node: Option<String>,
}

/// The last believed report. Evidence, with a boot id and a sequence, never simply the truth.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reported {
    /// Running firmware.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub firmware: Option<String>,
    /// `sha256:<hex>` of the running config.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 80))]
    pub config_digest: Option<String>,
    /// Generation of the command that is applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// Random name of this boot, hex.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub boot_id: String,
    /// Number of the report within its boot.
    #[serde(default)]
    pub sequence: u64,
}

/// The command under way. Written together with a transition only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Sync {
    /// Generation that was commanded.
    pub generation: i64,
    /// Commands of this generation so far.
    #[serde(default)]
    pub attempts: u32,
    /// What went wrong last, one sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub last_error: Option<String>,
}
