//! conntrack on the way: no packet that was held, split, overtaken or lost looks like one that belongs nowhere, nor does an answer in
//! another's stead. What is flipped does, each by itself and nothing else, as on a wire that flips bits.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use fault_abi::counter::Counter;
use fault_abi::key::Direction;
use fault_abi::verdict::{Effect, Verdict};
use serde_json::{Value, json};

use super::{counted, load};
use crate::support::agent::{Agent, Hooks};
use crate::support::fault::Fault;
use crate::support::space::Namespace;
use crate::support::stage::{Family, Stage};
use crate::support::time::{eventually, is_emulated, patience};
use crate::support::traffic::End;

const PORT: u16 = 7_000;
const DATAGRAMS: u32 = 500;
/// Conversations that are refused, one way.
const REFUSED: u32 = 20;

/// What conntrack makes of each packet, where it has just looked at it and where the packet leaves.
const WATCH: &str = "
table inet watch {
    counter invalid {}
    counter untracked {}
    counter known {}
    counter begins {}
    counter belongs {}
    chain coming {
        type filter hook prerouting priority 0
        ct state invalid counter name invalid
        meta l4proto { tcp, udp } ct state untracked counter name untracked
        ct state established counter name known
        ct state new counter name begins
        ct state related counter name belongs
    }
    chain leaving {
        type filter hook postrouting priority 0
        ct state invalid counter name invalid
    }
}
";

/// Bytes of a stream.
fn length() -> usize {
    if is_emulated() { 256 << 10 } else { 1 << 20 }
}

/// How the agent may be attached.
const ALL_HOOKS: [Hooks; 3] = [Hooks::Tcx, Hooks::XdpNative, Hooks::Clsact];

/// What a profile does so that a stream still gets through, and what is to be counted of that both ways.
struct Case {
    faults: Value,
    loses: bool,
    effects: &'static [Effect],
}

fn cases() -> [Case; 3] {
    let held = json!({
        "loss": {"percent": "1%"}, "duplicate": {"percent": "1%"}, "delay": {"time": "3ms", "jitter": "300us"},
    });
    let overtaken = json!({"delay": {"time": "1ms"}, "reorder": {"percent": "5%", "by": "4ms"}});
    [
        Case { faults: held, loses: true, effects: &[Effect::Duplicate, Effect::Delay] },
        Case { faults: overtaken, loses: false, effects: &[Effect::Delay, Effect::Reorder] },
        Case { faults: json!({"corrupt": {"percent": "2%"}}), loses: false, effects: &[Effect::Corrupt] },
    ]
}

/// A stage whose namespaces are watched.
fn watched() -> Stage {
    let stage = Stage::new();
    for space in [&stage.node, &stage.device, &stage.peer] {
        load(space, WATCH);
    }
    stage
}

/// Both of the device's addresses: it sends from either.
fn targets(family: Family) -> [String; 2] {
    [2, 3].map(|host| family.host(1, host))
}

/// Sends zeros from one namespace to the other; returns how many came.
fn transfer(from: &Namespace, to: &Namespace, address: SocketAddr) -> usize {
    let listener = to.run(|| TcpListener::bind(address)).unwrap();
    let receiver = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_to_end(&mut Vec::new()).unwrap()
    });
    let mut stream = from.run(|| TcpStream::connect(address)).unwrap();
    stream.write_all(&vec![0; length()]).unwrap();
    drop(stream);
    receiver.join().unwrap()
}

/// Streams and datagrams both ways; returns what was counted, by direction.
fn converse(stage: &Stage, agent: &Agent, family: Family, story: &str) -> [Counter; 2] {
    for (from, to, ip) in
        [(&stage.peer, &stage.device, family.ip(1, 2)), (&stage.device, &stage.peer, family.ip(2, 2))]
    {
        assert_eq!(transfer(from, to, SocketAddr::new(ip, PORT)), length(), "{story} to {ip}");
    }
    let (device, peer) = (stage.device_end(family), stage.peer_end(family));
    let before = Direction::ALL.map(|direction| agent.total(direction).seen());
    let seen = |direction| agent.total(direction).seen() - before[direction as usize];
    device.stream(&peer, DATAGRAMS, || seen(Direction::FromDevice));
    peer.stream(&device, DATAGRAMS, || seen(Direction::ToDevice));
    Direction::ALL.map(|direction| {
        let all = || (seen(direction) >= u64::from(DATAGRAMS)).then_some(());
        eventually(all, || format!("{story} {direction:?}: {:?}", agent.total(direction)));
        agent.total(direction)
    })
}

