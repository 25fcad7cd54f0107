//! Hooks follow interfaces: a rule that was there before its interface acts as soon as that appears.

use fault_abi::key::Direction;
use fault_abi::verdict::Verdict;

use crate::support::agent::{Agent, Hooks};
use crate::support::fault::Fault;
use crate::support::stage::{Family, Stage, TO_DEVICE, TO_PEER};
use crate::support::time::eventually;

const COUNT: u32 = 100;

fn hooks_come_and_go(hooks: Hooks) {
    let stage = Stage::without_device();
    stage.plug_peer();
    let mut agent = Agent::start(&stage.node, hooks);
    agent.follow(&[TO_PEER]);
    let target = Family::V4.host(1, 2);
    agent.set(&[Fault::partition().on(std::slice::from_ref(&target))]);
    assert_eq!(agent.enforced(), (1, 0), "no route leads there");
    let mut index = 0;
    for round in 1..=3 {
        stage.plug_device();
        agent.follow(&[TO_DEVICE, TO_PEER]);
        assert_eq!(agent.enforced(), (1, 1));
        let now = agent.hooked()[TO_DEVICE];
        assert_ne!(now, std::mem::replace(&mut index, now), "another interface by the same name");
        let (device, peer) = (stage.device_end(Family::V4), stage.peer_end(Family::V4));
        let seen = |direction| {
            agent.counter("partition", &target, direction).seen() - u64::from(COUNT * (round - 1))
        };
        device.stream(&peer, COUNT, || seen(Direction::FromDevice));
        peer.stream(&device, COUNT, || seen(Direction::ToDevice));
        for direction in Direction::ALL {
            let dropped =
                || agent.counter("partition", &target, direction).packets[Verdict::Partition as usize];
            let all = || (dropped() == u64::from(COUNT * round)).then_some(());
            eventually(all, || format!("{direction:?}: {} dropped in round {round}", dropped()));
        }
        assert_eq!((device.take(), peer.take()), (vec![], vec![]));
        stage.node.ip(&format!("link delete {TO_DEVICE}"));
        agent.follow(&[TO_PEER]);
        assert_eq!(agent.enforced(), (1, 0));
    }
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn hooks_follow_interfaces_that_come_and_go() {
    hooks_come_and_go(Hooks::Tcx);
    hooks_come_and_go(Hooks::XdpNative);
    hooks_come_and_go(Hooks::Clsact);
}
