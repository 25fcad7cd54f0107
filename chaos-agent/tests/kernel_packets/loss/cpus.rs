//! Fates do not depend on the CPUs on which packets come. `cargo xtask test` skips these stories where there is only one.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use fault_abi::counter::Counter;
use fault_abi::verdict::Effect;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use serde_json::Value;

use super::*;
use crate::support::cpu::OneCpu;

/// A packet of a flow that comes before all that are numbered from 0 on.
const FIRST: u32 = COUNT;

/// Two CPUs that this thread may be on.
fn two() -> [usize; 2] {
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let mut cpus = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap());
    std::array::from_fn(|_| cpus.next().expect("this thread may be on two CPUs"))
}

#[test]
#[ignore = "kernel rung: needs root, the eBPF object and two CPUs"]
fn the_same_packets_have_the_same_fates_whichever_cpu_they_are_sent_on() {
    let stage = Stage::new();
    let bursts = json!({"gilbertElliott": {"enterBurst": "5%", "leaveBurst": "25%"}});
    for hooks in [Hooks::Tcx, Hooks::XdpNative] {
        let mut agent = Agent::start(&stage.node, hooks);
        for model in [json!({"percent": "20%"}), bursts.clone(), json!({"every": 7})] {
            let [first, second] = two().map(|cpu| {
                let _here = OneCpu::on(cpu);
                exchange_under(&stage, &mut agent, Family::V4, Fault::loss_by(model.clone()))
            });
            assert_eq!(first, second, "{hooks:?} {model}");
            assert!(first.iter().all(|lost| lost.len() > 100), "{hooks:?} {model}: {first:?}");
        }
    }
}

/// Sends packets both ways under later faults, and returns what was counted, without when the last one came.
fn counted_under(stage: &Stage, agent: &mut Agent, faults: &Value) -> [Counter; 2] {
    let target = Family::V4.host(1, 2);
    agent.set(&[]);
    agent.set(&[Fault::new("later", faults.clone()).on(std::slice::from_ref(&target))]);
    let (device, peer) = (stage.device_end(Family::V4), stage.peer_end(Family::V4));
    let counter = |direction| agent.counter("later", &target, direction);
    exchange(&device, &peer, |direction| counter(direction).seen());
    let all = || {
        let both = Direction::ALL.map(counter);
        both.iter().all(|one| one.seen() == u64::from(COUNT)).then_some(both)
    };
    let both = eventually(all, || format!("{faults}: {:?}", Direction::ALL.map(counter)));
    // What came later would be refused, and the next run's ends be told.
    let arriving = |counter: &Counter| {
        counter.seen() + counter.effects[Effect::Duplicate as usize]
            - counter.effects[Effect::Corrupt as usize]
    };
    let (expected, mut came) = (both.iter().map(arriving).sum::<u64>(), 0);
    let all = || {
        came += (device.take().len() + peer.take().len()) as u64;
        (came == expected).then_some(())
    };
    eventually(all, || format!("{faults}: not all of {expected} arrive"));
    both.map(|counter| Counter { last_seen_ns: 0, ..counter })
}

#[test]
#[ignore = "kernel rung: needs root, the eBPF object and two CPUs"]
fn the_same_packets_are_delayed_doubled_reordered_and_flipped_whichever_cpu_they_are_sent_on() {
    let stage = Stage::new();
    let mut agent = Agent::start(&stage.node, Hooks::Tcx);
    let jitter = json!({"time": "9ms", "jitter": "2ms"});
    let correlated = json!({"time": "9ms", "jitter": "2ms", "correlation": "60%"});
    for (faults, effect) in [
        (json!({"delay": jitter}), Effect::Delay),
        (json!({"delay": correlated}), Effect::Delay),
        (json!({"duplicate": {"percent": "20%"}, "delay": jitter}), Effect::Duplicate),
        (json!({"reorder": {"percent": "20%", "by": "9ms"}}), Effect::Reorder),
        (json!({"corrupt": {"percent": "20%"}}), Effect::Corrupt),
    ] {
        let [first, second] = two().map(|cpu| {
            let _here = OneCpu::on(cpu);
            counted_under(&stage, &mut agent, &faults)
        });
        assert_eq!(first, second, "{faults}");
        let is_met = |counter: &Counter| counter.effects[effect as usize] > 100;
        assert!(first.iter().all(is_met), "{faults}: {first:?}");
    }
}

