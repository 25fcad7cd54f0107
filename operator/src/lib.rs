//! The operator: keeps devices at their declared state, and fault profiles honest. One binary, one build; this
//! crate is a library too, so that tests run the whole of it against a real API server.
//!
//! ```text
//!  Devices, Pods, Nodes ──watch──► cache.rs ──► device.rs ──► observe → validate → decide → status
//!                                     │            ▲                              │ actions as data
//!                                     │            │ outcomes                     ▼
//!                                     │            └───────────── link/ ◄──── act.rs ──► API server
//!                                     │                     CoAP exchanges
//!                                     ├──────► fleet.rs (desired states of Devices, in batches)
//!                                     └──────► fault.rs (FaultProfiles out of FaultNodes)
//! ```
//!
//! * [`args`], [`runtime`]: flags, wiring, start and shutdown.
//! * [`shared`]: what all controllers share.
//! * [`client`]: calls to the API server, counted.
//! * `clock`: the API server's time.
//! * [`cache`], [`resolve`]: what the API server holds, kept here; which addresses may be reached.
//! * [`dns`]: addresses of names.
//! * [`queue`], [`slots`], [`budget`]: fairness and bounds of work, of exchanges and of retries.
//! * `retry`: when a reconcile that failed is tried again.
//! * [`action`], [`act`]: what to do as values, and the one place that does it.
//! * [`record`]: how statuses and Events are written.
//! * `refusal`: why nothing is done for an object.
//! * [`device`], [`fleet`], [`fault`]: the controllers.
//! * [`link`]: CoAP with retransmission (RFC 7252) over UDP.
//! * [`metrics`], [`http`], [`telemetry`]: how it is watched.
//! * [`leader`]: which of several processes acts, by a Lease; the right to act, asked before each command and write.
//! * [`epoch`]: the number that orders one leader's commands after another's.

pub mod act;
pub mod action;
pub mod args;
pub mod budget;
pub mod cache;
pub mod client;
pub(crate) mod clock;
pub mod device;
pub mod dns;
pub mod epoch;
pub mod error;
pub mod fault;
pub mod fleet;
pub mod http;
pub mod leader;
pub mod link;
pub(crate) mod lock;
pub mod metrics;
pub mod queue;
pub mod record;
pub(crate) mod refusal;
pub mod resolve;
pub(crate) mod retry;
pub mod runtime;
pub mod shared;
pub mod slots;
pub mod telemetry;
