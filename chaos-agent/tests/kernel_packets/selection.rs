//! Every kind of fault with each way to say which packets it is about: a port, a range of ports, peers, and a port of peers, both families,
//! both directions. Packets that match meet it, and those beside them arrive once each and are not even counted.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use fault_abi::counter::Counter;
use fault_abi::key::Direction;
use fault_abi::verdict::{Effect, Verdict};
use serde_json::{Value, json};

use crate::later::is_held;
use crate::support::agent::{Agent, Hooks};
use crate::support::fault::Fault;
use crate::support::stage::{ETH, Family, Stage};
use crate::support::time::{boot_ns, eventually, ms};
use crate::support::traffic::End;

/// Packets of a conversation, each way.
const COUNT: u32 = 6;
/// Bytes of a packet's payload: two of them fill the bucket of the rate.
const LENGTH: usize = 1_000;
const PEER_PORT: u16 = 40_000;

/// A fault, and what comes of `n` packets that meet it: how many arrive, and how long they take at least; and what is counted of them.
struct Kind {
    faults: Value,
    arrive: fn(u64) -> u64,
    took_ns: u64,
    counted: fn(&Counter) -> u64,
}

fn kinds() -> Vec<Kind> {
    let kind = |faults, arrive, counted| Kind { faults, arrive, took_ns: 0, counted };
    let dropped = |counter: &Counter| counter.packets[Verdict::Loss as usize];
    // The first packet is outside of a burst, and one begins behind it.
    let bursts = json!({"gilbertElliott": {"enterBurst": "100%", "leaveBurst": "0%"}});
    let rate = json!({"bitsPerSecond": "1k", "burst": "2200", "queue": "10ms"});
    let held = |faults, counted| Kind { faults, arrive: |n| n, took_ns: ms(20), counted };
    vec![
        kind(json!({"partition": {}}), |_| 0, |counter| counter.packets[Verdict::Partition as usize]),
        kind(
            json!({"partition": {"mode": "Reject"}}),
            |_| 0,
            |counter| counter.packets[Verdict::Reject as usize],
        ),
        kind(json!({"loss": {"percent": "100%"}}), |_| 0, dropped),
        kind(json!({"loss": {"every": 2}}), |n| n / 2, dropped),
        kind(json!({"loss": bursts}), |_| 1, dropped),
        kind(
            json!({"corrupt": {"percent": "100%"}}),
            |_| 0,
            |counter| counter.effects[Effect::Corrupt as usize],
        ),
        kind(
            json!({"duplicate": {"percent": "100%"}}),
            |n| 2 * n,
            |counter| counter.effects[Effect::Duplicate as usize],
        ),
        held(json!({"delay": {"time": "20ms"}}), |counter| counter.effects[Effect::Delay as usize]),
        held(json!({"reorder": {"percent": "100%", "by": "20ms"}}), |counter| {
            counter.effects[Effect::Reorder as usize]
        }),
        kind(json!({ "rate": rate }), |_| 2, |counter| counter.effects[Effect::Overflow as usize]),
    ]
}

/// Which packets a profile is about, and conversations of the device's port with a host of the peer's network: whether they are meant.
struct Choice {
    matching: Value,
    conversations: &'static [(u16, u16, bool)],
}

fn choices(family: Family) -> [Choice; 4] {
    // Hosts 2 and 3, and not 4.
    let peers =
        json!([{"cidr": format!("{}/{}", family.ip(2, 2), if family == Family::V4 { 31 } else { 127 })}]);
    [
        Choice { matching: json!({"ports": ["5683"]}), conversations: &[(5683, 2, true), (5684, 2, false)] },
        Choice {
            matching: json!({"ports": ["5600-5690"]}),
            conversations: &[(5599, 2, false), (5600, 2, true), (5690, 2, true), (5691, 2, false)],
        },
        Choice {
            matching: json!({ "peers": peers }),
            conversations: &[(5683, 2, true), (5684, 3, true), (5683, 4, false)],
        },
        Choice {
            matching: json!({"ports": ["5683"], "peers": peers}),
            conversations: &[(5683, 3, true), (5684, 3, false), (5683, 4, false)],
        },
    ]
}

/// The sockets of both ends of some conversations.
struct Ends {
    devices: BTreeMap<u16, End>,
    peers: BTreeMap<u16, End>,
}

/// A packet that came: its number, and when it did.
type Came = Vec<(u32, u64)>;

impl Ends {
    fn open(stage: &Stage, family: Family, choice: &Choice) -> Self {
        let device = |(port, ..): &(u16, u16, bool)| {
            (*port, End::new(&stage.device, SocketAddr::new(family.ip(1, 2), *port)))
        };
        let peer = |(_, host, _): &(u16, u16, bool)| {
            (*host, End::new(&stage.peer, SocketAddr::new(family.ip(2, *host), PEER_PORT)))
        };
        // One socket each, however many conversations it has.
        let mut ends = Self { devices: BTreeMap::new(), peers: BTreeMap::new() };
        for conversation in choice.conversations {
            if !ends.devices.contains_key(&conversation.0) {
                ends.devices.extend([device(conversation)]);
            }
            if !ends.peers.contains_key(&conversation.1) {
                ends.peers.extend([peer(conversation)]);
            }
        }
        ends
    }

