//! Nodes that lack something: what cannot be done then is told with its reason, packets pass, and all else is done as ever.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;

use chaos_agent::args::EngineChoice;
use chaos_agent::kernel::{LineLimits, Swept};
use chaos_agent::table::Capacity;
use edge_api::fault_node::ProfileOnNode;
use fault_abi::counter::Global;
use fault_abi::key::Direction;
use fault_abi::rule::ALWAYS;
use fault_abi::verdict::{Effect, Verdict};
use nix::libc;
use serde_json::json;

use crate::support::agent::{Agent, CAPACITY, Hooks, LINE_LIMITS, Start, is_lost};
use crate::support::fault::Fault;
use crate::support::stage::{ETH, Family, Stage, TO_DEVICE, TO_PEER};
use crate::support::time::{eventually, ms_here};
use crate::support::traffic::End;
use crate::support::tun;

const COUNT: u32 = 100;

/// Sends packets to the device, all of which come, and returns when all are counted under the profile.
fn all_come(stage: &Stage, agent: &Agent, profile: &str) {
    let (device, peer) = (stage.device_end(Family::V4), stage.peer_end(Family::V4));
    let seen = || agent.counter(profile, &Family::V4.host(1, 2), Direction::ToDevice).seen();
    let before = seen();
    peer.reaches(&device, COUNT);
    assert_eq!(seen() - before, u64::from(COUNT), "{profile}");
}

