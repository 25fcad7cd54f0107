//! The lines that the kernel programs write where somebody has asked for them.

use serde_json::json;

use crate::support::agent::{Agent, Hooks, Start};
use crate::support::fault::Fault;
use crate::support::stage::{Family, Stage};
use crate::support::time::eventually;

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
fn nobody_who_has_not_asked_gets_lines() {
    let stage = Stage::new();
    assert!(Agent::start(&stage.node, Hooks::Tcx).lines.is_none());
}
