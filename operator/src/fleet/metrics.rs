//! `edge_fleet_*`: what is in the fleets' statuses is read out of the cache when it is scraped, so that a deleted fleet
//! has no series; what happens is counted.

use std::sync::{Arc, Mutex};

use edge_api::{DeviceFleet, FleetPhase};
use kube::ResourceExt as _;
use kube::runtime::reflector::Store;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};

use crate::lock::lock;
use crate::metrics::counters;
use crate::metrics::namespaces::{self, Namespaces};

/// What is counted.
pub(crate) struct FleetMetrics {
    /// Rollouts that were given up, by namespace.
    rollbacks: IntCounterVec,
    /// Changes of devices that were sent, by what came of it: set, foreign, conflict, error.
    pub(crate) changes: IntCounterVec,
    /// Those that have a number of rollbacks.
    namespaces: Mutex<Namespaces>,
    fleets: Store<DeviceFleet>,
}

impl FleetMetrics {
    /// # Errors
    /// When a metric is registered twice.
    pub(crate) fn new(registry: &Registry, fleets: Store<DeviceFleet>) -> Result<Self, prometheus::Error> {
        let rollbacks = counters(
            registry,
            "edge_fleet_rollbacks_total",
            "Rollouts that were given up, and the previous revision brought back.",
            &["namespace"],
        )?;
        let changes = counters(
            registry,
            "edge_fleet_changes_total",
            "Desired states of devices that fleets wrote, by result.",
            &["result"],
        )?;
        Ok(Self { rollbacks, changes, namespaces: Mutex::default(), fleets })
    }

    /// A fleet's status was written; was its rollout given up with it? Who has a fleet has a number of rollbacks, zero too: a counter
    /// that appears with its first one does not rise by it, for whoever asks how far it rose.
    pub(crate) fn wrote(&self, namespace: &str, is_given_up: bool) {
        let mut namespaces = lock(&self.namespaces);
        if namespaces.add(namespace, || namespaces::of_all(&self.fleets)) {
            namespaces.keep_only_these(&self.rollbacks);
        }
        self.rollbacks.with_label_values(&[namespace]).inc_by(u64::from(is_given_up));
    }
}

/// Devices that the fleet has reserved that has most of them.
pub(crate) fn most_reserved(fleets: &Store<DeviceFleet>) -> usize {
    let reserved = |fleet: &Arc<DeviceFleet>| fleet.status.as_ref().map(|status| status.reserved.len());
    fleets.state().iter().filter_map(reserved).max().unwrap_or(0)
}

/// Collects the statuses of all fleets.
pub(crate) struct Census {
    fleets: Store<DeviceFleet>,
    desc: Vec<Desc>,
}

struct Gauges {
    phase: IntGaugeVec,
    devices: IntGaugeVec,
    batch: IntGaugeVec,
    reserved: IntGaugeVec,
}

impl Gauges {
    fn new() -> Result<Self, prometheus::Error> {
        let gauge = |name, help, labels: &[&str]| IntGaugeVec::new(Opts::new(name, help), labels);
        Ok(Self {
            phase: gauge(
                "edge_fleet_phase",
                "Phase of each DeviceFleet: 1 for the one it is in, 0 for the others.",
                &["namespace", "fleet", "phase"],
            )?,
            devices: gauge(
                "edge_fleet_devices",
                "Devices of each fleet: total, and of those updated, in_sync, failed, unavailable and foreign.",
                &["namespace", "fleet", "state"],
            )?,
            batch: gauge("edge_fleet_batch", "Batch under way, from 1.", &["namespace", "fleet"])?,
            reserved: gauge(
                "edge_fleet_reserved",
                "Devices that are about to be changed, or were changed and have not ended.",
                &["namespace", "fleet"],
            )?,
        })
    }

    fn all(&self) -> [&IntGaugeVec; 4] {
        [&self.phase, &self.devices, &self.batch, &self.reserved]
    }

