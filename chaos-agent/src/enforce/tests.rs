//! The loop on the fake kernel: rules, hooks, refusals, pictures.

use fault_abi::key::PROTOCOL_UDP;
use serde_json::json;

use super::*;
use crate::kernel::fake::FakeKernel;
use crate::locate::{Link, Route};
use crate::profile::Profile;
use crate::profile::tests::object;

const BOOT: u64 = 5_000_000_000;

fn settings() -> Settings {
    Settings {
        limits: Limits { targets: 16, rules: 4, peers: 16, protected: 16 },
        sizes: Sizes { rule_slots: 8, states: 16 },
        flows: 16,
        xdp: XdpMode::Off,
        has_tcx: true,
    }
}

fn world(percent: &str) -> World {
    let spec = json!({
        "targets": {"cidrs": ["10.20.0.1/32"]}, "faults": {"loss": {"percent": percent}}, "duration": "10m",
    });
    let profile = Profile::parse(&object("p", &spec)).unwrap();
    let profiles = BTreeMap::from([(profile.name.clone(), profile)]);
    World { node: "node1".to_owned(), profiles, ..World::default() }
}

fn server() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

fn topology(names: &[&str]) -> Topology {
    let links = (1..).zip(names.iter().map(|name| Link { name: (*name).to_owned(), ..Link::default() }));
    let route = Route { table: 254, network: "0.0.0.0/0".parse().unwrap(), interfaces: vec![1] };
    Topology { links: links.collect(), routes: vec![route], ..Topology::default() }
}

fn enforcer() -> Enforcer<FakeKernel> {
    let mut enforcer = Enforcer::new(FakeKernel::default(), settings());
    enforcer.set_topology(topology(&["eth0"]));
    while enforcer.attach_next() {}
    enforcer
}

fn target() -> fault_abi::key::Address {
    std::net::Ipv4Addr::new(10, 20, 0, 1).into()
}

#[test]
fn a_profile_is_enforced_once_its_rules_and_its_hooks_are_there() {
    let mut enforcer = enforcer();
    assert!(enforcer.apply(&world("20%"), server(), BOOT));
    let view = enforcer.view();
    assert_eq!(view.profiles[0].external, (1, 1));
    assert!(view.profiles[0].is_installed() && view.profiles[0].trouble.is_none());
    assert_eq!(view.profiles[0].hooks, BTreeSet::from([HookKind::TcxIngress, HookKind::TcxEgress]));
    assert_eq!(enforcer.next_due(), Some(BOOT + 600_500_000_000), "ends by itself");
}

#[test]
fn the_same_world_again_changes_nothing() {
    let mut enforcer = enforcer();
    enforcer.apply(&world("20%"), server(), BOOT);
    let before = enforcer.kernel().performed;
    enforcer.apply(&world("20%"), server(), BOOT);
    assert_eq!(enforcer.kernel().performed, before);
}

#[test]
fn a_refusal_is_told_and_tried_again() {
    let mut enforcer = enforcer();
    enforcer.kernel_mut().refused_op = Some("MakeState");
    assert!(!enforcer.apply(&world("20%"), server(), BOOT));
    assert!(enforcer.kernel().entries.is_empty(), "nothing refers to counters that are not there");
    let view = enforcer.view();
    assert!(!view.profiles[0].is_installed());
    let (reason, sentence) = view.profiles[0].trouble.clone().unwrap();
    assert_eq!(reason, "NotInstalled");
    assert!(sentence.contains("refused by the test"), "{sentence}");
    enforcer.kernel_mut().refused_op = None;
    assert!(enforcer.apply(&world("20%"), server(), BOOT));
    assert_eq!(enforcer.kernel().visible(target(), PROTOCOL_UDP, 1).len(), 1);
}

#[test]
fn a_refused_hook_or_a_missing_route_keeps_a_target_from_being_enforced() {
    let kernel = FakeKernel {
        refused_hooks: BTreeSet::from([HookKind::TcxEgress, HookKind::ClsactEgress]),
        ..FakeKernel::default()
    };
    let mut enforcer = Enforcer::new(kernel, settings());
    enforcer.set_topology(topology(&["eth0"]));
    while enforcer.attach_next() {}
    enforcer.apply(&world("20%"), server(), BOOT);
    let reason = |enforcer: &Enforcer<FakeKernel>| enforcer.view().profiles[0].trouble.clone().unwrap().0;
    assert_eq!(reason(&enforcer), "NoHook");
    enforcer.set_topology(Topology::default());
    assert_eq!(reason(&enforcer), "NoRoute");
    assert!(enforcer.kernel().hooks.is_empty(), "the interface is gone");
}

#[test]
fn hooks_follow_interfaces() {
    let mut enforcer = enforcer();
    enforcer.set_topology(topology(&["eth0", "veth1", "veth2"]));
    while enforcer.attach_next() {}
    assert_eq!(enforcer.kernel().hooks.len(), 3);
    enforcer.set_topology(topology(&["eth0", "veth1"]));
    assert!(!enforcer.attach_next());
    assert_eq!(enforcer.kernel().hooks.len(), 2);
}

#[test]
fn an_ended_profile_leaves_the_kernel_and_keeps_its_counters() {
    let mut enforcer = enforcer();
    enforcer.apply(&world("20%"), server(), BOOT);
    let ended = "2026-01-01T00:11:00Z".parse().unwrap();
    enforcer.apply(&world("20%"), ended, BOOT + 660_000_000_000);
    assert!(enforcer.kernel().visible(target(), PROTOCOL_UDP, 1).is_empty());
    let view = enforcer.view();
    assert_eq!(view.states.len(), 1);
    assert!(!view.profiles[0].is_acting);
}
