//! Each thing that keeps a profile from being enforced as a whole, as the node's status tells it: by a fake kernel and what a node can lack.

use std::collections::BTreeMap;

use edge_api::fault_node::ProfileOnNode;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::*;
use crate::enforce::{Enforcer, Settings};
use crate::kernel::fake::FakeKernel;
use crate::kernel::hooks::XdpMode;
use crate::locate::{Link, LinkKind, Route};
use crate::profile::Profile;
use crate::profile::tests::object;
use crate::status::{self, Facts, Seen};
use crate::world::World;

const BOOT: u64 = 5_000_000_000;
const ROOM: Capacity = Capacity { rules: 64, ..Capacity::of_each(16) };

fn server() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

/// Profiles with these faults on these networks; those without a match name nobody.
fn world<'a>(profiles: impl IntoIterator<Item = (&'a str, Value, &'a [&'a str])>) -> World {
    let parse = |(name, faults, cidrs): (&str, Value, &[&str])| {
        let spec = json!({"targets": {"cidrs": cidrs}, "faults": faults, "duration": "10m"});
        let profile = Profile::parse(&object(name, &spec)).unwrap();
        (profile.name.clone(), profile)
    };
    World {
        node: "node1".to_owned(),
        profiles: profiles.into_iter().map(parse).collect(),
        ..World::default()
    }
}

/// An interface of this kind that leads everywhere.
fn topology(kind: LinkKind) -> Topology {
    let route = Route { table: 254, network: "0.0.0.0/0".parse().unwrap(), interfaces: vec![1] };
    let link = Link { name: "up0".to_owned(), kind, ..Link::default() };
    Topology { links: BTreeMap::from([(1, link)]), routes: vec![route], ..Topology::default() }
}

/// What the status says of each profile, by name.
fn entries(
    world: &World,
    lacks: Lacks,
    capacity: Capacity,
    kind: LinkKind,
) -> BTreeMap<String, ProfileOnNode> {
    let settings = Settings { capacity, xdp: XdpMode::Off, has_tcx: true };
    let mut enforcer = Enforcer::new(FakeKernel::default(), settings);
    enforcer.set_lacks(lacks);
    enforcer.set_topology(topology(kind));
    while enforcer.attach_next() {}
    assert!(enforcer.apply(world, server(), BOOT));
    let facts = Facts {
        kernel: "6.18".to_owned(),
        server_time: server(),
        clock_offset: None,
        installed_at: None,
        gap: None,
        engine: edge_api::fault_node::EngineStatus::default(),
        line: Vec::new(),
    };
    let status = status::make(&enforcer.view(), &Seen::default(), &facts);
    status.profiles.into_iter().map(|entry| (entry.name.clone(), entry)).collect()
}

/// Asserts the reason of a profile, that its sentence says this, and how many of its targets are enforced.
fn assert_told(entry: &ProfileOnNode, reason: Option<&str>, sentence: &str, enforced: u32) {
    assert_eq!(entry.reason.as_deref(), reason, "{entry:?}");
    let message = entry.message.clone().unwrap_or_default();
    assert!(message.contains(sentence), "{message:?} lacks {sentence:?}");
    assert_eq!(entry.external_enforced, enforced, "{entry:?}");
}

const ONE: &[&str] = &["10.20.0.1/32"];

#[test]
fn without_a_delay_line_what_needs_one_is_not_enforced_and_says_so_and_all_else_is() {
    let lacks = Lacks { line: Some("no fq and no TAP".to_owned()), splitter: None };
    let faults = [
        ("delay", json!({"delay": {"time": "1ms"}})),
        ("reorder", json!({"reorder": {"percent": "1%", "by": "1ms"}})),
        ("rate", json!({"rate": {"bitsPerSecond": "1M", "burst": "1Ki", "queue": "1s"}})),
        ("both", json!({"loss": {"percent": "1%"}, "delay": {"time": "1ms"}})),
    ];
    let told = entries(
        &world(faults.map(|(name, faults)| (name, faults, ONE))),
        lacks.clone(),
        ROOM,
        LinkKind::Plain,
    );
    assert_eq!(told.len(), 4);
    for entry in told.values() {
        assert_told(entry, Some("EngineMissing"), "packets pass without their delay: no fq and no TAP", 0);
    }
    let faults = [
        ("loss", json!({"loss": {"percent": "1%"}})),
        ("corrupt", json!({"corrupt": {"percent": "1%"}})),
        ("duplicate", json!({"duplicate": {"percent": "1%"}})),
        ("reject", json!({"partition": {"mode": "Reject"}})),
    ];
    let told =
        entries(&world(faults.map(|(name, faults)| (name, faults, ONE))), lacks, ROOM, LinkKind::Plain);
    assert_eq!(told.len(), 4);
    told.values().for_each(|entry| assert_told(entry, None, "", 1));
}

