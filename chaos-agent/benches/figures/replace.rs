//! The rules of many targets are replaced, under packets that a rule met before and one meets after: how long that takes, and
//! whether one escapes.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use chaos_agent::profile::{ObjectName, Profile};
use chaos_agent::table::Capacity;
use chaos_agent::world::DeviceTarget;
use edge_api::FaultProfile;
use fault_abi::key::Direction;
use fault_abi::verdict::Verdict;
use fault_rig::figures::{Aim, Figure, Report};
use nix::sys::socket::{setsockopt, sockopt};
use serde_json::json;

use crate::measure::{float, median, now_ns, quantile, thread_cpu_ns};
use crate::support::agent::{Agent, Hooks, Start};
use crate::support::fault::{Fault, NAMESPACE};
use crate::support::space::Namespace;
use crate::support::stage::{Family, Stage};
use crate::support::time::{Beat, eventually};
use crate::support::traffic::BUFFER;

/// Targets have addresses from here on: 10.128.0.0/15.
const FIRST: u32 = 0x0a80_0000;
const PORT: u16 = 5683;
/// Between packets of a target.
const BEAT: Duration = Duration::from_micros(100);
/// What the project wants, in milliseconds.
const AIM_MS: f64 = 1_000.0;

fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(FIRST + number)
}

/// What something took, in nanoseconds: by the clock, and of a processor's time, with what the kernel did there in its stead.
#[derive(Clone, Copy, Default)]
struct Took {
    wall: u64,
    cpu: u64,
}

/// What was measured.
#[derive(Default)]
struct Times {
    first: Took,
    replaced: Vec<Took>,
    joined: Vec<Took>,
    left: Vec<Took>,
    shown: Took,
    lifted: Took,
}

/// Packets meanwhile.
#[derive(Clone, Copy)]
struct Seen {
    sent: u64,
    escaped: u64,
}

/// Measures, with `targets` of at least 3.
pub(crate) fn measure(targets: u32, rounds: u32) -> Report {
    let stage = Stage::new();
    stage.node.ip(&format!("route add 10.128.0.0/15 via {}\n", Family::V4.ip(1, 2)));
    let addresses = under_fire(targets).map(|ip| format!("addr add {ip}/32 dev lo\n"));
    stage.device.ip(&addresses.concat());
    let sink = sink(&stage.device);
    let (mut times, replaced) = replace(&stage, &sink, targets, rounds);
    let met = join(&stage, &sink, targets, rounds.div_ceil(4), &mut times);
    report(targets, &times, Seen { sent: replaced.sent + met.sent, escaped: replaced.escaped + met.escaped })
}

/// Those whose packets are sent: the ends of all tables and their middle.
fn under_fire(targets: u32) -> [Ipv4Addr; 3] {
    [0, targets / 2, targets - 1].map(address)
}

/// An agent that knows all targets, with room for so many profiles on each of them.
fn start(stage: &Stage, targets: u32, profiles: u32) -> Agent {
    let capacity = Capacity { targets: targets * profiles, rules: 512, flows: 4096, ..Capacity::of_each(64) };
    let mut agent = Agent::start(&stage.node, Start { capacity, ..Hooks::Tcx.into() });
    agent.world.devices = (0..targets).map(|number| (named(number), device(number))).collect();
    agent
}

/// The rule of a profile is replaced, again and again.
fn replace(stage: &Stage, sink: &UdpSocket, targets: u32, rounds: u32) -> (Times, Seen) {
    let mut agent = start(stage, targets, 1);
    // The kernel gives out the memory of so many counters in portions: the rest is tried again.
    let first = timed(|| while !agent.bring(vec![profile("wall", "partition")]) {});
    let mut times = Times { first, ..Times::default() };
    let mut took_all = true;
    let sent = meanwhile(stage, targets, |sent| {
        for round in 0..rounds {
            eprintln!("round {} of {rounds}", round + 1);
            let next = if round % 2 == 0 { "loss" } else { "partition" };
            let profile = profile("wall", next);
            times.replaced.push(timed(|| took_all &= agent.bring(vec![profile])));
            rest(sent);
        }
    });
    assert!(took_all, "the kernel refused a part");
    let seen = Seen { sent, escaped: escaped(&agent, sink, sent) };
    times.shown = timed(|| assert_eq!(agent.enforced().0, targets));
    times.lifted = timed(|| assert!(agent.bring(Vec::new()), "the kernel refused a part"));
    (times, seen)
}

/// A second profile joins the first on all targets, for each of which it has counters of its own, and leaves: all entries are replaced.
/// It comes behind the first in order, which lets nothing get to it.
fn join(stage: &Stage, sink: &UdpSocket, targets: u32, rounds: u32, times: &mut Times) -> Seen {
    let mut agent = start(stage, targets, 2);
    let first = || profile("wall", "partition");
    while !agent.bring(vec![first()]) {}
    let sent = meanwhile(stage, targets, |sent| {
        for round in 0..rounds {
            eprintln!("a second profile, round {} of {rounds}", round + 1);
            let second = profile("wall-behind", "loss");
            times.joined.push(timed(|| while !agent.bring(vec![first(), second.clone()]) {}));
            rest(sent);
            times.left.push(timed(|| while !agent.bring(vec![first()]) {}));
            rest(sent);
        }
    });
    Seen { sent, escaped: escaped(&agent, sink, sent) }
}

