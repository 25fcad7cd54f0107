//! What is counted of devices. What they are is read when it is scraped, in [`super::census`].

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

use edge_api::{Device, DevicePhase};
use kube::runtime::reflector::Store;
use prometheus::{HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Registry};
use smol_str::SmolStr;

use super::absorb::Note;
use super::answer::Answer;
use super::key::Key;
use super::tally::Tallies;
use crate::link::Counters;
use crate::lock::lock;
use crate::metrics::namespaces::{self, Namespaces};
use crate::metrics::{counters, register};

/// Buckets of round trips: 0.5 ms to 131 s, past RFC 7252's 93 s of a whole exchange.
fn round_trips() -> Vec<f64> {
    (0..19).map(|n| 0.0005 * f64::from(1 << n)).collect()
}

/// The metrics of the device controller.
pub struct DeviceMetrics {
    tallies: Tallies,
    round_trip: HistogramVec,
    reboots: IntCounterVec,
    reports: IntCounterVec,
    retries: IntCounterVec,
    exhausted: IntCounterVec,
    transitions: IntCounterVec,
    put_off: IntCounterVec,
    releases: IntCounterVec,
    adoptions: IntCounterVec,
    /// Datagrams that came in, by what they turned out to be.
    pub datagrams: IntCounterVec,
    /// Looks at devices for which there was no room.
    pub refused: IntCounter,
    /// Exchanges under way.
    pub in_flight: IntGauge,
    /// Exchanges that wait for a slot.
    pub waiting: IntGauge,
    /// Writes of devices that wait for a writer; one a device at most.
    pub waiting_writes: IntGauge,
    /// Lookups that wait for a resolver; one a device at most.
    pub waiting_lookups: IntGauge,
    /// Devices that are observed.
    pub observations: IntGauge,
    per_device: IntGauge,
    limit: usize,
    above: AtomicBool,
    /// Those that have series.
    namespaces: Mutex<Namespaces>,
    devices: Store<Device>,
}

impl DeviceMetrics {
    /// `limit`: devices above which no series has a device's name.
    ///
    /// # Errors
    /// When a name is taken.
    #[expect(clippy::too_many_lines, reason = "one metric after the other, each with its words")]
    pub fn new(registry: &Registry, devices: Store<Device>, limit: usize) -> Result<Self, prometheus::Error> {
        let tallies = Tallies::default();
        tallies.register(registry)?;
        let count = |name: &str, help: &str, labels: &[&str]| counters(registry, name, help, labels);
        let gauge = |name: &str, help: &str| register(registry, IntGauge::new(name, help)?);
        let options = HistogramOpts::new(
            "edge_device_round_trip_seconds",
            "Time from the first transmission of a request to its response.",
        );
        Ok(Self {
            tallies,
            round_trip: register(
                registry,
                HistogramVec::new(options.buckets(round_trips()), &["namespace"])?,
            )?,
            reboots: count("edge_device_reboots_total", "New boot ids seen.", &["namespace"])?,
            reports: count(
                "edge_device_reports_total",
                "Reports of devices, by what they turned out to be.",
                &["namespace", "disposition"],
            )?,
            retries: count("edge_device_command_retries_total", "Commands sent again.", &["namespace"])?,
            exhausted: count(
                "edge_device_budget_exhausted_total",
                "Looks at a command that was due again and found no token, by whose budget had none.",
                &["namespace", "budget"],
            )?,
            put_off: count(
                "edge_device_statuses_put_off_total",
                "Looks at a device whose status was not written yet: a new one, of which too many are, or one that changes too often.",
                &["namespace"],
            )?,
            transitions: count(
                "edge_device_transitions_total",
                "Changes of phase written to status.",
                &["namespace", "from", "to"],
            )?,
            releases: count(
                "edge_device_releases_total",
                "Devices whose object was deleted, by how their release ended.",
                &["namespace", "end"],
            )?,
            adoptions: count(
                "edge_device_adoptions_total",
                "Devices that obey their object since a person said so.",
                &["namespace"],
            )?,
            datagrams: count(
                "edge_link_datagrams_total",
                "Datagrams that came in, by what they turned out to be, and those that could not be sent.",
                &["result"],
            )?,
            refused: register(
                registry,
                IntCounter::new(
                    "edge_devices_refused_total",
                    "Looks at devices that are not managed, since there are --max-devices already.",
                )?,
            )?,
            in_flight: gauge("edge_inflight_exchanges", "Exchanges with devices under way.")?,
            waiting_writes: gauge(
                "edge_waiting_writes",
                "Devices whose status or finalizer waits to be written.",
            )?,
            waiting_lookups: gauge("edge_waiting_lookups", "Names of devices that wait to be looked up.")?,
            waiting: gauge("edge_waiting_exchanges", "Exchanges with devices that wait for a slot.")?,
            observations: gauge("edge_observed_devices", "Devices that were asked to tell of changes.")?,
            per_device: gauge("edge_per_device_series", "1 while series carry devices' names.")?,
            limit,
            above: AtomicBool::new(false),
            namespaces: Mutex::default(),
            devices,
        })
    }

