//! Frames that are not plain: fragments, of which only the first has ports, and VLAN tags, one and two.

use std::collections::BTreeSet;
use std::net::IpAddr;

use fault_abi::key::Direction;
use fault_abi::verdict::Verdict;
use fault_rig::frame::{SERVICE_TAG, Spec, TAG};
use serde_json::json;

use crate::support::agent::{Agent, Hooks};
use crate::support::capture::Capture;
use crate::support::fault::Fault;
use crate::support::numbers::{Id, payload};
use crate::support::space::{Plug, wire};
use crate::support::stage::{ETH, Family, Stage, TO_DEVICE, TO_PEER};
use crate::support::time::eventually;
use crate::support::traffic::paced;

const DATAGRAMS: u32 = 300;
/// Three fragments each, on wires of 1,500 bytes.
const LENGTH: usize = 4_000;
const FRAGMENTS: usize = 3 * DATAGRAMS as usize;

/// Waits until the kernel has seen so many frames of the device, and until the peer's capture has those that
/// passed.
fn settle(
    agent: &Agent,
    profile: &str,
    target: &str,
    seen: usize,
    captures: [&mut Capture; 2],
    passed: usize,
) {
    let counter = || agent.counter(profile, target, Direction::FromDevice);
    eventually(|| (counter().seen() >= seen as u64).then_some(()), || format!("{:?}", counter()));
    let [from, to] = captures;
    let counted = passed + usize::try_from(counter().packets[Verdict::Pass as usize]).unwrap();
    let all = || {
        from.look();
        to.look();
        (to.received.len() >= counted).then_some(())
    };
    eventually(all, || format!("{counted} passed"));
    assert_eq!((counter().seen(), to.received.len()), (seen as u64, counted));
}

