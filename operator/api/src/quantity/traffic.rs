//! Rates and sizes: whole bits a second and whole bytes, nothing rounded.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};
use smol_str::{SmolStr, ToSmolStr};

use super::{QuantityError, decimal};
use crate::rules;

text!(
    /// Bits a second from 1k to 100G, such as `256k`, `1.5M` or `1G`, with decimal suffixes and at most three decimals. A
    /// bare number is bits a second too.
    BitRate read by "text_or_number"
);
text!(
    /// Bytes, such as `1600`, `16Ki` or `1Mi`, with binary suffixes and no decimals. A bare number is bytes too.
    ByteSize read by "text_or_number"
);

/// Keeps a number as its text.
fn text_or_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SmolStr, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum TextOrNumber {
        Text(SmolStr),
        Number(u64),
    }
    Ok(match TextOrNumber::deserialize(deserializer)? {
        TextOrNumber::Text(text) => text,
        TextOrNumber::Number(number) => number.to_smolstr(),
    })
}

impl BitRate {
    /// The lowest rate in bits a second.
    pub const MIN: u64 = 1_000;
    /// The highest rate in bits a second.
    pub const MAX: u64 = 100_000_000_000;

    /// Bits a second, [`Self::MIN`] to [`Self::MAX`]: `1.5M` is 1,500,000.
    ///
    /// # Errors
    /// On any other text.
    pub fn parse(&self) -> Result<u64, QuantityError> {
        let rate = || {
            let (number, scale) = match self.0.chars().last()? {
                'k' => (self.0.strip_suffix('k')?, 1_000),
                'M' => (self.0.strip_suffix('M')?, 1_000_000),
                'G' => (self.0.strip_suffix('G')?, 1_000_000_000),
                _ => (self.0.as_str(), 1),
            };
            let decimals = number.split_once('.').map_or(0, |(_, fraction)| fraction.len());
            // Three decimals of a thousand are whole; those of one are none.
            let is_whole = decimals == 0 || (decimals <= 3 && scale > 1);
            is_whole.then(|| decimal(number, scale))?
        };
        rate()
            .filter(|rate| (Self::MIN..=Self::MAX).contains(rate))
            .ok_or_else(|| QuantityError::Rate(self.0.to_string()))
    }
}

impl ByteSize {
    /// Bytes: `16Ki` is 16,384.
    ///
    /// # Errors
    /// On any other text, and on what does not fit.
    pub fn parse(&self) -> Result<u64, QuantityError> {
        let size = || {
            let (number, shift) = match (self.0.strip_suffix("Ki"), self.0.strip_suffix("Mi")) {
                (Some(number), _) => (number, 10),
                (_, Some(number)) => (number, 20),
                _ => (self.0.as_str(), 0),
            };
            let is_plain = number.bytes().all(|byte| byte.is_ascii_digit());
            number.parse::<u64>().ok().filter(|_| is_plain)?.checked_mul(1 << shift)
        };
        size().ok_or_else(|| QuantityError::Size(self.0.to_string()))
    }
}

impl JsonSchema for BitRate {
    fn schema_name() -> Cow<'static, str> {
        "BitRate".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"x-kubernetes-int-or-string": true, "maxLength": 16, "x-kubernetes-validations": rules::BIT_RATE})
    }
}

impl JsonSchema for ByteSize {
    fn schema_name() -> Cow<'static, str> {
        "ByteSize".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"x-kubernetes-int-or-string": true, "maxLength": 16})
    }
}

#[cfg(test)]
mod tests;
