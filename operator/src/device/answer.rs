//! What an exchange came to: the end that the link saw, read as a device's answer. Pure.

use edge_protocol::{DecodeError, Refusal, Report};

use crate::link::{Code, End};

/// How an exchange ended, and which it was.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Number of the exchange.
    pub number: u64,
    /// What it was about.
    pub topic: Topic,
    /// What came of it.
    pub answer: Answer,
}

/// What an exchange is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// Its report.
    State,
    /// What it shall run.
    Desired,
    /// Whom it obeys.
    Owner,
}

/// What a device answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Its report.
    Report(Box<Report>),
    /// Its report, which it may have sent before it was asked.
    Pushed(Box<Report>),
    /// 2.04: the command is stored.
    Stored,
    /// One of the three codes of a refusal, and its reason as far as that can be read.
    Refused(Code, Option<Refusal>),
    /// Something that cannot be read as an answer.
    Malformed(DecodeError),
    /// A code that says nothing of the command (5.00, 4.29, …).
    Unable(Code),
    /// A reset message.
    Reset,
    /// Nothing.
    Silence,
    /// The exchange was never begun, or was ended here.
    Abandoned,
}

/// Precondition Failed: the device holds something later.
pub(super) const PRECONDITION_FAILED: Code = Code(4, 12);
/// Forbidden: the device is not ours.
pub(super) const FORBIDDEN: Code = Code(4, 3);
/// Unprocessable Entity: the device can never run this.
const UNPROCESSABLE: Code = Code(4, 22);

impl Answer {
    /// Reads the end of a `GET /state`.
    pub fn to_report(end: End) -> Self {
        match end {
            End::Response(Code::CONTENT, payload) => match edge_protocol::decode::<Report>(&payload) {
                Ok(report) => Self::Report(Box::new(report)),
                Err(error) => Self::Malformed(error),
            },
            End::Notified(payload) => Self::pushed(&payload),
            End::Response(code, _) => Self::Unable(code),
            End::Reset => Self::Reset,
            End::NoAnswer | End::NoResponse => Self::Silence,
            End::GivenUp => Self::Abandoned,
        }
    }

    /// Reads a notification.
    pub fn pushed(payload: &[u8]) -> Self {
        match edge_protocol::decode::<Report>(payload) {
            Ok(report) => Self::Pushed(Box::new(report)),
            Err(error) => Self::Malformed(error),
        }
    }

    /// Reads the end of a `PUT`.
    pub fn to_command(end: End) -> Self {
        match end {
            End::Response(Code::CHANGED, _) => Self::Stored,
            End::Response(code @ (PRECONDITION_FAILED | FORBIDDEN | UNPROCESSABLE), payload) => {
                Self::Refused(code, edge_protocol::decode(&payload).ok())
            }
            End::Response(code, _) => Self::Unable(code),
            End::Reset => Self::Reset,
            // Nobody observes what is commanded.
            End::NoAnswer | End::NoResponse | End::Notified(_) => Self::Silence,
            End::GivenUp => Self::Abandoned,
        }
    }

    /// Short names for metrics.
    pub const CATEGORIES: [&'static str; 9] =
        ["report", "notified", "stored", "refused", "malformed", "unable", "reset", "timeout", "abandoned"];

    /// Where its name stands in [`Self::CATEGORIES`].
    pub fn category(&self) -> usize {
        match self {
            Self::Report(_) => 0,
            Self::Pushed(_) => 1,
            Self::Stored => 2,
            Self::Refused(..) => 3,
            Self::Malformed(_) => 4,
            Self::Unable(_) => 5,
            Self::Reset => 6,
            Self::Silence => 7,
            Self::Abandoned => 8,
        }
    }
}
