//! CoAP exchanges with devices: RFC 7252's reliability over UDP, for a client that sends confirmable requests to
//! many devices, one at a time to each.
//!
//! * [`wire`]: bytes to messages and back; whatever arrives, it ends and allocates little.
//! * [`exchange`]: when to send again and when to give up, as a pure state machine.
//! * [`observe`]: whose a notification is (RFC 7641), and whether it is news; bounded.
//! * [`window`]: which exchange a datagram belongs to; bounded.
//! * [`socket`]: the sockets, and the driver of one exchange.

pub mod exchange;
pub mod observe;
pub mod socket;
pub mod window;
pub mod wire;

/// Target of the log of exchanges: one ends, of this token. Off unless asked for.
pub const EXCHANGES: &str = "edge_operator::exchanges";

pub use exchange::{End, Timing};
pub use socket::{Counters, Link, Request, Transmissions};
pub use wire::{Code, Method};
