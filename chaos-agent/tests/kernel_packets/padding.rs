//! A frame on a real wire is 60 bytes long at least: what stands behind a short packet is no part of it.

use fault_abi::key::Direction;
use fault_abi::verdict::Effect;
use fault_rig::frame::Spec;
use serde_json::json;

use crate::support::agent::{Agent, Hooks};
use crate::support::capture::Capture;
use crate::support::fault::Fault;
use crate::support::numbers::payload;
use crate::support::stage::{ETH, Family, Stage};
use crate::support::time::eventually;
use crate::support::traffic::End;

const COUNT: u32 = 100;
/// Ethernet and IP in front of UDP.
const UDP: usize = 14 + 20;

/// A numbered datagram with its checksum (RFC 768), and as many bytes behind it.
fn padded(number: u32, from: &End, to: &End) -> Vec<u8> {
    let body = payload(number, 16);
    let mut frame = Spec {
        payload: body.len(),
        ..Spec::udp((from.address.ip(), from.address.port()), (to.address.ip(), to.address.port()))
    }
    .bytes();
    frame[..6].fill(0xff);
    let start = frame.len() - body.len();
    frame[start..].copy_from_slice(&body);
    frame[UDP + 6..UDP + 8].fill(0);
    let length = u32::try_from(frame.len() - UDP).unwrap();
    let words = frame[UDP - 8..].chunks(2).map(|word| u32::from_be_bytes([0, 0, word[0], word[1]]));
    let sum = words.sum::<u32>() + 17 + length;
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !((sum & 0xffff) + (sum >> 16));
    frame[UDP + 6..UDP + 8].copy_from_slice(&sum.to_be_bytes()[2..]);
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
