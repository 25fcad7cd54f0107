//! Partition: everything of the target, nothing else; silent for the sender; and a program behind ours still
//! sees what passes, and decides.

use std::net::SocketAddr;

use fault_abi::key::Direction;
use fault_abi::verdict::Verdict;
use serde_json::json;

use crate::support::agent::{Agent, Hooks};
use crate::support::behind::Shooter;
use crate::support::conversation::{Server, ping};
use crate::support::fault::Fault;
use crate::support::stage::{ETH, Family, Stage, TO_DEVICE};
use crate::support::time::eventually;
use crate::support::traffic::End;

const COUNT: u32 = 200;

/// Sends both ways, and waits until the kernel has dropped all of it.
fn all_is_dropped(agent: &Agent, device: &End, peer: &End, before: u64, target: &str) {
    let seen = |direction| agent.counter("partition", target, direction).seen() - before;
    device.stream(peer, COUNT, || seen(Direction::FromDevice));
    peer.stream(device, COUNT, || seen(Direction::ToDevice));
    for direction in Direction::ALL {
        let counter = || agent.counter("partition", target, direction);
        let expected = before + u64::from(COUNT);
        let all = || (counter().packets[Verdict::Partition as usize] == expected).then_some(());
        eventually(all, || format!("{direction:?}: {:?}", counter()));
        assert_eq!(counter().seen(), expected, "nothing else was counted");
    }
    assert!(device.take().is_empty() && peer.take().is_empty(), "what is counted as dropped has not arrived");
}

