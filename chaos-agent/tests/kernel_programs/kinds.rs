//! Every kind of fault, mild enough that a stream gets through, and hard enough that a hundred packets meet it.

use std::net::IpAddr;

use chaos_agent::compile::draw_key;
use chaos_agent::profile::ObjectName;
use fault_abi::draw::{Draw, Kind, Position};
use fault_abi::key::Direction;
use fault_abi::rule::ALWAYS;
use serde_json::{Value, json};

use crate::support::fault::NAMESPACE;
use crate::support::stage::Family;

/// A fault, and the device's addresses that have it.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// The profile's name.
    pub(crate) name: &'static str,
    /// The profile's faults.
    pub(crate) faults: Value,
    /// The number of the device's host in its network.
    host: u16,
}

impl Case {
    /// The device's address.
    pub(crate) fn ip(&self, family: Family) -> IpAddr {
        family.ip(1, self.host)
    }

    /// The addresses as a profile names them.
    pub(crate) fn targets(&self) -> [String; 2] {
        Family::BOTH.map(|family| family.host(1, self.host))
    }

    /// Whether nothing passes.
    pub(crate) fn is_partition(&self) -> bool {
        self.faults.get("partition").is_some()
    }

    /// Whether senders are told that nothing passes.
    pub(crate) fn is_reject(&self) -> bool {
        self.name == "reject"
    }

    /// Whether the fault is there.
    pub(crate) fn has(&self, fault: &str) -> bool {
        self.faults.get(fault).is_some()
    }

    /// The smallest seed under which draws about the first packets of first flows come out as `is_fine` wants it, at both addresses.
    /// It is given a direction, and the share of all draws that are smaller than this one: the fault happens where that is less
    /// than its own share.
    pub(crate) fn seed(
        &self,
        protocol: u8,
        target_port: u16,
        kind: Kind,
        is_fine: impl Fn(Family, Direction, u64, f64) -> bool,
    ) -> u64 {
        let profile = ObjectName { namespace: NAMESPACE.to_owned(), name: self.name.to_owned() };
        let is_right = |seed: &u64| {
            Family::BOTH.into_iter().zip(self.targets()).all(|(family, target)| {
                let key = draw_key(*seed, &profile, NAMESPACE, &target);
                Direction::ALL.into_iter().all(|direction| {
                    (0..FIRST).all(|index| {
                        let position = Position { ordinal: 0, index };
                        let draw = Draw { direction, protocol, target_port, position, copy: 0 };
                        let share = (draw.bits(key, kind) >> 32) as f64 / ALWAYS as f64;
                        is_fine(family, direction, index, share)
                    })
                })
            })
        };
        (1..).find(is_right).unwrap()
    }
}

/// Draws of so many packets decide about a seed.
const FIRST: u64 = 3;

/// Where the device's hosts begin; 2 and 3 it has anyway.
const FIRST_HOST: u16 = 10;

/// All kinds.
pub(crate) fn all() -> Vec<Case> {
    let kinds = [
        ("drop", json!({"partition": {}})),
        ("reject", json!({"partition": {"mode": "Reject"}})),
        ("percent", json!({"loss": {"percent": "5%"}})),
        ("every", json!({"loss": {"every": 20}})),
        // TCP waits twice as long each time that what it sends again is lost again: eight times in a row is a minute. Where a burst ended
        // with each second packet that came in 3 of 17 runs, here in none.
        ("bursts", json!({"loss": {"gilbertElliott": {"enterBurst": "3%", "leaveBurst": "75%"}}})),
        ("corrupt", json!({"corrupt": {"percent": "5%"}})),
        ("duplicate", json!({"duplicate": {"percent": "10%"}})),
        ("delay", json!({"delay": {"time": "20ms", "jitter": "5ms", "distribution": "Uniform"}})),
        ("reorder", json!({"reorder": {"percent": "10%", "by": "20ms"}})),
        ("rate", json!({"rate": {"bitsPerSecond": "2M", "burst": "4000", "queue": "200ms"}})),
    ];
    of(kinds)
}

/// These kinds, each with an address of its own.
pub(crate) fn of(kinds: impl IntoIterator<Item = (&'static str, Value)>) -> Vec<Case> {
    let hosts = FIRST_HOST..;
    hosts.zip(kinds).map(|(host, (name, faults))| Case { name, faults, host }).collect()
}
