//! One number for a configuration, so that a device can say what it runs without sending it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};

use crate::envelope::ByteBuf;

/// SHA-256 of a configuration; 32 bytes on the wire, `sha256:` and 64 hex digits as text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConfigDigest([u8; 32]);

/// The digest of a configuration: over each key and value in the keys' byte order, each with its length
/// (four bytes, big endian) before it. Independent of any encoding, so that a device without CBOR gets
/// the same number.
#[must_use]
pub fn config_digest(config: &BTreeMap<String, String>) -> ConfigDigest {
    let mut hash = Sha256::new();
    for text in config.iter().flat_map(|(key, value)| [key, value]) {
        // A configuration has at most 900 bytes; a longer text could not be sent, but it must not collide.
        let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
        hash.update(length.to_be_bytes());
        hash.update(text.as_bytes());
    }
    ConfigDigest(hash.finalize().into())
}

/// How many bytes a configuration takes in a command, for the limit [`MAX_CONFIG`](crate::MAX_CONFIG).
#[must_use]
pub fn config_encoded_len(config: &BTreeMap<String, String>) -> usize {
    let texts = config.iter().flat_map(|(key, value)| [key, value]);
    head_len(config.len()) + texts.map(|text| head_len(text.len()) + text.len()).sum::<usize>()
}

/// Bytes of a CBOR head that carries a length (RFC 8949 §3).
fn head_len(length: usize) -> usize {
    match length {
        0..=23 => 1,
        24..=0xff => 2,
        0x100..=0xffff => 3,
        _ => 5,
    }
}

impl fmt::Display for ConfigDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ConfigDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not `sha256:` and 64 lower-case hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a digest is written sha256: and 64 lower-case hex digits")]
pub struct ParseDigestError;

impl FromStr for ConfigDigest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let hex = text.strip_prefix("sha256:").ok_or(ParseDigestError)?.as_bytes();
        if hex.len() != 64 {
            return Err(ParseDigestError);
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
            *byte = (nibble(pair[0])? << 4) | nibble(pair[1])?;
        }
        Ok(Self(bytes))
    }
}

fn nibble(digit: u8) -> Result<u8, ParseDigestError> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        _ => Err(ParseDigestError),
    }
}

impl Serialize for ConfigDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_bytes(&self.0)
        }
    }
}

impl<'de> Deserialize<'de> for ConfigDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            return String::deserialize(deserializer)?.parse().map_err(de::Error::custom);
        }
        let ByteBuf(bytes) = ByteBuf::deserialize(deserializer)?;
        let length = bytes.len();
        bytes.try_into().map(Self).map_err(|_| de::Error::invalid_length(length, &"32 bytes"))
    }
}
