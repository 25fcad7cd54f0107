//! What devices are, read when it is scraped and never copied: their phases, whether they answer, and how far the worst
//! of them are behind.

use std::collections::BTreeMap;

use edge_api::{Device, DevicePhase};
use kube::ResourceExt;
use kube::runtime::reflector::Store;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{GaugeVec, IntGaugeVec, Opts, Registry};

use super::status::Contact;

/// What this process remembers of the devices of a namespace.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// Devices by how long they have been silent; those to which nothing may be sent are in none.
    pub contacts: BTreeMap<Contact, u32>,
    /// The longest silence, in seconds.
    pub silence: f64,
    /// Seconds for which the oldest desired state has been unmet.
    pub unmet: f64,
}

/// Shows it.
pub struct Census<F> {
    devices: Store<Device>,
    summaries: F,
    desc: Vec<Desc>,
}

/// Made anew for each scrape, so that a namespace without devices has no series.
struct Gauges {
    phases: IntGaugeVec,
    liveness: IntGaugeVec,
    silence: GaugeVec,
    unmet: GaugeVec,
    behind: IntGaugeVec,
}

impl Gauges {
    fn new() -> Result<Self, prometheus::Error> {
        let of = Opts::new;
        Ok(Self {
            phases: IntGaugeVec::new(of("edge_devices", "Devices, by phase."), &["namespace", "phase"])?,
            liveness: IntGaugeVec::new(
                of("edge_device_liveness", "Devices, by whether they answer."),
                &["namespace", "state"],
            )?,
            silence: GaugeVec::new(
                of(
                    "edge_device_silence_seconds",
                    "Time since the last sign of life of the device that is silent for longest.",
                ),
                &["namespace"],
            )?,
            unmet: GaugeVec::new(
                of("edge_device_unconverged_seconds", "Age of the oldest desired state that is not met."),
                &["namespace"],
            )?,
            behind: IntGaugeVec::new(
                of(
                    "edge_device_generations_behind",
                    "Generations between an object and what its device was last known to run; of the device that is furthest behind.",
                ),
                &["namespace"],
            )?,
        })
    }

    fn desc(&self) -> Vec<Desc> {
        let all = [
            self.phases.desc(),
            self.liveness.desc(),
            self.silence.desc(),
            self.unmet.desc(),
            self.behind.desc(),
        ];
        all.concat().into_iter().cloned().collect()
    }

    fn count(&self, device: &Device) {
        let namespace = device.namespace().unwrap_or_default();
        for phase in DevicePhase::ALL {
            self.phases.with_label_values(&[namespace.as_str(), phase.as_str()]);
        }
        let phase = device.status.as_ref().map(|status| status.phase).unwrap_or_default();
        self.phases.with_label_values(&[namespace.as_str(), phase.as_str()]).inc();
        let behind = self.behind.with_label_values(&[namespace.as_str()]);
        behind.set(behind.get().max(generations_behind(device)));
    }

    fn show(&self, namespace: &str, summary: &Summary) {
        for state in Contact::ALL {
            let number = summary.contacts.get(&state).copied().unwrap_or(0);
            self.liveness.with_label_values(&[namespace, state.as_str()]).set(i64::from(number));
        }
        self.silence.with_label_values(&[namespace]).set(summary.silence);
        self.unmet.with_label_values(&[namespace]).set(summary.unmet);
    }

    fn collect(&self) -> Vec<MetricFamily> {
        [
            self.phases.collect(),
            self.liveness.collect(),
            self.silence.collect(),
            self.unmet.collect(),
            self.behind.collect(),
        ]
        .concat()
    }
}

/// A device that is in sync is behind by nothing, whatever its number: an edit that leaves `desired` alone is no command.
fn generations_behind(device: &Device) -> i64 {
    let Some(status) = device.status.as_ref().filter(|status| status.phase != DevicePhase::InSync) else {
        return 0;
    };
    let runs = status.reported.as_ref().and_then(|reported| reported.generation).unwrap_or(0);
    if device.spec.desired.is_none() { 0 } else { (device.metadata.generation.unwrap_or(0) - runs).max(0) }
}

