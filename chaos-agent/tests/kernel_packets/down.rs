//! Somebody takes a device behind the hooks down, or removes it: a partition that nobody asked for, unless hooks are told.

use fault_abi::counter::Global;
use fault_abi::key::Direction;
use fault_abi::verdict::Effect;
use serde_json::json;

use crate::support::agent::{Agent, Holds, Hooks};
use crate::support::engines::for_each_engine;
use crate::support::fault::Fault;
use crate::support::stage::{Family, Stage};
use crate::support::time::{boot_ns, eventually};
use crate::support::traffic::End;

/// Packets that are sent after each change.
const COUNT: u32 = 20;

for_each_engine! { a_line_that_is_down_or_gone_is_no_partition_packets_pass_undelayed_and_are_counted }

/// Sends packets to the peer, and waits until so many have come.
fn arrive(device: &End, peer: &End, first: u32, expected: u32, why: &str) {
    (first..first + COUNT).for_each(|number| device.send(peer, number).unwrap());
    let mut came = 0;
    let all = || {
        came += peer.take().len();
        (came >= expected as usize).then_some(())
    };
    eventually(all, || format!("packets are lost: {why}"));
}

fn a_line_that_is_down_or_gone_is_no_partition_packets_pass_undelayed_and_are_counted(holds: Holds) {
    let stage = Stage::new();
    let mut agent = Agent::start(&stage.node, (Hooks::Tcx, holds));
    agent.set(&[Fault::new("later", json!({"delay": {"time": "20ms"}})).on(&[Family::V4.host(1, 2)])]);
    let (device, peer) = (stage.device_end(Family::V4), stage.peer_end(Family::V4));
    let far = [("link set edo-line-end down\n", false), ("link set edo-line-end up\n", true)];
    let mut changes = vec![("link set edo-line down\n", false), ("link set edo-line up\n", true)];
    changes.extend(far.iter().filter(|_| holds == Holds::Fq));
    changes.push(("link del edo-line\n", false));
    let (mut stalled, mut sent) = (0, 0);
    for (change, runs) in changes {
        stage.node.ip(change);
        agent.follow_line(runs);
        arrive(&device, &peer, sent, COUNT, change);
        sent += COUNT;
        stalled += if runs { 0 } else { u64::from(COUNT) };
        let counted = agent.total(Direction::FromDevice).effects[Effect::Stalled as usize];
        assert_eq!((counted, agent.global(Global::EngineStalled)), (stalled, stalled), "{change}");
        let status = agent.line.status(boot_ns());
        let told = status.message.as_deref().unwrap_or_default();
        assert_eq!(told.contains("edo-line"), !runs, "{change}: {status:?}");
        let reason = agent.entry().unwrap().reason;
        assert_eq!(reason.as_deref() == Some("EngineStalled"), !runs, "{change}: {reason:?}");
    }
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn a_splitter_that_is_down_or_gone_is_no_partition_packets_pass_it_by_and_it_is_made_anew() {
    let stage = Stage::new();
    let mut agent = Agent::start(&stage.node, Hooks::Tcx);
    agent.set(&[Fault::new("flipped", json!({"corrupt": {"percent": "100%"}})).on(&[Family::V4.host(1, 2)])]);
    let (device, peer) = (stage.device_end(Family::V4), stage.peer_end(Family::V4));
    let (mut flipped, mut whole, mut sent) = (0, 0, 0);
    for (change, runs) in [
        ("link set edo-split down\n", false),
        ("link set edo-split up\n", true),
        ("link set edo-split-end down\n", false),
        ("link set edo-split-end up\n", true),
        ("link del edo-split\n", false),
        // The agent makes it anew.
        ("", true),
        ("link del edo-split-end\n", false),
    ] {
        stage.node.ip(change);
        if change.is_empty() {
            agent.renew_splitter();
        }
        agent.follow_splitter(runs);
        // Receivers take no packet that is flipped.
        arrive(&device, &peer, sent, if runs { 0 } else { COUNT }, change);
        sent += COUNT;
        *(if runs { &mut flipped } else { &mut whole }) += u64::from(COUNT);
        let counted = || {
            let flipped = agent.total(Direction::FromDevice).effects[Effect::Corrupt as usize];
            (flipped, agent.global(Global::Unsplit))
        };
        let all = || (counted() == (flipped, whole)).then_some(());
        eventually(all, || format!("{change}: flipped and whole are {:?}", counted()));
        let entry = agent.entry().unwrap();
        let missing = entry.reason.as_deref() == Some("SplitterMissing");
        assert_eq!((missing, entry.external_enforced), (!runs, u32::from(runs)), "{change}: {entry:?}");
        let told = agent.line.status(boot_ns()).message.unwrap_or_default();
        assert_eq!(told.contains("edo-split"), !runs, "{change}: {told}");
    }
    let message = agent.entry().unwrap().message.unwrap();
    assert!(message.contains("it is made anew"), "{message}");
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn packets_that_the_splitter_loses_are_counted_and_told_of_the_profile_that_sent_them_there() {
    let stage = Stage::new();
    let mut agent = Agent::start(&stage.node, Hooks::Tcx);
    agent.set(&[Fault::new("flipped", json!({"corrupt": {"percent": "100%"}})).on(&[Family::V4.host(1, 2)])]);
    let (device, peer) = (stage.device_end(Family::V4), stage.peer_end(Family::V4));
    assert_eq!((agent.entry().unwrap().reason, agent.line.splitter_dropped()), (None, 0));
    // What is longer than its far end takes is lost on the way there, as is what finds no room in the kernel's backlog.
    stage.node.ip("link set edo-split-end mtu 200\n");
    (0..COUNT).for_each(|number| device.send_long(&peer, number, 400).unwrap());
    let all = || (agent.line.splitter_dropped() == u64::from(COUNT)).then_some(());
    eventually(all, || format!("{} are counted", agent.line.splitter_dropped()));
    assert_eq!(agent.entry().unwrap().reason.as_deref(), Some("SplitterDrops"));
    let flipped = agent.total(Direction::FromDevice).effects[Effect::Corrupt as usize];
    assert_eq!((flipped, agent.line.dropped()), (0, 0));
    stage.node.ip("link del edo-split\n");
    agent.follow_splitter(false);
    agent.renew_splitter();
    agent.follow_splitter(true);
    assert_eq!(agent.line.splitter_dropped(), u64::from(COUNT), "the old one's stay counted");
}
