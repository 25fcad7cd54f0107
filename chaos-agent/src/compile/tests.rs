//! Tables of compile: which targets, which places, which order, which limits.

use std::collections::BTreeMap;
use std::net::IpAddr;

use fault_abi::key::{PROTOCOL_TCP, PROTOCOL_UDP};
use fault_abi::rule::{MAX_BINDINGS, PHASE_PARTITION, RULE_LIFTS_PROBES};
use serde_json::{Value, json};

use super::*;
use crate::peers::tests::{pod, service};
use crate::profile::tests::object;
use crate::world::{DeviceTarget, PodTarget};

const CAPACITY: Capacity = Capacity { node_addresses: 3, ..Capacity::of_each(100) };
const DEADLINE: u64 = 1_000;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn world() -> World {
    World { node: "node1".to_owned(), ..World::default() }
}

impl World {
    fn profile(mut self, name: &str, targets: &Value, more: &Value) -> Self {
        let mut spec = json!({"targets": targets, "faults": {"loss": {"percent": "20%"}}, "duration": "10m"});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let profile = Profile::parse(&object(name, &spec)).unwrap();
        self.profiles.insert(profile.name.clone(), profile);
        self
    }

    fn device(mut self, name: &str, port: u16, addresses: &[(&str, Option<&str>)]) -> Self {
        let addresses = addresses.iter().map(|(at, node)| (ip(at), node.map(str::to_owned))).collect();
        let labels = BTreeMap::from([("site".to_owned(), "berlin".to_owned())]);
        self.devices.insert(named(name), DeviceTarget { labels, port, addresses });
        self
    }

    fn pod(mut self, name: &str, at: &str) -> Self {
        let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
        let pod =
            PodTarget { labels, addresses: BTreeSet::from([ip(at)]), probe_ports: BTreeSet::from([8081]) };
        self.pods.insert(named(name), pod);
        self
    }

    fn compile(&self) -> Plan {
        compile(self, CAPACITY, 0, |_| DEADLINE)
    }
}

fn named(name: &str) -> ObjectName {
    ObjectName { namespace: "demo".to_owned(), name: name.to_owned() }
}

fn devices() -> Value {
    json!({"devices": {"selector": {"matchLabels": {"site": "berlin"}}}})
}

fn pods() -> Value {
    json!({"pods": {"selector": {"matchLabels": {"app": "web"}}}})
}

fn cidrs(networks: &[&str]) -> Value {
    json!({"cidrs": networks})
}

/// `profile:target` of each binding, in order.
fn at(plan: &Plan, place: Place) -> Vec<String> {
    let bindings = plan.entries.get(&place).map(|entry| &entry.bindings[..]).unwrap_or_default();
    bindings
        .iter()
        .map(|bound| format!("{}:{}", bound.uid.trim_start_matches("uid-"), bound.target))
        .collect()
}

fn udp(address: &str, port: u16) -> Place {
    Place::port(ip(address), PROTOCOL_UDP, port)
}

fn address(text: &str) -> Place {
    Place::Address(ip(text).into())
}

#[test]
fn devices_behind_one_address_are_told_apart_by_their_port() {
    let plan = world()
        .profile("p", &devices(), &json!({}))
        .device("a", 5683, &[("10.244.1.2", Some("node1"))])
        .device("b", 5684, &[("10.244.1.2", Some("node1"))])
        .compile();
    assert_eq!(at(&plan, udp("10.244.1.2", 5683)), ["p:a"]);
    assert_eq!(at(&plan, udp("10.244.1.2", 5684)), ["p:b"]);
    assert!(plan.entries[&address("10.244.1.2")].has_ports);
    assert_eq!(at(&plan, address("10.244.1.2")), [] as [&str; 0]);
}

#[test]
fn an_address_on_another_node_is_that_nodes_work() {
    let plan = world()
        .profile("p", &devices(), &json!({}))
        .device("here", 5683, &[("10.244.1.2", Some("node1"))])
        .device("there", 5683, &[("10.244.2.2", Some("node2"))])
        .device("outside", 5683, &[("10.20.0.1", None)])
        .compile();
    let found: Vec<_> = plan.reports[0].targets.iter().map(|target| (&*target.name, target.scope)).collect();
    assert_eq!(found, [("here", Scope::Local), ("outside", Scope::External)]);
}