impl<F> Census<F>
where
    F: Fn() -> BTreeMap<String, Summary> + Send + Sync + 'static,
{
    /// Registers it. `summaries` gives by namespace what is remembered.
    ///
    /// # Errors
    /// When a name is taken.
    pub fn register(
        registry: &Registry,
        devices: Store<Device>,
        summaries: F,
    ) -> Result<(), prometheus::Error> {
        let desc = Gauges::new()?.desc();
        registry.register(Box::new(Self { devices, summaries, desc }))
    }
}

impl<F> Collector for Census<F>
where
    F: Fn() -> BTreeMap<String, Summary> + Send + Sync,
{
    fn desc(&self) -> Vec<&Desc> {
        self.desc.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Ok(gauges) = Gauges::new() else { return Vec::new() };
        let summaries = (self.summaries)();
        for device in self.devices.state() {
            gauges.count(&device);
            let namespace = device.namespace().unwrap_or_default();
            gauges.show(&namespace, summaries.get(&namespace).unwrap_or(&Summary::default()));
        }
        gauges.collect()
    }
}

#[cfg(test)]
mod tests {
    use edge_api::{Desired, DeviceSpec, DeviceStatus, Endpoint, Liveness, Reported};
    use kube::runtime::reflector::{self, store::Writer};
    use kube::runtime::watcher::Event;
    use prometheus::TextEncoder;

    use super::*;

    fn add(writer: &mut Writer<Device>, name: &str, phase: DevicePhase, generations: (i64, i64)) {
        let endpoint = Endpoint { host: "10.20.0.17".into(), port: 5683 };
        let desired = Some(Desired { firmware: "2.0.0".into(), config: BTreeMap::new() });
        let spec = DeviceSpec { endpoint, desired, liveness: Liveness::default(), paused: false };
        let mut device = Device::new(name, spec);
        device.metadata.namespace = Some("edge-demo".into());
        device.metadata.generation = Some(generations.0);
        let reported = Some(Reported { generation: Some(generations.1), ..Reported::default() });
        device.status = Some(DeviceStatus { phase, reported, ..DeviceStatus::default() });
        writer.apply_watcher_event(&Event::Apply(device));
    }

    #[test]
    fn devices_are_counted_by_phase_and_the_oldest_unmet_state_has_its_age() {
        let (store, mut writer) = reflector::store();
        let registry = Registry::new();
        let summary = Summary { contacts: [(Contact::Silent, 2)].into(), silence: 40.0, unmet: 2.5 };
        Census::register(&registry, store, move || {
            BTreeMap::from([("edge-demo".to_owned(), summary.clone())])
        })
        .unwrap();
        let scrape = || TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        assert!(!scrape().contains("edge-demo"));
        add(&mut writer, "pump-0", DevicePhase::InSync, (9, 1));
        add(&mut writer, "pump-1", DevicePhase::InSync, (2, 2));
        add(&mut writer, "pump-2", DevicePhase::Failed, (5, 2));
        let text = scrape();
        for line in [
            r#"edge_devices{namespace="edge-demo",phase="InSync"} 2"#,
            r#"edge_devices{namespace="edge-demo",phase="Failed"} 1"#,
            r#"edge_devices{namespace="edge-demo",phase="Conflicted"} 0"#,
            r#"edge_device_unconverged_seconds{namespace="edge-demo"} 2.5"#,
            r#"edge_device_silence_seconds{namespace="edge-demo"} 40"#,
            r#"edge_device_liveness{namespace="edge-demo",state="silent"} 2"#,
            r#"edge_device_liveness{namespace="edge-demo",state="lost"} 0"#,
            r#"edge_device_generations_behind{namespace="edge-demo"} 3"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
    }
}
