//! Replacing rules under traffic: a packet that met a partition before and meets one after never slips through in
//! between, whatever shape the rules take.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use fault_abi::counter::Global;
use fault_abi::key::Direction;
use fault_abi::verdict::Verdict;
use serde_json::json;

use crate::support::agent::{Agent, Hooks};
use crate::support::fault::Fault;
use crate::support::stage::{Family, Stage};
use crate::support::time::{Beat, eventually};
use crate::support::traffic::End;

const REPLACEMENTS: u64 = 200;

/// Different shapes of "everything of the device is lost", so that each replacement moves something: other
/// profiles, other rules, other tables, more and fewer bindings. Profiles that have no part are paused, so that
/// all counters are kept.
fn shapes() -> [Vec<Fault>; 6] {
    let hosts = Family::BOTH.map(|family| family.host(1, 2));
    let networks = ["10.77.1.0/24".to_owned(), "fd77:1::/64".to_owned()];
    let everywhere = ["0.0.0.0/0".to_owned(), "::/0".to_owned()];
    let peers = json!({"peers": [{"cidr": "10.77.2.0/24"}, {"cidr": "fd77::/16"}]});
    let walls = [
        Fault::partition().on(&hosts),
        Fault::partition().on(&networks),
        Fault::partition().on(&everywhere),
        Fault::loss("100%").on(&hosts),
        Fault::partition().on(&hosts).matching(peers),
        Fault::partition().on(&networks).matching(json!({"ports": ["5683"]})),
    ];
    let mut number = 0;
    walls.map(|wall| {
        number += 1;
        let (acting, paused) = if number % 2 == 0 { ("wall-a", "wall-b") } else { ("wall-b", "wall-a") };
        let nothing = Fault::loss("0%").named("nothing").on(&hosts);
        let nothing = if number % 3 == 0 { nothing } else { nothing.paused() };
        vec![nothing, wall.clone().named(acting), wall.named(paused).paused()]
    })
}

/// How many packets may be under way, see `traffic::paced`.
const UNDER_WAY: u64 = 200;

/// Sends both ways until it is told to end; returns how many packets in all. `dropped` of them have gone by now.
fn flood(device: &End, peer: &End, dropped: &AtomicU64, is_over: &AtomicBool) -> u64 {
    let mut beat = Beat::new(Duration::from_micros(50));
    let mut pairs = 0;
    while !is_over.load(Ordering::Relaxed) {
        if 2 * pairs < dropped.load(Ordering::Relaxed) + UNDER_WAY {
            let number = u32::try_from(pairs).unwrap();
            device.send(peer, number).unwrap();
            peer.send(device, number).unwrap();
            pairs += 1;
        } else {
            beat.wait();
        }
    }
    2 * pairs
}

/// What was lost by partition or by loss. Where everybody is a target, what comes from the peer is dropped before
/// it is on its way to the device: so both directions count together.
fn dropped(agent: &Agent) -> u64 {
    let packets = Direction::ALL.map(|direction| agent.total(direction).packets);
    packets.iter().map(|by| by[Verdict::Partition as usize] + by[Verdict::Loss as usize]).sum()
}

fn nothing_slips_through(hooks: Hooks, family: Family) {
    let stage = Stage::new();
    let mut agent = Agent::start(&stage.node, hooks);
    let shapes = shapes();
    agent.set(&shapes[0]);
    let (device, peer) = (stage.device_end(family), stage.peer_end(family));
    let (gone, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    let sent = thread::scope(|scope| {
        let flood = scope.spawn(|| flood(&device, &peer, &gone, &is_over));
        let mut beat = Beat::new(Duration::from_millis(5));
        for shape in shapes.iter().cycle().skip(1).take(usize::try_from(REPLACEMENTS).unwrap()) {
            agent.set(shape);
            gone.store(dropped(&agent), Ordering::Relaxed);
            beat.wait();
        }
        is_over.store(true, Ordering::Relaxed);
        flood.join().unwrap()
    });
    eventually(
        || (dropped(&agent) >= sent).then_some(()),
        || format!("{} of {sent} dropped", dropped(&agent)),
    );
    assert_eq!(dropped(&agent), sent);
    assert_eq!((device.take(), peer.take()), (vec![], vec![]), "nothing slipped through");
    assert_eq!(agent.global(Global::Orphaned), 0);
    println!(
        "{hooks:?} {family:?}: {} packets lost over {REPLACEMENTS} replacements, {} entries read again",
        sent,
        agent.global(Global::Reread)
    );
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn no_packet_slips_through_while_rules_are_replaced() {
    nothing_slips_through(Hooks::Tcx, Family::V4);
    nothing_slips_through(Hooks::XdpNative, Family::V6);
}