#[test]
fn each_place_holds_the_union_of_all_wider_rules_in_the_order_of_profiles() {
    let plan = world()
        .profile("a-wide", &cidrs(&["10.0.0.0/8"]), &json!({}))
        .profile("b-device", &devices(), &json!({}))
        .profile("c-narrow", &cidrs(&["10.244.1.0/24"]), &json!({}))
        .profile("d-pods", &pods(), &json!({}))
        .device("dev", 5683, &[("10.244.1.2", Some("node1"))])
        .pod("pod", "10.244.1.2")
        .compile();
    let all = ["a-wide:10.0.0.0/8", "b-device:dev", "c-narrow:10.244.1.0/24", "d-pods:pod"];
    assert_eq!(at(&plan, udp("10.244.1.2", 5683)), all);
    assert_eq!(at(&plan, address("10.244.1.2")), [all[0], all[2], all[3]]);
    let narrow = Place::of("10.244.1.0/24".parse().unwrap());
    assert_eq!(at(&plan, narrow), [all[0], all[2]]);
    assert_eq!(at(&plan, Place::of("10.0.0.0/8".parse().unwrap())), [all[0]]);
    assert_eq!(plan.config.flags, CONFIG_HAS_CIDRS);
}

#[test]
fn a_profile_acts_once_on_a_packet_by_its_narrowest_target() {
    let plan =
        world().profile("p", &cidrs(&["10.0.0.0/8", "10.1.0.0/16", "10.1.0.1/32"]), &json!({})).compile();
    assert_eq!(at(&plan, address("10.1.0.1")), ["p:10.1.0.1/32"]);
    assert_eq!(at(&plan, Place::of("10.1.0.0/16".parse().unwrap())), ["p:10.1.0.0/16"]);
    assert!(plan.reports[0].targets.iter().all(|target| target.problem.is_none()));
}

#[test]
fn the_networks_of_one_family_do_not_cover_the_other() {
    let plan = world()
        .profile("a", &cidrs(&["0.0.0.0/0"]), &json!({}))
        .profile("b", &cidrs(&["fd00::1/128"]), &json!({}))
        .compile();
    assert_eq!(at(&plan, address("fd00::1")), ["b:fd00::1/128"]);
    let plan = world()
        .profile("a", &cidrs(&["::/0"]), &json!({}))
        .profile("b", &cidrs(&["10.0.0.0/8", "10.0.0.1/32", "fd00::1/128"]), &json!({}))
        .compile();
    assert_eq!(at(&plan, address("10.0.0.1")), ["b:10.0.0.1/32"]);
    assert_eq!(at(&plan, Place::of("10.0.0.0/8".parse().unwrap())), ["b:10.0.0.0/8"]);
    assert_eq!(at(&plan, address("fd00::1")), ["a:::/0", "b:fd00::1/128"]);
}

#[test]
fn a_network_contains_addresses_of_its_family_only() {
    let contains =
        |network: &str, at: &str| Prefix::from(network.parse::<Network>().unwrap()).contains(ip(at).into());
    assert!(contains("::/0", "fd00::1") && !contains("::/0", "10.0.0.1"));
    assert!(contains("0.0.0.0/0", "10.0.0.1") && !contains("0.0.0.0/0", "::1"));
}

#[test]
fn the_same_address_and_port_twice_is_a_problem_of_the_second_device() {
    let plan = world()
        .profile("p", &devices(), &json!({}))
        .device("a", 5683, &[("10.20.0.1", None)])
        .device("b", 5683, &[("10.20.0.1", None)])
        .compile();
    assert_eq!(at(&plan, udp("10.20.0.1", 5683)), ["p:a"]);
    let problems: Vec<_> = plan.reports[0].targets.iter().map(|target| target.problem).collect();
    assert_eq!(problems, [None, Some(Problem::SameAddress)]);
}

#[test]
fn a_ninth_profile_on_one_target_is_left_out_and_told() {
    let mut world = world();
    for i in 0..=MAX_BINDINGS {
        world = world.profile(&format!("p{i}"), &cidrs(&["10.20.0.1/32"]), &json!({}));
    }
    let plan = world.compile();
    assert_eq!(at(&plan, address("10.20.0.1")).len(), MAX_BINDINGS);
    let problems: Vec<_> = plan.reports.iter().map(|report| report.targets[0].problem).collect();
    assert_eq!(problems[..MAX_BINDINGS], [None; MAX_BINDINGS]);
    assert_eq!(problems[MAX_BINDINGS], Some(Problem::Bindings));
    let plan = compile(&world, Capacity { profiles_per_target: 2, ..CAPACITY }, 0, |_| DEADLINE);
    assert_eq!(at(&plan, address("10.20.0.1")).len(), 2, "as the flag says");
}

