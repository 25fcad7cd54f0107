//! `edge_fault_profile_phase`, read out of the cache when it is scraped, so that a deleted profile has no series.

use edge_api::{FaultPhase, FaultProfile};
use kube::ResourceExt as _;
use kube::runtime::reflector::Store;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntGaugeVec, Opts};

const NAME: &str = "edge_fault_profile_phase";
const HELP: &str = "Phase of each FaultProfile: 1 for the one it is in, 0 for the others.";

/// Collects the phases of all profiles.
pub(crate) struct Phases {
    profiles: Store<FaultProfile>,
    desc: Vec<Desc>,
}

impl Phases {
    /// # Errors
    /// Never with these names; a test proves it.
    pub(crate) fn new(profiles: Store<FaultProfile>) -> Result<Self, prometheus::Error> {
        let desc = gauge()?.desc().into_iter().cloned().collect();
        Ok(Self { profiles, desc })
    }
}

fn gauge() -> Result<IntGaugeVec, prometheus::Error> {
    IntGaugeVec::new(Opts::new(NAME, HELP), &["namespace", "profile", "phase"])
}

impl Collector for Phases {
    fn desc(&self) -> Vec<&Desc> {
        self.desc.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Ok(gauge) = gauge() else { return Vec::new() };
        for profile in self.profiles.state() {
            let current = profile.status.as_ref().map(|status| status.phase).unwrap_or_default();
            let (namespace, name) = (profile.namespace().unwrap_or_default(), profile.name_any());
            for phase in FaultPhase::ALL {
                let labels = [namespace.as_str(), name.as_str(), phase.as_str()];
                gauge.with_label_values(&labels).set(i64::from(phase == current));
            }
        }
        gauge.collect()
    }
}

#[cfg(test)]
mod tests {
    use kube::runtime::reflector;
    use kube::runtime::watcher::Event;
    use prometheus::{Encoder as _, Registry, TextEncoder};
    use serde_json::json;

    use super::*;

    #[test]
    fn each_profile_has_one_phase_and_a_deleted_one_has_none() {
        let profile: FaultProfile = serde_json::from_value(json!({
            "apiVersion": "edge-operator.dev/v1alpha1", "kind": "FaultProfile",
            "metadata": {"name": "loss", "namespace": "demo"},
            "spec": {"targets": {}, "faults": {}, "duration": "1m"},
            "status": {"phase": "Active"},
        }))
        .unwrap();
        let (store, mut writer) = reflector::store();
        let registry = Registry::new();
        registry.register(Box::new(Phases::new(store).unwrap())).unwrap();
        let scrape = || {
            let mut text = Vec::new();
            TextEncoder::new().encode(&registry.gather(), &mut text).unwrap();
            String::from_utf8(text).unwrap()
        };
        writer.apply_watcher_event(&Event::Apply(profile.clone()));
        let text = scrape();
        assert!(
            text.contains(r#"edge_fault_profile_phase{namespace="demo",phase="Active",profile="loss"} 1"#),
            "{text}"
        );
        assert_eq!(text.matches("} 0").count(), FaultPhase::ALL.len() - 1, "{text}");
        writer.apply_watcher_event(&Event::Delete(profile));
        assert!(!scrape().contains("loss"));
    }
}