/// Does it while packets are sent to those under fire; returns how many were.
fn meanwhile(stage: &Stage, targets: u32, work: impl FnOnce(&AtomicU64)) -> u64 {
    let (sent, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    let source = stage.peer.run(|| UdpSocket::bind((Family::V4.ip(2, 2), 0)).unwrap());
    thread::scope(|scope| {
        scope.spawn(|| fire(&source, under_fire(targets), &sent, &is_over));
        work(&sent);
        is_over.store(true, Ordering::Relaxed);
    });
    sent.load(Ordering::Relaxed)
}

/// Until 200 more packets have gone: between two replacements the old rule is seen to act, and quarantines end.
fn rest(sent: &AtomicU64) {
    let before = sent.load(Ordering::Relaxed);
    let is_on = || (sent.load(Ordering::Relaxed) > before + 200).then_some(());
    eventually(is_on, || "the sender has stopped".to_owned());
}

fn fire(source: &UdpSocket, targets: [Ipv4Addr; 3], sent: &AtomicU64, is_over: &AtomicBool) {
    let mut beat = Beat::new(BEAT);
    while !is_over.load(Ordering::Relaxed) {
        for target in targets {
            source.send_to(&[0; 64], (target, PORT)).unwrap();
            sent.fetch_add(1, Ordering::Relaxed);
        }
        beat.wait();
    }
}

fn sink(device: &Namespace) -> UdpSocket {
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT));
    let socket = device.run(|| UdpSocket::bind(address).unwrap());
    setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

/// Packets that came through. All others were counted where they were dropped.
fn escaped(agent: &Agent, sink: &UdpSocket, sent: u64) -> u64 {
    let mut escaped = 0;
    let mut account = || {
        while sink.recv(&mut [0; 128]).is_ok() {
            escaped += 1;
        }
        let packets = agent.total(Direction::ToDevice).packets;
        let dropped = packets[Verdict::Partition as usize] + packets[Verdict::Loss as usize];
        (dropped + escaped == sent).then_some(escaped)
    };
    eventually(&mut account, || format!("of {sent} packets some are neither counted nor here"))
}

fn timed(work: impl FnOnce()) -> Took {
    let now = || Took { wall: now_ns(), cpu: thread_cpu_ns() };
    let began = now();
    work();
    let ended = now();
    Took { wall: ended.wall - began.wall, cpu: ended.cpu - began.cpu }
}

fn named(number: u32) -> ObjectName {
    ObjectName { namespace: NAMESPACE.to_owned(), name: format!("pump-{number:05}") }
}

fn device(number: u32) -> DeviceTarget {
    let labels = BTreeMap::from([("site".to_owned(), "berlin".to_owned())]);
    DeviceTarget { labels, port: PORT, addresses: vec![(IpAddr::from(address(number)), None)] }
}

/// A profile with one of two rules, each of which lets nothing pass.
fn profile(name: &str, rule: &str) -> Profile {
    let fault = if rule == "loss" { Fault::loss("100%") } else { Fault::partition() };
    let mut object = serde_json::to_value(fault.named(name).object()).unwrap();
    object["spec"]["targets"] = json!({"devices": {"selector": {"matchLabels": {"site": "berlin"}}}});
    let object: FaultProfile = serde_json::from_value(object).unwrap();
    Profile::parse(&object).unwrap()
}

fn report(targets: u32, times: &Times, Seen { sent, escaped }: Seen) -> Report {
    let method = format!(
        "{} replacements of the rule of {targets} targets, {} times a second profile on all of them, {sent} packets to three of them meanwhile",
        times.replaced.len(),
        times.joined.len()
    );
    let mut report = Report::new(method).unwrap();
    let ms = |ns: u64| float(ns) / 1e6;
    let all = |of: fn(&Took) -> u64| times.replaced.iter().map(of).collect::<Vec<u64>>();
    let (walls, cpus) = (all(|took| took.wall), all(|took| took.cpu));
    let middle = ms(median(&walls));
    let mut figure = |name: &str, value: f64, unit: &str| {
        report.figures.push(Figure::alone("replace", name, value, unit));
    };
    figure("first applied, with counters made", ms(times.first.wall), "ms");
    figure("replaced, median", middle, "ms");
    figure("replaced, slowest", ms(quantile(&walls, 1000)), "ms");
    figure("replaced, processor time, median", ms(median(&cpus)), "ms");
    figure("lifted", ms(times.lifted.wall), "ms");
    let walls_of = |all: &[Took]| median(&all.iter().map(|took| took.wall).collect::<Vec<u64>>());
    figure("a second profile joins, with counters made, median", ms(walls_of(&times.joined)), "ms");
    figure("a second profile leaves, median", ms(walls_of(&times.left)), "ms");
    figure("shown to status and metrics", ms(times.shown.wall), "ms");
    figure("packets sent meanwhile", float(sent), "packets");
    figure("packets that escaped", float(escaped), "packets");
    report.aims.push(Aim::at_most(
        &format!("the rules of {targets} targets are replaced"),
        middle,
        "ms",
        AIM_MS,
    ));
    report.aims.push(Aim::at_most("no packet escapes meanwhile", float(escaped), "packets", 0.0));
    report
}