/// Sends long datagrams from the device to the peer; returns the fragments that are missing.
fn fragments(stage: &Stage, agent: &Agent, family: Family, profile: &str, uncounted: usize) -> BTreeSet<Id> {
    let (mut at_device, mut at_peer) = (Capture::new(&stage.device, ETH), Capture::new(&stage.peer, ETH));
    let (device, peer) = (stage.device_end(family), stage.peer_end(family));
    let target = family.host(1, 2);
    let counted = (FRAGMENTS - uncounted) as u64 / u64::from(DATAGRAMS);
    let seen = || agent.counter(profile, &target, Direction::FromDevice).seen() / counted;
    paced(DATAGRAMS, |number| device.send_long(&peer, number, LENGTH).unwrap(), seen);
    settle(agent, profile, &target, FRAGMENTS - uncounted, [&mut at_device, &mut at_peer], uncounted);
    assert_eq!(at_device.sent.len(), FRAGMENTS);
    let missing = at_device.sent.keys().filter(|id| !at_peer.received.contains_key(id));
    let missing: BTreeSet<Id> = missing.copied().collect();
    let broken: BTreeSet<u32> = missing.iter().map(|(number, _)| *number).collect();
    let whole: BTreeSet<u32> = (0..DATAGRAMS).filter(|number| !broken.contains(number)).collect();
    let mut came = BTreeSet::new();
    let all = || {
        came.extend(peer.take());
        (came.len() >= whole.len()).then_some(())
    };
    eventually(all, || "whole datagrams are missing".to_owned());
    assert_eq!(came, whole, "a datagram arrives when all of its fragments do");
    missing
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn each_fragment_draws_for_itself_and_ports_are_those_of_the_first() {
    let stage = Stage::new();
    for family in Family::BOTH {
        let target = family.host(1, 2);
        let fates = [Hooks::Tcx, Hooks::XdpNative, Hooks::Clsact].map(|hooks| {
            let mut agent = Agent::start(&stage.node, hooks);
            agent.set(&[Fault::loss("20%").on(std::slice::from_ref(&target))]);
            let missing = fragments(&stage, &agent, family, "loss", 0);
            let later = missing.iter().filter(|(_, block)| *block > 0).count();
            assert!(later > 0 && later < missing.len(), "first and later fragments are lost");

            agent.set(&[]);
            let by_port = json!({"protocol": "UDP", "ports": ["5683"]});
            agent.set(&[Fault::partition().on(std::slice::from_ref(&target)).matching(by_port)]);
            let without_head = fragments(&stage, &agent, family, "partition", FRAGMENTS * 2 / 3);
            assert!(without_head.iter().map(|(_, block)| *block).eq([0; DATAGRAMS as usize]));
            missing
        });
        assert!(fates.iter().all(|fate| *fate == fates[0]), "the same fragments on every hook");
    }
}

/// A numbered frame with this many VLAN tags, from host to host.
pub(crate) fn frame(number: u32, tags: usize, from: IpAddr, to: IpAddr) -> Vec<u8> {
    let body = payload(number, 64);
    let tags = [SERVICE_TAG, TAG][2 - tags..].to_vec();
    let spec = Spec { tags, payload: body.len(), ..Spec::udp((from, 5683), (to, 40_000)) };
    let mut frame = spec.bytes();
    let start = frame.len() - body.len();
    frame[start..].copy_from_slice(&body);
    frame
}

/// A node that bridges a device and a peer, so that tagged frames pass without an interface for their VLAN.
pub(crate) fn bridge() -> Stage {
    let stage = Stage::without_device();
    for (interface, far) in [(TO_DEVICE, &stage.device), (TO_PEER, &stage.peer)] {
        let near = Plug { space: &stage.node, interface, addresses: &[] };
        wire(&near, &Plug { space: far, interface: ETH, addresses: &[] });
    }
    let ports = [TO_DEVICE, TO_PEER].map(|port| format!("link set {port} master br0\n"));
    stage.node.ip(&format!("link add br0 type bridge\nlink set br0 up\n{}", ports.concat()));
    stage
}

/// Frames with none, one and two tags; returns those that are missing at the peer.
fn tagged(stage: &Stage, agent: &Agent, family: Family) -> BTreeSet<Id> {
    const EACH: u32 = 300;
    let wire = Capture::new(&stage.device, ETH);
    let (mut at_device, mut at_peer) = (Capture::new(&stage.device, ETH), Capture::new(&stage.peer, ETH));
    let target = family.host(1, 2);
    let send = |number| {
        let tags = usize::try_from(number / EACH).unwrap();
        wire.send(&frame(number, tags, family.ip(1, 2), family.ip(2, 2)));
    };
    paced(3 * EACH, send, || agent.counter("loss", &target, Direction::FromDevice).seen());
    settle(agent, "loss", &target, 3 * EACH as usize, [&mut at_device, &mut at_peer], 0);
    assert_eq!(at_device.sent.len(), 3 * EACH as usize);
    let missing = at_device.sent.keys().filter(|id| !at_peer.received.contains_key(id));
    let missing: BTreeSet<Id> = missing.copied().collect();
    for tags in 0..3 {
        let lost = missing.range((tags * EACH, 0)..((tags + 1) * EACH, 0)).count();
        assert!((30..100).contains(&lost), "20 % of {EACH} with {tags} tags: {lost}");
    }
    missing
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn tagged_frames_are_decided_like_any_other_on_every_hook() {
    let stage = bridge();
    for family in Family::BOTH {
        let fates = [Hooks::Tcx, Hooks::XdpNative, Hooks::Clsact].map(|hooks| {
            let mut agent = Agent::start(&stage.node, hooks);
            assert!(agent.hooked().keys().eq([TO_DEVICE, TO_PEER]), "the bridge's ports, not the bridge");
            agent.set(&[Fault::loss("20%").on(&[family.host(1, 2)])]);
            tagged(&stage, &agent, family)
        });
        assert!(fates.iter().all(|fate| *fate == fates[0]), "the same frames on every hook");
    }
}
