//! `DeviceFleet`: one desired state for many devices, brought to them in batches and within budgets.
//! Users write `spec`, the operator alone writes `status`, and `spec.desired` of the Devices.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, MicroTime};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::device::Desired;
use crate::quantity::{CountOrPercent, DurationString, Percent};
use crate::{rules, schema};

/// The most entries of `status.reserved`, and so of `spec.rollout.maxInFlight`.
pub const MAX_RESERVED: usize = 500;

/// One desired state for the devices that a selector matches in this namespace.
#[expect(clippy::duplicated_attributes, reason = "columns share words such as type_ = \"string\"")]
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "edge-operator.dev",
    version = "v1alpha1",
    kind = "DeviceFleet",
    plural = "devicefleets",
    shortname = "fleet",
    category = "edge",
    namespaced,
    status = "DeviceFleetStatus",
    derive = "PartialEq",
    doc = "One desired state for many devices, brought to them in batches and within budgets.",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Firmware", type_ = "string", json_path = ".spec.template.firmware"),
    printcolumn(name = "Devices", type_ = "integer", json_path = ".status.counts.total"),
    printcolumn(name = "Updated", type_ = "integer", json_path = ".status.counts.updated"),
    printcolumn(name = "In-Sync", type_ = "integer", json_path = ".status.counts.inSync"),
    printcolumn(name = "Failed", type_ = "integer", json_path = ".status.counts.failed"),
    printcolumn(name = "Batch", type_ = "integer", json_path = ".status.batch"),
    printcolumn(
        name = "Unavailable",
        type_ = "integer",
        json_path = ".status.counts.unavailable",
        priority = "1"
    ),
    printcolumn(name = "Foreign", type_ = "integer", json_path = ".status.counts.foreign", priority = "1"),
    printcolumn(name = "Revision", type_ = "integer", json_path = ".status.revision", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::FLEET_SPEC))]
pub struct DeviceFleetSpec {
    /// Which devices of this namespace; a label selector, as in a Deployment. Two fleets that select one device both pause.
    #[schemars(schema_with = "schema::selector")]
    pub selector: LabelSelector,
    /// What they shall run. It becomes their `spec.desired`, but for those whose desired state somebody else has set.
    pub template: Desired,
    /// How it is brought to them.
    #[serde(default)]
    pub rollout: Rollout,
    /// True: nothing more is changed. What was changed stays so.
    #[serde(default)]
    pub paused: bool,
}

/// How a new template is brought to the devices.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rollout {
    /// One batch after the other: numbers of devices, then shares of them (rounded up), ascending, at last 100%. A batch
    /// has the devices of the lowest ranks; a rank comes of the fleet's and the device's namespace and name. It ends when
    /// every device that answered when its turn came is InSync or Failed; others catch up when they answer again.
    #[serde(default = "default_batches")]
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-validations" = rules::BATCHES))]
    pub batches: Vec<CountOrPercent>,
    /// Devices that are changed and still trying, at most; 1 to 500. One that got lost is not among them until it is back.
    #[serde(default = "default_max_in_flight")]
    #[schemars(range(min = 1, max = 500))]
    pub max_in_flight: u32,
    /// These, and those that this rollout made Failed or Unreachable, at most: a number, or a share of the devices (rounded
    /// down, and at least one). Once it is complete, those that failed within failureBudget hold up nobody who catches up.
    #[serde(default = "default_max_unavailable")]
    pub max_unavailable: CountOrPercent,
    /// How many may fail.
    #[serde(default)]
    pub failure_budget: FailureBudget,
    /// What happens when more fail, or when none finishes for too long.
    #[serde(default)]
    pub on_budget_exceeded: OnBudgetExceeded,
    /// No device finishing for so long does what onBudgetExceeded says; 1s to 720h.
    #[serde(default = "default_progress_deadline")]
    #[schemars(extend("x-kubernetes-validations" = rules::PROGRESS_DEADLINE))]
    pub progress_deadline: DurationString,
}

impl Default for Rollout {
    fn default() -> Self {
        Self {
            batches: default_batches(),
            max_in_flight: default_max_in_flight(),
            max_unavailable: default_max_unavailable(),
            failure_budget: FailureBudget::default(),
            on_budget_exceeded: OnBudgetExceeded::default(),
            progress_deadline: default_progress_deadline(),
        }
    }
}

fn default_batches() -> Vec<CountOrPercent> {
    ["5%", "25%", "100%"].map(|share| CountOrPercent::Percent(share.into())).to_vec()
}

