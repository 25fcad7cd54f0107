//! Quantities as Kubernetes users write them. Each type keeps the user's text, which is short and there for each object of a
//! cache: in place up to 23 bytes. It is parsed once, where an object is validated, into a type that cannot be wrong.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::rules;

/// A text that is no such quantity. The API server refuses these; seeing one means that a schema was bypassed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum QuantityError {
    /// Not a duration.
    #[error("{0:?} is no duration: write a number and a unit, such as \"80ms\", \"1.5s\" or \"10m\"")]
    Duration(String),
    /// Not a percentage.
    #[error("{0:?} is no percentage: write \"0%\" to \"100%\" with at most four decimals, such as \"12.5%\"")]
    Percent(String),
    /// Not a number of devices or a share of them.
    #[error("{0:?} is neither a number from 1 on nor a percentage above 0%: write 3 or \"10%\"")]
    CountOrPercent(String),
    /// Not a port or a range of ports.
    #[error(
        "{0:?} is no port or range: write \"5683\" or \"7000-7100\", each 1 to 65535, the lower one first"
    )]
    Ports(String),
    /// Not a network.
    #[error(
        "{0:?} is no network: write \"192.168.50.0/24\" or \"2001:db8::/64\", with no bits set behind the prefix"
    )]
    Cidr(String),
    /// Not a rate.
    #[error(
        "{0:?} is no rate: write bits a second from 1k to 100G, with at most three decimals, such as \"256k\" or \"1.5M\""
    )]
    Rate(String),
    /// Not a size.
    #[error("{0:?} is no size: write whole bytes, such as \"1600\", \"16Ki\" or \"1Mi\"")]
    Size(String),
}

macro_rules! text {
    ($(#[$doc:meta])* $name:ident $(read by $read:literal)?) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name($(#[serde(deserialize_with = $read)])? smol_str::SmolStr);

        impl $name {
            /// Keeps the text as it is; [`Self::parse`] judges it.
            pub fn new(text: impl Into<smol_str::SmolStr>) -> Self {
                Self(text.into())
            }

            /// The text as the user wrote it.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self::new(text)
            }
        }
    };
}

text!(
    /// A duration such as `80ms`, `1.5s`, `10m` or `1h30m`; units `us`, `ms`, `s`, `m`, `h`.
    DurationString
);
text!(
    /// A percentage such as `12.5%`: 0 to 100, at most four decimals, with the sign.
    Percent
);
text!(
    /// A port such as `5683`, or a range such as `7000-7100`.
    PortRange
);
text!(
    /// A network such as `192.168.50.0/24` or `2001:db8::/64`, with no bits set behind the prefix.
    Cidr
);

mod amount;
mod traffic;

pub use amount::CountOrPercent;
pub use traffic::{BitRate, ByteSize};

/// Nanoseconds of each unit, longest names first where one is the start of another.
const UNITS: [(&str, u64); 5] =
    [("us", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000), ("m", 60_000_000_000), ("h", 3_600_000_000_000)];

impl DurationString {
    /// The duration; at most 292 years.
    pub fn parse(&self) -> Result<Duration, QuantityError> {
        parse_duration(&self.0).ok_or_else(|| QuantityError::Duration(self.0.to_string()))
    }
}

/// The text of a duration: exact below a second, above it cut to microseconds.
impl From<Duration> for DurationString {
    fn from(duration: Duration) -> Self {
        let nanos = duration.as_nanos();
        let (unit, scale, decimals) = match nanos {
            0..1_000_000 => ("us", 1_000, 3),
            1_000_000..1_000_000_000 => ("ms", 1_000_000, 6),
            _ => ("s", 1_000_000_000, 6),
        };
        let parts = nanos % scale / (scale / 10u128.pow(decimals));
        let number = format!("{}.{parts:0width$}", nanos / scale, width = decimals as usize);
        Self(format!("{}{unit}", number.trim_end_matches('0').trim_end_matches('.')).into())
    }
}

fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let (_, nanos) = UNITS.iter().find(|(name, _)| *name == unit)?;
        total = total.checked_add(decimal(number, *nanos)?)?;
        rest = tail;
    }
    (!text.is_empty()).then(|| Duration::from_nanos(total))
}

/// `number × scale` for a number such as `12` or `1.25`, cut to whole parts.
fn decimal(number: &str, scale: u64) -> Option<u64> {
    let (whole, fraction) = match number.split_once('.') {
        Some((whole, fraction)) if !fraction.is_empty() => (whole, fraction),
        Some(_) => return None,
        None => (number, ""),
    };
    let is_plain = whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || fraction.len() > 9 || !is_plain {
        return None;
    }
    let units = whole.parse::<u64>().ok()?.checked_mul(scale)?;
    let parts = if fraction.is_empty() { 0 } else { fraction.parse::<u64>().ok()? };
    let divisor = 10u128.pow(u32::try_from(fraction.len()).ok()?);
    let below = u128::from(parts) * u128::from(scale) / divisor;
    units.checked_add(u64::try_from(below).ok()?)
}

