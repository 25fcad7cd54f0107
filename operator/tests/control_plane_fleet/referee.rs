//! Who watches the budgets: one watch of all devices, whose events come in the order in which the API server made them.

#![expect(clippy::unwrap_used, reason = "a watch that panicked ends the story")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use edge_api::{Device, DevicePhase};
use futures::StreamExt as _;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, ResourceExt as _};
use tokio::task::JoinSet;

/// What it saw of one firmware.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// Devices that were told to run it, in that order.
    pub(crate) told: Vec<String>,
    /// Those that ended, in sync or failed.
    pub(crate) ended: BTreeSet<String>,
    /// The most that were told and had not ended, at any time.
    pub(crate) most_in_flight: usize,
    /// How many were told when so many had ended.
    told_when_ended: BTreeMap<usize, usize>,
}

impl Seen {
    /// How many were told before this many had ended.
    pub(crate) fn told_before(&self, ended: usize) -> usize {
        self.told_when_ended.range(..ended).map(|(_, told)| *told).max().unwrap_or_default()
    }

    fn take(&mut self, device: &Device) {
        let name = device.name_any();
        if !self.told.contains(&name) {
            self.told.push(name.clone());
        }
        let status = device.status.clone().unwrap_or_default();
        let current = status.observed_generation == device.metadata.generation;
        if current && [DevicePhase::InSync, DevicePhase::Failed].contains(&status.phase) {
            self.ended.insert(name);
        }
        self.most_in_flight = self.most_in_flight.max(self.told.len() - self.ended.len());
        self.told_when_ended.insert(self.ended.len(), self.told.len());
    }
}

pub(crate) struct Referee {
    seen: Arc<Mutex<BTreeMap<String, Seen>>>,
    _watch: JoinSet<()>,
}

impl Referee {
    pub(crate) fn watches(devices: Api<Device>) -> Self {
        let seen: Arc<Mutex<BTreeMap<String, Seen>>> = Arc::default();
        let mut watch = JoinSet::new();
        let notes = seen.clone();
        watch.spawn(async move {
            let mut events = std::pin::pin!(
                watcher(devices, watcher::Config::default()).default_backoff().applied_objects()
            );
            while let Some(event) = events.next().await {
                let Ok(device) = event else { continue };
                if let Some(desired) = &device.spec.desired {
                    notes.lock().unwrap().entry(desired.firmware.clone()).or_default().take(&device);
                }
            }
        });
        Self { seen, _watch: watch }
    }

    /// What it saw of this firmware so far.
    pub(crate) fn saw(&self, firmware: &str) -> Seen {
        self.seen.lock().unwrap().get(firmware).cloned().unwrap_or_default()
    }
}
