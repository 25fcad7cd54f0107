//! The lines that the kernel programs write where somebody has asked for them.

use fault_abi::key::Direction;
use serde_json::json;

use crate::support::agent::{Agent, Hooks, Start};
use crate::support::fault::Fault;
use crate::support::stage::{Family, Stage};
use crate::support::time::eventually;
use crate::support::tun;

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn whoever_asks_for_lines_gets_one_for_each_packet_of_a_target_with_what_becomes_of_it() {
    let stage = Stage::new();
    for hooks in [Hooks::Tcx, Hooks::XdpNative] {
        let mut agent = Agent::start(&stage.node, Start { lines: true, ..hooks.into() });
        let mut lines = agent.lines.take().unwrap();
        let (device, peer) = (stage.device_end(Family::V4), stage.peer_end(Family::V4));
        device.reaches(&peer, 3);
        assert_eq!(lines.take(), [""; 0], "nothing is told of others' packets");
        for (faults, fate) in [
            (json!({"partition": {}}), "is dropped"),
            (json!({"delay": {"time": "1ms"}}), "goes by its plan"),
        ] {
            agent.set(&[]);
            agent.set(&[Fault::new("told", faults).on(&[Family::V4.host(1, 2)])]);
            (0..5).for_each(|number| peer.send(&device, number).unwrap());
            let mut told = Vec::new();
            let all = || {
                told.extend(lines.take());
                (told.len() >= 5).then_some(())
            };
            eventually(all, || format!("{hooks:?}: lines are missing"));
            let wanted = format!("::ffff:10.77.1.2 port 5683 protocol 17 direction 1 bytes 106: {fate}");
            assert_eq!(told, vec![wanted; 5], "{hooks:?}");
        }
    }
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn a_line_says_a_packets_length_at_its_hook_not_with_the_header_that_it_gets_for_the_delay_line() {
    let stage = tun::stage();
    let mut agent = Agent::start(&stage.node, Start { lines: true, ..Hooks::Tcx.into() });
    let mut lines = agent.lines.take().unwrap();
    let (device, peer) = (stage.device_end(Family::V4), stage.peer_end(Family::V4));
    let faults = json!({"delay": {"time": "1ms"}});
    agent.set(&[Fault::new("told", faults).on(&[Family::V4.host(1, 2)])]);
    device.send(&peer, 0).unwrap();
    let told = eventually(|| Some(lines.take()).filter(|told| !told.is_empty()), || "no line".to_owned());
    let bytes = agent.counter("told", &Family::V4.host(1, 2), Direction::FromDevice).bytes;
    let wanted = format!("direction 0 bytes {}: goes by its plan", bytes.iter().sum::<u64>());
    assert!(told[0].ends_with(&wanted), "{told:?}, and not {wanted:?}");
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn nobody_who_has_not_asked_gets_lines() {
    let stage = Stage::new();
    assert!(Agent::start(&stage.node, Hooks::Tcx).lines.is_none());
}
