//! What decisions ask for, as values. They say what to do, not how; [`crate::act`] does it.

use std::net::SocketAddr;
use std::time::Duration;

use edge_api::DeviceStatus;
use edge_protocol::{DesiredCommand, OwnerCommand};

use crate::slots::Cause;

/// Something to do for one Device.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Ask the device something; the outcome triggers the next reconcile.
    Exchange(Ask),
    /// Look a DNS name up; the outcome triggers the next reconcile.
    Resolve(String),
    /// Write the status, on the resourceVersion that it was decided on.
    WriteStatus(Box<DeviceStatus>),
    /// Tell a person.
    Notify(Notice),
    /// Change what is not the status, on the resourceVersion that it was decided on.
    Mark(Mark),
}

/// A change of a Device's metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Its device is about to obey it: it shall not go before the device is released.
    Hold,
    /// Its device is released, or given up: it may go.
    LetGo,
    /// The adoption that its annotation asks for is done.
    Adopted,
}

/// One exchange to start.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    /// Which exchange of this device; its outcome carries the number.
    pub number: u64,
    /// Where to.
    pub peer: SocketAddr,
    /// The last exchange ended in silence: this one is likely to take long.
    pub doubtful: bool,
    /// Why it is asked.
    pub cause: Cause,
    /// CoAP message id.
    pub message_id: u16,
    /// Given up after so long under way without any answer, so that it is asked afresh; none: when all transmissions are sent.
    pub given_up_after: Option<Duration>,
    /// What is asked.
    pub question: Question,
}

/// What a device is asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Question {
    /// `GET /state`.
    Report,
    /// `PUT /desired` with these bytes.
    Command(Box<Command>),
    /// `PUT /owner` with these bytes.
    Own(Box<Owning>),
}

/// A change of whom a device obeys, and how it is sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Owning {
    /// What is commanded.
    pub command: OwnerCommand,
    /// The same as bytes.
    pub payload: Vec<u8>,
}

/// A command and how it is sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    /// What is commanded.
    pub command: DesiredCommand,
    /// The same as bytes.
    pub payload: Vec<u8>,
}

/// An Event for `kubectl describe`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// CamelCase.
    pub reason: &'static str,
    /// A sentence.
    pub note: String,
}
