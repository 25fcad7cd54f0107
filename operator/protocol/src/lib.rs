//! What an operator and a device say to each other: CBOR payloads carried by CoAP (RFC 7252).
//!
//! Types, limits, encoding and decoding, and the network that both ends send datagrams by; no clock, no policy. Both ends
//! link this crate.
//!
//! ```text
//!  operator                                              device
//!  DesiredCommand ── encode ──► PUT /desired ──► decode ── stored durably: 2.04
//!                 ◄── decode ── Refusal       ◄── encode ── 4.12, 4.03, 4.22
//!    OwnerCommand ── encode ──► PUT /owner   ──► decode ── stored durably: 2.04
//!          Report ◄── decode ── 2.05          ◄── encode ── GET /state
//! ```
//!
//! * [`command`]: the whole desired state of a device, with what orders it.
//! * [`report`]: what a device says of itself; evidence, never simply the truth.
//! * [`owner`]: whom it obeys: released, or adopted.
//! * [`refusal`]: why a command was not taken, and what the device holds instead.
//! * [`envelope`]: the outermost layer, with the place of a MAC.
//! * [`digest`]: one number for a configuration.
//! * [`codec`]: [`encode`] and [`decode`], the only ways in and out.
//! * [`network`]: UDP, of this machine or of a simulation.
//!
//! A payload is an array `[1, payload]` or `[1, payload, mac]`; `payload` is a byte string that holds a
//! CBOR map with one-letter keys (each type lists its own). Unknown keys are ignored, so that an older
//! peer understands a newer one; a change that it must not misread raises the version.

pub mod codec;
pub mod command;
pub mod digest;
pub mod envelope;
pub mod network;
pub mod owner;
pub mod refusal;
pub mod report;

pub use codec::{DecodeError, EncodeError, LimitError, Payload, decode, encode};
pub use command::{CommandId, DesiredCommand};
pub use digest::{ConfigDigest, config_digest, config_encoded_len};
pub use envelope::Envelope;
pub use owner::{Held, OwnerChange, OwnerCommand};
pub use refusal::{Refusal, RefusalReason};
pub use report::{BootId, Install, Report};

/// The largest payload of a CoAP message, in bytes: it fits an unfragmented packet together with the
/// headers of IPv6, UDP and CoAP (RFC 7252 §4.6 suggests the same figure).
pub const MAX_PAYLOAD: usize = 1024;
/// The longest namespace, in bytes (a DNS label).
pub const MAX_NAMESPACE: usize = 63;
/// The longest name of a Device, in bytes (a DNS subdomain).
pub const MAX_NAME: usize = 253;
/// The longest uid, in bytes; Kubernetes' own are 36.
pub const MAX_UID: usize = 64;
/// The longest firmware version, in bytes.
pub const MAX_FIRMWARE: usize = 64;
/// The most entries of a configuration.
pub const MAX_CONFIG_ENTRIES: usize = 32;
/// The longest encoded configuration, in bytes (see [`config_encoded_len`]).
pub const MAX_CONFIG: usize = 900;
/// The longest error text of a device, in bytes.
pub const MAX_ERROR: usize = 160;

/// CoAP path of the desired state (PUT, confirmable).
pub const PATH_DESIRED: &str = "desired";
/// CoAP path of whom it obeys (PUT, confirmable).
pub const PATH_OWNER: &str = "owner";
/// CoAP path of the report (GET).
pub const PATH_STATE: &str = "state";
/// CoAP Content-Format of every payload: `application/cbor` (RFC 7252 §12.3).
pub const CONTENT_FORMAT_CBOR: u16 = 60;
