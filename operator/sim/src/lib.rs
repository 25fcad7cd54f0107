//! The operator under simulation, and the API server that it meets there. No released program uses this.
//!
//! ```text
//!  seed ─► plan.rs ─► run.rs ─► world.rs: operator-0, operator-1 ──TCP── api (server.rs, store)
//!                       │                        └─────UDP──── devices (device-sim)
//!                       ▼                 weather.rs: what goes wrong     timeline.rs: what happened
//!                    oracle.rs, turns.rs: what must be true
//! ```
//!
//! * [`server`]: an API server in memory, with Kubernetes' rules of writing and watching. It passes the same
//!   conformance stories as the real one.
//! * [`plan`], [`rollouts`], [`happening`], [`run`], [`oracle`], [`judge`], [`rule`], [`report`]: what a seed stands for, from its
//!   first step to the verdict.
//! * [`mutation`]: faults put in on purpose, to see that each rule finds its own.
//! * [`world`], [`network`], [`states`], [`clock`], [`person`]: the hosts and what lies around them.
//! * [`weather`], [`turns`], [`timeline`]: what goes wrong, whose turn it was, what happened.
//! * [`sweep`]: one chosen moment of a calm run at which an operator dies or misses something; its scenarios are in [`plan`],
//!   [`rollouts`] and `lives.rs`.

pub mod clock;
pub mod exchanges;
pub mod happening;
pub mod judge;
mod lives;
pub mod mutation;
pub mod network;
pub mod oracle;
pub mod person;
pub mod plan;
pub mod report;
pub mod retries;
pub mod rollouts;
pub mod rule;
pub mod run;
pub mod server;
pub mod states;
pub mod sweep;
pub mod timeline;
mod trouble;
pub mod turns;
pub mod weather;
pub mod world;

/// How a run is seen again, but for its arguments. Built alone, the program has other features of its dependencies, and a seed is another
/// run.
pub const AGAIN: &str = "cargo build --workspace --all-targets && target/debug/edge-sim";