    fn show(&self, fleet: &DeviceFleet) {
        let status = fleet.status.clone().unwrap_or_default();
        let (namespace, name) = (fleet.namespace().unwrap_or_default(), fleet.name_any());
        let labels = [namespace.as_str(), name.as_str()];
        for phase in FleetPhase::ALL {
            let labels = [labels[0], labels[1], phase.as_str()];
            self.phase.with_label_values(&labels).set(i64::from(phase == status.phase));
        }
        let counts = status.counts;
        for (state, count) in [
            ("total", counts.total),
            ("updated", counts.updated),
            ("in_sync", counts.in_sync),
            ("failed", counts.failed),
            ("unavailable", counts.unavailable),
            ("foreign", counts.foreign),
        ] {
            self.devices.with_label_values(&[labels[0], labels[1], state]).set(i64::from(count));
        }
        self.batch.with_label_values(&labels).set(i64::from(status.batch));
        let reserved = i64::try_from(status.reserved.len()).unwrap_or(i64::MAX);
        self.reserved.with_label_values(&labels).set(reserved);
    }
}

impl Census {
    /// # Errors
    /// Never with these names; a test proves it.
    pub(crate) fn new(fleets: Store<DeviceFleet>) -> Result<Self, prometheus::Error> {
        let gauges = Gauges::new()?;
        let desc = gauges.all().into_iter().flat_map(Collector::desc).cloned().collect();
        Ok(Self { fleets, desc })
    }
}

impl Collector for Census {
    fn desc(&self) -> Vec<&Desc> {
        self.desc.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Ok(gauges) = Gauges::new() else { return Vec::new() };
        self.fleets.state().iter().for_each(|fleet| gauges.show(fleet));
        gauges.all().into_iter().flat_map(Collector::collect).collect()
    }
}

#[cfg(test)]
mod tests {
    use kube::runtime::reflector;
    use kube::runtime::watcher::Event;
    use prometheus::{Encoder as _, TextEncoder};
    use serde_json::json;

    use super::*;

    #[test]
    fn a_namespace_with_a_fleet_has_a_number_of_rollbacks_before_the_first() {
        let registry = Registry::new();
        let metrics = FleetMetrics::new(&registry, reflector::store().0).unwrap();
        let shown = || {
            let families = registry.gather();
            let family = families.iter().find(|family| family.name() == "edge_fleet_rollbacks_total");
            family.map(|family| family.get_metric()[0].get_counter().get_value())
        };
        assert_eq!(shown(), None);
        metrics.wrote("demo", false);
        assert_eq!(shown(), Some(0.0));
        metrics.wrote("demo", true);
        assert_eq!(shown(), Some(1.0));
    }

    #[test]
    fn namespaces_whose_fleets_are_gone_keep_no_number_of_rollbacks_for_ever() {
        let registry = Registry::new();
        let metrics = FleetMetrics::new(&registry, reflector::store().0).unwrap();
        for number in 0..1000 {
            metrics.wrote(&format!("test-{number}"), true);
        }
        let shown = registry.gather()[0].get_metric().len();
        assert!(shown < 70, "{shown}");
    }

    #[test]
    fn a_fleet_is_shown_as_its_status_says_and_a_deleted_one_is_not() {
        let fleet: DeviceFleet = serde_json::from_value(json!({
            "apiVersion": "edge-operator.dev/v1alpha1", "kind": "DeviceFleet",
            "metadata": {"name": "px4", "namespace": "demo"},
            "spec": {"selector": {}, "template": {"firmware": "1"}},
            "status": {
                "phase": "Progressing", "batch": 2, "reserved": ["a", "b"],
                "counts": {"total": 9, "updated": 5, "inSync": 3, "failed": 1, "unavailable": 3, "foreign": 1},
            },
        }))
        .unwrap();
        let (store, mut writer) = reflector::store();
        let registry = Registry::new();
        registry.register(Box::new(Census::new(store.clone()).unwrap())).unwrap();
        FleetMetrics::new(&registry, store).unwrap();
        let scrape = || {
            let mut text = Vec::new();
            TextEncoder::new().encode(&registry.gather(), &mut text).unwrap();
            String::from_utf8(text).unwrap()
        };
        writer.apply_watcher_event(&Event::Apply(fleet.clone()));
        let text = scrape();
        for line in [
            r#"edge_fleet_phase{fleet="px4",namespace="demo",phase="Progressing"} 1"#,
            r#"edge_fleet_devices{fleet="px4",namespace="demo",state="in_sync"} 3"#,
            r#"edge_fleet_batch{fleet="px4",namespace="demo"} 2"#,
            r#"edge_fleet_reserved{fleet="px4",namespace="demo"} 2"#,
        ] {
            assert!(text.contains(line), "{line} is missing in {text}");
        }
        writer.apply_watcher_event(&Event::Delete(fleet));
        assert!(!scrape().contains("px4"));
    }
}