    /// How many devices have series with their name.
    pub fn named(&self) -> impl Fn() -> usize + Send + Sync + 'static {
        let tallies = self.tallies.clone();
        move || tallies.named()
    }

    /// Series of a namespace are about to be touched: those of others, that have had no device for longer, are removed. None is
    /// while the guard lives.
    fn at(&self, namespace: &str) -> MutexGuard<'_, Namespaces> {
        let mut namespaces = lock(&self.namespaces);
        if namespaces.add(namespace, || namespaces::of_all(&self.devices)) {
            for counted in [
                &self.reboots,
                &self.reports,
                &self.retries,
                &self.exhausted,
                &self.transitions,
                &self.put_off,
                &self.releases,
                &self.adoptions,
            ] {
                namespaces.keep_only_these(counted);
            }
            namespaces.keep_only_these(&self.round_trip);
            self.tallies.keep_only(|key| namespaces.knows(&key.namespace));
        }
        namespaces
    }

    /// The label of a device: empty above the limit, so that the number of series is bounded.
    fn label(&self, key: &Key) -> Key {
        let above = self.devices.len() > self.limit;
        self.per_device.set(i64::from(!above));
        if self.above.swap(above, Ordering::AcqRel) != above {
            self.tallies.clear();
        }
        if above { Key { name: SmolStr::default(), ..key.clone() } } else { key.clone() }
    }

    /// The counters of a device's exchanges. What seldom happens in its namespace is there from now on, at 0: a rate of
    /// nothing would show nothing.
    pub fn of(&self, key: &Key) -> Counters {
        let namespace = key.namespace.as_str();
        let _kept = self.at(namespace);
        self.retries.with_label_values(&[namespace]);
        self.reboots.with_label_values(&[namespace]);
        self.put_off.with_label_values(&[namespace]);
        for disposition in ["accepted", "stale", "unconfirmed", "foreign", "contradictory", "malformed"] {
            self.reports.with_label_values(&[namespace, disposition]);
        }
        for whose in ["device", "process"] {
            self.exhausted.with_label_values(&[namespace, whose]);
        }
        Counters {
            transmissions: self.tallies.transmissions(self.label(key)),
            round_trip: self.round_trip.with_label_values(&[namespace]),
        }
    }

    /// Counts the end of an exchange.
    pub fn ended(&self, key: &Key, answer: &Answer) {
        self.tallies.ended(&self.label(key), answer);
    }

    /// Counts a change of phase.
    pub fn transition(&self, namespace: &str, from: DevicePhase, to: DevicePhase) {
        if from != to {
            let _kept = self.at(namespace);
            self.transitions.with_label_values(&[namespace, from.as_str(), to.as_str()]).inc();
        }
    }

    /// Counts what a decision says is to be counted.
    pub fn note(&self, namespace: &str, notes: &[Note]) {
        if notes.is_empty() {
            return;
        }
        let _kept = self.at(namespace);
        for note in notes {
            match note {
                Note::Report(disposition) => self.reports.with_label_values(&[namespace, disposition]).inc(),
                Note::Reboot => self.reboots.with_label_values(&[namespace]).inc(),
                Note::Retry => self.retries.with_label_values(&[namespace]).inc(),
                Note::PutOff => self.put_off.with_label_values(&[namespace]).inc(),
                Note::Adopted => self.adoptions.with_label_values(&[namespace]).inc(),
                Note::Released(end) => self.releases.with_label_values(&[namespace, end]).inc(),
                Note::BudgetExhausted(whose) => self.exhausted.with_label_values(&[namespace, whose]).inc(),
            }
        }
    }

    /// Removes the series of a device that is gone.
    pub fn forget(&self, key: &Key) {
        self.tallies.forget(key);
    }
}

#[cfg(test)]
mod tests {
    use edge_api::{DeviceSpec, DeviceStatus, Endpoint, Liveness};
    use kube::runtime::reflector::{self, store::Writer};
    use kube::runtime::watcher::Event;
    use prometheus::{Encoder, TextEncoder};