/// So many packets conntrack takes for invalid in each namespace, in the end. The node looks at what it forwards when it comes and when it
/// leaves.
fn are_invalid(stage: &Stage, expected: [u64; 3], story: &str) {
    let spaces = [("node", &stage.node), ("device", &stage.device), ("peer", &stage.peer)];
    for ((name, space), expected) in spaces.into_iter().zip(expected) {
        let all = || (counted(space, "invalid") >= expected).then_some(());
        eventually(all, || format!("{story}, {name}: {} of {expected} invalid", counted(space, "invalid")));
        let [invalid, untracked, known, begins, belongs] =
            ["invalid", "untracked", "known", "begins", "belongs"].map(|counter| counted(space, counter));
        println!(
            "{story}, {name}: {invalid} invalid, {untracked} untracked, {known} known, {begins} new, {belongs} related"
        );
        assert!(known + begins + belongs > 0, "{name}: conntrack has looked at what passed");
        assert_eq!((invalid, untracked), (expected, 0), "{story}, {name}");
    }
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn conntrack_finds_no_packet_invalid_that_was_held_or_split_or_whose_neighbours_were_lost() {
    for (hooks, case) in ALL_HOOKS.into_iter().flat_map(|hooks| cases().map(|case| (hooks, case))) {
        let stage = watched();
        let mut agent = Agent::start(&stage.node, hooks);
        let mut corrupted = [0; 2];
        for family in Family::BOTH {
            let story = format!("{hooks:?}, {family:?}, {}", case.faults);
            agent.set(&[]);
            agent.set(&[Fault::new("later", case.faults.clone()).on(&targets(family))]);
            for (counter, corrupted) in converse(&stage, &agent, family, &story).iter().zip(&mut corrupted) {
                assert_eq!(counter.packets[Verdict::Loss as usize] > 0, case.loses, "{story}: {counter:?}");
                for effect in case.effects {
                    assert!(counter.effects[*effect as usize] > 0, "{story}: {effect:?} in {counter:?}");
                }
                *corrupted += counter.effects[Effect::Corrupt as usize];
            }
        }
        let [from_device, to_device] = corrupted;
        let story = format!("{hooks:?}, {}", case.faults);
        are_invalid(&stage, [2 * from_device, to_device, from_device], &story);
        assert!(counted(&stage.node, "known") > 1_000, "{story}: streams have passed");
    }
}

/// Sends on whatever the sender is told about what it has sent before.
fn send_in_spite(from: &End, to: &End, number: u32) {
    assert!((0..10).any(|_| from.send(to, number).is_ok()), "packet {number} cannot be sent");
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn conntrack_finds_no_answer_invalid_that_is_given_in_a_targets_stead() {
    for hooks in ALL_HOOKS {
        let stage = watched();
        let mut agent = Agent::start(&stage.node, hooks);
        for family in Family::BOTH {
            agent.set(&[]);
            // They know each other: a stream that begins anew while its first packet waits for a neighbour is refused twice, and of a stream
            // that has ended conntrack knows nothing more.
            stage.peer_end(family).reaches(&stage.device_end(family), 1);
            agent.set(&[Fault::new("reject", json!({"partition": {"mode": "Reject"}})).on(&targets(family))]);
            for (from, ip) in [(&stage.peer, family.ip(1, 2)), (&stage.device, family.ip(2, 2))] {
                for _ in 0..REFUSED {
                    let address = SocketAddr::new(ip, PORT);
                    let connect = || TcpStream::connect_timeout(&address, Duration::from_nanos(patience()));
                    let refused = from.run(connect).unwrap_err();
                    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{hooks:?} {family:?}");
                }
            }
            let (device, peer) = (stage.device_end(family), stage.peer_end(family));
            for number in 0..REFUSED {
                send_in_spite(&peer, &device, number);
                send_in_spite(&device, &peer, number);
            }
            for direction in Direction::ALL {
                let rejected = || agent.total(direction).packets[Verdict::Reject as usize];
                let all = || (rejected() >= u64::from(2 * REFUSED)).then_some(());
                eventually(all, || format!("{hooks:?} {family:?} {direction:?}: {} rejected", rejected()));
            }
        }
        // Of what the device asks the node sees nothing: it is answered where it comes in.
        are_invalid(&stage, [0; 3], &format!("{hooks:?}, rejected"));
        for (name, space) in [("node", &stage.node), ("device", &stage.device), ("peer", &stage.peer)] {
            let [known, belongs] = ["known", "belongs"].map(|counter| counted(space, counter));
            assert!(known >= u64::from(2 * REFUSED), "{hooks:?}, {name}: {known} resets of their streams");
            assert!(belongs >= u64::from(2 * REFUSED), "{hooks:?}, {name}: {belongs} errors about datagrams");
        }
    }
}
