//! conntrack on the way: no packet that was held, split or lost looks like one that belongs nowhere.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use fault_abi::key::Direction;
use fault_abi::verdict::{Effect, Verdict};
use serde_json::json;

use super::{counted, load};
use crate::support::agent::{Agent, Hooks};
use crate::support::fault::Fault;
use crate::support::space::Namespace;
use crate::support::stage::{Family, Stage};
use crate::support::time::eventually;

const PORT: u16 = 7_000;
const LENGTH: usize = 1 << 20;
const DATAGRAMS: u32 = 500;

/// What conntrack makes of each packet, where it has just looked at it and where the packet leaves.
const WATCH: &str = "
table inet watch {
    counter invalid {}
    counter untracked {}
    counter known {}
    counter begins {}
    chain coming {
        type filter hook prerouting priority 0
        ct state invalid counter name invalid
        meta l4proto { tcp, udp } ct state untracked counter name untracked
        ct state established counter name known
        ct state new counter name begins
    }
    chain leaving {
        type filter hook postrouting priority 0
        ct state invalid counter name invalid
    }
}
";

/// Sends zeros from one namespace to the other; returns how many came.
fn transfer(from: &Namespace, to: &Namespace, address: SocketAddr) -> usize {
    let listener = to.run(|| TcpListener::bind(address)).unwrap();
    let receiver = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_to_end(&mut Vec::new()).unwrap()
    });
    let mut stream = from.run(|| TcpStream::connect(address)).unwrap();
    stream.write_all(&vec![0; LENGTH]).unwrap();
    drop(stream);
    receiver.join().unwrap()
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn conntrack_finds_no_packet_invalid_that_was_held_or_split_or_whose_neighbours_were_lost() {
    for hooks in [Hooks::Tcx, Hooks::XdpNative] {
        let stage = Stage::new();
        for space in [&stage.node, &stage.device, &stage.peer] {
            load(space, WATCH);
        }
        let mut agent = Agent::start(&stage.node, hooks);
        let faults = json!({
            "loss": {"percent": "1%"}, "duplicate": {"percent": "1%"}, "delay": {"time": "3ms", "jitter": "300us"},
        });
        for family in Family::BOTH {
            agent.set(&[]);
            let targets = [2, 3].map(|host| family.host(1, host));
            agent.set(&[Fault::new("later", faults.clone()).on(&targets)]);
            let (device, peer) = (&stage.device, &stage.peer);
            for (from, to, ip) in [(peer, device, family.ip(1, 2)), (device, peer, family.ip(2, 2))] {
                assert_eq!(transfer(from, to, SocketAddr::new(ip, PORT)), LENGTH, "{hooks:?} to {ip}");
            }
            let (device, peer) = (stage.device_end(family), stage.peer_end(family));
            let before = Direction::ALL.map(|direction| agent.total(direction).seen());
            let seen = |direction| agent.total(direction).seen() - before[direction as usize];
            device.stream(&peer, DATAGRAMS, || seen(Direction::FromDevice));
            peer.stream(&device, DATAGRAMS, || seen(Direction::ToDevice));
            for direction in Direction::ALL {
                let total = || agent.total(direction);
                let all = || (seen(direction) >= u64::from(DATAGRAMS)).then_some(());
                eventually(all, || format!("{direction:?}: {:?}", total()));
                assert!(total().packets[Verdict::Loss as usize] > 0, "{:?}", total());
                assert!(total().effects[Effect::Delay as usize] > 0, "{:?}", total());
            }
        }
        for (name, space) in [("node", &stage.node), ("device", &stage.device), ("peer", &stage.peer)] {
            let [invalid, untracked, known, begins] =
                ["invalid", "untracked", "known", "begins"].map(|counter| counted(space, counter));
            println!(
                "{hooks:?} {name}: {invalid} invalid, {untracked} untracked, {known} known, {begins} new"
            );
            assert!(known > 1_000, "{name}: conntrack has looked at what passed");
            assert_eq!((invalid, untracked), (0, 0), "{hooks:?} {name}");
        }
    }
}
