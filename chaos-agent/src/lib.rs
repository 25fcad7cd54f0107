//! The agent of one node: it brings the kernel to what the accepted FaultProfiles ask for, and tells what the
//! kernel did.
//!
//! ```text
//!  API server ─ watch ─▶ World ─ compile ─▶ Plan ─ diff ─▶ operations ─▶ kernel ─▶ counters ─▶ /metrics
//!  netlink ─ locate ─▶ Topology ─▶ hooks ───────────────────────────────▶   │
//!                          └──────────────▶ status ◀─ ledger, counters ─────┘──▶ FaultNode
//! ```

pub mod alone;
pub mod args;
pub mod ask;
pub mod behind;
pub mod clock;
pub mod compile;
pub mod diff;
pub mod enforce;
pub mod feed;
pub mod follow;
pub mod http;
pub mod index;
pub mod kernel;
pub mod ledger;
pub mod line;
pub mod locate;
pub mod metrics;
pub mod pair;
pub mod peers;
pub mod preflight;
pub mod profile;
pub mod residue;
pub mod round;
pub mod runtime;
pub mod shared;
pub mod splitter;
pub mod status;
pub mod table;
pub mod view;
pub mod watch;
pub mod world;
