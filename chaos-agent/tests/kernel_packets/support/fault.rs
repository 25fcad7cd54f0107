//! Profiles as the API server would give them, accepted and started.

use edge_api::fault_profile::FaultProfile;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::time::{boot_ns, ms, ms_here};

/// Namespace of all profiles.
pub(crate) const NAMESPACE: &str = "demo";

/// Builds a profile. Its end is counted in CLOCK_BOOTTIME: for these stories the API server's clock is that one.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    name: String,
    spec: Value,
    ends_ns: u64,
}

impl Fault {
    /// Random loss.
    pub(crate) fn loss(percent: &str) -> Self {
        Self::new("loss", json!({"loss": {"percent": percent}}))
    }

    /// Loss by another model.
    pub(crate) fn loss_by(model: Value) -> Self {
        Self::new("loss", json!({"loss": model}))
    }

    /// Loss of everything.
    pub(crate) fn partition() -> Self {
        Self::new("partition", json!({"partition": {}}))
    }

    /// Any faults, as a profile has them.
    pub(crate) fn new(name: &str, faults: Value) -> Self {
        let spec = json!({"targets": {}, "faults": faults, "duration": "1m", "seed": 7});
        Self { name: name.to_owned(), spec, ends_ns: boot_ns() + ms_here(60_000) }
    }

    /// Faults one after the other, each with its milliseconds.
    pub(crate) fn timeline(begins_ns: u64, phases: &[(Value, u64)]) -> Self {
        let lasts: u64 = phases.iter().map(|(_, milliseconds)| milliseconds).sum();
        let phases = phases
            .iter()
            .map(|(faults, milliseconds)| json!({"for": format!("{milliseconds}ms"), "faults": faults}));
        let spec = json!({"targets": {}, "timeline": phases.collect::<Vec<_>>(), "seed": 7});
        Self { name: "timeline".to_owned(), spec, ends_ns: begins_ns + ms(lasts) }
    }

    fn with(mut self, path: &str, value: Value) -> Self {
        self.spec[path] = value;
        self
    }

    pub(crate) fn named(self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self }
    }

    /// On networks outside the cluster.
    pub(crate) fn on(self, cidrs: &[String]) -> Self {
        self.with("targets", json!({"cidrs": cidrs}))
    }

    /// On all pods of the namespace.
    pub(crate) fn on_pods(self) -> Self {
        self.with("targets", json!({"pods": {"selector": {}}}))
    }

    pub(crate) fn matching(self, matching: Value) -> Self {
        self.with("match", matching)
    }

    pub(crate) fn direction(self, direction: &str) -> Self {
        self.with("direction", json!(direction))
    }

    pub(crate) fn paused(self) -> Self {
        self.with("paused", json!(true))
    }

    pub(crate) fn seed(self, seed: u64) -> Self {
        self.with("seed", json!(seed))
    }

    /// When it ends, in CLOCK_BOOTTIME; whole microseconds.
    pub(crate) fn until(self, ends_ns: u64) -> Self {
        Self { ends_ns, ..self }
    }

    /// The object.
    pub(crate) fn object(&self) -> FaultProfile {
        let expires = server_time(self.ends_ns).to_string();
        serde_json::from_value(json!({
            "apiVersion": "edge-operator.dev/v1alpha1", "kind": "FaultProfile",
            "metadata": {
                "namespace": NAMESPACE, "name": self.name, "uid": format!("uid-{}", self.name), "generation": 1,
            },
            "spec": self.spec,
            "status": {
                "phase": "Active", "startedAt": server_time(0).to_string(), "expiresAt": expires,
                "cutoff": edge_api::choose::MAX_RANK,
                "conditions": [{
                    "type": "Accepted", "status": "True", "reason": "Accepted", "message": "",
                    "lastTransitionTime": "1970-01-01T00:00:00Z", "observedGeneration": 1,
                }],
            },
        }))
        .unwrap()
    }
}

/// The API server's time in these stories: time since boot, taken as time since 1970.
pub(crate) fn server_time(boot_ns: u64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(boot_ns)).unwrap()
}
