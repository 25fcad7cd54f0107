//! Every device and pod that a profile could hit, cut down to what choosing needs: labels, nodes, and why not.
//! Fed by watches, read by reconciles; knows when an event changes nothing for a profile.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use edge_api::Device;
use edge_api::condition::reasons::ENDPOINT_NOT_ALLOWED;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::core::{Selector, SelectorExt as _};

/// What kind of object a target is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// A `Device`, by its resolved addresses.
    Device,
    /// A `Pod`.
    Pod,
}

/// One object that a selector can match.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    labels: Labels,
    place: Result<Place, NoTarget>,
}

/// An object's labels: the cache's, since a copy of them is half of a kilobyte.
#[derive(Clone, Debug)]
enum Labels {
    Device(Arc<Device>),
    Pod(Arc<Pod>),
    #[cfg(test)]
    Own(BTreeMap<String, String>),
}

impl Labels {
    fn all(&self) -> &BTreeMap<String, String> {
        match self {
            Self::Device(device) => device.labels(),
            Self::Pod(pod) => pod.labels(),
            #[cfg(test)]
            Self::Own(labels) => labels,
        }
    }
}

impl PartialEq for Member {
    fn eq(&self, other: &Self) -> bool {
        self.place == other.place && self.labels.all() == other.labels.all()
    }
}

/// Where a target's packets can be met.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// Nodes that hold one of its addresses: those agents' work.
    pub(crate) nodes: BTreeSet<String>,
    /// Has it an address outside the cluster? The work of each node with a route.
    pub(crate) external: bool,
}

/// Why a matching object is no target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum NoTarget {
    /// It has no address yet.
    NoAddress,
    /// A pod that shares its node's network: its packets are the node's.
    HostNetwork,
    /// A device whose endpoint lies where the operator may not reach.
    NotAllowed,
}

/// All members, by kind and namespace.
#[derive(Debug, Default)]
pub(crate) struct Population {
    namespaces: HashMap<(Kind, String), BTreeMap<String, Member>>,
}

impl Population {
    /// Puts a member in, or takes it out. Returns whether that can matter to a profile of its namespace.
    pub(crate) fn put(&mut self, kind: Kind, namespace: &str, name: &str, member: Option<Member>) -> bool {
        let key = (kind, namespace.to_owned());
        let Some(member) = member else {
            let Some(members) = self.namespaces.get_mut(&key) else { return false };
            let was_there = members.remove(name).is_some();
            if members.is_empty() {
                self.namespaces.remove(&key);
            }
            return was_there;
        };
        let members = self.namespaces.entry(key).or_default();
        // Also one that matters to nobody takes the place of the one before: nobody else needs that object any more.
        let changed = members.get(name) != Some(&member);
        members.insert(name.to_owned(), member);
        changed
    }

    /// Replaces all members of a kind, as after a new list. Returns the namespaces that it can matter to.
    pub(crate) fn replace(
        &mut self,
        kind: Kind,
        all: impl IntoIterator<Item = (String, String, Member)>,
    ) -> BTreeSet<String> {
        let mut next: HashMap<(Kind, String), BTreeMap<String, Member>> = HashMap::new();
        for (namespace, name, member) in all {
            next.entry((kind, namespace)).or_default().insert(name, member);
        }
        let mut touched = BTreeSet::new();
        for (key, members) in &next {
            if self.namespaces.get(key) != Some(members) {
                touched.insert(key.1.clone());
            }
        }
        for key in self.namespaces.keys().filter(|key| key.0 == kind && !next.contains_key(*key)) {
            touched.insert(key.1.clone());
        }
        self.namespaces.retain(|key, _| key.0 != kind);
        self.namespaces.extend(next);
        touched
    }

    /// The members of a namespace that a selector matches, in order of name.
    pub(crate) fn matching<'a>(
        &'a self,
        kind: Kind,
        namespace: &str,
        selector: &'a Selector,
    ) -> impl Iterator<Item = (&'a str, Result<&'a Place, NoTarget>)> {
        self.namespaces
            .get(&(kind, namespace.to_owned()))
            .into_iter()
            .flatten()
            .filter(|(_, member)| selector.matches(member.labels.all()))
            .map(|(name, member)| (name.as_str(), member.place.as_ref().map_err(|why| *why)))
    }
}

impl Member {
    /// A device as a target: by the addresses that the device controller resolved.
    pub(crate) fn of_device(device: &Arc<Device>) -> Self {
        let status = device.status.as_ref();
        let mut place = Place::default();
        for address in status.into_iter().flat_map(|status| &status.addresses) {
            match &address.node {
                Some(node) => {
                    place.nodes.insert(node.clone());
                }
                None => place.external = true,
            }
        }
        let refused = status
            .into_iter()
            .flat_map(|status| &status.conditions)
            .any(|condition| condition.reason == ENDPOINT_NOT_ALLOWED);
        let place = match place {
            _ if refused => Err(NoTarget::NotAllowed),
            place if place.external || !place.nodes.is_empty() => Ok(place),
            _ => Err(NoTarget::NoAddress),
        };
        Self { labels: Labels::Device(device.clone()), place }
    }

