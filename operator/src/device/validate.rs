//! A Device's spec into types that cannot be wrong. What fails here was let in by a schema that is not ours.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use edge_api::quantity::{DurationString, QuantityError};
use edge_api::{Desired, Device};
use edge_protocol::{ConfigDigest, config_digest};
use smol_str::SmolStr;
use thiserror::Error;

/// Why a spec cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Invalid {
    /// A quantity is none.
    #[error("spec.{0}: {1}")]
    Quantity(&'static str, QuantityError),
    /// The liveness durations are in the wrong order.
    #[error(
        "spec.liveness: write probeInterval shorter than suspectAfter and suspectAfter shorter than lostAfter"
    )]
    Order,
}

/// Where a device listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// At this address.
    Address(IpAddr),
    /// At the addresses of this DNS name.
    Name(String),
}

impl Host {
    /// Reads what a user wrote.
    pub fn of(text: &str) -> Self {
        let address = |address: IpAddr| Self::Address(address.to_canonical());
        text.parse().map_or_else(|_| Self::Name(text.to_owned()), address)
    }
}

/// What a device shall run, with its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Firmware version.
    pub firmware: SmolStr,
    /// Settings, in the order of their names. One copy for all that is remembered of a device, as small as they are.
    pub config: Arc<[(SmolStr, SmolStr)]>,
    /// Digest of the settings, as devices report it.
    pub digest: ConfigDigest,
}

impl Target {
    fn of(desired: &Desired) -> Self {
        let digest = config_digest(&desired.config);
        Self {
            firmware: desired.firmware.as_str().into(),
            config: desired.config.iter().map(|(name, value)| (name.into(), value.into())).collect(),
            digest,
        }
    }
}

/// How soon silence counts. `probe < suspect < lost`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Time between reads.
    pub probe: Duration,
    /// Silence after which one cannot tell.
    pub suspect: Duration,
    /// Silence after which it is gone.
    pub lost: Duration,
}

/// A spec that can be acted on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Host of the endpoint.
    pub host: Host,
    /// UDP port.
    pub port: u16,
    /// What it shall run, if anything.
    pub target: Option<Target>,
    /// How soon silence counts.
    pub patience: Patience,
    /// Nothing is sent.
    pub paused: bool,
}

/// The spec of a Device, parsed.
///
/// # Errors
/// When a text is no such quantity, or the durations are out of order.
pub fn validate(device: &Device) -> Result<Spec, Invalid> {
    let spec = &device.spec;
    let liveness = &spec.liveness;
    let patience = Patience {
        probe: parse("liveness.probeInterval", &liveness.probe_interval)?,
        suspect: parse("liveness.suspectAfter", &liveness.suspect_after)?,
        lost: parse("liveness.lostAfter", &liveness.lost_after)?,
    };
    if patience.probe.is_zero() || patience.probe >= patience.suspect || patience.suspect >= patience.lost {
        return Err(Invalid::Order);
    }
    Ok(Spec {
        host: Host::of(&spec.endpoint.host),
        port: spec.endpoint.port,
        target: spec.desired.as_ref().map(Target::of),
        patience,
        paused: spec.paused,
    })
}

fn parse(field: &'static str, text: &DurationString) -> Result<Duration, Invalid> {
    text.parse().map_err(|error| Invalid::Quantity(field, error))
}

#[cfg(test)]
mod tests {
    use edge_api::{DeviceSpec, Endpoint, Liveness};

    use super::*;

    fn device(host: &str) -> Device {
        let spec = DeviceSpec {
            endpoint: Endpoint { host: host.into(), port: 5683 },
            desired: None,
            liveness: Liveness::default(),
            paused: false,
        };
        Device::new("pump-0", spec)
    }

    #[test]
    fn a_host_is_an_address_or_a_name() {
        let hosts = ["::ffff:10.20.0.17", "2001:db8::17", "pump-0.pumps"]
            .map(|host| validate(&device(host)).unwrap().host);
        let [Host::Address(v4), Host::Address(v6), Host::Name(name)] = hosts else { panic!("{hosts:?}") };
        assert!(v4.is_ipv4() && v6.is_ipv6());
        assert_eq!(name, "pump-0.pumps");
    }

    #[test]
    fn durations_in_the_wrong_order_are_refused_with_a_sentence() {
        let mut device = device("10.20.0.17");
        device.spec.liveness.lost_after = "20s".into();
        assert_eq!(validate(&device), Err(Invalid::Order));
        device.spec.liveness.lost_after = "soon".into();
        let message = validate(&device).unwrap_err().to_string();
        assert!(message.starts_with("spec.liveness.lostAfter: \"soon\" is no duration"), "{message}");
    }
}
