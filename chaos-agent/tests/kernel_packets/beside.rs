//! What somebody else has on clsact, as a CNI does: filters of a later priority than ours see what passes, decide on it, and stay when the
//! agent goes.

use std::net::SocketAddr;
use std::process::Command;

use fault_abi::key::Direction;
use fault_abi::verdict::Effect;
use serde_json::{Value, json};

use crate::support::agent::{Agent, Holds, Hooks, sweep};
use crate::support::behind::MARK;
use crate::support::child::{AgentProcess, play};
use crate::support::engines::for_each_engine;
use crate::support::fault::Fault;
use crate::support::space::Namespace;
use crate::support::stage::{DEVICE_PORT, Family, Stage, TO_DEVICE, TO_PEER};
use crate::support::time::eventually;
use crate::support::traffic::End;

for_each_engine! {
    filters_behind_ours_on_clsact_see_and_decide_in_both_directions_whoever_was_first_and_stay,
    a_mark_survives_line_and_splitter_and_a_filter_behind_ours_on_clsact_decides_by_it,
}

/// Packets of each conversation, one way.
const COUNT: u32 = 40;
/// What the peer sends from this port, and is sent there, somebody else's filters end.
const BLOCKED: u16 = 40_001;
/// The peer's other port.
const OPEN: u16 = 40_002;
/// The handle of all these filters.
const HANDLE: &str = "0x7";

/// The ways of clsact, by direction.
const WAYS: [(&str, Direction); 2] = [("ingress", Direction::FromDevice), ("egress", Direction::ToDevice)];

