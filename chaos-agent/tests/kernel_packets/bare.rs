//! Interfaces without an Ethernet header, such as tun and WireGuard: each fault does there what it does on a wire.
//!
//! ```text
//!  ┌ device ─────┐  thread   ┌ node ───────────────────┐        ┌ peer ──────┐
//!  │ eth0 (tun) ─┼───────────┼─ cat-dev (tun)   cat-up ─┼─ veth ─┼────── eth0 │
//!  └─────────────┘           └─────────────────────────┘        └────────────┘
//! ```

use std::collections::BTreeSet;
use std::net::SocketAddr;

use fault_abi::counter::Global;
use fault_abi::key::Direction;
use fault_abi::rule::ALWAYS;
use fault_abi::verdict::{Effect, Verdict};
use serde_json::json;

use crate::later::{self, Scene};
use crate::support::agent::{Agent, Holds, Hooks, is_lost};
use crate::support::capture::Capture;
use crate::support::fault::Fault;
use crate::support::stage::{ETH, Family, Stage, TO_DEVICE};
use crate::support::time::{eventually, ms};
use crate::support::tun;
use crate::{links, stream};

const COUNT: u32 = 500;

/// Numbers of the packets that do not arrive one way, which are those that were counted. Captures at the device see packets as
/// the hook does: without an Ethernet header.
fn missing(
    stage: &Stage,
    agent: &Agent,
    family: Family,
    direction: Direction,
    profile: &str,
) -> BTreeSet<u32> {
    let target = family.host(1, 2);
    let (mut at_device, mut at_peer) = (Capture::new(&stage.device, ETH), Capture::new(&stage.peer, ETH));
    let (device, peer) = (stage.device_end(family), stage.peer_end(family));
    let (from, to) = match direction {
        Direction::FromDevice => (&device, &peer),
        Direction::ToDevice => (&peer, &device),
    };
    let counter = || agent.counter(profile, &target, direction);
    from.stream(to, COUNT, || counter().seen());
    eventually(|| (counter().seen() == u64::from(COUNT)).then_some(()), || format!("{:?}", counter()));
    let counter = counter();
    let all = || {
        at_device.look();
        at_peer.look();
        let arrived = match direction {
            Direction::FromDevice => &at_peer.received,
            Direction::ToDevice => &at_device.received,
        };
        (arrived.len() as u64 == counter.packets[Verdict::Pass as usize]).then_some(())
    };
    eventually(all, || format!("what passed has not arrived {family:?} {direction:?}: {counter:?}"));
    let (sent, received) = match direction {
        Direction::FromDevice => (&at_device.sent, &at_peer.received),
        Direction::ToDevice => (&at_peer.sent, &at_device.received),
    };
    assert_eq!((sent.len(), at_device.repeated, at_peer.repeated), (COUNT as usize, 0, 0));
    let bytes: u64 = match direction {
        Direction::FromDevice => sent.values().sum(),
        // Of those that were lost the capture at the peer knows the length with an Ethernet header.
        Direction::ToDevice => {
            let lost = u64::from(COUNT) - received.len() as u64;
            received.values().sum::<u64>() + lost * received.values().next().unwrap_or(&0)
        }
    };
    if !received.is_empty() {
        assert_eq!(counter.bytes.iter().sum::<u64>(), bytes, "bytes without an Ethernet header");
    }
    sent.keys().filter(|id| !received.contains_key(id)).map(|(number, _)| *number).collect()
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn without_an_ethernet_header_the_same_packets_are_lost_on_every_hook() {
    let stage = tun::stage();
    let threshold = (ALWAYS + 2) / 5;
    for hooks in [Hooks::Tcx, Hooks::XdpNative, Hooks::Clsact] {
        let mut agent = Agent::start(&stage.node, hooks);
        for (family, direction) in
            Family::BOTH.into_iter().flat_map(|family| Direction::ALL.map(|direction| (family, direction)))
        {
            let target = family.host(1, 2);
            agent.set(&[]);
            stage.ends_meet();
            agent.set(&[Fault::loss("20%").on(std::slice::from_ref(&target))]);
            assert_eq!(agent.enforced(), (1, 1));
            let lost = missing(&stage, &agent, family, direction, "loss");
            let expected = (0..COUNT).filter(|index| is_lost(7, &target, direction, 5683, *index, threshold));
            assert_eq!(lost, expected.collect(), "{hooks:?} {family:?} {direction:?}");
            let entry = agent.entry().unwrap();
            assert_eq!((entry.reason, entry.effective), (None, true), "{hooks:?} {family:?} {direction:?}");
        }
    }
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn without_an_ethernet_header_ports_and_networks_are_found_and_a_partition_loses_all() {
    let stage = tun::stage();
    let mut agent = Agent::start(&stage.node, Hooks::Tcx);
    for family in Family::BOTH {
        let target = family.host(1, 2);
        for (ports, lost) in [("5683", COUNT), ("5684", 0)] {
            agent.set(&[]);
            let by_port = json!({"protocol": "UDP", "ports": [ports]});
            agent.set(&[Fault::partition().on(std::slice::from_ref(&target)).matching(by_port)]);
            if lost == 0 {
                stage.device_end(family).reaches(&stage.peer_end(family), COUNT);
                stage.peer_end(family).reaches(&stage.device_end(family), COUNT);
                continue;
            }
            for direction in Direction::ALL {
                let missing = missing(&stage, &agent, family, direction, "partition");
                assert_eq!(missing.len(), lost as usize, "{family:?} {direction:?}");
            }
        }
    }
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn without_an_ethernet_header_packets_are_held_doubled_and_put_back_as_they_were() {
    let mut scene = Scene::on(tun::stage(), Hooks::Tcx, Holds::Best);
    for (family, direction) in
        Family::BOTH.into_iter().flat_map(|family| Direction::ALL.map(|direction| (family, direction)))
    {
        let held = scene.trip(json!({"delay": {"time": "20ms"}}), direction, family, None);
        assert!(held.took_ns().iter().all(|ns| later::is_held(*ns, ms(20))), "{family:?} {direction:?}");
        let plain = scene.trip(json!({"duplicate": {"percent": "50%"}}), direction, family, None);
        assert!(plain.effect(Effect::Duplicate) > 100);
        let faults = json!({"duplicate": {"percent": "50%"}, "delay": {"time": "10ms", "jitter": "2ms"}});
        let both = scene.trip(faults, direction, family, None);
        assert_eq!(both.effect(Effect::Delay), u64::from(later::COUNT) + both.effect(Effect::Duplicate));
    }
    // Packets of 92 bytes (64 and headers), and of 112 with IPv6, of which the bucket takes 20 at once.
    for (family, direction) in
        Family::BOTH.into_iter().flat_map(|family| Direction::ALL.map(|direction| (family, direction)))
    {
        let (rate, burst) = if family == Family::V4 { ("25k", "1840") } else { ("30k", "2240") };
        let faults = json!({"rate": {"bitsPerSecond": rate, "burst": burst, "queue": "400ms"}});
        let slow = scene.trip(faults, direction, family, None);
        assert!(
            slow.effect(Effect::Rate) > 0 && slow.effect(Effect::Overflow) > 0,
            "{family:?} {direction:?}"
        );
        assert_eq!(slow.came.len() as u64, u64::from(later::COUNT) - slow.effect(Effect::Overflow));
    }
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn without_an_ethernet_header_a_flipped_bit_is_a_wrong_checksum() {
    let mut scene = Scene::on(tun::stage(), Hooks::Tcx, Holds::Best);
    later::flipped_bits_are_wrong_checksums(&mut scene);
}

/// Super-packets pass the splitter, whose devices take Ethernet frames alone.
#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn without_an_ethernet_header_a_tcp_transfer_arrives_whole_under_all_later_faults() {
    let stage = tun::stage();
    let mut agent = Agent::start(&stage.node, Hooks::Tcx);
    // So often that each kind meets some of the fewer packets that are sent under emulation.
    let faults = json!({
        "loss": {"percent": "1%"}, "corrupt": {"percent": "5%"}, "duplicate": {"percent": "5%"},
        "delay": {"time": "2ms", "jitter": "200us"}, "reorder": {"percent": "5%", "by": "1ms"},
    });
    for family in Family::BOTH {
        agent.set(&[]);
        agent.set(&[Fault::new("stream", faults.clone()).on(&stream::addresses(family))]);
        let (device, peer) = (&stage.device, &stage.peer);
        for (from, to, ip) in [(peer, device, family.ip(1, 2)), (device, peer, family.ip(2, 2))] {
            let came = stream::transfer(from, to, SocketAddr::new(ip, stream::PORT));
            assert!(came == stream::bytes(), "{family:?} to {ip}");
        }
        for direction in Direction::ALL {
            let total = agent.total(direction);
            for effect in [Effect::Corrupt, Effect::Duplicate, Effect::Delay, Effect::Reorder] {
                assert!(total.effects[effect as usize] > 0, "{effect:?} {direction:?}");
            }
            assert_eq!(total.gso_frames, 0, "each packet on the wire was decided on for itself");
        }
    }
    for what in [Global::Stray, Global::LineFull, Global::EngineStalled, Global::Orphaned, Global::Unsplit] {
        assert_eq!(agent.global(what), 0, "{what:?}");
    }
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn without_an_ethernet_header_who_is_rejected_learns_it_at_once() {
    let stage = tun::stage();
    let mut agent = Agent::start(&stage.node, Hooks::Tcx);
    links::rejections_are_told(&stage, &mut agent);
}

/// Those of [`links`], loss in bursts, each n-th packet and reordering among them.
#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn every_fault_acts_without_an_ethernet_header_on_tcx_and_on_clsact() {
    let stage = tun::stage();
    for hooks in [Hooks::Tcx, Hooks::Clsact] {
        stage.ends_meet();
        links::every_fault_acts(&stage, hooks, TO_DEVICE, 64);
    }
}
