//! Somebody takes off the programs at the ends of the delay line or the splitter: packets would leave before their time, or vanish there,
//! a partition that nobody asked for. They are back as soon as that is told, or at the agent's next look.

use std::process::Command;

use fault_abi::key::Direction;
use fault_abi::verdict::Effect;
use serde_json::json;

use crate::support::agent::{Agent, Holds, Hooks};
use crate::support::attached::Attached;
use crate::support::engines::for_each_engine;
use crate::support::fault::Fault;
use crate::support::space::Namespace;
use crate::support::stage::{Family, Stage};
use crate::support::time::{boot_ns, eventually, ms};
use crate::support::traffic::End;

const COUNT: u32 = 20;
/// Milliseconds.
const DELAY: u64 = 100;

for_each_engine! { programs_of_the_line_that_somebody_takes_off_are_back_and_packets_are_held_as_before }

/// The programs of an interface's clsact filters.
fn filters(node: &Namespace, interface: &str) -> String {
    let shown = ["ingress", "egress"].map(|way| {
        let ran = node.run(|| Command::new("tc").args(["filter", "show", "dev", interface, way]).output());
        String::from_utf8(ran.unwrap().stdout).unwrap()
    });
    shown.concat()
}

/// Our link at an interface, where it is hooked by TCX.
fn link(node: &Namespace, interface: &str) -> Option<Attached> {
    let index = node.run(|| nix::net::if_::if_nametoindex(interface)).unwrap();
    Attached::all().into_iter().find(|link| link.interface == index)
}

/// Takes off what is at an end, and waits until the agent has attached it again.
fn take_off(stage: &Stage, agent: &mut Agent, interface: &str, program: &str) {
    let is_there =
        || link(&stage.node, interface).is_some() || filters(&stage.node, interface).contains(program);
    assert!(is_there(), "{program} is at {interface}");
    let why = format!("{program} is back at {interface}");
    if let Some(link) = link(&stage.node, interface) {
        link.detach();
        assert!(!is_there(), "{program} is off, and nobody is told");
        agent.look_at_ends();
        assert!(is_there(), "{why}");
    } else {
        let ran =
            stage.node.run(|| Command::new("tc").args(["qdisc", "del", "dev", interface, "clsact"]).status());
        assert!(ran.unwrap().success());
        assert!(!is_there(), "{program} is off");
        agent.follow_until(&why, |_| is_there());
    }
    assert_eq!(agent.line.lacks().splitter, None, "{why}");
    assert!(agent.line.is_running(boot_ns()), "{why}");
}

/// All packets arrive, none before its time.
pub(crate) fn are_held(device: &End, peer: &End, why: &str) {
    let from_ns = boot_ns();
    (0..COUNT).for_each(|number| device.send(peer, number).unwrap());
    let (mut came, mut first_ns) = (0, None);
    let all = || {
        came += peer.take().len();
        first_ns = first_ns.or_else(|| (came > 0).then(boot_ns));
        (came == COUNT as usize).then_some(())
    };
    eventually(all, || format!("packets are lost: {why}"));
    let took_ns = first_ns.unwrap() - from_ns;
    assert!(took_ns >= ms(DELAY), "{why}: the first one has come after {took_ns} ns");
}

fn programs_of_the_line_that_somebody_takes_off_are_back_and_packets_are_held_as_before(holds: Holds) {
    let stage = Stage::new();
    let mut agent = Agent::start(&stage.node, (Hooks::Tcx, holds));
    let later = Fault::new("later", json!({"delay": {"time": format!("{DELAY}ms")}}));
    agent.set(&[later.on(&[Family::V4.host(1, 2)])]);
    let (device, peer) = (stage.device_end(Family::V4), stage.peer_end(Family::V4));
    are_held(&device, &peer, "at first");
    let ends = match holds {
        Holds::Fq => [("edo-line-end", "line_end"), ("edo-line", "line_start")].as_slice(),
        Holds::Userspace | Holds::Best => &[("edo-line", "line_end")],
    };
    for (interface, program) in ends {
        take_off(&stage, &mut agent, interface, program);
        are_held(&device, &peer, &format!("{program} was off {interface}"));
    }
    let stalled = agent.total(Direction::FromDevice).effects[Effect::Stalled as usize];
    assert_eq!((stalled, agent.line.status(boot_ns()).message), (0, None));
    assert_eq!(agent.line.dropped(), 0);
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn the_splitters_program_that_somebody_takes_off_is_back_and_packets_are_flipped_as_before() {
    let stage = Stage::new();
    let mut agent = Agent::start(&stage.node, Hooks::Tcx);
    agent.set(&[Fault::new("flipped", json!({"corrupt": {"percent": "100%"}})).on(&[Family::V4.host(1, 2)])]);
    let (device, peer) = (stage.device_end(Family::V4), stage.peer_end(Family::V4));
    for round in 1..=2 {
        (0..COUNT).for_each(|number| device.send(&peer, number).unwrap());
        let flipped = || agent.total(Direction::FromDevice).effects[Effect::Corrupt as usize];
        let all = || (flipped() == u64::from(round * COUNT)).then_some(());
        eventually(all, || format!("round {round}: {} are flipped", flipped()));
        take_off(&stage, &mut agent, "edo-split-end", "splitter_end");
    }
    assert!(peer.take().is_empty(), "receivers take no packet that is flipped");
}