    /// A pod as a target; none for one that has ended, whose address may be another's by now.
    pub(crate) fn of_pod(pod: &Arc<Pod>) -> Option<Self> {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if matches!(phase, Some("Succeeded" | "Failed")) {
            return None;
        }
        let spec = pod.spec.as_ref();
        let node = spec.and_then(|spec| spec.node_name.clone());
        let has_address = pod.status.as_ref().is_some_and(|status| status.pod_ip.is_some());
        let place = match node {
            _ if spec.is_some_and(|spec| spec.host_network == Some(true)) => Err(NoTarget::HostNetwork),
            Some(node) if has_address => Ok(Place { nodes: BTreeSet::from([node]), external: false }),
            _ => Err(NoTarget::NoAddress),
        };
        Some(Self { labels: Labels::Pod(pod.clone()), place })
    }
}

#[cfg(test)]
impl Member {
    /// A member with one label, for tables.
    pub(crate) fn test(label: (&str, &str), place: Result<Place, NoTarget>) -> Self {
        Self { labels: Labels::Own(BTreeMap::from([(label.0.to_owned(), label.1.to_owned())])), place }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn device(status: serde_json::Value) -> Device {
        serde_json::from_value(json!({
            "apiVersion": "edge-operator.dev/v1alpha1", "kind": "Device",
            "metadata": {"name": "pump", "namespace": "demo", "labels": {"site": "berlin"}},
            "spec": {"endpoint": {"host": "pump.example", "port": 5683}},
            "status": status,
        }))
        .unwrap()
    }

    fn pod(spec: serde_json::Value, status: serde_json::Value) -> Pod {
        let pod = json!({"metadata": {"name": "p", "namespace": "demo"}, "spec": spec, "status": status});
        serde_json::from_value(pod).unwrap()
    }

    fn place_of(device: &Device) -> Result<Place, NoTarget> {
        Member::of_device(&Arc::new(device.clone())).place
    }

    #[test]
    fn a_device_is_where_its_addresses_are() {
        let both = device(json!({"addresses": [{"ip": "10.244.1.2", "node": "n1"}, {"ip": "10.20.0.1"}]}));
        let place = place_of(&both).unwrap();
        assert_eq!(place, Place { nodes: BTreeSet::from(["n1".to_owned()]), external: true });
    }

    #[test]
    fn a_device_without_an_address_is_no_target_yet() {
        assert_eq!(place_of(&device(json!({}))), Err(NoTarget::NoAddress));
    }

    #[test]
    fn a_device_that_may_not_be_reached_is_no_target() {
        let condition = json!({"type": "Ready", "status": "False", "reason": "EndpointNotAllowed", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z"});
        assert_eq!(place_of(&device(json!({"conditions": [condition]}))), Err(NoTarget::NotAllowed));
    }

    #[test]
    fn a_pod_on_the_host_network_is_no_target() {
        let pod = pod(
            json!({"containers": [], "nodeName": "n1", "hostNetwork": true}),
            json!({"podIP": "10.240.0.11"}),
        );
        assert_eq!(Member::of_pod(&Arc::new(pod)).unwrap().place, Err(NoTarget::HostNetwork));
    }

    #[test]
    fn a_pod_that_has_ended_is_gone() {
        let pod = pod(
            json!({"containers": [], "nodeName": "n1"}),
            json!({"podIP": "10.244.1.2", "phase": "Failed"}),
        );
        assert_eq!(Member::of_pod(&Arc::new(pod)), None);
    }

    #[test]
    fn what_changes_nothing_for_a_profile_is_not_passed_on() {
        let mut population = Population::default();
        let quiet = device(json!({"addresses": [{"ip": "10.20.0.1"}], "phase": "InSync"}));
        let silent = device(json!({"addresses": [{"ip": "10.20.0.1"}], "phase": "Unreachable"}));
        let moved = device(json!({"addresses": [{"ip": "10.244.1.2", "node": "n1"}]}));
        let mut put = |member| population.put(Kind::Device, "demo", "pump", member);
        assert!(put(Some(Member::of_device(&Arc::new(quiet)))));
        assert!(!put(Some(Member::of_device(&Arc::new(silent)))), "a phase is nothing to a profile");
        assert!(put(Some(Member::of_device(&Arc::new(moved)))), "another node is");
        assert!(put(None), "and so is its end");
        assert!(!put(None));
    }

    #[test]
    fn a_new_list_names_the_namespaces_that_differ() {
        let member = || Member::test(("site", "berlin"), Err(NoTarget::NoAddress));
        let entry = |namespace: &str, name: &str| (namespace.to_owned(), name.to_owned(), member());
        let mut population = Population::default();
        population.put(Kind::Pod, "demo", "a", Some(member()));
        population.replace(Kind::Device, [entry("same", "a"), entry("gone", "a"), entry("more", "a")]);
        let next = [entry("same", "a"), entry("more", "a"), entry("more", "b"), entry("new", "a")];
        let touched = population.replace(Kind::Device, next);
        assert_eq!(touched.into_iter().collect::<Vec<_>>(), ["gone", "more", "new"]);
        assert_eq!(population.matching(Kind::Pod, "demo", &Selector::default()).count(), 1, "pods stay");
    }
}
