//! The resources of `edge-operator.dev/v1alpha1` as Rust types, and the small pure rules that operator and
//! agent must share to the letter. No client, no clock, no I/O.
//!
//! ```text
//! device.rs         Device        what a device shall be, and what is known of it
//! fleet.rs          DeviceFleet   one desired state for many devices, in batches and within budgets
//! fault_profile.rs  FaultProfile  which packets of which targets meet faults, and until when
//! faults.rs                       what happens to these packets
//! fault_node.rs     FaultNode     what one node's kernel holds of it (written by that node's agent)
//! quantity.rs       durations, percentages, ports, CIDRs, rates, sizes as users write them, parsed once
//! choose.rs         which targets `choose` hits: rank and cutoff
//! condition.rs      building `status.conditions`
//! rules.rs          the CEL rules, each with the sentence a refused user reads
//! schema.rs         the CustomResourceDefinitions as they are installed
//! ```

pub mod choose;
pub mod condition;
pub mod device;
pub mod fault_node;
pub mod fault_profile;
pub mod faults;
pub mod fleet;
pub mod quantity;
pub mod rules;
pub mod schema;

pub use condition::{Condition, ConditionStatus, set_condition};
pub use device::{
    Desired, Device, DeviceAddress, DevicePhase, DeviceSpec, DeviceStatus, Endpoint, Liveness, Reported, Sync,
};
pub use fault_node::{
    ClockOffset, Engine, EngineState, EngineStatus, FaultNode, FaultNodeSpec, FaultNodeStatus, HookKind,
    HookStatus, Lateness, LimitStatus, ProfileOnNode,
};
pub use fault_profile::{
    Choose, Corrupt, Delay, Direction, Distribution, Duplicate, FaultPhase, FaultProfile, FaultProfileSpec,
    FaultProfileStatus, Faults, Loss, Match, NodeProblem, Partition, PartitionMode, Peer, Protocol, Rate,
    Reorder, TargetCounts, TargetSelector, Targets,
};
pub use fleet::{
    DeviceFleet, DeviceFleetSpec, DeviceFleetStatus, FailureBudget, FleetCounts, FleetPhase,
    OnBudgetExceeded, Rollout,
};
pub use quantity::{BitRate, ByteSize, Cidr, CountOrPercent, DurationString, Percent, PortRange};

/// The one served version.
pub const VERSION: &str = "v1alpha1";
