//! ping: what it sent, what came back, once or twice, and how long that took.

use std::time::Duration;

use fault_abi::key::Direction::{self, FromDevice, ToDevice};
use fault_abi::verdict::{Effect, Verdict};
use serde_json::json;

use crate::kinds::{self, Case};
use crate::process::{Ran, Running};
use crate::scene::{Scene, peers};
use crate::stack::Stack;
use crate::support::agent::Hooks;
use crate::support::fault::Fault;
use crate::support::stage::{ETH, Family};
use crate::support::time::{ms, ms_here};

/// Both, requests first.
const WAYS: [Direction; 2] = [ToDevice, FromDevice];
/// Requests of a case.
const COUNT: u64 = 150;
/// Seconds between two requests.
const EVERY: &str = "0.004";
/// Behind the last request ping waits for twice the longest time that an answer took so far, and then misses what is late. So
/// all answers are held for so long, by another profile.
fn base() -> Duration {
    Duration::from_nanos(ms_here(60))
}

/// ping's own statistics.
#[derive(Debug, Default, PartialEq, Eq)]
struct Statistics {
    transmitted: u64,
    received: u64,
    duplicates: u64,
    errors: u64,
    /// The shortest time that an answer took.
    shortest: Option<Duration>,
}

/// Reads "150 packets transmitted, 140 received, +3 duplicates, …" and "rtt min/avg/max/mdev = 60.1/…".
fn statistics(said: &str) -> Statistics {
    let mut statistics = Statistics::default();
    let line =
        said.lines().find(|line| line.contains("packets transmitted")).unwrap_or_else(|| panic!("{said}"));
    for part in line.split(", ") {
        let (number, what) = part.trim_start_matches('+').split_once(' ').unwrap();
        let place = match what {
            "packets transmitted" => &mut statistics.transmitted,
            "received" => &mut statistics.received,
            "duplicates" => &mut statistics.duplicates,
            "errors" => &mut statistics.errors,
            _ => continue,
        };
        *place = number.parse().unwrap();
    }
    let times = said.lines().find_map(|line| line.strip_prefix("rtt min/avg/max/mdev = "));
    let shortest = times.map(|times| times.split_once('/').unwrap().0.parse::<f64>().unwrap());
    statistics.shortest = shortest.map(|milliseconds| Duration::from_secs_f64(milliseconds / 1_000.0));
    statistics
}

fn start(scene: &Scene, case: &Case, family: Family) -> Running {
    let to = case.ip(family).to_string();
    let count = COUNT.to_string();
    Running::start(&scene.stage.peer, "ping", &["-n", "-q", "-i", EVERY, "-c", &count, "-W", "1", &to])
}

fn agrees(scene: &Scene, case: &Case, family: Family, ran: &Ran) {
    let (said, counted) = (statistics(&ran.stdout), scene.counted(case, family));
    let what = format!("{} {family:?}: {said:?}", case.name);
    assert_eq!(said.transmitted, COUNT, "{what}");
    assert_eq!(counted.seen(ToDevice), COUNT, "{what}: each request met the fault");
    assert_eq!(counted.seen(FromDevice), counted.came_whole(ToDevice), "{what}: and so did each answer");
    assert!(counted.hits(case, ToDevice) > 0, "{what}: the fault did something");
    assert_eq!(said.errors, counted.verdict(ToDevice, Verdict::Reject), "{what}: each refusal was told");
    assert_eq!(ran.code, Some(i32::from(said.received == 0)), "{what}");
    assert_eq!(said.received == 0, case.is_partition(), "{what}");
    let answers = said.received + said.duplicates;
    if case.has("corrupt") && family == Family::V4 {
        // The kernel gives raw sockets of ICMP packets with wrong checksums too, and ping takes whichever it finds its mark in.
        let possible = counted.came_whole(FromDevice)..=counted.came(FromDevice);
        assert!(possible.contains(&answers), "{what}: {answers} answers, {possible:?} came");
        return;
    }
    assert_eq!(answers, counted.came_whole(FromDevice), "{what}: answers");
    if case.has("duplicate") {
        assert_eq!(said.received, COUNT, "{what}: none is missing");
    }
    assert_eq!(said.duplicates > 0, case.has("duplicate"), "{what}");
    // Requests and answers are 15 ms late at least.
    let least = if case.has("delay") { base() + Duration::from_millis(30) } else { base() };
    assert!(said.shortest.is_none_or(|shortest| shortest >= least), "{what}");
    let has_overflown = WAYS.iter().any(|way| counted.effect(*way, Effect::Overflow) > 0);
    assert!(!has_overflown || case.has("rate"), "{what}");
}