fn a_partition_is_complete_and_hits_nothing_else(hooks: Hooks) {
    let stage = Stage::new();
    let mut agent = Agent::start(&stage.node, hooks);
    for family in Family::BOTH {
        let target = family.host(1, 2);
        let matching = json!({"protocol": "UDP", "ports": ["5683"], "peers": [{"cidr": family.host(2, 2)}]});
        agent.set(&[]);
        agent.set(&[Fault::partition().on(std::slice::from_ref(&target)).matching(matching)]);
        let (device, peer) = (stage.device_end(family), stage.peer_end(family));
        all_is_dropped(&agent, &device, &peer, 0, &target);

        let device_at = |host, port| End::new(&stage.device, SocketAddr::new(family.ip(1, host), port));
        let peer_at = |host, port| End::new(&stage.peer, SocketAddr::new(family.ip(2, host), port));
        let node = node_end(&stage, family);
        let (other_port, other_device) = (device_at(2, 5684), device_at(3, 5683));
        let (other_peer, same_peer) = (peer_at(3, 40_000), peer_at(2, 40_001));
        for (a, b) in [(&other_port, &peer), (&other_device, &peer), (&device, &other_peer), (&device, &node)]
        {
            a.reaches(b, COUNT);
            b.reaches(a, COUNT);
        }
        all_is_dropped(&agent, &device, &same_peer, u64::from(COUNT), &target);
    }
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn a_partition_drops_all_of_its_target_and_nothing_else_on_tcx() {
    a_partition_is_complete_and_hits_nothing_else(Hooks::Tcx);
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn a_partition_drops_all_of_its_target_and_nothing_else_on_native_xdp() {
    a_partition_is_complete_and_hits_nothing_else(Hooks::XdpNative);
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn a_partition_of_udp_leaves_tcp_alone() {
    let stage = Stage::new();
    let mut agent = Agent::start(&stage.node, Hooks::Tcx);
    let targets = Family::BOTH.map(|family| family.host(1, 2));
    agent.set(&[Fault::partition().on(&targets).matching(json!({"protocol": "UDP"}))]);
    for family in Family::BOTH {
        let server = Server::new(&stage.device, family.ip(1, 2), 5683);
        server.converse(&stage.peer);
    }
}

fn node_end(stage: &Stage, family: Family) -> End {
    End::new(&stage.node, SocketAddr::new(family.ip(1, 1), 40_000))
}

/// Node and device learn each other's link addresses, before somebody's program drops the questions; for good, since an address that
/// nobody has confirmed is asked for again after five seconds, and an agent may take longer to start.
fn know_each_other(stage: &Stage) {
    for family in Family::BOTH {
        let (device, node) = (stage.device_end(family), node_end(stage, family));
        device.reaches(&node, 1);
        node.reaches(&device, 1);
        for (space, ip, interface) in
            [(&stage.node, family.ip(1, 2), TO_DEVICE), (&stage.device, family.ip(1, 1), ETH)]
        {
            space.ip(&format!("neigh change {ip} dev {interface} nud permanent\n"));
        }
    }
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn a_program_behind_ours_on_tcx_sees_what_passes_and_decides_and_only_its_drops_are_told_to_the_sender() {
    let stage = Stage::new();
    know_each_other(&stage);
    // It was there first; the agent still goes before it.
    let _behind = Shooter::new(&stage.node, TO_DEVICE, Direction::ToDevice);
    let mut agent = Agent::start(&stage.node, Hooks::Tcx);
    for family in Family::BOTH {
        let target = family.host(1, 2);
        agent.set(&[]);
        agent.set(&[Fault::loss("50%").on(std::slice::from_ref(&target)).direction("ToDevice")]);
        let (device, node) = (stage.device_end(family), node_end(&stage, family));
        let refused = (0..COUNT).filter(|number| match node.send(&device, *number) {
            Ok(()) => false,
            // ENOBUFS: the other program's TC_ACT_SHOT, told to a sender that wants to know.
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(nix::libc::ENOBUFS), "{error}");
                true
            }
        });
        let refused = refused.count() as u64;
        let counter = agent.counter("loss", &target, Direction::ToDevice);
        assert_eq!(counter.seen(), u64::from(COUNT));
        assert_eq!(counter.packets[Verdict::Pass as usize], refused, "what we pass, the other one drops");
        assert!((50..150).contains(&refused), "half of {COUNT}: {refused}");
        assert!(device.take().is_empty());
    }
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn a_program_behind_ours_on_tcx_decides_on_what_comes_in() {
    let stage = Stage::new();
    know_each_other(&stage);
    let behind = Shooter::new(&stage.node, TO_DEVICE, Direction::FromDevice);
    let mut agent = Agent::start(&stage.node, Hooks::Tcx);
    let target = Family::V4.host(1, 2);
    agent.set(&[Fault::loss("0%").on(std::slice::from_ref(&target))]);
    let (device, peer) = (stage.device_end(Family::V4), stage.peer_end(Family::V4));
    let passed = || agent.counter("loss", &target, Direction::FromDevice).packets[Verdict::Pass as usize];
    device.stream(&peer, COUNT, passed);
    eventually(|| (passed() == u64::from(COUNT)).then_some(()), || format!("{} passed", passed()));
    assert!(peer.take().is_empty(), "the program behind ours has the last word");
    drop(behind);
    device.reaches(&peer, COUNT);
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn a_sender_on_the_node_is_not_told_and_its_pings_are_lost() {
    for hooks in [Hooks::Tcx, Hooks::Clsact] {
        let stage = Stage::new();
        let mut agent = Agent::start(&stage.node, hooks);
        let target = Family::V4.host(1, 2);
        agent.set(&[Fault::partition().on(std::slice::from_ref(&target)).direction("ToDevice")]);
        let (device, node) = (stage.device_end(Family::V4), node_end(&stage, Family::V4));
        for number in 0..COUNT {
            node.send(&device, number).unwrap();
        }
        let answers = ping(&stage.node, Family::V4.ip(1, 2), 5);
        assert_eq!(answers, (5, 0), "sent without an error, and unanswered");
        let dropped = agent.counter("partition", &target, Direction::ToDevice);
        assert_eq!(dropped.packets[Verdict::Partition as usize], u64::from(COUNT) + 5);
        assert!(device.take().is_empty());
        agent.set(&[]);
        let answers = ping(&stage.node, Family::V4.ip(1, 2), 5);
        assert_eq!(answers, (5, 5), "without the fault");
    }
}
