//! What a `FaultProfile` does to packets, and the phases of its timeline.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::quantity::{DurationString, Percent};
use crate::rules;

/// What happens to a packet, in this order, each fault once. At least one is there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::FAULTS))]
pub struct Faults {
    /// Every packet is lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<Partition>,
    /// Some packets are lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<Loss>,
}

/// A phase of an experiment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::TIMELINE_PHASE))]
pub struct TimelinePhase {
    /// How long it lasts, such as 60s. The next one begins where it ends.
    #[serde(rename = "for")]
    #[schemars(extend("x-kubernetes-validations" = rules::PHASE_DURATION))]
    pub lasts: DurationString,
    /// What happens to packets in it.
    pub faults: Faults,
}

/// Every packet is lost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Partition {
    /// What the sender learns of it.
    #[serde(default)]
    #[schemars(schema_with = "mode_schema")]
    pub mode: PartitionMode,
}

/// What the sender of a partitioned packet learns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum PartitionMode {
    /// Nothing: the packet is gone.
    #[default]
    Drop,
}

/// Not an enum, so that a mode which comes later is refused by a sentence.
fn mode_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "maxLength": 16, "x-kubernetes-validations": rules::PARTITION_MODE})
}

/// Some packets are lost: exactly one of `percent`, `gilbertElliott` and `every`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::LOSS))]
pub struct Loss {
    /// Each packet is lost with this probability, independently of all others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<Percent>,
    /// Packets are lost in bursts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gilbert_elliott: Option<GilbertElliott>,
    /// Exactly each n-th packet is lost: with 10 the tenth, the twentieth, and so on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub every: Option<u32>,
    /// Whose sequence of packets `gilbertElliott` and `every` go by; Target by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
}

/// Loss by a chain of two states, outside of a burst and inside one (Gilbert 1960, Elliott 1963). A packet meets the
/// state that the one before it left; the first one is outside of a burst.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::GILBERT_ELLIOTT))]
pub struct GilbertElliott {
    /// Behind a packet outside of a burst one begins with this probability.
    pub enter_burst: Percent,
    /// Behind a packet inside a burst it ends with this probability: bursts last 1 / leaveBurst packets on average.
    pub leave_burst: Percent,
    /// Probability of loss inside a burst.
    #[serde(default = "everything")]
    pub loss_in_burst: Percent,
    /// Probability of loss outside of bursts.
    #[serde(default = "nothing")]
    pub loss_outside: Percent,
}

fn everything() -> Percent {
    Percent::new("100%")
}

fn nothing() -> Percent {
    Percent::new("0%")
}

/// Whose sequence of packets a fault goes by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Scope {
    /// All packets of the target in one direction, as a bad link has it. Repeats as far as the order of arrival does.
    #[default]
    Target,
    /// The packets of each flow (addresses, protocol, ports) for themselves. Repeats whatever the other flows do.
    Flow,
}