    use super::*;

    fn device(namespace: &str, name: &str, phase: DevicePhase) -> Device {
        let endpoint = Endpoint { host: "10.20.0.17".into(), port: 5683 };
        let spec = DeviceSpec { endpoint, desired: None, liveness: Liveness::default(), paused: false };
        let mut device = Device::new(name, spec);
        device.metadata.namespace = Some(namespace.into());
        device.status = Some(DeviceStatus { phase, ..DeviceStatus::default() });
        device
    }

    fn add(writer: &mut Writer<Device>, name: &str, phase: DevicePhase) {
        writer.apply_watcher_event(&Event::Apply(device("edge-demo", name, phase)));
    }

    fn scrape(registry: &Registry) -> String {
        let mut text = Vec::new();
        TextEncoder::new().encode(&registry.gather(), &mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn above_the_limit_no_series_has_a_devices_name() {
        let (store, mut writer) = reflector::store();
        let registry = Registry::new();
        let metrics = DeviceMetrics::new(&registry, store, 1).unwrap();
        let key = Key { namespace: "edge-demo".into(), name: "pump-0".into() };
        add(&mut writer, "pump-0", DevicePhase::InSync);
        metrics.of(&key);
        assert!(scrape(&registry).contains(r#"device="pump-0""#));
        assert!(scrape(&registry).contains("edge_per_device_series 1"));
        assert_eq!(metrics.named()(), 1);
        add(&mut writer, "pump-1", DevicePhase::InSync);
        metrics.of(&key);
        let text = scrape(&registry);
        assert!(!text.contains("pump-0") && text.contains(r#"device="""#), "{text}");
        assert!(text.contains("edge_per_device_series 0"));
        assert_eq!(metrics.named()(), 0);
    }

    #[test]
    fn what_has_not_happened_yet_is_zero_and_not_absent() {
        let (store, _writer) = reflector::store();
        let registry = Registry::new();
        let metrics = DeviceMetrics::new(&registry, store, 10).unwrap();
        metrics.of(&Key { namespace: "edge-demo".into(), name: "pump-0".into() });
        let text = scrape(&registry);
        assert!(text.contains(r#"edge_device_command_retries_total{namespace="edge-demo"} 0"#), "{text}");
        let exhausted = r#"edge_device_budget_exhausted_total{budget="device",namespace="edge-demo"} 0"#;
        assert!(text.contains(exhausted), "{text}");
    }

    #[test]
    fn a_device_that_is_gone_has_no_series() {
        let (store, mut writer) = reflector::store();
        let registry = Registry::new();
        let metrics = DeviceMetrics::new(&registry, store, 10).unwrap();
        let key = Key { namespace: "edge-demo".into(), name: "pump-0".into() };
        add(&mut writer, "pump-0", DevicePhase::InSync);
        metrics.of(&key);
        metrics.ended(&key, &Answer::Silence);
        metrics.forget(&key);
        assert!(!scrape(&registry).contains("pump-0"));
    }

    #[test]
    fn namespaces_that_come_and_go_leave_no_series_behind_for_ever() {
        let (store, mut writer) = reflector::store();
        let registry = Registry::new();
        // Above the limit: then also exchanges are counted by namespace alone.
        let metrics = DeviceMetrics::new(&registry, store, 0).unwrap();
        let count = |namespace: &str| {
            let key = Key { namespace: namespace.into(), name: "pump-0".into() };
            metrics.of(&key).round_trip.observe(0.1);
            metrics.ended(&key, &Answer::Silence);
            metrics.transition(namespace, DevicePhase::Syncing, DevicePhase::InSync);
            metrics.note(namespace, &[Note::Adopted, Note::Released("released")]);
        };
        add(&mut writer, "pump-0", DevicePhase::InSync);
        count("edge-demo");
        let of_one = scrape(&registry).matches(r#"namespace="edge-demo""#).count();
        for number in 0..1000 {
            let device = device(&format!("test-{number}"), "pump-0", DevicePhase::InSync);
            writer.apply_watcher_event(&Event::Apply(device.clone()));
            count(&format!("test-{number}"));
            writer.apply_watcher_event(&Event::Delete(device));
        }
        let text = scrape(&registry);
        let all = text.matches(r#"namespace=""#).count();
        assert!(all <= 70 * of_one, "{all} series, and {of_one} of one namespace");
        for lasting in ["edge-demo", "test-999"] {
            let series = text.matches(&format!(r#"namespace="{lasting}""#)).count();
            assert_eq!(series, of_one, "{lasting} in\n{text}");
        }
    }
}
