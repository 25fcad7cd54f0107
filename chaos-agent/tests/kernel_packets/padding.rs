//! A frame on a real wire is 60 bytes long at least: what stands behind a short packet is no part of it.

use fault_abi::key::Direction;
use fault_abi::verdict::Effect;
use serde_json::json;

use crate::support::agent::{Agent, Hooks};
use crate::support::capture::Capture;
use crate::support::datagram::datagram;
use crate::support::fault::Fault;
use crate::support::stage::{ETH, Family, Stage};
use crate::support::time::eventually;
use crate::support::traffic::End;

const COUNT: u32 = 100;

/// A numbered datagram, and as many bytes behind it.
fn padded(number: u32, from: &End, to: &End) -> Vec<u8> {
    let mut frame = datagram(number, 16, from.address, to.address);
    frame.resize(2 * frame.len(), 0);
    frame
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn a_corrupted_packet_is_wrong_itself_and_not_only_the_padding_behind_it() {
    let stage = Stage::new();
    let device = stage.device_end(Family::V4);
    let node = End::new(&stage.node, std::net::SocketAddr::new(Family::V4.ip(1, 1), 40_000));
    let wire = Capture::new(&stage.device, ETH);
    (0..COUNT).for_each(|number| wire.send(&padded(number, &device, &node)));
    let mut came = 0;
    eventually(
        || {
            came += node.take().len();
            (came == COUNT as usize).then_some(())
        },
        || "they are whole".to_owned(),
    );
    let mut agent = Agent::start(&stage.node, Hooks::Tcx);
    let target = Family::V4.host(1, 2);
    agent.set(&[
        Fault::new("corrupt", json!({"corrupt": {"percent": "100%"}})).on(std::slice::from_ref(&target))
    ]);
    (0..COUNT).for_each(|number| wire.send(&padded(number, &device, &node)));
    let counter = || agent.counter("corrupt", &target, Direction::FromDevice);
    eventually(|| (counter().seen() == u64::from(COUNT)).then_some(()), || format!("{:?}", counter()));
    assert_eq!(counter().effects[Effect::Corrupt as usize], u64::from(COUNT));
    let through = node.take();
    assert!(
        through.is_empty(),
        "{} of {COUNT} are counted as corrupted and arrive as they were",
        through.len()
    );
}