#[test]
fn what_does_not_fit_into_a_table_is_told() {
    let networks = ["10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16"];
    let world = world().profile("p", &cidrs(&networks), &json!({}));
    let plan = compile(&world, Capacity { targets: 2, ..CAPACITY }, 0, |_| DEADLINE);
    assert_eq!(plan.entries.len(), 2);
    let problems: Vec<_> = plan.reports[0].targets.iter().map(|target| target.problem).collect();
    assert_eq!(problems, [None, None, Some(Problem::Table)]);
}

#[test]
fn more_profiles_than_rules_are_told() {
    let world = world().profile("a", &cidrs(&["10.1.0.0/16"]), &json!({})).profile(
        "b",
        &cidrs(&["10.2.0.0/16"]),
        &json!({}),
    );
    let plan = compile(&world, Capacity { rules: 1, ..CAPACITY }, 0, |_| DEADLINE);
    assert_eq!(plan.rules.len(), 1);
    assert_eq!(plan.reports[1].targets[0].problem, Some(Problem::Rules));
}

#[test]
fn where_not_all_of_the_nodes_conversations_can_be_protected_nothing_is_done_and_it_is_told() {
    let world = world().profile("p", &pods(), &json!({})).pod("pod", "10.244.1.2");
    assert!(world.compile().reports[0].targets.iter().all(|target| target.problem.is_none()));
    let ends = u32::try_from(world.protected().len()).unwrap();
    let plan = compile(&world, Capacity { protected: ends - 1, ..CAPACITY }, 0, |_| DEADLINE);
    assert!(plan.entries.is_empty() && plan.rules.is_empty());
    assert_eq!(plan.reports[0].targets[0].problem, Some(Problem::Protected));
    let plan = compile(&world, Capacity { protected: ends, ..CAPACITY }, 0, |_| DEADLINE);
    assert_eq!(plan.rules.len(), 1);
}

#[test]
fn a_paused_or_ended_profile_has_nothing_in_the_kernel_and_keeps_its_counters() {
    let paused = world().profile("p", &cidrs(&["10.20.0.1/32"]), &json!({"paused": true})).compile();
    let world = world().profile("p", &cidrs(&["10.20.0.1/32"]), &json!({}));
    let ended = compile(&world, CAPACITY, DEADLINE, |_| DEADLINE);
    for plan in [paused, ended] {
        assert!(plan.entries.is_empty() && plan.rules.is_empty());
        assert!(plan.profiles.contains_key("uid-p"));
        assert!(!plan.reports[0].is_acting);
        assert_eq!(plan.reports[0].targets.len(), 1, "its targets are still told");
    }
}

#[test]
fn an_ended_profile_is_told_for_a_while_and_then_left_out() {
    let mut world = world().profile("p", &cidrs(&["10.20.0.1/32"]), &json!({}));
    let profile = world.profiles.get_mut(&named("p")).unwrap();
    let Life::Acting { until } = profile.life else { panic!("it acts") };
    profile.life = Life::Ended { until };
    let reports = |now_ns| {
        let plan = compile(&world, CAPACITY, now_ns, |_| DEADLINE);
        assert!(plan.rules.is_empty(), "the operator has seen its end, also where the clock has not");
        assert!(plan.profiles.contains_key("uid-p"), "its counters stay");
        plan.reports.len()
    };
    assert_eq!([0, DEADLINE + 1, DEADLINE + TOLD_NS].map(reports), [1, 1, 0]);
}

#[test]
fn targets_above_the_cutoff_are_spared() {
    let mut world = world().profile("p", &devices(), &json!({"seed": 7}));
    for i in 0..20 {
        world = world.device(&format!("d{i}"), 5683, &[(&format!("10.20.0.{i}"), None)]);
    }
    let mut ranks: Vec<u64> = (0..20).map(|i| edge_api::choose::rank(7, "demo", &format!("d{i}"))).collect();
    ranks.sort_unstable();
    world.profiles.get_mut(&named("p")).unwrap().cutoff = Some(ranks[4]);
    assert_eq!(world.compile().reports[0].targets.len(), 5);
}

#[test]
fn probes_of_pods_are_protected_unless_a_peer_names_the_node() {
    let peers = json!({"match": {"peers": [{"cidr": "10.240.0.11/32"}]}});
    let mut world = world()
        .profile("lifts", &pods(), &peers)
        .profile("plain", &pods(), &json!({}))
        .profile("devices", &devices(), &peers)
        .device("dev", 5683, &[("10.20.0.1", None)])
        .pod("pod", "10.244.1.2");
    world.node_addresses.insert(ip("10.240.0.11"));
    let plan = world.compile();
    let key = PortKey::new(ip("10.244.1.2").into(), PROTOCOL_TCP, 8081);
    assert_eq!(plan.protected[&key], fault_abi::rule::PROTECTED_PROBE);
    let lifts = |name: &str| plan.rules[name].rule.flags & RULE_LIFTS_PROBES != 0;
    assert!(lifts("uid-lifts") && !lifts("uid-plain") && !lifts("uid-devices"));
}

