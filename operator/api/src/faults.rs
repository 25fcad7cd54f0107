//! What a `FaultProfile` does to packets, and the phases of its timeline.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::quantity::{BitRate, ByteSize, DurationString, Percent};
use crate::rules;

/// No packet is meant to arrive later than this: `delay.time`, `delay.jitter` and `reorder.by` together.
pub const MAX_LATER: Duration = Duration::from_secs(60);
/// The longest `rate.queue`.
pub const MAX_QUEUE: Duration = Duration::from_secs(60);
/// The smallest `rate.burst` in bytes: one full Ethernet frame of 1,500 bytes of payload, with tags, fits.
pub const MIN_BURST: u64 = 1_600;
/// The largest `rate.burst` in bytes: 16 MiB.
pub const MAX_BURST: u64 = 16 << 20;

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
    /// Some packets arrive with a wrong bit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corrupt: Option<Corrupt>,
    /// Some packets arrive twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duplicate: Option<Duplicate>,
    /// Every packet arrives later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<Delay>,
    /// Some packets arrive behind those that were sent after them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reorder: Option<Reorder>,
    /// Only so much gets through in a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
}

impl Faults {
    /// Is nothing written? The API server refuses that.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
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
    pub mode: PartitionMode,
}

/// What the sender of a partitioned packet learns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum PartitionMode {
    /// Nothing: the packet is gone.
    #[default]
    Drop,
    /// That it was refused: TCP gets a reset, everything else an ICMP "destination unreachable, communication
    /// administratively prohibited" (RFC 1812 §5.2.7.1, RFC 4443 §3.1).
    Reject,
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

/// Some packets arrive with one bit flipped behind the network's header, so that their checksum is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::CORRUPT))]
pub struct Corrupt {
    /// Each packet with this probability, independently of all others.
    pub percent: Percent,
}

/// Some packets arrive twice. The faults below this one meet both, each for itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::DUPLICATE))]
pub struct Duplicate {
    /// Each packet with this probability, independently of all others.
    pub percent: Percent,
}

/// Every packet arrives later. Together with a reorder's `by` that is at most 60s ([`MAX_LATER`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::DELAY))]
pub struct Delay {
    /// By so much, on average where there is a jitter, such as 80ms. From 1us; 0s only beside a jitter.
    #[schemars(extend("x-kubernetes-validations" = rules::DELAY_TIME))]
    pub time: DurationString,
    /// How far packets stray from `time`, such as 20ms; what that means says `distribution`. None by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = rules::JITTER))]
    pub jitter: Option<DurationString>,
    /// How they stray: beside a jitter only, Normal by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distribution: Option<Distribution>,
    /// How much a packet's straying takes after that of the one before it; beside a jitter only, 0% by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation: Option<Percent>,
    /// Which packet is the one before it; beside a correlation only, Target by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
}

/// How delays stray from their `time`. No packet leaves before it came: what would be below zero is zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Distribution {
    /// Evenly between `time` - `jitter` and `time` + `jitter`.
    Uniform,
    /// By a normal distribution: `time` is the mean and `jitter` the standard deviation.
    #[default]
    Normal,
    /// By a Pareto distribution of shape 3, moved and stretched so that `time` is the mean and `jitter` the standard
    /// deviation: most packets are somewhat early, a few very late.
    Pareto,
}

/// Some packets arrive later than the rest, and so behind some that were sent after them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::REORDER))]
pub struct Reorder {
    /// Each packet with this probability, independently of all others.
    pub percent: Percent,
    /// By so much later than without this, such as 30ms. From 1us.
    #[schemars(extend("x-kubernetes-validations" = rules::REORDER_BY))]
    pub by: DurationString,
}

/// Only so much gets through in a time, for each target and direction (a token bucket). What comes too fast waits its
/// turn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::RATE))]
pub struct Rate {
    /// Bits a second, such as 256k, 1.5M or 1G (thousands, not 1,024s). From 1k, as slow radios have, to 100G.
    pub bits_per_second: BitRate,
    /// Bytes that pass at once after a silence, such as 16Ki. From 1600, so that a full frame fits, to 16Mi.
    #[serde(default = "burst")]
    #[schemars(extend("x-kubernetes-validations" = rules::BURST))]
    pub burst: ByteSize,
    /// A packet that would wait longer is lost. From 0s (nothing waits) to 60s.
    #[serde(default = "queue")]
    #[schemars(extend("x-kubernetes-validations" = rules::QUEUE))]
    pub queue: DurationString,
}

fn burst() -> ByteSize {
    ByteSize::new("16Ki")
}

fn queue() -> DurationString {
    DurationString::new("1s")
}