#[test]
fn without_a_splitter_nothing_is_rewritten_and_says_so_and_all_else_is_enforced() {
    let lacks = Lacks { line: None, splitter: Some("no veth".to_owned()) };
    let faults = [
        ("corrupt", json!({"corrupt": {"percent": "1%"}})),
        ("reject", json!({"partition": {"mode": "Reject"}})),
        ("delay", json!({"delay": {"time": "1ms"}})),
        ("drop", json!({"partition": {}})),
        ("loss", json!({"loss": {"percent": "1%"}})),
    ];
    let told =
        entries(&world(faults.map(|(name, faults)| (name, faults, ONE))), lacks, ROOM, LinkKind::Plain);
    for name in ["corrupt", "reject"] {
        assert_told(&told[name], Some("SplitterMissing"), "nothing is corrupted or rejected: no veth", 0);
    }
    for name in ["delay", "drop", "loss"] {
        assert_told(&told[name], None, "", 1);
    }
    let neither = Lacks { line: Some("no line".to_owned()), splitter: Some("no veth".to_owned()) };
    let both = json!({"corrupt": {"percent": "1%"}, "delay": {"time": "1ms"}});
    let told = entries(&world([("both", both, ONE)]), neither, ROOM, LinkKind::Plain);
    assert_told(&told["both"], Some("EngineMissing"), "no line", 0);
}

#[test]
fn a_phase_that_needs_what_is_not_there_is_enough() {
    let phases = json!([
        {"for": "1m", "faults": {"loss": {"percent": "1%"}}}, {"for": "1m", "faults": {"delay": {"time": "1ms"}}},
    ]);
    let spec = json!({"targets": {"cidrs": ONE}, "timeline": phases});
    let profile = Profile::parse(&object("p", &spec)).unwrap();
    let world = World { profiles: BTreeMap::from([(profile.name.clone(), profile)]), ..world([]) };
    let lacks = Lacks { line: Some("no line".to_owned()), splitter: None };
    assert_told(&entries(&world, lacks, ROOM, LinkKind::Plain)["p"], Some("EngineMissing"), "no line", 0);
}

#[test]
fn an_interface_that_a_held_packet_would_not_find_back_onto_has_no_hooks_and_says_why() {
    let world = world([("loss", json!({"loss": {"percent": "1%"}}), ONE)]);
    for (kind, reason, sentence, enforced) in [
        (
            LinkKind::NoEthernet,
            Some("NoLinkHeader"),
            "up0, which has no hook: its packets have no Ethernet header",
            0,
        ),
        (LinkKind::Loopback, Some("NoHook"), "loopback", 0),
        (LinkKind::Ip, None, "", 1),
        (LinkKind::Plain, None, "", 1),
    ] {
        let told = entries(&world, Lacks::default(), ROOM, kind);
        assert_told(&told["loss"], reason, sentence, enforced);
    }
}

#[test]
fn more_targets_than_there_is_room_for_are_told_with_the_flag_that_gives_more() {
    let three: &[&str] = &["10.20.0.1/32", "10.20.0.2/32", "10.20.0.3/32"];
    let world = world([("loss", json!({"loss": {"percent": "1%"}}), three)]);
    let told = entries(&world, Lacks::default(), Capacity { targets: 2, ..ROOM }, LinkKind::Plain);
    assert_told(&told["loss"], Some("Limit"), "--max-targets", 2);
    let told = entries(&world, Lacks::default(), Capacity { targets: 3, ..ROOM }, LinkKind::Plain);
    assert_told(&told["loss"], None, "", 3);
}

#[test]
fn more_rules_than_there_is_room_for_are_told_with_the_flag_that_gives_more() {
    let lossy = |name| (name, json!({"loss": {"percent": "1%"}}), ONE);
    let both = world([lossy("a"), lossy("b")]);
    let all = entries(&both, Lacks::default(), ROOM, LinkKind::Plain);
    all.values().for_each(|entry| assert_told(entry, None, "", 1));
    let told = entries(&both, Lacks::default(), Capacity { rules: 1, ..ROOM }, LinkKind::Plain);
    assert_told(&told["a"], None, "", 1);
    assert_told(&told["b"], Some("Limit"), "--max-rules", 0);
}