fn tc(space: &Namespace, arguments: &str) -> String {
    let output = space.run(|| Command::new("tc").args(arguments.split(' ')).output().unwrap());
    assert!(output.status.success(), "tc {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Adds the qdisc, unless somebody has: the agent, for one.
fn clsact(space: &Namespace, interface: &str) {
    if !tc(space, &format!("qdisc show dev {interface}")).contains("clsact") {
        tc(space, &format!("qdisc add dev {interface} clsact"));
    }
}

/// Adds a filter to an interface whose clsact is there, a classic program that returns what is to become of a packet.
fn add(space: &Namespace, interface: &str, way: &str, what: &str, program: &[&str]) {
    let output = space.run(|| {
        let mut tc = Command::new("tc");
        tc.args(["filter", "add", "dev", interface, way]).args(what.split(' '));
        tc.args(["handle", HANDLE, "bpf", "direct-action", "bytecode"]);
        tc.arg(format!("{},{}", program.len(), program.join(","))).output().unwrap()
    });
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// `return TC_ACT_SHOT`, and the one before it `return TC_ACT_UNSPEC` where it is jumped over.
const ENDS: [&str; 2] = ["6 0 0 4294967295", "6 0 0 2"];

/// Ends UDP packets by the peer's port, IPv4 and IPv6, both ways.
fn block(space: &Namespace) {
    clsact(space, TO_DEVICE);
    for (way, direction) in WAYS {
        for (kind, priority, header) in [("ip", 2, 20), ("ipv6", 3, 40)] {
            let port = 14 + header + if direction == Direction::FromDevice { 2 } else { 0 };
            let load = format!("40 0 0 {port}");
            let is_blocked = format!("21 1 0 {BLOCKED}");
            let program = [&load, is_blocked.as_str(), ENDS[0], ENDS[1]];
            add(space, TO_DEVICE, way, &format!("protocol {kind} prio {priority}"), &program);
        }
    }
}

/// Ends what has [`MARK`].
pub(crate) fn shoot_by_mark(space: &Namespace, interface: &str, way: &str) {
    clsact(space, interface);
    // `SKF_AD_OFF + SKF_AD_MARK` of linux/filter.h.
    let load = format!("32 0 0 {}", 0xffff_f000_u32 + 20);
    let is_marked = format!("21 1 0 {MARK}");
    add(space, interface, way, "protocol all prio 2", &[&load, &is_marked, ENDS[0], ENDS[1]]);
}

/// How many of somebody else's filters are there.
fn theirs(space: &Namespace) -> usize {
    let show = |(way, _)| tc(space, &format!("filter show dev {TO_DEVICE} {way}"));
    WAYS.map(show).iter().map(|said| said.matches(&format!("handle {HANDLE}")).count()).sum()
}

fn peer(stage: &Stage, family: Family, port: u16) -> End {
    End::new(&stage.peer, SocketAddr::new(family.ip(2, 2), port))
}

/// Sends on both conversations both ways; all packets of the open one come, each so many times, and none of the other.
fn only_the_open_one_passes(stage: &Stage, times: u32, story: &str) {
    for family in Family::BOTH {
        let device = stage.device_end(family);
        let (blocked, open) = (peer(stage, family, BLOCKED), peer(stage, family, OPEN));
        for number in 0..COUNT {
            blocked.send(&device, 1_000 + number).unwrap();
            open.send(&device, number).unwrap();
            // Behind the other, so that what comes first would be what is to be missing.
            device.send(&blocked, 1_000 + number).unwrap();
            device.send(&open, number).unwrap();
        }
        for end in [&device, &open] {
            let mut came = Vec::new();
            let all = || {
                came.extend(end.take());
                (came.len() >= (times * COUNT) as usize).then_some(())
            };
            eventually(all, || format!("{story}, {family:?}: too few come to {}", end.address));
            came.sort_unstable();
            let wanted = (0..COUNT).flat_map(|number| (0..times).map(move |_| number));
            assert!(came.iter().copied().eq(wanted), "{story}, {family:?}, {}: {came:?}", end.address);
        }
        assert!(blocked.take().is_empty(), "{story}, {family:?}: they decide");
    }
}

/// Faults that let all packets pass, each in a way of its own: at once, through the line, through the splitter, and twice.
fn passing() -> [(Value, Option<Effect>); 4] {
    [
        (json!({"loss": {"percent": "0%"}}), None),
        (json!({"delay": {"time": "5ms"}}), Some(Effect::Delay)),
        // So seldom that it never happens here; but each packet passes the splitter.
        (json!({"corrupt": {"percent": "0.0001%"}}), None),
        (json!({"duplicate": {"percent": "100%"}}), Some(Effect::Duplicate)),
    ]
}

fn filters_behind_ours_on_clsact_see_and_decide_in_both_directions_whoever_was_first_and_stay(holds: Holds) {
    for they_are_first in [true, false] {
        let stage = Stage::new();
        if they_are_first {
            block(&stage.node);
        }
        let mut agent = Agent::start(&stage.node, (Hooks::Clsact, holds));
        if !they_are_first {
            block(&stage.node);
        }
        let targets = Family::BOTH.map(|family| family.host(1, 2));
        for (faults, effect) in passing() {
            let story = format!("{faults}, they are first: {they_are_first}");
            agent.set(&[]);
            agent.set(&[Fault::new("passing", faults).on(&targets)]);
            let times = if effect == Some(Effect::Duplicate) { 2 } else { 1 };
            only_the_open_one_passes(&stage, times, &story);
            for (direction, target) in
                Direction::ALL.iter().flat_map(|way| targets.iter().map(move |of| (way, of)))
            {
                let counter = agent.counter("passing", target, *direction);
                assert_eq!(counter.seen(), u64::from(2 * COUNT), "{story}: ours decide before");
                let acted = effect.map_or(u64::from(2 * COUNT), |effect| counter.effects[effect as usize]);
                assert_eq!(acted, u64::from(2 * COUNT), "{story}, {target}: {counter:?}");
            }
        }
        let added = agent.end();
        assert_eq!(added, if they_are_first { vec![TO_PEER] } else { vec![TO_DEVICE, TO_PEER] });
        // What somebody does who suspects that more is left.
        let (_, left) = sweep(&stage.node);
        assert_eq!((theirs(&stage.node), left), (4, vec![]), "they are first: {they_are_first}");
        only_the_open_one_passes(&stage, 1, "without an agent");
        let qdiscs = tc(&stage.node, "qdisc show");
        assert_eq!(qdiscs.matches("clsact").count(), 1, "theirs, and ours is gone from {TO_PEER}: {qdiscs}");
    }
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn sweeping_up_behind_a_killed_agent_leaves_the_filters_of_others_on_clsact() {
    play();
    let stage = Stage::new();
    let story = sweeping_up_behind_a_killed_agent_leaves_the_filters_of_others_on_clsact;
    let mut agent = AgentProcess::start(story, &stage.node, Hooks::Clsact);
    block(&stage.node);
    agent.set(&[Fault::loss("0%").on(&Family::BOTH.map(|family| family.host(1, 2)))]);
    only_the_open_one_passes(&stage, 1, "while the agent lives");
    agent.kill();
    drop(agent);
    only_the_open_one_passes(&stage, 1, "behind filters of ours that are inert");
    let (found, left) = sweep(&stage.node);
    assert!(found.len() >= 4, "two filters on each interface at least: {found:?}");
    assert_eq!((theirs(&stage.node), left), (4, vec![]));
    only_the_open_one_passes(&stage, 1, "when ours are gone");
}

/// As on TCX: what kube-proxy has written on a packet is there for whoever comes behind us.
fn a_mark_survives_line_and_splitter_and_a_filter_behind_ours_on_clsact_decides_by_it(holds: Holds) {
    let stage = Stage::new();
    let mut agent = Agent::start(&stage.node, (Hooks::Clsact, holds));
    shoot_by_mark(&stage.node, TO_DEVICE, "egress");
    for family in Family::BOTH {
        let target = family.host(1, 2);
        // What passes at once a sender on the node is told of, as it is to be.
        for (faults, _) in passing().into_iter().skip(1).take(2) {
            agent.set(&[]);
            agent.set(&[Fault::new("passing", faults.clone()).on(std::slice::from_ref(&target))]);
            let device = End::new(&stage.device, SocketAddr::new(family.ip(1, 2), DEVICE_PORT));
            let node = End::new(&stage.node, SocketAddr::new(family.ip(1, 1), 0));
            for (mark, numbers) in [(MARK, 0..COUNT), (0, COUNT..2 * COUNT)] {
                node.mark(mark);
                numbers.for_each(|number| node.send(&device, number).unwrap());
            }
            let mut came = Vec::new();
            let all = || {
                came.extend(device.take());
                (came.len() >= COUNT as usize).then_some(())
            };
            eventually(all, || format!("{family:?}: packets without a mark are missing under {faults}"));
            came.sort_unstable();
            assert!(came.iter().copied().eq(COUNT..2 * COUNT), "{family:?}, {faults}: {came:?}");
            let seen = agent.counter("passing", &target, Direction::ToDevice).seen();
            assert_eq!(seen, u64::from(2 * COUNT), "{family:?}, {faults}: those with a mark, too");
        }
    }
}
