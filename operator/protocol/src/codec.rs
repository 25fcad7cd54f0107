//! `encode` and `decode`: the envelope, the payload and its limits in one step each.
//! Whatever bytes arrive, decoding ends, allocates little and says what was wrong.

use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

use crate::{Envelope, MAX_PAYLOAD};

/// How deep a payload may nest; ours are three deep, the rest is room for unknown keys.
const MAX_DEPTH: usize = 8;

/// A field that is longer than the protocol allows, or empty where it must not be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{field} has {actual}, the protocol allows {allowed}")]
pub struct LimitError {
    /// The field's name.
    pub field: &'static str,
    /// How much there was, with its unit.
    pub actual: String,
    /// What would have been accepted.
    pub allowed: String,
}

impl LimitError {
    pub(crate) fn text(field: &'static str, text: &str, min: usize, max: usize) -> Result<(), Self> {
        if (min..=max).contains(&text.len()) {
            return Ok(());
        }
        Err(Self { field, actual: format!("{} bytes", text.len()), allowed: format!("{min} to {max} bytes") })
    }
}

/// What can be sent: one of the message types of this crate.
pub trait Payload: Serialize + DeserializeOwned {
    /// Checks every field against the limits in the crate's root.
    ///
    /// # Errors
    /// The first field that is out of bounds.
    fn check(&self) -> Result<(), LimitError>;
}

/// Why a message cannot be sent. Nothing but another message helps.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// A field is out of bounds.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// All fields are in bounds, and together too long.
    #[error("the message takes {actual} bytes, at most {MAX_PAYLOAD} can be sent; shorten the configuration")]
    TooLong {
        /// Encoded size in bytes.
        actual: usize,
    },
    /// The encoder failed, which it does for no value of these types.
    #[error("the message could not be encoded: {0}")]
    Encoder(String),
}

/// Why bytes are not a message. The sender is broken, hostile or newer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// More bytes than any message has.
    #[error("{actual} bytes, a message has at most {MAX_PAYLOAD}")]
    TooLong {
        /// Bytes received.
        actual: usize,
    },
    /// Not CBOR, or not all of it.
    #[error("not a CBOR message: {0}")]
    Syntax(String),
    /// CBOR, and something else than the message expected.
    #[error("not the message expected: {0}")]
    Shape(String),
    /// Another version of the protocol.
    #[error("protocol version {0}, this build speaks {version}", version = crate::envelope::VERSION)]
    Version(u64),
    /// Bytes behind the end of the message.
    #[error("{0} bytes behind the end of the message")]
    Trailing(usize),
    /// A field is out of bounds.
    #[error(transparent)]
    Limit(#[from] LimitError),
}

/// The bytes to put into a CoAP message.
///
/// The same message gives the same bytes: maps are sorted, lengths are definite and as short as can be.
///
/// # Errors
/// When a field or the whole is too long.
pub fn encode<T: Payload>(message: &T) -> Result<Vec<u8>, EncodeError> {
    message.check()?;
    let bytes = Envelope::plain(to_cbor(message)?).to_bytes()?;
    if bytes.len() > MAX_PAYLOAD {
        return Err(EncodeError::TooLong { actual: bytes.len() });
    }
    Ok(bytes)
}

/// The message in the bytes of a CoAP message. A MAC is carried and not yet checked.
///
/// # Errors
/// When the bytes are anything but one message within its limits.
pub fn decode<T: Payload>(bytes: &[u8]) -> Result<T, DecodeError> {
    let envelope = Envelope::from_bytes(bytes)?;
    let message: T = from_cbor(&envelope.payload)?;
    message.check()?;
    Ok(message)
}

pub(crate) fn to_cbor<T: Serialize>(value: &T) -> Result<Vec<u8>, EncodeError> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).map_err(|error| EncodeError::Encoder(error.to_string()))?;
    Ok(bytes)
}

pub(crate) fn from_cbor<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    use ciborium::de::Error;

    let mut rest = bytes;
    let value =
        ciborium::de::from_reader_with_recursion_limit(&mut rest, MAX_DEPTH).map_err(
            |error| match error {
                Error::Io(_) => DecodeError::Syntax("it ends in the middle".into()),
                Error::Syntax(offset) => DecodeError::Syntax(format!("at byte {offset}")),
                Error::Semantic(_, text) => DecodeError::Shape(shorten(&text)),
                Error::RecursionLimitExceeded => DecodeError::Shape(format!("deeper than {MAX_DEPTH}")),
            },
        )?;
    match rest.len() {
        0 => Ok(value),
        more => Err(DecodeError::Trailing(more)),
    }
}

/// Error texts quote what the peer sent: enough to recognise it, not enough to fill a log.
fn shorten(text: &str) -> String {
    text.chars().take(120).collect()
}
