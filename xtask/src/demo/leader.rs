//! The operator that leads: who it is, as its Lease says, how it is killed without grace, and how long nobody leads then.

use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams};
use kube::{Client, ResourceExt};
use tokio::time::Instant;

use super::install::SYSTEM;
use crate::cluster::processes;

/// The Lease, and the name of the program.
const OPERATOR: &str = "edge-operator";
/// Longer than any lease that the demo meets: it is 15 s where nobody changed it.
const LIMIT: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Who leads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holder {
    /// What the Lease says: the pod, and a number for each start of its process.
    pub identity: String,
    /// How often the holder changed since the Lease was made.
    pub transitions: u32,
    /// Seconds after which another may take it.
    pub lease: u32,
}

impl Holder {
    /// Of a Lease that somebody holds.
    fn of(lease: &Lease) -> Option<Self> {
        let spec = lease.spec.as_ref()?;
        let number = |value: Option<i32>| value.and_then(|value| u32::try_from(value).ok()).unwrap_or(0);
        Some(Self {
            identity: spec.holder_identity.clone().filter(|holder| !holder.is_empty())?,
            transitions: number(spec.lease_transitions),
            lease: number(spec.lease_duration_seconds),
        })
    }

    /// Its pod's name.
    #[must_use]
    pub fn pod(&self) -> &str {
        self.identity.rsplit_once('_').map_or(&self.identity, |(pod, _)| pod)
    }
}

/// How an operator is killed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Weapon {
    /// By SIGKILL to its process, which is in a control group under this one: it can say nothing any more.
    Signal(String),
    /// Where processes are out of reach: by deleting its pod without grace. It may have the time to give its Lease away.
    Deletion,
}

impl Weapon {
    fn strike(&self, pod: &Pod) -> Option<()> {
        let Self::Signal(cgroup) = self else { return None };
        let all = processes::in_pod(cgroup, &pod.uid()?);
        let operator = all.into_iter().find(|process| process.name() == OPERATOR)?;
        operator.kill();
        Some(())
    }
}

/// A change of the leader that was forced.
#[derive(Clone, Debug, PartialEq)]
pub struct Succession {
    /// Who led.
    pub killed: Holder,
    /// Whether it was a signal, so that it could not give its Lease away.
    pub at_once: bool,
    /// From the kill until the Lease named another.
    pub leaderless: Duration,
    /// Who leads now.
    pub next: Holder,
}

/// Who leads now.
///
/// # Errors
/// When the API server cannot be asked, or nobody leads within a minute.
pub async fn holder(client: &Client) -> Result<Holder> {
    another(client, "").await
}

/// Who leads that is not `former`.
async fn another(client: &Client, former: &str) -> Result<Holder> {
    let leases = Api::<Lease>::namespaced(client.clone(), SYSTEM);
    let found = async {
        loop {
            let lease = leases.get(OPERATOR).await.context("asking for the operator's Lease")?;
            if let Some(other) = Holder::of(&lease).filter(|holder| holder.identity != former) {
                return Ok(other);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    let found = tokio::time::timeout(LIMIT, found).await;
    found.with_context(|| format!("no operator leads within {} s", LIMIT.as_secs()))?
}

/// Kills who leads, and waits for the next.
///
/// # Errors
/// When nobody leads, who leads cannot be killed, or nobody follows within a minute.
pub async fn kill(client: Client, weapon: Weapon) -> Result<Succession> {
    let pods = Api::<Pod>::namespaced(client.clone(), SYSTEM);
    let killed = holder(&client).await?;
    let pod = pods.get(killed.pod()).await.context("asking for the leader's pod")?;
    let began = Instant::now();
    let at_once = match &weapon {
        Weapon::Signal(_) => {
            weapon
                .strike(&pod)
                .with_context(|| format!("the leading operator has no process in {}", pod.name_any()))?;
            true
        }
        Weapon::Deletion => {
            let without_grace = DeleteParams::default().grace_period(0);
            pods.delete(killed.pod(), &without_grace).await.context("deleting the leader's pod")?;
            false
        }
    };
    let next = another(&client, &killed.identity).await.context("after the leader was killed")?;
    Ok(Succession { killed, at_once, leaderless: began.elapsed(), next })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn lease(spec: &serde_json::Value) -> Lease {
        serde_json::from_value(json!({"metadata": {"name": OPERATOR}, "spec": spec})).unwrap()
    }

    #[test]
    fn the_lease_names_the_pod_and_each_start_of_its_process() {
        let spec = json!({"holderIdentity": "edge-operator-5d_x-1_0a1b", "leaseTransitions": 3, "leaseDurationSeconds": 6});
        let holder = Holder::of(&lease(&spec)).unwrap();
        assert_eq!(holder.pod(), "edge-operator-5d_x-1");
        assert_eq!((holder.transitions, holder.lease), (3, 6));
    }

    #[test]
    fn a_lease_that_was_given_away_or_never_taken_has_no_holder() {
        assert_eq!(Holder::of(&lease(&json!({"holderIdentity": ""}))), None);
        assert_eq!(Holder::of(&lease(&json!({}))), None);
    }
}
