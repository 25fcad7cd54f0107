//! Packets of which only the first bytes are in the linear part, as some drivers leave them. A TAP device makes such:
//! of a frame longer than a page it keeps together what the writer calls its header.

use std::fs::File;
use std::io::Write as _;

use fault_abi::key::Direction;
use fault_abi::verdict::Verdict;
use fault_rig::frame::{Extension, Spec};
use nix::libc;
use serde_json::json;

use crate::support::agent::{Agent, Hooks};
use crate::support::fault::Fault;
use crate::support::space::Namespace;
use crate::support::time::eventually;
use crate::support::tun;

const NAME: &str = "cat-tap";
const TARGET: &str = "fd77:1::2";

/// Puts in a frame of which the first `linear` bytes stay together.
fn put(tap: &mut File, frame: &[u8], linear: u16) {
    // `struct virtio_net_hdr`: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset.
    let mut bytes = vec![0; 10];
    bytes[2..4].copy_from_slice(&linear.to_ne_bytes());
    bytes.extend(frame);
    assert_eq!(tap.write(&bytes).unwrap(), bytes.len());
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn ports_are_found_also_where_a_driver_left_them_in_fragments() {
    let node = Namespace::new();
    let mut tap = node.run(|| tun::open(NAME, libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR));
    node.ip(&format!("link set {NAME} up\n"));
    let mut agent = Agent::start(&node, Hooks::Tcx);
    let wall = Fault::partition().on(&[format!("{TARGET}/128")]).matching(json!({"ports": ["5683"]}));
    agent.set(&[wall]);
    let plain = Spec::udp((TARGET.parse().unwrap(), 5683), ("fd77::5".parse().unwrap(), 40_000));
    let plain = Spec { payload: 6_000, ..plain };
    let extended = Spec { extensions: vec![Extension::HopByHop(3)], ..plain.clone() };
    let cases = [(&plain, 14), (&plain, 54), (&plain, 57), (&plain, 58), (&extended, 62)];
    for (sent, (packet, linear)) in (1..).zip(cases) {
        put(&mut tap, &packet.bytes(), linear);
        let seen = || agent.counter("partition", &format!("{TARGET}/128"), Direction::FromDevice);
        let is_dropped = || (seen().packets[Verdict::Partition as usize] == sent).then_some(());
        eventually(is_dropped, || format!("{linear} bytes are linear: {:?}", seen()));
    }
}