/// The device sends packets to two ports of a peer under a loss, those of both flows or of one, each from a CPU. Returns the numbers that
/// did not come, by flow.
fn missing_of_flows(stage: &Stage, agent: &mut Agent, model: &Value, senders: &[(usize, usize)]) -> Fates {
    agent.set(&[]);
    agent.set(&[Fault::loss_by(model.clone()).on(&[Family::V4.host(1, 2)])]);
    let device = stage.device_end(Family::V4);
    let peers =
        [40_000, 40_001].map(|port| End::new(&stage.peer, SocketAddr::new(Family::V4.ip(2, 2), port)));
    let total = || agent.total(Direction::FromDevice);
    // Flows are numbered in the order in which they begin.
    for (begun, peer) in (1..).zip(&peers) {
        device.send(peer, FIRST).unwrap();
        eventually(|| (total().seen() == begun).then_some(()), || format!("flow {begun}: {:?}", total()));
    }
    let (flows, counted) = (senders.len() as u64, AtomicU64::new(0));
    thread::scope(|scope| {
        let (device, peers, counted) = (&device, &peers, &counted);
        for (flow, cpu) in senders.iter().copied() {
            scope.spawn(move || {
                let _here = OneCpu::on(cpu);
                let send = |number| device.send(&peers[flow], number).unwrap();
                // Nobody gets far ahead: a flow waits for the other's packets as for its own.
                paced(COUNT, send, || counted.load(Ordering::Relaxed) / flows);
            });
        }
        let all = || {
            let now = total().seen() - peers.len() as u64;
            counted.store(now, Ordering::Relaxed);
            (now == flows * u64::from(COUNT)).then_some(())
        };
        eventually(all, || format!("not all packets are counted: {:?}", total()));
    });
    let passed = total().packets[Verdict::Pass as usize];
    let mut came = Fates::default();
    let all = || {
        for (came, peer) in came.iter_mut().zip(&peers) {
            came.extend(peer.take());
        }
        (came.iter().map(|came| came.len() as u64).sum::<u64>() == passed).then_some(())
    };
    eventually(all, || format!("of {passed} packets that passed some are missing"));
    came.map(|came| (0..COUNT).filter(|number| !came.contains(number)).collect())
}

#[test]
#[ignore = "kernel rung: needs root, the eBPF object and two CPUs"]
fn two_flows_from_two_cpus_at_the_same_time_have_each_the_fates_that_they_have_alone() {
    let stage = Stage::new();
    let mut agent = Agent::start(&stage.node, Hooks::Tcx);
    let cpus = two();
    for model in [
        json!({"percent": "20%"}),
        json!({"gilbertElliott": {"enterBurst": "5%", "leaveBurst": "25%"}, "scope": "Flow"}),
        json!({"every": 7, "scope": "Flow"}),
    ] {
        let alone = [0, 1].map(|flow| {
            let mut fates = missing_of_flows(&stage, &mut agent, &model, &[(flow, cpus[0])]);
            std::mem::take(&mut fates[flow])
        });
        assert!(alone.iter().all(|lost| lost.len() > 100), "{model}: {alone:?}");
        assert_eq!(alone[0] == alone[1], model.get("every").is_some(), "{model}: flows draw apart");
        for cpus in [[cpus[0], cpus[1]], [cpus[1], cpus[0]]] {
            let senders = [(0, cpus[0]), (1, cpus[1])];
            let both = missing_of_flows(&stage, &mut agent, &model, &senders);
            assert_eq!(both, alone, "{model} from CPUs {cpus:?}");
        }
    }
}