/// From an address that no profile names as a peer each request is answered, once, whatever the fault.
fn who_is_no_peer_is_let_alone(scene: &Scene, all: &[(&Case, Family)]) {
    let other = |family: Family| family.ip(2, 9).to_string();
    for (family, length) in [(Family::V4, 24), (Family::V6, 64)] {
        scene.stage.peer.ip(&format!("addr add {}/{length} dev {ETH} nodad\n", other(family)));
    }
    let seen = || all.iter().map(|(case, family)| scene.counted(case, *family).seen(ToDevice)).sum::<u64>();
    let before = seen();
    let ran = scene.run_all(all, |(case, family)| {
        let (from, to) = (other(*family), case.ip(*family).to_string());
        let arguments = ["-n", "-q", "-i", EVERY, "-c", "5", "-W", "1", "-I", &from, &to];
        Running::start(&scene.stage.peer, "ping", &arguments)
    });
    for ((case, family), ran) in all.iter().zip(&ran) {
        let said = statistics(&ran.stdout);
        let counts = (said.transmitted, said.received, said.duplicates, said.errors);
        assert_eq!(counts, (5, 5, 0, 0), "{} {family:?}: {ran}", case.name);
    }
    assert_eq!(seen(), before);
}

#[test]
#[ignore = "kernel rung: needs root, the eBPF object and ping"]
fn ping_counts_what_the_kernel_counts_under_every_fault() {
    let mut cases = kinds::all();
    // Frames of 98 or 118 bytes each 4 ms are 196 or 236 kbit/s; where ping keeps no such pace they are fewer.
    let bits = 60_000 * ms(1) / ms_here(1);
    let rate = json!({"rate": {"bitsPerSecond": bits.to_string(), "burst": "300", "queue": "100ms"}});
    cases.iter_mut().filter(|case| case.has("rate")).for_each(|case| case.faults = rate.clone());
    let everywhere: Vec<String> = cases.iter().flat_map(Case::targets).collect();
    let base = Fault::new("base", json!({"delay": {"time": format!("{}ms", base().as_millis())}}));
    let base = base.on(&everywhere).direction("FromDevice");
    let matching = json!({"protocol": "ICMP", "peers": peers()});
    let scene = Scene::new(Hooks::Tcx, &cases, |_, fault| fault.matching(matching.clone()), &[base]);
    let all: Vec<_> = cases.iter().flat_map(|case| Family::BOTH.map(|family| (case, family))).collect();
    let ran = scene.run_all(&all, |(case, family)| start(&scene, case, *family));
    for ((case, family), ran) in all.iter().zip(&ran) {
        agrees(&scene, case, *family, ran);
    }
    who_is_no_peer_is_let_alone(&scene, &all);
    for (family, direction) in Family::BOTH.into_iter().flat_map(|family| WAYS.map(|way| (family, way))) {
        let corrupted = |case| scene.counted(case, family).effect(direction, Effect::Corrupt);
        let wrong = scene.stack(direction, &Stack::name(family, "Icmp", "InCsumErrors"));
        let corrupted: u64 = cases.iter().map(corrupted).sum();
        assert_eq!(wrong, corrupted, "{family:?} {direction:?}: wrong checksums that the receiver counted");
        assert!(corrupted > 0);
    }
    scene.nothing_else_happened();
}
