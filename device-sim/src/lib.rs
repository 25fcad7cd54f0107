//! Unreliable edge devices, many in one process, each with its own address or port, from one seed.
//!
//! ```text
//!             ┌──────────────── transport: one task a device ────────────────┐
//!  datagram ─►│ lost? ─► wire ─► dedup ─► device::decide ─► durable ─► adopt │─► lost, late, twice ─►
//!             └──────────────────────────────▲───────────────────────────────┘
//!                     behaviour (shares, spans), random (seeded draws), the time
//! ```
//!
//! * [`device`]: what a device does, as a pure state machine. Start reading here.
//! * [`behaviour`], [`span`], [`random`]: what goes wrong, and when; seeded.
//! * [`lies`], [`outbox`]: reports that are not true; answers that wait, are held back or come again.
//! * [`durable`], [`history`]: what survives a power cut, with the record of what truly happened.
//! * [`wire`], [`dedup`], [`observers`]: CoAP messages, those that were answered already, and who is told of changes.
//! * [`transport`]: sockets, files and timers around one device; [`surroundings`]: whose.
//! * [`sim`], [`view`]: all devices of a process; the way in for tests: [`Sim::start`].
//! * [`http`], [`metrics`]: what others may see. [`enrol`]: Devices in a cluster. [`args`]: flags.

pub mod args;
pub mod behaviour;
pub mod dedup;
pub mod device;
pub mod durable;
pub mod enrol;
pub mod history;
pub mod http;
pub mod lies;
pub mod metrics;
pub mod observers;
pub mod outbox;
pub mod random;
pub mod sim;
pub mod span;
pub mod surroundings;
pub mod transport;
pub mod view;
pub mod wire;

pub use behaviour::Behaviour;
pub use sim::{DeviceHandle, Sim, SimConfig, StartError};
pub use view::View;
