//! The stage itself, without any program: what is sent is captured at both ends and arrives.

use std::collections::BTreeSet;
use std::io::Read as _;

use crate::support::agent::Hooks;
use crate::support::capture::Capture;
use crate::support::child::{AgentProcess, again, play};
use crate::support::space::{Namespace, Plug, wire};
use crate::support::stage::{ETH, Family, Stage};
use crate::support::time::eventually;

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn without_faults_both_captures_show_every_packet() {
    const COUNT: u32 = 500;
    let stage = Stage::new();
    for family in Family::BOTH {
        let (mut at_device, mut at_peer) = (Capture::new(&stage.device, ETH), Capture::new(&stage.peer, ETH));
        let (device, peer) = (stage.device_end(family), stage.peer_end(family));
        device.reaches(&peer, COUNT);
        peer.reaches(&device, COUNT);
        let all: BTreeSet<(u32, u32)> = (0..COUNT).map(|number| (number, 0)).collect();
        for capture in [&mut at_device, &mut at_peer] {
            let is_complete = || {
                capture.look();
                (capture.sent.len() + capture.received.len() == 2 * all.len()).then_some(())
            };
            eventually(is_complete, || "a capture misses packets".to_owned());
            assert!(capture.sent.keys().eq(&all) && capture.received.keys().eq(&all));
            assert_eq!(capture.repeated, 0);
        }
    }
}

/// Holds the path of a namespace that outlives the run.
const OUTSIDE: &str = "CHAOS_AGENT_STORY_OUTSIDE";

/// A run with a wire to the outside and a stopped agent, waiting to be killed.
fn wait_for_death(outside: &Namespace, story: impl Fn()) {
    let stage = Stage::new();
    let agent = AgentProcess::start(story, &stage.node, Hooks::Tcx);
    agent.stop();
    let end = |space, interface| Plug { space, interface, addresses: &[] };
    wire(&end(outside, "cat-left"), &end(&stage.node, "cat-right"));
    let _ = std::io::stdin().read(&mut [0]);
}

/// A wire ends with the namespace of its other end.
#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn a_killed_run_leaves_neither_namespaces_nor_processes() {
    play();
    let story = a_killed_run_leaves_neither_namespaces_nor_processes;
    if let Ok(outside) = std::env::var(OUTSIDE) {
        wait_for_death(&Namespace::open(&outside), story);
        return;
    }
    let outside = Namespace::new();
    let is_wired = || outside.run(|| nix::net::if_::if_nametoindex("cat-left").is_ok());
    let mut run = again(story, OUTSIDE, &outside.path());
    eventually(|| is_wired().then_some(()), || "no wire to the other run".to_owned());
    run.kill().unwrap();
    run.wait().unwrap();
    eventually(|| (!is_wired()).then_some(()), || "a namespace has outlived its run".to_owned());
}