fn default_max_in_flight() -> u32 {
    50
}

fn default_max_unavailable() -> CountOrPercent {
    CountOrPercent::Percent("10%".into())
}

fn default_progress_deadline() -> DurationString {
    DurationString::new("10m")
}

/// How many devices may fail. It is exceeded when the failed ones are more than `percent` of those that finished, or of
/// `minimumSample` (of all devices, where they are fewer) while not so many have finished.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailureBudget {
    /// This share of those that are InSync or Failed.
    #[serde(default = "default_failures")]
    pub percent: Percent,
    /// Fewer are judged as if the rest of so many will be InSync; 1 to 10000.
    #[serde(default = "default_sample")]
    #[schemars(range(min = 1, max = 10_000))]
    pub minimum_sample: u32,
}

impl Default for FailureBudget {
    fn default() -> Self {
        Self { percent: default_failures(), minimum_sample: default_sample() }
    }
}

fn default_failures() -> Percent {
    Percent::new("5%")
}

fn default_sample() -> u32 {
    20
}

/// What a rollout does that has used up its budget, or its time.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum OnBudgetExceeded {
    /// Brings the previous revision back to all devices that were changed. Without a previous one: as Pause.
    #[default]
    Rollback,
    /// Changes nothing more until spec changes.
    Pause,
}

/// What became of a fleet. Written by the operator alone. Together with the ControllerRevisions it is all that a new
/// leader needs to go on where the former one stopped.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeviceFleetStatus {
    /// `metadata.generation` that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Epoch of the leader that wrote it; never falls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// The one word for it.
    #[serde(default)]
    pub phase: FleetPhase,
    /// Number of the ControllerRevision that holds spec.template: `<fleet>-<number>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<i64>,
    /// Number of the one that was complete before it: what a rollback brings back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_revision: Option<i64>,
    /// Number of the one that was given up. As long as it is `revision`, the devices shall run `previousRevision`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_revision: Option<i64>,
    /// How many devices.
    #[serde(default)]
    pub counts: FleetCounts,
    /// The batch under way, from 1; the last one when it is complete.
    #[serde(default)]
    pub batch: u32,
    /// Devices that this rollout is about to change, or changed, and that are not yet InSync or Failed. Written before
    /// they are changed; they count against the budgets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 500), inner(length(max = 253)))]
    pub reserved: Vec<String>,
    /// When a device finished last, or the batch began; absent while nothing is waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progressed_at: Option<MicroTime>,
    /// Accepted, Progressing, WithinBudget, Complete.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// The one word for a fleet's state.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum FleetPhase {
    /// Not looked at yet, or no device to change.
    #[default]
    Pending,
    /// A rollout is under way.
    Progressing,
    /// Its last batch has ended. Devices that come later are brought up too.
    Complete,
    /// It was given up, and the previous revision is being brought back.
    RollingBack,
    /// The previous revision is back. The failed one is not tried again until the template changes.
    RolledBack,
    /// `spec.paused`, another fleet selects one of its devices, or a budget is exceeded; the conditions say which.
    Paused,
}

impl FleetPhase {
    /// Every phase, for metrics that show all of them.
    pub const ALL: [Self; 6] =
        [Self::Pending, Self::Progressing, Self::Complete, Self::RollingBack, Self::RolledBack, Self::Paused];

    /// The name as the API and the metrics write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Progressing => "Progressing",
            Self::Complete => "Complete",
            Self::RollingBack => "RollingBack",
            Self::RolledBack => "RolledBack",
            Self::Paused => "Paused",
        }
    }
}

/// How many devices of a fleet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FleetCounts {
    /// The selector matches them.
    #[serde(default)]
    pub total: u32,
    /// Of those, told to run what the fleet is bringing to them: the template, or the previous one in a rollback.
    #[serde(default)]
    pub updated: u32,
    /// Of those, running it as they last reported.
    #[serde(default)]
    pub in_sync: u32,
    /// Of the updated ones, given up by the device controller.
    #[serde(default)]
    pub failed: u32,
    /// Reserved, failed, or updated and lost in a rollout under way: what maxUnavailable bounds until the rollout is complete. Not among
    /// them: reserved and paused.
    #[serde(default)]
    pub unavailable: u32,
    /// Left alone, since somebody else has set their `spec.desired`.
    #[serde(default)]
    pub foreign: u32,
}
