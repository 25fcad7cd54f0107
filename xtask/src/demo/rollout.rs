//! The fleet by which the demo brings a firmware to its devices, batch by batch, and what was seen of each rollout. What it is
//! to do is pure data, and so is what was seen; only [`begin`] and [`status`] ask the API server.

use anyhow::{Context, Result};
use edge_api::DeviceFleet;
use edge_api::fleet::{DeviceFleetStatus, FleetPhase};
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};

use super::install::DEVICES;
use super::report;

/// The fleet of all devices.
pub const FLEET: &str = "px4";
/// The most devices that the API lets be under way at once.
const MOST: u32 = 500;

/// A firmware, and how it is brought to the devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rollout {
    /// What they shall run.
    pub firmware: &'static str,
    /// Shares of the devices, one batch after the other.
    pub batches: &'static [&'static str],
    /// One of so many devices may be under way at a time.
    pub of: u32,
}

impl Rollout {
    /// How many of `devices` may be under way at a time.
    #[must_use]
    pub fn in_flight(&self, devices: u32) -> u32 {
        devices.div_ceil(self.of).clamp(1, MOST)
    }

    fn fleet(&self, devices: u32) -> Value {
        let in_flight = self.in_flight(devices);
        json!({
            "apiVersion": "edge-operator.dev/v1alpha1",
            "kind": "DeviceFleet",
            "metadata": {"name": FLEET, "namespace": DEVICES},
            "spec": {
                "selector": {"matchLabels": {"model": "px4"}},
                "template": {"firmware": self.firmware, "config": {"sampling-interval": "5s"}},
                "rollout": {"batches": self.batches, "maxInFlight": in_flight, "maxUnavailable": in_flight},
            },
        })
    }
}

/// Gives the fleet this template, and returns its generation.
///
/// # Errors
/// When the API server refuses it.
pub async fn begin(client: &Client, rollout: Rollout, devices: u32) -> Result<i64> {
    let api = Api::<DeviceFleet>::namespaced(client.clone(), DEVICES);
    let apply = PatchParams::apply("demo").force();
    let fleet = api.patch(FLEET, &apply, &Patch::Apply(rollout.fleet(devices))).await;
    let fleet = fleet.with_context(|| format!("rolling out the firmware {}", rollout.firmware))?;
    fleet.metadata.generation.context("a fleet without a generation")
}

/// What the operator says of the fleet; nothing before there is one.
///
/// # Errors
/// When the API server cannot be asked.
pub async fn status(client: &Client) -> Result<Option<DeviceFleetStatus>> {
    let api = Api::<DeviceFleet>::namespaced(client.clone(), DEVICES);
    let fleet = api.get_opt(FLEET).await.context("asking for the fleet")?;
    Ok(fleet.map(|fleet| fleet.status.unwrap_or_default()))
}

/// A rollout as it was seen so far.
#[derive(Clone, Debug, PartialEq)]
pub struct Watched {
    rollout: Rollout,
    generation: i64,
    /// Unix seconds.
    began: f64,
    /// When each batch was first seen, seconds after the beginning.
    batches: Vec<f64>,
    /// Seconds after the beginning.
    complete: Option<f64>,
    most_in_flight: u32,
    last: DeviceFleetStatus,
}

impl Watched {
    /// One that begins now.
    #[must_use]
    pub fn begins(rollout: Rollout, generation: i64, now: f64) -> Self {
        Self {
            rollout,
            generation,
            began: now,
            batches: Vec::new(),
            complete: None,
            most_in_flight: 0,
            last: DeviceFleetStatus::default(),
        }
    }

    /// Takes note of what the operator says now, Unix seconds. What it says of another template is not this rollout's.
    pub fn see(&mut self, now: f64, status: &DeviceFleetStatus) {
        if status.observed_generation != Some(self.generation) {
            return;
        }
        let after = now - self.began;
        while self.batches.len() < status.batch as usize {
            self.batches.push(after);
        }
        if status.phase == FleetPhase::Complete {
            self.complete = self.complete.or(Some(after));
        }
        let in_flight = u32::try_from(status.reserved.len()).unwrap_or(u32::MAX);
        self.most_in_flight = self.most_in_flight.max(in_flight);
        self.last = status.clone();
    }

    /// For people at the terminal.
    #[must_use]
    pub fn line(&self) -> String {
        let (counts, batches) = (self.last.counts, self.rollout.batches.len());
        let (firmware, phase) = (self.rollout.firmware, self.last.phase.as_str());
        let (batch, in_flight) = (self.last.batch, self.last.reserved.len());
        format!(
            "{firmware} {phase}, batch {batch}/{batches}: {}/{} told, {in_flight} under way",
            counts.updated, counts.total
        )
    }

    /// For the report, with times after `zero`; `devices` is how many there are.
    #[must_use]
    pub fn told(&self, zero: f64, devices: u32) -> report::Rollout {
        report::Rollout {
            firmware: self.rollout.firmware.to_owned(),
            began: self.began - zero,
            batches: self.rollout.batches.iter().map(|&batch| batch.to_owned()).collect(),
            batches_after: self.batches.clone(),
            complete_after: self.complete,
            in_flight: self.most_in_flight,
            max_in_flight: self.rollout.in_flight(devices),
            in_sync: self.last.counts.in_sync,
            failed: self.last.counts.failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use edge_api::fleet::FleetCounts;

    const THREE: Rollout = Rollout { firmware: "1.2.0", batches: &["10%", "50%", "100%"], of: 3 };

    fn status(generation: i64, batch: u32, reserved: usize, phase: FleetPhase) -> DeviceFleetStatus {
        let counts = FleetCounts { total: 50, updated: 9, ..FleetCounts::default() };
        let reserved = vec!["a".to_owned(); reserved];
        let observed_generation = Some(generation);
        DeviceFleetStatus {
            observed_generation,
            batch,
            reserved,
            phase,
            counts,
            ..DeviceFleetStatus::default()
        }
    }

    #[test]
    fn the_fleet_says_what_the_rollout_says_and_never_more_than_the_api_allows() {
        let spec = &THREE.fleet(50)["spec"]["rollout"];
        assert_eq!(
            *spec,
            json!({"batches": ["10%", "50%", "100%"], "maxInFlight": 17, "maxUnavailable": 17})
        );
        assert_eq!((THREE.in_flight(1), THREE.in_flight(5000)), (1, 500));
        let fleet: DeviceFleet = serde_json::from_value(THREE.fleet(50)).unwrap();
        assert_eq!(fleet.spec.rollout.max_in_flight, 17);
    }

    #[test]
    fn batches_the_most_under_way_and_the_end_are_noted_and_another_templates_status_is_not() {
        let mut watched = Watched::begins(THREE, 2, 100.0);
        for (now, seen) in [
            (101.0, status(1, 3, 40, FleetPhase::Complete)),
            (102.0, status(2, 1, 5, FleetPhase::Progressing)),
            (106.0, status(2, 2, 17, FleetPhase::Progressing)),
            (115.0, status(2, 3, 0, FleetPhase::Complete)),
            (119.0, status(2, 3, 0, FleetPhase::Complete)),
        ] {
            watched.see(now, &seen);
        }
        let told = watched.told(90.0, 50);
        assert_eq!(
            (told.began, told.batches_after, told.complete_after),
            (10.0, vec![2.0, 6.0, 15.0], Some(15.0))
        );
        assert_eq!((told.in_flight, told.max_in_flight), (17, 17));
        assert_eq!(watched.line(), "1.2.0 Complete, batch 3/3: 9/50 told, 0 under way");
    }
}
