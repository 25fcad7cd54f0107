//! The loop on the fake kernel: rules, hooks, refusals, pictures.

use edge_api::fault_node::HookKind;
use fault_abi::key::{PROTOCOL_TCP, PROTOCOL_UDP};
use serde_json::json;

use super::hooking::REMOVED;
use super::*;
use crate::kernel::Layer;
use crate::kernel::fake::FakeKernel;
use crate::kernel::hooks::GENERIC;
use crate::locate::{Link, LinkKind, Route};
use crate::peers::Peer;
use crate::profile::Profile;
use crate::profile::tests::object;
use crate::table::Place;

const BOOT: u64 = 5_000_000_000;

fn settings() -> Settings {
    Settings { capacity: Capacity { rules: 4, ..Capacity::of_each(16) }, xdp: XdpMode::Off, has_tcx: true }
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
fn what_finds_no_memory_is_left_for_a_moment_with_all_that_is_alike() {
    let mut enforcer = enforcer();
    let mut both = world("20%");
    both.profiles.values_mut().for_each(|profile| {
        let networks = ["10.20.0.1/32", "10.20.0.2/32"].map(|network| network.parse().unwrap());
        profile.targets = crate::profile::Targets::Cidrs(networks.to_vec());
    });
    enforcer.kernel().short.store(1, std::sync::atomic::Ordering::Relaxed);
    enforcer.plan(&both, server(), BOOT);
    assert_eq!(enforcer.carry_out(|| BOOT), Outcome::Later);
    assert!(enforcer.kernel().states.is_empty() && enforcer.kernel().entries.is_empty());
    assert_eq!(enforcer.carry_out(|| BOOT), Outcome::Done, "the same again goes on");
    assert_eq!(enforcer.kernel().entries.len(), 2);
}

#[test]
fn what_one_refusal_leaves_out_is_no_more_than_what_needs_it() {
    let mut enforcer = enforcer();
    let mut both = world("20%");
    both.profiles.values_mut().for_each(|profile| {
        let networks = ["10.20.0.1/32", "10.20.0.2/32"].map(|network| network.parse().unwrap());
        profile.targets = crate::profile::Targets::Cidrs(networks.to_vec());
    });
    // The protection, the rule with its handle and the first counters are performed before.
    enforcer.kernel_mut().refuse_from = Some(("MakeState", 4));
    enforcer.plan(&both, server(), BOOT);
    assert_eq!(enforcer.carry_out(|| BOOT), Outcome::Refused);
    assert_eq!((enforcer.kernel().states.len(), enforcer.kernel().entries.len()), (1, 1));
}

#[test]
fn of_many_states_those_that_a_refused_entry_still_needs_are_found_in_no_time() {
    const STATES: u32 = 20_000;
    let mut enforcer = enforcer();
    let (uid, target): (Uid, crate::table::TargetName) = ("u".into(), "t".into());
    let place = |state: u32| Place::Address(std::net::Ipv4Addr::from(state).into());
    let mut ops = Vec::new();
    for state in 1..=STATES {
        ops.push(Op::MakeState { state, uid: Arc::clone(&uid), target: Arc::clone(&target) });
    }
    for state in 1..=STATES {
        let mut entry = place(state).blank();
        (entry.bindings[0].state, entry.count) = (state, 1);
        ops.push(Op::WriteEntry { place: place(state), entry: Box::new(entry) });
    }
    assert_eq!(enforcer.perform(&ops, &|| BOOT), Outcome::Done);
    let mut ops: Vec<Op> = (2..=STATES).map(|state| Op::RemoveEntry(place(state))).collect();
    let kept = STATES / 2;
    enforcer.kernel_mut().refuse_from = Some(("RemoveEntry", 2 * STATES as usize + kept as usize));
    ops.extend((1..=STATES).map(|state| Op::RetireState { state }));
    let began = std::time::Instant::now();
    assert_eq!(enforcer.perform(&ops, &|| BOOT), Outcome::Refused);
    assert!(began.elapsed().as_secs() < 5, "{:?}", began.elapsed());
    let retired = enforcer.ledger.states.values().filter(|row| row.retired_ns.is_some()).count();
    assert_eq!(retired, kept as usize, "of the entries that are gone");
}

/// The losses of the rules that a packet of the target meets, in 2⁻³².
fn losses(kernel: &FakeKernel) -> Vec<u64> {
    let bindings = kernel.visible(target(), PROTOCOL_UDP, 1).iter();
    bindings.map(|binding| kernel.rule_of(binding).map_or(0, |rule| rule.phases[0].loss)).collect()
}

#[test]
fn a_rule_stays_as_long_as_the_one_that_was_to_replace_it_is_refused() {
    let mut enforcer = enforcer();
    enforcer.apply(&world("50%"), server(), BOOT);
    let before = losses(enforcer.kernel());
    for (second, refused) in (1..).zip(["WriteRule", "SetRule", "SetRule"]) {
        enforcer.kernel_mut().refused_op = Some(refused);
        assert!(!enforcer.apply(&world("25%"), server(), BOOT + second * 2_000_000_000));
        assert_eq!(losses(enforcer.kernel()), before, "the old rule, as {refused} is refused");
        assert!(enforcer.view().profiles[0].is_installed());
    }
    enforcer.kernel_mut().refused_op = None;
    assert!(enforcer.apply(&world("25%"), server(), BOOT + 8_000_000_000));
    assert_eq!(losses(enforcer.kernel()), [before[0] / 2]);
}

#[test]
fn a_rule_and_its_handle_stay_as_long_as_the_entry_that_refers_to_them() {
    let mut enforcer = enforcer();
    enforcer.apply(&world("50%"), server(), BOOT);
    let before = losses(enforcer.kernel());
    let mut without = world("50%");
    without.profiles.clear();
    enforcer.kernel_mut().refused_op = Some("RemoveEntry");
    for second in 1..4 {
        assert!(!enforcer.apply(&without, server(), BOOT + second * 2_000_000_000));
        let entries = enforcer.kernel().entries.values().flat_map(bindings);
        let rules = entries.map(|binding| enforcer.kernel().rule_of(binding).map(|rule| rule.phases[0].loss));
        assert_eq!(rules.collect::<Vec<_>>(), [Some(before[0])], "the entry is still there");
    }
    enforcer.kernel_mut().refused_op = None;
    assert!(enforcer.apply(&without, server(), BOOT + 8_000_000_000));
    while enforcer.next_release().is_some() {
        enforcer.release(BOOT + 20_000_000_000);
    }
    let kernel = enforcer.kernel();
    assert!(kernel.entries.is_empty() && kernel.rules.is_empty() && kernel.handles.is_empty());
}

#[test]
fn without_all_of_its_peers_a_rule_is_not_written_and_no_part_of_them_piles_up() {
    let mut enforcer = enforcer();
    let mut world = world("20%");
    let peers = ["10.0.0.0/8", "10.1.0.0/16"].map(|network| Peer::Network(network.parse().unwrap()));
    world.profiles.values_mut().for_each(|profile| profile.peers = peers.to_vec());
    for second in 0..5 {
        let kernel = enforcer.kernel_mut();
        kernel.refuse_from = Some(("AddPeer", kernel.performed + 1));
        assert!(!enforcer.apply(&world, server(), BOOT + second * 2_000_000_000));
        assert!(enforcer.kernel().entries.is_empty() && enforcer.kernel().rules.is_empty());
        assert!(enforcer.kernel().peers.len() <= 2, "{:?}", enforcer.kernel().peers);
    }
    enforcer.kernel_mut().refuse_from = None;
    assert!(enforcer.apply(&world, server(), BOOT + 12_000_000_000));
    assert_eq!(losses(enforcer.kernel()).len(), 1);
}

#[test]
fn no_rule_comes_under_a_target_before_the_nodes_own_way_is_protected() {
    for refused in ["Protect", "ProtectCidr", "AddNodeAddress", "SetConfig"] {
        let mut enforcer = enforcer();
        let mut world = world("20%");
        world.control_plane.insert(("10.20.0.1".parse().unwrap(), PROTOCOL_TCP, 6443));
        world.protect = vec!["10.30.0.0/16".parse().unwrap()];
        world.node_addresses.insert("10.240.0.11".parse().unwrap());
        world.kubelet_port = 10_250;
        enforcer.kernel_mut().refused_op = Some(refused);
        assert!(!enforcer.apply(&world, server(), BOOT));
        assert!(enforcer.kernel().entries.is_empty(), "{refused}");
        enforcer.kernel_mut().refused_op = None;
        assert!(enforcer.apply(&world, server(), BOOT));
        assert_eq!(losses(enforcer.kernel()).len(), 1);
    }
}

#[test]
fn no_entry_is_written_that_the_filter_does_not_know() {
    let mut enforcer = enforcer();
    enforcer.kernel_mut().refused_op = Some("SetFilter");
    assert!(!enforcer.apply(&world("20%"), server(), BOOT));
    assert!(enforcer.kernel().entries.is_empty());
    enforcer.kernel_mut().refused_op = None;
    assert!(enforcer.apply(&world("20%"), server(), BOOT));
    assert_eq!(losses(enforcer.kernel()).len(), 1);
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
fn where_generic_xdp_is_asked_for_tc_decides_and_says_why() {
    let mut enforcer = Enforcer::new(FakeKernel::default(), Settings { xdp: XdpMode::Generic, ..settings() });
    enforcer.set_topology(topology(&["eth0"]));
    while enforcer.attach_next() {}
    let hooked = &enforcer.view().hooked[&1];
    assert_eq!((hooked.ingress, hooked.instead), (Some(HookKind::TcxIngress), Some(GENERIC)));
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
fn a_covered_interface_keeps_its_hooks_until_those_in_its_place_have_theirs() {
    let mut enforcer = enforcer();
    let mut bonded = topology(&["eth0", "bond0", "veth1"]);
    bonded.links.get_mut(&2).unwrap().kind = LinkKind::Bond;
    bonded.links.get_mut(&1).unwrap().master = Some(2);
    bonded.routes[0].interfaces = vec![2];
    let hooks = |enforcer: &Enforcer<FakeKernel>| enforcer.kernel().hooks.keys().copied().collect::<Vec<_>>();
    enforcer.set_topology(bonded);
    assert_eq!(hooks(&enforcer), [1], "nothing stands in for it yet");
    assert!(enforcer.attach_next());
    assert_eq!(hooks(&enforcer), [2], "the bond first, and its port at once no more");
    while enforcer.attach_next() {}
    assert_eq!(hooks(&enforcer), [2, 3]);
}

#[test]
fn a_quarantine_begins_when_nothing_refers_to_it_any_more_however_long_that_took() {
    let mut enforcer = enforcer();
    enforcer.apply(&world("20%"), server(), BOOT);
    enforcer.plan(&world("30%"), server(), BOOT);
    let later = BOOT + 3_000_000_000;
    assert_eq!(enforcer.carry_out(|| later), Outcome::Done);
    assert_eq!(enforcer.next_release(), Some(later + QUARANTINE_NS));
}

#[test]
fn flows_are_kept_while_their_profile_may_act_again() {
    let mut enforcer = enforcer();
    enforcer.apply(&world("20%"), server(), BOOT);
    assert!(enforcer.flows().1.has(1));
    let mut paused = world("20%");
    paused.profiles.values_mut().for_each(|profile| profile.life = crate::profile::Life::Idle);
    enforcer.apply(&paused, server(), BOOT);
    assert!(enforcer.flows().1.has(1), "paused");
    let ended = "2026-01-01T00:11:00Z".parse().unwrap();
    enforcer.apply(&world("20%"), ended, BOOT + 660_000_000_000);
    let kept = enforcer.flows().1;
    assert!(!kept.has(1), "past its deadline");
    assert!(kept.has(2), "made after the list");
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

#[test]
fn an_interface_whose_packets_begin_with_ip_gets_hooks_that_read_them_so_and_no_xdp() {
    let native = Settings { xdp: XdpMode::Native, ..settings() };
    let mut enforcer = Enforcer::new(FakeKernel::default(), native);
    let mut both = topology(&["eth0", "wg0"]);
    both.links.get_mut(&2).unwrap().kind = LinkKind::Ip;
    enforcer.set_topology(both);
    while enforcer.attach_next() {}
    let hooked = enforcer.view().hooked;
    assert_eq!(
        [1, 2].map(|index| hooked[&index].ingress),
        [HookKind::XdpNative, HookKind::TcxIngress].map(Some)
    );
    let layers = BTreeMap::from([(1, Layer::Ethernet), (2, Layer::Ip)]);
    assert_eq!(enforcer.kernel().layers, layers);
}

#[test]
fn targets_outside_are_told_apart_where_a_profile_names_peers() {
    let mut enforcer = enforcer();
    let mut by_peers = world("20%");
    enforcer.apply(&by_peers, server(), BOOT);
    assert!(enforcer.view().peers_outside.is_empty(), "it names none");
    let profile = by_peers.profiles.values_mut().next().unwrap();
    profile.peers = vec![Peer::Network("10.244.1.2/32".parse().unwrap())];
    enforcer.apply(&by_peers, server(), BOOT);
    let view = enforcer.view();
    let states = view.states.iter().map(|state| state.state);
    assert_eq!(view.peers_outside, states.collect());
    assert!(!view.peers_outside.is_empty());
}

#[test]
fn a_hook_that_somebody_else_removes_is_attached_again_and_until_then_nothing_is_enforced_there() {
    let mut enforcer = enforcer();
    enforcer.apply(&world("20%"), server(), BOOT);
    let remove = |enforcer: &mut Enforcer<FakeKernel>| {
        enforcer.kernel_mut().removed.insert((1, HookKind::TcxIngress));
        enforcer.doubt(&BTreeSet::from([1, 7]));
        assert_eq!((enforcer.look_next(), enforcer.look_next()), (Some(true), None));
        let profile = enforcer.view().profiles.remove(0);
        let (reason, sentence) = profile.trouble.unwrap();
        assert_eq!((profile.external, reason), ((1, 0), "NoHook"), "{sentence}");
        assert!(sentence.contains(REMOVED), "{sentence}");
    };
    let is_whole = |enforcer: &Enforcer<FakeKernel>| {
        let hooks = BTreeSet::from([HookKind::TcxIngress, HookKind::TcxEgress]);
        enforcer.kernel().hooks[&1] == hooks && enforcer.view().profiles[0].external == (1, 1)
    };
    remove(&mut enforcer);
    assert!(enforcer.attach_next() && is_whole(&enforcer), "at once");
    assert_eq!(enforcer.kernel().attached, 3, "the other one has stayed");
    remove(&mut enforcer);
    assert!(!enforcer.attach_next(), "nobody is fought with");
    enforcer.retry_hooks();
    assert!(enforcer.is_in_doubt(), "all are looked at once in a while");
    assert!(enforcer.attach_next() && is_whole(&enforcer));
    assert_eq!(enforcer.look_next(), Some(false));
}
