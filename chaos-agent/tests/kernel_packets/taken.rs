//! Somebody else takes hooks off an interface, or the interface itself into another namespace and back: its faults are there again
//! as soon as that is told.

use std::process::Command;

use fault_abi::key::Direction;
use fault_abi::verdict::Verdict;

use crate::support::agent::{Agent, Hooks};
use crate::support::attached::Attached;
use crate::support::fault::Fault;
use crate::support::space::Namespace;
use crate::support::stage::{Family, Stage, TO_DEVICE, TO_PEER};
use crate::support::time::eventually;

const COUNT: u32 = 20;

fn tc(space: &Namespace, arguments: &str) -> String {
    let ran = space.run(|| Command::new("tc").args(arguments.split(' ')).output()).unwrap();
    assert!(ran.status.success(), "{arguments}: {}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).unwrap()
}

/// Under a partition: what is sent both ways is dropped, and counted.
fn is_cut(stage: &Stage, agent: &Agent, why: &str) {
    let (device, peer) = (stage.device_end(Family::V4), stage.peer_end(Family::V4));
    for (direction, from, to) in
        [(Direction::FromDevice, &device, &peer), (Direction::ToDevice, &peer, &device)]
    {
        let dropped = || agent.total(direction).packets[Verdict::Partition as usize];
        let expected = dropped() + u64::from(COUNT);
        (0..COUNT).for_each(|number| from.send(to, number).unwrap());
        let all = || (dropped() == expected).then_some(());
        eventually(all, || format!("{why}: {direction:?}: {} of {expected} are dropped", dropped()));
        assert!(to.take().is_empty(), "{why}: {direction:?}");
    }
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn clsact_hooks_that_somebody_removes_are_back_as_soon_as_that_is_told() {
    let stage = Stage::new();
    let mut agent = Agent::start(&stage.node, Hooks::Clsact);
    agent.set(&[Fault::partition().on(&[Family::V4.host(1, 2)])]);
    is_cut(&stage, &agent, "at first");
    let has = |way: &str, program: &str| {
        tc(&stage.node, &format!("filter show dev {TO_DEVICE} {way}")).contains(program)
    };
    let is_hooked = || has("ingress", "tc_ingress_disp") && has("egress", "tc_egress_dispa");
    assert!(is_hooked(), "they are found by their names");
    for change in [
        format!("qdisc del dev {TO_DEVICE} clsact"),
        format!("filter del dev {TO_DEVICE} ingress"),
        format!("filter del dev {TO_DEVICE} egress"),
    ] {
        tc(&stage.node, &change);
        assert!(!is_hooked(), "{change}");
        agent.follow_until(&change, |_| is_hooked());
        assert_eq!(agent.enforced(), (1, 1), "{change}");
        is_cut(&stage, &agent, &change);
        assert_eq!(agent.look_at_all_hooks(), 0, "{change}: and then all are there");
    }
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn hooks_that_nobody_has_touched_are_found_each_time() {
    let stage = Stage::new();
    for hooks in [Hooks::Tcx, Hooks::XdpNative, Hooks::Clsact] {
        let mut agent = Agent::start(&stage.node, hooks);
        assert_eq!([(); 2].map(|()| agent.look_at_all_hooks()), [0, 0], "{hooks:?}");
        if hooks == Hooks::Clsact {
            tc(&stage.node, &format!("qdisc del dev {TO_DEVICE} clsact"));
            assert_eq!([(); 2].map(|()| agent.look_at_all_hooks()), [1, 0], "also where nothing is told");
        }
    }
}

/// The agent's links at the device's interface.
fn links(agent: &Agent) -> Vec<Attached> {
    let index = agent.hooked()[TO_DEVICE];
    Attached::all().into_iter().filter(|link| link.interface == index).collect()
}

fn links_that_are_detached(hooks: Hooks, kinds: &[&str]) {
    let stage = Stage::new();
    let mut agent = Agent::start(&stage.node, hooks);
    agent.set(&[Fault::partition().on(&[Family::V4.host(1, 2)])]);
    is_cut(&stage, &agent, "at first");
    for number in 0..kinds.len() {
        let why = format!("{hooks:?}: without link {number} of {kinds:?}");
        let mut all = links(&agent);
        all.sort_by(|a, b| b.kind.cmp(&a.kind));
        assert_eq!(all.iter().map(|link| link.kind.as_str()).collect::<Vec<_>>(), kinds, "{why}");
        all[number].detach();
        assert_eq!(links(&agent).len(), kinds.len() - 1, "{why}: it is off, and nobody is told");
        assert_eq!(agent.find_lost(), 1, "{why}");
        let entry = agent.entry().unwrap();
        assert_eq!(
            (entry.reason.as_deref(), entry.external_enforced),
            (Some("NoHook"), 0),
            "{why}: {entry:?}"
        );
        agent.locate();
        let entry = agent.entry().unwrap();
        assert_eq!((entry.reason, entry.external_enforced), (None, 1), "{why}: and back");
        is_cut(&stage, &agent, &why);
        assert_eq!(agent.look_at_all_hooks(), 0, "{why}: and then all are there");
    }
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn native_xdp_that_somebody_detaches_is_found_told_and_attached_again() {
    let rest = if Hooks::Tcx.has_tcx() { ["xdp", "tcx", "tcx"].as_slice() } else { &["xdp"] };
    links_that_are_detached(Hooks::XdpNative, rest);
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn tcx_programs_that_somebody_detaches_are_found_told_and_attached_again() {
    links_that_are_detached(Hooks::Tcx, &["tcx", "tcx"]);
}

fn a_round_trip(hooks: Hooks) {
    let stage = Stage::new();
    let mut agent = Agent::start(&stage.node, hooks);
    agent.set(&[Fault::partition().on(&[Family::V4.host(1, 2)])]);
    is_cut(&stage, &agent, "at first");
    let index = agent.hooked()[TO_DEVICE];
    // All of it before the agent looks.
    let elsewhere = Namespace::new();
    stage.node.ip(&format!("link set {TO_DEVICE} netns {}\n", elsewhere.path()));
    elsewhere.ip(&format!("link set {TO_DEVICE} netns {}\n", stage.node.path()));
    let address = Family::V4.ip(1, 1);
    stage.node.ip(&format!("addr add {address}/24 dev {TO_DEVICE}\nlink set {TO_DEVICE} up\n"));
    agent.follow_until("that it was gone", |agent| agent.gone.contains(&index));
    agent.follow(&[TO_DEVICE, TO_PEER]);
    assert_eq!(agent.hooked()[TO_DEVICE], index, "it has the index that it had");
    let is_told = |agent: &mut Agent| agent.enforced() == (1, 1);
    agent.follow_until("its address", is_told);
    is_cut(&stage, &agent, &format!("{hooks:?}: back again"));
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn an_interface_that_was_in_another_namespace_meanwhile_has_its_hooks_again() {
    for hooks in [Hooks::Tcx, Hooks::XdpNative, Hooks::Clsact] {
        a_round_trip(hooks);
    }
}