/// A share of a whole, exact to a millionth: 0 to 1,000,000 ppm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Share(u32);

impl Share {
    /// Everything.
    pub const ALL: Self = Self(1_000_000);

    /// From parts in a million; none above a million.
    pub const fn from_ppm(ppm: u32) -> Option<Self> {
        if ppm <= 1_000_000 { Some(Self(ppm)) } else { None }
    }

    /// Parts in a million, 0 to 1,000,000.
    pub const fn ppm(self) -> u32 {
        self.0
    }

    /// 0.0 to 1.0.
    pub fn ratio(self) -> f64 {
        f64::from(self.0) / 1e6
    }

    /// This share of `total` things, rounded up, in whole numbers.
    pub fn of_rounded_up(self, total: usize) -> usize {
        let product = total as u128 * u128::from(self.0);
        usize::try_from(product.div_ceil(1_000_000)).unwrap_or(total)
    }
}

impl Percent {
    /// The share: `12.5%` is 125,000 ppm.
    pub fn parse(&self) -> Result<Share, QuantityError> {
        let share = || {
            let number = self.0.strip_suffix('%')?;
            let decimals = number.split_once('.').map_or(0, |(_, fraction)| fraction.len());
            let ppm = (decimals <= 4).then(|| decimal(number, 10_000))??;
            Share::from_ppm(u32::try_from(ppm).ok()?)
        };
        share().ok_or_else(|| QuantityError::Percent(self.0.to_string()))
    }
}

impl PortRange {
    /// First to last port, each 1 to 65535.
    pub fn parse(&self) -> Result<RangeInclusive<u16>, QuantityError> {
        let range = || {
            let (first, last) = self.0.split_once('-').unwrap_or((&self.0, &self.0));
            let (first, last) = (port(first)?, port(last)?);
            (first <= last).then_some(first..=last)
        };
        range().ok_or_else(|| QuantityError::Ports(self.0.to_string()))
    }
}

fn port(text: &str) -> Option<u16> {
    let plain = !text.starts_with(['0', '+']);
    text.parse::<u16>().ok().filter(|_| plain)
}

/// A parsed network: an address with no bits set behind its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// The network of `prefix` bits at `address`; none when bits behind the prefix are set or it is too long.
    pub fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        let network = Self { address, prefix };
        (prefix <= network.width() && network.masked(address) == bits(address)).then_some(network)
    }

    /// The network of this one address.
    pub fn host(address: IpAddr) -> Self {
        let prefix = if address.is_ipv4() { 32 } else { 128 };
        Self { address, prefix }
    }

    /// Its first address.
    pub const fn address(self) -> IpAddr {
        self.address
    }

    /// Bits of the prefix: 0 to 32 (IPv4) or 128 (IPv6).
    pub const fn prefix(self) -> u8 {
        self.prefix
    }

    /// Is it one address?
    pub fn is_host(self) -> bool {
        self.prefix == self.width()
    }

    /// Does it contain this address?
    pub fn contains(self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4() && self.masked(address) == bits(self.address)
    }

    /// Does it contain all of the other network?
    pub fn covers(self, other: Self) -> bool {
        self.prefix <= other.prefix && self.contains(other.address)
    }

    /// Have the two an address in common?
    pub fn overlaps(self, other: Self) -> bool {
        self.covers(other) || other.covers(self)
    }

    fn width(self) -> u8 {
        if self.address.is_ipv4() { 32 } else { 128 }
    }

    fn masked(self, address: IpAddr) -> u128 {
        let behind = u32::from(self.width() - self.prefix);
        bits(address).checked_shr(behind).unwrap_or(0).checked_shl(behind).unwrap_or(0)
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl std::str::FromStr for Network {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let network = || {
            let (address, prefix) = text.split_once('/')?;
            let plain = prefix == "0" || !prefix.starts_with(['0', '+']);
            Self::new(address.parse().ok()?, prefix.parse().ok().filter(|_| plain)?)
        };
        network().ok_or_else(|| QuantityError::Cidr(text.to_owned()))
    }
}

impl Cidr {
    /// The network.
    pub fn parse(&self) -> Result<Network, QuantityError> {
        self.0.parse()
    }
}

impl JsonSchema for DurationString {
    fn schema_name() -> Cow<'static, str> {
        "DurationString".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "maxLength": 16})
    }
}

impl JsonSchema for Percent {
    fn schema_name() -> Cow<'static, str> {
        "Percent".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"x-kubernetes-int-or-string": true, "maxLength": 16, "x-kubernetes-validations": rules::PERCENT})
    }
}

impl JsonSchema for PortRange {
    fn schema_name() -> Cow<'static, str> {
        "PortRange".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"x-kubernetes-int-or-string": true, "maxLength": 16, "x-kubernetes-validations": rules::PORTS})
    }
}

impl JsonSchema for Cidr {
    fn schema_name() -> Cow<'static, str> {
        "Cidr".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "maxLength": 43, "x-kubernetes-validations": rules::CIDR})
    }
}

#[cfg(test)]
mod tests;
