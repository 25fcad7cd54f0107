use kube::Resource;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;
use crate::profile::tests::object;

fn read<K: DeserializeOwned>(value: &Value) -> K {
    serde_json::from_value(value.clone()).unwrap()
}

/// A profile in namespace `demo` with these peers.
fn profile(peers: &Value) -> Profile {
    let spec = json!({
        "targets": {"pods": {"selector": {"matchLabels": {"app": "web"}}}}, "match": {"peers": peers},
        "faults": {"partition": {}}, "duration": "10m",
    });
    Profile::parse(&object("p", &spec)).unwrap()
}

pub(crate) fn service(name: &str, spec: &Value) -> Value {
    json!({"metadata": {"namespace": "demo", "name": name}, "spec": spec})
}

fn slice(name: &str, service: &str, addresses: &[&str]) -> Value {
    let endpoints: Vec<_> =
        addresses.iter().map(|ip| json!({"addresses": [ip], "conditions": {"ready": false}})).collect();
    json!({
        "metadata": {"namespace": "demo", "name": name, "labels": {SERVICE_NAME: service}},
        "addressType": "IPv4", "endpoints": endpoints,
    })
}

pub(crate) fn pod(name: &str, app: &str, ip: &str, host_network: bool) -> Value {
    json!({
        "metadata": {"namespace": "demo", "name": name, "labels": {"app": app}},
        "spec": {"containers": [], "hostNetwork": host_network, "nodeName": "another"},
        "status": {"podIP": ip, "podIPs": [{"ip": ip}]},
    })
}

/// The events of a list.
fn list<K: Resource + DeserializeOwned>(objects: &[Value]) -> impl Iterator<Item = Event<K>> {
    let objects = objects.iter().map(|object| Event::InitApply(read(object)));
    std::iter::once(Event::Init).chain(objects.collect::<Vec<_>>()).chain([Event::InitDone])
}

impl World {
    fn hear(mut self, events: impl Iterator<Item = NeighbourEvent>) -> Self {
        for event in events {
            self.neighbours.take("demo".to_owned(), event);
        }
        self
    }

    pub(crate) fn services(self, objects: &[Value]) -> Self {
        self.hear(list(objects).map(NeighbourEvent::Service))
    }

    pub(crate) fn slices(self, objects: &[Value]) -> Self {
        self.hear(list(objects).map(NeighbourEvent::Slice))
    }

    pub(crate) fn peer_pods(self, objects: &[Value]) -> Self {
        self.hear(list(objects).map(NeighbourEvent::Pod))
    }
}

/// The networks of these peers, as text.
fn found(peers: &Value, world: &World) -> Result<Option<Vec<String>>, Problem> {
    let profile = profile(peers);
    let networks = find(&profile, world, &wanted(std::iter::once(&profile), 1))?;
    Ok(networks.map(|networks| networks.iter().map(ToString::to_string).collect()))
}

fn texts(texts: &[&str]) -> Result<Option<Vec<String>>, Problem> {
    Ok(Some(texts.iter().map(|text| (*text).to_owned()).collect()))
}

#[test]
fn a_service_is_its_own_addresses_and_never_the_pods_behind_it() {
    let broker = json!({
        "metadata": {"namespace": "demo", "name": "broker"},
        "spec": {"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd00:96::7"], "externalIPs": ["192.0.2.7"]},
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.8"}, {"hostname": "lb.example.com"}]}},
    });
    let world = World::default().services(&[broker]).slices(&[slice("broker-1", "broker", &["10.244.1.2"])]);
    assert_eq!(
        found(&json!([{"service": "broker"}]), &world),
        texts(&["10.96.0.7/32", "192.0.2.7/32", "192.0.2.8/32", "fd00:96::7/128"])
    );
}

#[test]
fn a_headless_service_is_where_its_name_leads_ready_or_not() {
    let world = World::default()
        .services(&[service("broker", &json!({"clusterIP": "None", "clusterIPs": ["None"]}))])
        .slices(&[
            slice("broker-1", "broker", &["10.244.1.2"]),
            slice("broker-2", "broker", &["10.244.2.2"]),
            slice("other-1", "other", &["10.244.3.2"]),
        ]);
    assert_eq!(found(&json!([{"service": "broker"}]), &world), texts(&["10.244.1.2/32", "10.244.2.2/32"]));
}