    /// Sends all packets, whatever senders are told about those before; returns when each was sent, by direction and number.
    fn send(&self, choice: &Choice) -> BTreeMap<(Direction, u32), u64> {
        let mut sent = BTreeMap::new();
        for i in 0..COUNT {
            for (nth, (port, host, _)) in (0..).zip(choice.conversations) {
                let (device, peer, number) = (&self.devices[port], &self.peers[host], nth * COUNT + i);
                for (direction, from, to) in
                    [(Direction::FromDevice, device, peer), (Direction::ToDevice, peer, device)]
                {
                    sent.insert((direction, number), boot_ns());
                    let is_sent = (0..10).any(|_| from.send_long(to, number, LENGTH).is_ok());
                    assert!(is_sent, "packet {number} cannot be sent {direction:?}");
                }
            }
        }
        sent
    }

    /// Takes what has come, by direction.
    fn take(&self, came: &mut [Came; 2]) {
        for (direction, ends) in [(Direction::FromDevice, &self.peers), (Direction::ToDevice, &self.devices)]
        {
            let numbers: Vec<u32> = ends.values().flat_map(End::take_although_refused).collect();
            let now = boot_ns();
            came[direction as usize].extend(numbers.into_iter().map(|number| (number, now)));
        }
    }
}

/// One fault on one choice of packets.
fn is_met_by_those_alone_that_match(
    stage: &Stage,
    agent: &mut Agent,
    family: Family,
    kind: &Kind,
    choice: &Choice,
) {
    let story = format!("{family:?}, {}, {}", kind.faults, choice.matching);
    let target = family.host(1, 2);
    agent.set(&[]);
    let fault = Fault::new("chosen", kind.faults.clone()).matching(choice.matching.clone());
    agent.set(&[fault.on(std::slice::from_ref(&target))]);
    let ends = Ends::open(stage, family, choice);
    let sent = ends.send(choice);
    let conversations = |is_meant: bool| {
        choice.conversations.iter().filter(move |(.., meant)| *meant == is_meant).count() as u64
    };
    let [meant, beside] = [true, false].map(|is_meant| conversations(is_meant) * u64::from(COUNT));
    let due = (kind.arrive)(meant) + beside;
    let mut came = [Came::new(), Came::new()];
    let all = || {
        ends.take(&mut came);
        came.iter().all(|came| came.len() as u64 >= due).then_some(())
    };
    let counter = |direction| agent.counter("chosen", &target, direction);
    eventually(all, || format!("{story}: {due} are due each way; {:?}", Direction::ALL.map(counter)));
    for direction in Direction::ALL {
        let counter = counter(direction);
        assert_eq!(counter.seen(), meant, "{story}, {direction:?}: those that match, and no other");
        let missing = meant.saturating_sub((kind.arrive)(meant));
        let hits = if missing == 0 { meant } else { missing };
        assert_eq!((kind.counted)(&counter), hits, "{story}, {direction:?}: {counter:?}");
        let came = &came[direction as usize];
        assert_eq!(came.len() as u64, due, "{story}, {direction:?}: {came:?}");
        for (nth, (.., is_meant)) in (0..).zip(choice.conversations) {
            let numbers = nth * COUNT..(nth + 1) * COUNT;
            let mut own: Vec<u32> =
                came.iter().map(|(number, _)| *number).filter(|number| numbers.contains(number)).collect();
            own.sort_unstable();
            assert!(*is_meant || own.iter().copied().eq(numbers), "{story}, {direction:?}: {nth} {own:?}");
        }
        let meant_numbers = (0..).zip(choice.conversations).filter(|(_, (.., is_meant))| *is_meant);
        let meant_numbers: Vec<u32> =
            meant_numbers.flat_map(|(nth, _)| nth * COUNT..(nth + 1) * COUNT).collect();
        for (number, at) in came.iter().filter(|(number, _)| meant_numbers.contains(number)) {
            let took = at - sent[&(direction, *number)];
            assert!(is_held(took, kind.took_ns), "{story}, {direction:?}: {number} took {took} ns");
        }
    }
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn each_fault_is_met_by_the_packets_of_its_port_range_or_peers_and_those_beside_them_are_untouched() {
    for hooks in [Hooks::Tcx, Hooks::XdpNative] {
        let stage = Stage::new();
        for family in Family::BOTH {
            let length = if family == Family::V4 { 24 } else { 64 };
            stage.peer.ip(&format!("addr add {}/{length} dev {ETH}\n", family.ip(2, 4)));
        }
        let mut agent = Agent::start(&stage.node, hooks);
        for family in Family::BOTH {
            // They know each other, so that no packet waits for a neighbour.
            stage.peer_end(family).reaches(&stage.device_end(family), 1);
            for choice in choices(family) {
                for kind in kinds() {
                    is_met_by_those_alone_that_match(&stage, &mut agent, family, &kind, &choice);
                }
            }
        }
        assert_eq!(agent.line.dropped(), 0, "packets lost in the line");
    }
}