#[test]
fn a_services_address_lifts_no_protection_although_ipvs_gives_it_to_the_node() {
    let mut world = world()
        .profile("p", &pods(), &json!({"match": {"peers": [{"service": "broker"}]}}))
        .pod("pod", "10.244.1.2")
        .services(&[service("broker", &json!({"clusterIP": "10.96.0.7"}))])
        .slices(&[]);
    world.node_addresses.insert(ip("10.96.0.7"));
    let spec = &world.compile().rules["uid-p"];
    assert_eq!(spec.rule.flags & RULE_LIFTS_PROBES, 0);
    assert_eq!(spec.peers, BTreeSet::from([Prefix::from(Network::host(ip("10.96.0.7")))]));
}

#[test]
fn a_profile_whose_peers_have_no_address_holds_nothing_and_says_so() {
    let peers = json!({"match": {"peers": [{"pods": {"matchLabels": {"app": "broker"}}}]}});
    let world = world().profile("p", &pods(), &peers).pod("web", "10.244.1.2");
    let early = world.compile();
    assert!(!early.reports[0].is_acting && early.entries.is_empty(), "no list has arrived");
    assert_eq!(early.reports[0].targets[0].problem, None, "which is no problem yet");

    let without = world.peer_pods(&[pod("other", "other", "10.244.2.2", false)]);
    let plan = without.compile();
    assert!(plan.entries.is_empty() && plan.rules.is_empty(), "a rule without peers would act on everybody");
    assert_eq!(plan.reports[0].targets[0].problem, Some(Problem::Peers));
    assert_eq!(plan.peer_namespaces, 1);

    let with = without.peer_pods(&[pod("broker", "broker", "10.244.2.3", false)]);
    let plan = with.compile();
    assert_eq!(at(&plan, address("10.244.1.2")), ["p:web"]);
    assert_eq!(plan.rules["uid-p"].peers, BTreeSet::from([Prefix::from(Network::host(ip("10.244.2.3")))]));
}

#[test]
fn where_addresses_are_many_those_that_the_node_names_are_kept() {
    let mut world = world();
    world.node_addresses.extend((1..=5).map(|i| IpAddr::from([10, 96, 0, i])));
    world.named_addresses.insert(ip("10.240.0.11"));
    world.node_addresses.insert(ip("10.240.0.11"));
    let mut world = world.profile("p", &cidrs(&["10.20.0.1/32"]), &json!({"faults": {"partition": {}}}));
    let plan = world.compile();
    assert_eq!(plan.node_addresses.len(), 3);
    assert!(plan.node_addresses.contains(&ip("10.240.0.11").into()));
    let others = world.node_addresses.len() - 3;
    assert_eq!((plan.unprotected, plan.unprotected_others), (0, others), "which is told");
    assert_eq!(plan.rules.len(), 1, "and profiles act");
    world.named_addresses.extend((1..=5).map(|i| IpAddr::from([10, 96, 0, i])));
    let plan = world.compile();
    assert!(plan.unprotected > 0 && plan.rules.is_empty(), "without those that it names nothing is done");
    let missing = plan.unprotected + plan.unprotected_others;
    assert_eq!(missing, world.node_addresses.union(&world.named_addresses).count() - 3);
}

#[test]
fn a_rule_carries_its_faults_and_its_deadline() {
    let plan =
        world().profile("p", &cidrs(&["10.20.0.1/32"]), &json!({"faults": {"partition": {}}})).compile();
    let rule = plan.rules["uid-p"].rule;
    assert_eq!((rule.phases[0].flags, rule.deadline_ns), (PHASE_PARTITION, DEADLINE));
}

#[test]
fn draws_depend_on_seed_profile_and_target_and_on_nothing_else() {
    let key = |seed, profile: &str, target: &str| draw_key(seed, &named(profile), "demo", target);
    assert_eq!(key(7, "p", "a"), key(7, "p", "a"));
    let others = [key(8, "p", "a"), key(7, "q", "a"), key(7, "p", "b")];
    assert!(others.iter().all(|other| *other != key(7, "p", "a")));
}