#[test]
fn the_ninth_profile_of_a_target_is_told_that_no_more_act_on_it() {
    let names: Vec<String> = (1..=9).map(|number| format!("p{number}")).collect();
    let world = world(names.iter().map(|name| (name.as_str(), json!({"loss": {"percent": "1%"}}), ONE)));
    let told = entries(&world, Lacks::default(), ROOM, LinkKind::Plain);
    for name in &names[..8] {
        assert_told(&told[name], None, "", 1);
    }
    assert_told(&told["p9"], Some("Limit"), "--max-profiles-per-target", 0);
}

#[test]
fn where_the_nodes_own_conversations_have_no_room_nothing_is_done_and_says_so() {
    let mut world = world([("loss", json!({"loss": {"percent": "1%"}}), ONE)]);
    for last in 1..=3 {
        let ip = std::net::Ipv4Addr::new(10, 240, 0, last).into();
        world.node_addresses.insert(ip);
        world.named_addresses.insert(ip);
    }
    let room = Capacity { node_addresses: 2, ..ROOM };
    let told = entries(&world, Lacks::default(), room, LinkKind::Plain);
    assert_told(&told["loss"], Some("Limit"), "no room to protect", 0);
    assert_told(&told["loss"], Some("Limit"), "--max-node-addresses", 0);
    let told = entries(&world, Lacks::default(), ROOM, LinkKind::Plain);
    assert_told(&told["loss"], None, "", 1);
}

#[test]
fn more_far_ends_or_networks_than_can_be_protected_are_told_with_the_flag_that_gives_more() {
    let mut of_ends = world([("loss", json!({"loss": {"percent": "1%"}}), ONE)]);
    of_ends.control_plane =
        (1..=3).map(|port| (std::net::Ipv4Addr::new(10, 96, 0, 1).into(), 6, port)).collect();
    let mut of_networks = world([("loss", json!({"loss": {"percent": "1%"}}), ONE)]);
    of_networks.protect =
        ["10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16"].map(|text| text.parse().unwrap()).into();
    for world in [of_ends, of_networks] {
        let protected = |protected| Capacity { protected, ..ROOM };
        let told = entries(&world, Lacks::default(), protected(2), LinkKind::Plain);
        assert_told(&told["loss"], Some("Limit"), "--max-protected", 0);
        let told = entries(&world, Lacks::default(), protected(16), LinkKind::Plain);
        assert_told(&told["loss"], None, "", 1);
    }
}

/// Profiles on one network, each with these peers.
fn world_of_peers(profiles: &[(&str, Value)]) -> World {
    let parse = |(name, peers): &(&str, Value)| {
        let spec = json!({
            "targets": {"cidrs": ONE}, "match": {"peers": peers}, "faults": {"partition": {}}, "duration": "10m",
        });
        let profile = Profile::parse(&object(name, &spec)).unwrap();
        (profile.name.clone(), profile)
    };
    World { profiles: profiles.iter().map(parse).collect(), ..world([]) }
}

#[test]
fn more_peers_than_there_is_room_for_are_told_with_the_flag_that_gives_more_and_take_no_rule() {
    let three = json!([{"cidr": "10.1.0.0/16"}, {"cidr": "10.2.0.0/16"}, {"cidr": "10.3.0.0/16"}]);
    let world = world_of_peers(&[("a", three), ("b", json!([{"cidr": "10.4.0.0/16"}]))]);
    let room = Capacity { peers: 2, rules: 1, ..ROOM };
    let told = entries(&world, Lacks::default(), room, LinkKind::Plain);
    assert_told(&told["a"], Some("Limit"), "--max-peers", 0);
    assert_told(&told["b"], None, "", 1);
    let told = entries(&world, Lacks::default(), Capacity { peers: 4, ..ROOM }, LinkKind::Plain);
    told.values().for_each(|entry| assert_told(entry, None, "", 1));
}

#[test]
fn peers_of_more_namespaces_than_are_looked_at_are_told_with_the_flag_that_gives_more() {
    let world = world_of_peers(&[("a", json!([{"service": "broker"}]))]);
    let told = entries(&world, Lacks::default(), Capacity { peer_namespaces: 0, ..ROOM }, LinkKind::Plain);
    assert_told(&told["a"], Some("Limit"), "--max-peer-namespaces", 0);
    let told = entries(&world, Lacks::default(), ROOM, LinkKind::Plain);
    assert_told(&told["a"], None, "", 0);
    assert!(!told["a"].installed, "its peers are not known yet");
}