/// The reason of a profile, whether its sentence says this, and how many of its targets are enforced.
fn told(agent: &mut Agent, name: &str, sentence: &str) -> (Option<String>, bool, u32) {
    let entry: ProfileOnNode = agent.entries().into_iter().find(|entry| entry.name == name).unwrap();
    let says = entry.message.unwrap_or_default().contains(sentence);
    (entry.reason, says, entry.external_enforced)
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn without_a_delay_line_nothing_is_held_and_profiles_that_ask_for_it_say_engine_missing() {
    let stage = Stage::new();
    let engine = EngineChoice::None;
    let mut agent = Agent::start(&stage.node, Start { engine, may_lack: true, ..Hooks::Tcx.into() });
    let targets = [Family::V4.host(1, 2)];
    for faults in [
        json!({"delay": {"time": "50ms"}}),
        json!({"reorder": {"percent": "100%", "by": "50ms"}}),
        json!({"rate": {"bitsPerSecond": "10k", "burst": "2Ki", "queue": "100ms"}}),
    ] {
        agent.set(&[]);
        agent.set(&[Fault::new("held", faults.clone()).on(&targets), Fault::loss("0%").on(&targets)]);
        all_come(&stage, &agent, "held");
        let missing = (Some("EngineMissing".to_owned()), true, 0);
        assert_eq!(told(&mut agent, "held", "--engine none"), missing, "{faults}");
        assert_eq!(told(&mut agent, "loss", ""), (None, true, 1), "{faults}");
        let counter = agent.counter("held", &targets[0], Direction::ToDevice);
        assert_eq!(counter.effects[Effect::Stalled as usize], u64::from(COUNT), "{faults}: {counter:?}");
        assert_eq!(counter.delay_ns, 0, "{faults}");
    }
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn without_a_splitter_nothing_is_flipped_and_profiles_that_ask_for_it_say_splitter_missing() {
    let stage = Stage::new();
    // Somebody else's device by the name of the splitter's near end, so that the pair cannot be made.
    stage.node.ip("link add edo-split type veth peer name cat-other\n");
    let mut agent = Agent::start(&stage.node, Start { may_lack: true, ..Hooks::Tcx.into() });
    let targets = [Family::V4.host(1, 2)];
    agent.set(&[
        Fault::new("flipped", json!({"corrupt": {"percent": "100%"}})).on(&targets),
        Fault::loss("0%").on(&targets),
    ]);
    all_come(&stage, &agent, "flipped");
    let missing = (Some("SplitterMissing".to_owned()), true, 0);
    assert_eq!(told(&mut agent, "flipped", "nothing is corrupted or rejected"), missing);
    assert_eq!(told(&mut agent, "loss", ""), (None, true, 1));
    let counter = agent.counter("flipped", &targets[0], Direction::ToDevice);
    assert_eq!(counter.effects[Effect::Corrupt as usize], 0, "{counter:?}");
    agent.set(&[]);
    agent.set(&[Fault::new("told", json!({"partition": {"mode": "Reject"}})).on(&targets)]);
    let missing = (Some("SplitterMissing".to_owned()), true, 0);
    assert_eq!(told(&mut agent, "told", "nothing is corrupted or rejected"), missing);
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn an_interface_whose_packets_begin_with_something_else_is_left_alone_and_told_by_no_link_header() {
    let stage = Stage::without_device();
    stage.plug_peer();
    let device = stage.node.run(|| tun::open(TO_DEVICE, libc::IFF_TUN | libc::IFF_NO_PI));
    tun::pretend(&device, libc::ARPHRD_PPP);
    let address = Family::V4.ip(1, 1);
    stage.node.ip(&format!("addr add {address}/24 dev {TO_DEVICE}\nlink set {TO_DEVICE} up\n"));
    let mut agent = Agent::start(&stage.node, Hooks::Tcx);
    assert!(!agent.hooked().contains_key(TO_DEVICE), "{:?}", agent.hooked());
    let mut outside = |target: &str| {
        agent.set(&[]);
        agent.set(&[Fault::partition().on(&[target.to_owned()])]);
        told(&mut agent, "partition", TO_DEVICE)
    };
    assert_eq!(outside(&Family::V4.host(1, 2)), (Some("NoLinkHeader".to_owned()), true, 0));
    let (reason, _, enforced) = outside(&Family::V4.host(2, 2));
    assert_eq!((reason, enforced), (None, 1), "behind the other interface");
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn a_limit_of_targets_or_rules_that_is_reached_is_told_and_who_has_room_is_enforced() {
    let stage = Stage::new();
    let start = |capacity| Start { capacity, ..Hooks::Tcx.into() };
    let targets = [2, 3].map(|host| Family::V4.host(1, host));
    let mut agent = Agent::start(&stage.node, start(Capacity { targets: 1, ..CAPACITY }));
    agent.set(&[Fault::loss("0%").on(&targets)]);
    assert_eq!(told(&mut agent, "loss", "--max-targets"), (Some("Limit".to_owned()), true, 1));
    all_come(&stage, &agent, "loss");
    drop(agent);
    let mut agent = Agent::start(&stage.node, start(Capacity { rules: 1, ..CAPACITY }));
    let both = ["a", "b"].map(|name| Fault::loss("0%").named(name).on(&targets[..1]));
    agent.set(&both);
    assert_eq!(told(&mut agent, "a", ""), (None, true, 1));
    assert_eq!(told(&mut agent, "b", "--max-rules"), (Some("Limit".to_owned()), true, 0));
    all_come(&stage, &agent, "a");
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn a_line_or_a_table_of_flows_that_was_full_is_told_of_the_profile_that_met_it() {
    let stage = Stage::new();
    let limits = LineLimits { packets: 10, ..LINE_LIMITS };
    let capacity = Capacity { flows: 16, ..CAPACITY };
    let mut agent = Agent::start(&stage.node, Start { limits, capacity, ..Hooks::Tcx.into() });
    let target = Family::V4.host(1, 2);
    let device = stage.device_end(Family::V4);
    let time = format!("{}ms", ms_here(500) / 1_000_000);
    agent.set(&[Fault::new("held", json!({"delay": {"time": time}})).on(std::slice::from_ref(&target))]);
    assert_eq!(told(&mut agent, "held", ""), (None, true, 1));
    let peer = stage.peer_end(Family::V4);
    (0..COUNT).for_each(|number| peer.send(&device, number).unwrap());
    let full = || {
        let counter = agent.counter("held", &target, Direction::ToDevice);
        (counter.effects[Effect::LineFull as usize] > 0).then_some(())
    };
    eventually(full, || "the line is not full".to_owned());
    assert_eq!(told(&mut agent, "held", "--line-packets"), (Some("LineFull".to_owned()), true, 1));
    agent.set(&[]);
    let beside = Fault::new("beside", json!({"loss": {"every": 1_000_000}}));
    agent.set(&[Fault::loss("50%"), beside].map(|fault| fault.on(std::slice::from_ref(&target))));
    for port in (20_000..).take(COUNT as usize) {
        // Of a port of its own: the system may give the same one again.
        let other = End::new(&stage.peer, std::net::SocketAddr::new(Family::V4.ip(2, 2), port));
        other.send(&device, 0).unwrap();
    }
    let all = || {
        let counter = agent.counter("loss", &target, Direction::ToDevice);
        (counter.seen() == u64::from(COUNT)).then(|| counter.packets[Verdict::Loss as usize])
    };
    let lost = eventually(all, || "not all flows are seen".to_owned());
    assert!(lost > 0 && lost < u64::from(COUNT), "those that are not told apart draw, too: {lost}");
    assert_eq!(told(&mut agent, "loss", "--max-flows"), (Some("FlowsUntracked".to_owned()), true, 1));
    assert_eq!(
        told(&mut agent, "beside", ""),
        (None, true, 1),
        "it counts all packets of its target as one sequence"
    );
    let [loss, beside] =
        ["loss", "beside"].map(|name| agent.counter(name, &target, Direction::ToDevice).untracked);
    assert_eq!((loss, beside), (agent.global(Global::Untracked), 0));
    assert!(loss >= u64::from(COUNT) - 16, "{loss} packets of flows that found no room");
}

/// Sends so many packets to the device, and returns how often one came once all copies of each are there.
fn copies_of_each(stage: &Stage, expected: usize) {
    let (device, peer) = (stage.device_end(Family::V4), stage.peer_end(Family::V4));
    let mut came = BTreeMap::<u32, usize>::new();
    peer.stream(&device, COUNT, || {
        device.take().into_iter().for_each(|number| *came.entry(number).or_default() += 1);
        came.len() as u64
    });
    let mut all = || {
        device.take().into_iter().for_each(|number| *came.entry(number).or_default() += 1);
        (came.values().sum::<usize>() >= COUNT as usize * expected).then(|| came.clone())
    };
    let came = eventually(&mut all, || format!("not all of {expected} copies of each came"));
    assert!(came.values().all(|copies| *copies == expected), "{expected} of each: {came:?}");
}

/// How often packets to a target were duplicated under a profile, and how often not although it asked for it.
fn duplicated(agent: &Agent, profile: &str, target: &str) -> (u64, u64) {
    let effects = agent.counter(profile, target, Direction::ToDevice).effects;
    (effects[Effect::Duplicate as usize], effects[Effect::Unduplicated as usize])
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn of_each_packet_that_three_profiles_duplicate_four_copies_come_and_the_last_one_says_copies_missing() {
    let stage = Stage::new();
    let mut agent = Agent::start(&stage.node, Hooks::Tcx);
    let target = Family::V4.host(1, 2);
    let twice = |name| Fault::new(name, json!({"duplicate": {"percent": "100%"}}));
    agent.set(&["a", "b", "c"].map(|name| twice(name).on(std::slice::from_ref(&target))));
    copies_of_each(&stage, 4);
    let count = u64::from(COUNT);
    let all = ["a", "b", "c"].map(|name| duplicated(&agent, name, &target));
    assert_eq!(all, [(count, 0), (2 * count, 0), (0, 4 * count)]);
    assert_eq!(agent.global(Global::Unduplicated), 4 * count);
    for name in ["a", "b"] {
        assert_eq!(told(&mut agent, name, ""), (None, true, 1), "{name}");
    }
    let missing = (Some("CopiesMissing".to_owned()), true, 1);
    assert_eq!(told(&mut agent, "c", "one has four copies at most"), missing);
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn copies_that_the_interfaces_queue_drops_as_it_drops_others_have_been_made() {
    let stage = Stage::new();
    let mut agent = Agent::start(&stage.node, Hooks::Tcx);
    let target = Family::V4.host(1, 2);
    let twice = Fault::new("twice", json!({"duplicate": {"percent": "100%"}}));
    agent.set(&[twice.on(std::slice::from_ref(&target))]);
    copies_of_each(&stage, 2);
    let (device, peer) = (stage.device_end(Family::V4), stage.peer_end(Family::V4));
    stage.node.tc(&format!("qdisc add dev {TO_DEVICE} root pfifo limit 0"));
    (0..COUNT).for_each(|number| peer.send(&device, number).unwrap());
    let met = || duplicated(&agent, "twice", &target);
    let all = || (met().0 + met().1 == 2 * u64::from(COUNT)).then(met);
    let met = eventually(all, || format!("{:?}", met()));
    assert_eq!((met, agent.global(Global::Unduplicated)), ((2 * u64::from(COUNT), 0), 0));
    assert!(device.take().is_empty(), "neither they nor the packets themselves come");
    assert_eq!(told(&mut agent, "twice", ""), (None, true, 1));
}

/// The kernel gives no packet more room in front than what four pages hold, and the agent's own engine wants a ticket there.
#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn packets_that_the_kernel_does_not_let_into_the_line_are_counted_of_their_profile_which_says_packets_strayed()
 {
    let stage = Stage::new();
    for (space, interface) in
        [(&stage.node, TO_DEVICE), (&stage.node, TO_PEER), (&stage.device, ETH), (&stage.peer, ETH)]
    {
        space.ip(&format!("link set {interface} mtu 60000\n"));
    }
    let engine = EngineChoice::Userspace;
    let mut agent = Agent::start(&stage.node, Start { engine, ..Hooks::Tcx.into() });
    let targets = [Family::V4.host(1, 2)];
    let held = Fault::new("held", json!({"delay": {"time": "5ms"}}));
    agent.set(&[held.on(&targets), Fault::loss("0%").on(&targets)]);
    all_come(&stage, &agent, "held");
    assert_eq!(told(&mut agent, "held", ""), (None, true, 1));
    let (device, peer) = (stage.device_end(Family::V4), stage.peer_end(Family::V4));
    (0..COUNT).for_each(|number| peer.send_long(&device, number, 50_000).unwrap());
    let count = |name| agent.counter(name, &targets[0], Direction::ToDevice).effects[Effect::Stray as usize];
    eventually(|| (count("held") == u64::from(COUNT)).then_some(()), || format!("{}", count("held")));
    assert_eq!((count("loss"), agent.global(Global::Stray)), (0, u64::from(COUNT)));
    assert_eq!(agent.line.held().unwrap().map(|held| held.packets), Some(0), "they take no room");
    assert_eq!(told(&mut agent, "held", "refused a step"), (Some("PacketsStrayed".to_owned()), true, 1));
    assert_eq!(told(&mut agent, "loss", ""), (None, true, 1));
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn flows_that_are_over_make_room_for_new_ones_and_one_that_is_alive_keeps_its_fates() {
    const ROOM: u32 = 16;
    let stage = Stage::new();
    let capacity = Capacity { flows: ROOM, ..CAPACITY };
    let flow_idle = Duration::from_nanos(ms_here(3_000));
    let mut agent = Agent::start(&stage.node, Start { capacity, flow_idle, ..Hooks::Tcx.into() });
    let target = Family::V4.host(1, 2);
    agent.set(&[Fault::loss("50%").on(std::slice::from_ref(&target))]);
    let (alive, device) = (stage.peer_end(Family::V4), stage.device_end(Family::V4));
    let counter = || agent.counter("loss", &target, Direction::ToDevice);
    let sent = Cell::new(0);
    let send = |end: &End| {
        end.send(&device, 0).unwrap();
        sent.set(sent.get() + 1);
        eventually(|| (counter().seen() == sent.get()).then_some(()), || format!("{:?}", counter()));
    };
    let other = || send(&End::new(&stage.peer, std::net::SocketAddr::new(Family::V4.ip(2, 2), 0)));
    let index = Cell::new(0);
    let is_as_ever = || {
        let lost = || counter().packets[Verdict::Loss as usize];
        let before = lost();
        send(&alive);
        let port = device.address.port();
        let is_lost = is_lost(7, &target, Direction::ToDevice, port, index.get(), ALWAYS / 2);
        assert_eq!(lost() - before, u64::from(is_lost), "packet {} of the flow that is alive", index.get());
        index.set(index.get() + 1);
    };
    is_as_ever();
    (0..2 * ROOM).for_each(|_| other());
    let untracked = counter().untracked;
    assert!(untracked >= u64::from(ROOM), "{untracked}");
    let full = agent.forget_flows();
    assert!(full.left >= u64::from(ROOM) * 9 / 10, "none is forgotten that may be alive: {full:?}");
    assert_eq!((full.ended, full.made_room), (0, 0), "and none is said to be");
    let (forgotten, last) = (Cell::new(0), Cell::new(full));
    let has_room = || {
        is_as_ever();
        last.set(agent.forget_flows());
        forgotten.set(forgotten.get() + last.get().made_room);
        (last.get().left <= u64::from(ROOM) * 8 / 10 + 1).then_some(())
    };
    eventually(has_room, || format!("{:?}, {} were forgotten", last.get(), forgotten.get()));
    assert_eq!(full.left - last.get().left, forgotten.get(), "each that was forgotten is counted");
    let before = counter().untracked;
    other();
    (0..20).for_each(|_| is_as_ever());
    assert_eq!(
        counter().untracked,
        before,
        "the new one has found room, and the one that is alive is still there"
    );
    let left = agent.forget_flows().left;
    agent.set(&[]);
    assert_eq!(agent.forget_flows(), Swept { left: 0, ended: left, made_room: 0 }, "their profile has ended");
}
