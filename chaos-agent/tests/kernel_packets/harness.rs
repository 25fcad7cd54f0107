//! The stage itself, without any program: what is sent is captured at both ends and arrives.

use std::collections::BTreeSet;

use crate::support::capture::Capture;
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