#[test]
fn pods_are_those_of_every_node_but_not_of_the_host_network() {
    let world = World::default().peer_pods(&[
        pod("a", "broker", "10.244.1.2", false),
        pod("b", "broker", "10.244.2.2", false),
        pod("c", "web", "10.244.2.3", false),
        pod("d", "broker", "10.240.0.12", true),
    ]);
    assert_eq!(
        found(&json!([{"pods": {"matchLabels": {"app": "broker"}}}, {"cidr": "192.0.2.0/24"}]), &world),
        texts(&["10.244.1.2/32", "10.244.2.2/32", "192.0.2.0/24"])
    );
}

#[test]
fn peers_without_an_address_are_nobody_and_never_everybody() {
    let world = World::default()
        .services(&[service("outside", &json!({"type": "ExternalName", "externalName": "example.com"}))])
        .slices(&[])
        .peer_pods(&[pod("a", "web", "10.244.1.2", false)]);
    for peers in [
        json!([{"service": "missing"}]),
        json!([{"service": "outside"}]),
        json!([{"pods": {"matchLabels": {"app": "broker"}}}]),
    ] {
        assert_eq!(found(&peers, &world), Err(Problem::Peers), "{peers}");
    }
    assert_eq!(found(&json!([]), &world), texts(&[]), "who names none means anybody");
}

#[test]
fn nothing_is_said_before_the_lists_have_arrived() {
    let broker = [service("broker", &json!({"clusterIP": "10.96.0.7"}))];
    let peers = json!([{"cidr": "192.0.2.0/24"}, {"service": "broker"}]);
    assert_eq!(found(&peers, &World::default()), Ok(None));
    assert_eq!(found(&peers, &World::default().services(&broker)), Ok(None), "the slices have not");
    assert_eq!(
        found(&peers, &World::default().services(&broker).slices(&[])),
        texts(&["10.96.0.7/32", "192.0.2.0/24"])
    );
}

#[test]
fn what_is_watched_is_what_living_profiles_name() {
    let source = |kind| Source { namespace: "demo".to_owned(), kind };
    let both = profile(&json!([{"service": "a"}, {"pods": {"matchLabels": {"a": "b"}}}]));
    let kinds = [Neighbour::Services, Neighbour::Slices, Neighbour::Pods];
    assert_eq!(wanted(std::iter::once(&both), 1), kinds.map(source).into());
    let network = profile(&json!([{"cidr": "192.0.2.0/24"}]));
    assert!(wanted(std::iter::once(&network), 1).is_empty());
    let Life::Acting { until } = both.life else { panic!("it acts") };
    let ended = Profile { life: Life::Ended { until }, ..both };
    assert!(wanted(std::iter::once(&ended), 1).is_empty());
}

#[test]
fn peers_of_more_namespaces_than_there_is_room_for_are_nobody() {
    const MOST: usize = 3;
    let profiles: Vec<Profile> = (0..=MOST)
        .map(|n| {
            let mut profile = profile(&json!([{"pods": {"matchLabels": {"a": "b"}}}]));
            profile.name.namespace = format!("ns-{n:03}");
            profile
        })
        .collect();
    let watched = wanted(profiles.iter(), MOST);
    assert_eq!(watched.len(), MOST);
    let problem = |profile| find(profile, &World::default(), &watched).err();
    assert_eq!(problem(&profiles[MOST]), Some(Problem::Namespaces));
    assert_eq!(problem(&profiles[0]), None);
}

#[test]
fn what_a_watch_has_said_is_forgotten_with_it_and_the_others_go_on() {
    let pods = [pod("a", "broker", "10.244.1.2", false)];
    let mut world = World::default().services(&[]).peer_pods(&pods);
    world.neighbours.take("demo".to_owned(), NeighbourEvent::Slice(Event::Init));
    let late = slice("broker-1", "broker", &["10.244.1.9"]);
    world.neighbours.take("demo".to_owned(), NeighbourEvent::Slice(Event::InitApply(read(&late))));
    for kind in [Neighbour::Pods, Neighbour::Services] {
        world.neighbours.forget(&Source { namespace: "demo".to_owned(), kind });
    }
    assert_eq!(found(&json!([{"pods": {"matchLabels": {"app": "broker"}}}]), &world), Ok(None));
    world.neighbours.take("demo".to_owned(), NeighbourEvent::Slice(Event::InitDone));
    let world = world.services(&[service("broker", &json!({"clusterIP": "None"}))]);
    assert_eq!(found(&json!([{"service": "broker"}]), &world), texts(&["10.244.1.9/32"]));
}
