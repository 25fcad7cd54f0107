//! The outermost layer: version, payload, and the place of a MAC. Nothing here knows what is inside.

use std::fmt;

use serde::de::{self, IgnoredAny, SeqAccess, Visitor};
use serde::ser::SerializeSeq;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::codec::{self, DecodeError, EncodeError};
use crate::{LimitError, MAX_PAYLOAD};

/// The version of the protocol that this build speaks.
pub const VERSION: u64 = 1;
/// The longest MAC, in bytes: a COSE_Mac0 with HMAC 256/256, key id and detached payload is about 60.
pub const MAX_MAC: usize = 96;

/// `[version, payload]` or `[version, payload, mac]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The encoded message: exactly the bytes that a MAC covers, so nothing has to be encoded again to
    /// check it.
    pub payload: Vec<u8>,
    /// A COSE_Mac0 with detached payload (RFC 9052 §4.1, §6.2). Reserved: carried, neither made nor
    /// checked by this version.
    pub mac: Option<Vec<u8>>,
}

impl Envelope {
    /// An envelope without a MAC.
    #[must_use]
    pub fn plain(payload: Vec<u8>) -> Self {
        Self { payload, mac: None }
    }

    /// # Errors
    /// None for an envelope that fits its limits.
    pub fn to_bytes(&self) -> Result<Vec<u8>, EncodeError> {
        codec::to_cbor(&Wire { version: VERSION, envelope: self.clone() })
    }

    /// # Errors
    /// When the bytes are not an envelope of this version within its limits.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > MAX_PAYLOAD {
            return Err(DecodeError::TooLong { actual: bytes.len() });
        }
        let Wire { version, envelope } = codec::from_cbor(bytes)?;
        if version != VERSION {
            return Err(DecodeError::Version(version));
        }
        if let Some(mac) = envelope.mac.as_ref().filter(|mac| mac.len() > MAX_MAC) {
            return Err(DecodeError::Limit(LimitError {
                field: "mac",
                actual: format!("{} bytes", mac.len()),
                allowed: format!("{MAX_MAC} bytes"),
            }));
        }
        Ok(envelope)
    }
}

struct Wire {
    version: u64,
    envelope: Envelope,
}

impl Serialize for Wire {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Envelope { payload, mac } = &self.envelope;
        let mut array = serializer.serialize_seq(Some(2 + usize::from(mac.is_some())))?;
        array.serialize_element(&self.version)?;
        array.serialize_element(&Bytes(payload))?;
        if let Some(mac) = mac {
            array.serialize_element(&Bytes(mac))?;
        }
        array.end()
    }
}

impl<'de> Deserialize<'de> for Wire {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Elements;

        impl<'de> Visitor<'de> for Elements {
            type Value = Wire;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of version, payload and perhaps a MAC")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Wire, A::Error> {
                let version = array.next_element()?.ok_or_else(|| de::Error::invalid_length(0, &self))?;
                if version != VERSION {
                    // Whatever a later version carries, this one only says that it is not its own.
                    while array.next_element::<IgnoredAny>()?.is_some() {}
                    return Ok(Wire { version, envelope: Envelope::plain(Vec::new()) });
                }
                let ByteBuf(payload) =
                    array.next_element()?.ok_or_else(|| de::Error::invalid_length(1, &self))?;
                let mac = array.next_element::<ByteBuf>()?.map(|ByteBuf(mac)| mac);
                if array.next_element::<IgnoredAny>()?.is_some() {
                    return Err(de::Error::invalid_length(4, &self));
                }
                Ok(Wire { version, envelope: Envelope { payload, mac } })
            }
        }

        deserializer.deserialize_seq(Elements)
    }
}

/// A CBOR byte string; serde alone would write an array of numbers.
struct Bytes<'a>(&'a [u8]);

impl Serialize for Bytes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

pub(crate) struct ByteBuf(pub(crate) Vec<u8>);

impl<'de> Deserialize<'de> for ByteBuf {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Buffer;

        impl Visitor<'_> for Buffer {
            type Value = ByteBuf;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a byte string")
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<ByteBuf, E> {
                Ok(ByteBuf(bytes.to_vec()))
            }

            fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<ByteBuf, E> {
                Ok(ByteBuf(bytes))
            }
        }

        deserializer.deserialize_byte_buf(Buffer)
    }
}
