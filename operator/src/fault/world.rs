//! What the watches brought, in the form that deciding needs, and which profiles a change can concern.
//! The caches hold the objects; here are only their cut-down images.

use std::sync::Arc;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use edge_api::{Device, FaultNode, FaultPhase, FaultProfile};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::runtime::reflector::{ObjectRef, Store};

use super::agents::{Agents, Change};
use super::decide::Clock;
use super::population::{Kind, Member, Population};

/// Candidates and agents, fed from the caches.
#[derive(Default)]
pub(crate) struct World {
    state: RwLock<State>,
}

/// One look at it.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) population: Population,
    pub(crate) agents: Agents,
}

/// The profiles that a change can concern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Concerned {
    /// None.
    Nobody,
    /// Those of a namespace that target this kind.
    Selecting(Kind, String),
    /// Those that have started.
    Started,
}

impl World {
    /// Reads. Never hold it across an await.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// A device may have changed, or gone.
    pub(crate) fn device(&self, name: &ObjectRef<Device>, devices: &Store<Device>) -> Concerned {
        let member = devices.get(name).map(|device| Member::of_device(&device));
        self.member(Kind::Device, name.namespace.as_deref(), &name.name, member)
    }

    /// A pod may have changed, or gone.
    pub(crate) fn pod(&self, name: &ObjectRef<Pod>, pods: &Store<Pod>) -> Concerned {
        let member = pods.get(name).and_then(|pod| Member::of_pod(&pod));
        self.member(Kind::Pod, name.namespace.as_deref(), &name.name, member)
    }

    fn member(&self, kind: Kind, namespace: Option<&str>, name: &str, member: Option<Member>) -> Concerned {
        let namespace = namespace.unwrap_or_default();
        match self.write(|state| state.population.put(kind, namespace, name, member)) {
            true => Concerned::Selecting(kind, namespace.to_owned()),
            false => Concerned::Nobody,
        }
    }

    /// A FaultNode may have changed, or gone.
    pub(crate) fn agent(
        &self,
        name: &ObjectRef<FaultNode>,
        nodes: &Store<FaultNode>,
        clock: Clock,
    ) -> Concerned {
        let change = self.write(|state| match nodes.get(name).and_then(|node| node.status.clone()) {
            Some(status) => state.agents.put(&name.name, &status, clock.wall, clock.own),
            None => state.agents.remove(&name.name),
        });
        match change {
            Change::Matters => Concerned::Started,
            Change::None => Concerned::Nobody,
        }
    }

    /// Takes everything anew out of the caches: at the start, and from then on now and then, since a list that
    /// replaces a broken watch does not say what went in between.
    pub(crate) fn refill(
        &self,
        devices: &Store<Device>,
        pods: &Store<Pod>,
        nodes: &Store<FaultNode>,
        clock: Clock,
    ) -> Vec<Concerned> {
        let devices: Vec<_> =
            devices.state().iter().map(|device| entry(device.as_ref(), Member::of_device(device))).collect();
        let pods: Vec<_> =
            pods.state().iter().filter_map(|pod| Some(entry(pod.as_ref(), Member::of_pod(pod)?))).collect();
        let nodes: Vec<Arc<FaultNode>> = nodes.state();
        self.write(|state| {
            let mut concerned: Vec<Concerned> = [(Kind::Device, devices), (Kind::Pod, pods)]
                .into_iter()
                .flat_map(|(kind, all)| {
                    let touched = state.population.replace(kind, all);
                    touched.into_iter().map(move |namespace| Concerned::Selecting(kind, namespace))
                })
                .collect();
            if state.agents.replace(&nodes, clock.wall, clock.own) == Change::Matters {
                concerned.push(Concerned::Started);
            }
            concerned
        })
    }
}

fn entry<K: kube::Resource>(object: &K, member: Member) -> (String, String, Member) {
    (object.namespace().unwrap_or_default(), object.name_any(), member)
}

impl Concerned {
    /// Whether a profile is among them.
    pub(crate) fn includes(&self, profile: &FaultProfile) -> bool {
        let status = profile.status.as_ref();
        if status.is_some_and(|status| status.phase == FaultPhase::Expired) {
            return false;
        }
        match self {
            Self::Nobody => false,
            Self::Started => status.is_some_and(|status| status.started_at.is_some()),
            Self::Selecting(kind, namespace) => {
                let targets = &profile.spec.targets;
                let selects = match kind {
                    Kind::Device => targets.devices.is_some(),
                    Kind::Pod => targets.pods.is_some(),
                };
                selects && profile.metadata.namespace.as_deref() == Some(namespace)
            }
        }
    }

    /// Their names.
    pub(crate) fn names(&self, profiles: &Store<FaultProfile>) -> Vec<ObjectRef<FaultProfile>> {
        if *self == Self::Nobody {
            return Vec::new();
        }
        let all = profiles.state();
        all.iter()
            .filter(|profile| self.includes(profile))
            .map(|profile| ObjectRef::from_obj(profile.as_ref()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn profile(targets: Value, status: Value) -> FaultProfile {
        serde_json::from_value(json!({
            "apiVersion": "edge-operator.dev/v1alpha1", "kind": "FaultProfile",
            "metadata": {"name": "loss", "namespace": "demo"},
            "spec": {"targets": targets, "faults": {"partition": {}}, "duration": "1m"},
            "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn a_change_concerns_only_profiles_that_can_depend_on_it() {
        let devices = json!({"devices": {"selector": {"matchLabels": {"a": "b"}}}});
        let cidrs = json!({"cidrs": ["192.168.0.0/24"]});
        let selecting = |kind, namespace: &str| Concerned::Selecting(kind, namespace.to_owned());
        let started = json!({"startedAt": "2026-01-01T00:00:00.000000Z"});
        let expired = json!({"phase": "Expired", "startedAt": "2026-01-01T00:00:00.000000Z"});
        let table = [
            (selecting(Kind::Device, "demo"), &devices, json!({}), true),
            (selecting(Kind::Device, "other"), &devices, json!({}), false),
            (selecting(Kind::Pod, "demo"), &devices, json!({}), false),
            (selecting(Kind::Device, "demo"), &cidrs, json!({}), false),
            (selecting(Kind::Device, "demo"), &devices, expired.clone(), false),
            (Concerned::Started, &cidrs, json!({}), false),
            (Concerned::Started, &cidrs, started, true),
            (Concerned::Started, &cidrs, expired, false),
        ];
        for (concerned, targets, status, includes) in table {
            let profile = profile(targets.clone(), status.clone());
            assert_eq!(concerned.includes(&profile), includes, "{concerned:?} {targets} {status}");
        }
    }
}
