//! What is counted of the election, under client-go's names where it has one.

use prometheus::{IntCounter, IntGauge, Registry};

use crate::epoch::NAME;
use crate::metrics::{counters, gauges, register};

/// The metrics of one process's part in the election.
#[derive(Clone)]
pub struct LeaderMetrics {
    /// 1 while it leads.
    pub master: IntGauge,
    /// Reads of the Lease by a leader whose write met a conflict, failed or was not answered.
    pub slow_path: IntCounter,
    /// Changes of the holder that it saw.
    pub transitions: IntCounter,
    /// Its epoch while it leads, else 0.
    pub epoch: IntGauge,
}

impl LeaderMetrics {
    /// # Errors
    /// When a name is taken.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let name = &[NAME];
        let master = "1 while this process leads, else 0.";
        let slow_path = "Reads of the Lease by a leader that could not renew it at once.";
        let transitions = IntCounter::new(
            "edge_leader_transitions_total",
            "Changes of the Lease's holder that this process saw; all replicas see the same ones.",
        )?;
        let epoch = IntGauge::new(
            "edge_leader_epoch",
            "While this process leads, its epoch: the resourceVersion of the write that took the Lease; else 0.",
        )?;
        Ok(Self {
            master: gauges(registry, "leader_election_master_status", master, &["name"])?
                .with_label_values(name),
            slow_path: counters(registry, "leader_election_slowpath_total", slow_path, &["name"])?
                .with_label_values(name),
            transitions: register(registry, transitions)?,
            epoch: register(registry, epoch)?,
        })
    }

    /// From now on it leads.
    pub fn leads(&self, epoch: u64) {
        self.master.set(1);
        self.epoch.set(i64::try_from(epoch).unwrap_or(i64::MAX));
    }

    /// From now on it does not.
    pub fn ended(&self) {
        self.master.set(0);
        self.epoch.set(0);
    }
}
