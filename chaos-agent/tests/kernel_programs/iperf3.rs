//! iperf3: over UDP, what its server misses and what comes out of order; over TCP, that all bytes arrive, no faster than may be.

use std::net::SocketAddr;

use fault_abi::draw::Kind;
use fault_abi::key::Direction::{FromDevice, ToDevice};
use fault_abi::key::PROTOCOL_UDP;
use fault_abi::verdict::{Effect, Verdict};
use serde_json::{Value, json};

use crate::kinds::{self, Case};
use crate::process::Running;
use crate::scene::{Counted, Scene, at_a_time};
use crate::stack::{Stack, is_listened_to};
use crate::support::agent::Hooks;
use crate::support::fault::Fault;
use crate::support::stage::Family;
use crate::support::time::{eventually, ms, ms_here};

const PORT: u16 = 5_201;

/// A client and its server.
struct Measurement<'a> {
    case: &'a Case,
    family: Family,
    server: Running,
    client: Running,
}

/// Measures each case and family, as many at the same time as keep their pace.
fn measure<'a, 'w>(
    scene: &Scene,
    cases: &'a [Case],
    arguments: impl Fn(Family) -> Vec<&'w str>,
) -> Vec<Outcome<'a>> {
    let all = cases.iter().flat_map(|case| Family::BOTH.map(|family| (case, family)));
    let all: Vec<_> = all.collect();
    // Each is two programs.
    let parts = all.chunks(at_a_time(2 * all.len()) / 2);
    let part = |part| start(scene, part, &arguments).into_iter().map(|measurement| end(scene, measurement));
    parts.flat_map(part).collect()
}

/// Starts a server for each, then all clients.
fn start<'a, 'w>(
    scene: &Scene,
    all: &[(&'a Case, Family)],
    arguments: impl Fn(Family) -> Vec<&'w str>,
) -> Vec<Measurement<'a>> {
    let servers = all.iter().copied().map(|(case, family)| {
        let at = case.ip(family).to_string();
        (case, family, Running::start(&scene.stage.device, "iperf3", &["-s", "-1", "--json", "-B", &at]))
    });
    let servers: Vec<_> = servers.collect();
    let silent = (ms_here(500) / ms(1)).to_string();
    let clients = servers.into_iter().map(|(case, family, server)| {
        is_listened_to(&scene.stage.device, SocketAddr::new(case.ip(family), PORT));
        let to = case.ip(family).to_string();
        let mut words = vec!["-c", &to, "--json"];
        if case.is_partition() {
            words.extend(["--connect-timeout", &silent]);
        }
        words.extend(arguments(family));
        let client = Running::start(&scene.stage.peer, "iperf3", &words);
        Measurement { case, family, server, client }
    });
    clients.collect()
}

/// A case that has ended, with what both say, and what was counted.
struct Outcome<'a> {
    case: &'a Case,
    family: Family,
    client: Value,
    /// Null, where nobody came to it.
    server: Value,
    counted: Counted,
}

fn end<'a>(scene: &Scene, measurement: Measurement<'a>) -> Outcome<'a> {
    let Measurement { case, family, server, client } = measurement;
    let said = |running| {
        let ran = scene.end(running);
        serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran}"))
    };
    let client = said(client);
    let server = if case.is_partition() { Value::Null } else { said(server) };
    Outcome { case, family, client, server, counted: scene.counted(case, family) }
}

/// A whole number in what iperf3 said.
fn number(said: &Value, path: &str) -> u64 {
    said.pointer(path).and_then(Value::as_u64).unwrap_or_else(|| panic!("{path} of {said}"))
}

impl Outcome<'_> {
    fn what(&self) -> String {
        let (client, server) = (&self.client["end"], &self.server["end"]);
        format!("{} {:?}: client {client}, server {server}", self.case.name, self.family)
    }

    /// Nobody came through, and the client says why.
    fn is_cut_off(&self) {
        let error = self.client["error"].as_str().unwrap_or_else(|| panic!("no error: {}", self.what()));
        let verdict = if self.case.is_reject() { Verdict::Reject } else { Verdict::Partition };
        let is_refused = error.contains("Connection refused");
        assert!(error.contains("unable to connect"), "{}: {error}", self.what());
        assert_eq!(is_refused, self.case.is_reject(), "{}: {error}", self.what());
        let (seen, dropped) = (self.counted.seen(ToDevice), self.counted.verdict(ToDevice, verdict));
        assert!(seen > 0 && seen == dropped && self.counted.seen(FromDevice) == 0, "{}", self.what());
    }

    /// What came, by the receiver's own clock, is no more than a full bucket and what the rate filled in.
    fn is_no_faster_than(&self, receiver: &Value, rate: f64, burst: f64) {
        let received = &receiver["end"]["sum_received"];
        let (bytes, seconds) = (received["bytes"].as_f64().unwrap(), received["seconds"].as_f64().unwrap());
        assert!(bytes <= burst + rate / 8.0 * seconds, "{bytes} bytes in {seconds} s: {}", self.what());
    }
}

/// Datagrams of a case.
const DATAGRAMS: u64 = 300;
/// Bytes of each.
const LENGTH: u64 = 500;
/// Slower than 1 Mbit/s of datagrams.
const UDP_RATE: &str = "500k";
const UDP_BURST: &str = "5000";

/// iperf3 over UDP opens with a datagram each way, without which nothing goes on: none of the faults may hit it.
fn spares_the_opening(case: &Case) -> u64 {
    let kind = match case.faults.as_object().unwrap().keys().next().unwrap().as_str() {
        "corrupt" => Kind::Corrupt,
        "duplicate" => Kind::Duplicate,
        _ => Kind::Loss,
    };
    case.seed(PROTOCOL_UDP, PORT, kind, |_, _, index, share| index > 0 || share > 0.5)
}

/// What the server says it misses, and what came out of order, is what was counted. The server counts as lost what is missing
/// below the highest number that it read, and takes one of that back for each number that comes late; of what came behind that
/// number before it was told of the end it knows nothing.
fn datagrams_agree(outcome: &Outcome<'_>) {
    let Outcome { case, client, server, counted, .. } = outcome;
    let what = outcome.what();
    assert_eq!(number(client, "/end/sum_sent/packets"), DATAGRAMS, "{what}");
    assert_eq!(counted.seen(ToDevice), DATAGRAMS + 1, "{what}: each met the fault, the first of all too");
    assert_eq!(counted.seen(FromDevice), 1, "{what}: the answer to that");
    assert!(counted.hits(case, ToDevice) > 0, "{what}: the fault did something");
    let [highest, lost, late] = ["packets", "lost_packets", "out_of_order"]
        .map(|name| number(server, &format!("/end/streams/0/udp/{name}")));
    let unread = DATAGRAMS - highest;
    let read = number(server, "/end/sum_received/bytes") / LENGTH;
    let (came, twice) = (counted.came_whole(ToDevice) - 1, counted.effect(ToDevice, Effect::Duplicate));
    assert!(read <= came, "{what}: no more than came");
    let missing = DATAGRAMS + twice - came;
    assert!((lost..=lost + unread).contains(&missing), "{what}: {missing} are missing");
    match case.name {
        // Each second one has a number that was there before.
        "duplicate" => assert!((late..=late + unread + 1).contains(&twice), "{what}: {twice} came twice"),
        "reorder" => {
            let reordered = counted.effect(ToDevice, Effect::Reorder);
            assert!((1..=reordered).contains(&late), "{what}: {reordered} were made late");
        }
        // Whoever is late by more than the next one overtakes nobody.
        "delay" => {}
        _ => assert_eq!(late, 0, "{what}"),
    }
    if case.has("rate") {
        assert!(missing > 0, "{what}: it is slower than what was sent");
        outcome.is_no_faster_than(server, 500e3, 5e3);
    }
}

#[test]
#[ignore = "kernel rung: needs root, the eBPF object and iperf3"]
fn iperf3_misses_the_datagrams_that_the_kernel_counts_under_every_fault() {
    let mut cases = kinds::all();
    let rate = json!({"rate": {"bitsPerSecond": UDP_RATE, "burst": UDP_BURST, "queue": "50ms"}});
    cases.iter_mut().filter(|case| case.has("rate")).for_each(|case| case.faults = rate.clone());
    // The client says by TCP that it has ended, and the server then reads no more: so that comes later than any datagram.
    let open: Vec<String> =
        cases.iter().filter(|case| !case.is_partition()).flat_map(Case::targets).collect();
    let control = Fault::new("control", json!({"delay": {"time": "400ms"}})).direction("ToDevice");
    let control = control.on(&open).matching(json!({"protocol": "TCP"}));
    let profile = |case: &Case, fault: Fault| {
        if case.is_partition() {
            return fault;
        }
        fault.matching(json!({"protocol": "UDP"})).seed(spares_the_opening(case))
    };
    let scene = Scene::new(Hooks::Tcx, &cases, profile, &[control]);
    let bytes = (DATAGRAMS * LENGTH).to_string();
    for outcome in measure(&scene, &cases, |_| vec!["-u", "-b", "1M", "-l", "500", "-n", &bytes]) {
        if outcome.case.is_partition() {
            outcome.is_cut_off();
        } else {
            datagrams_agree(&outcome);
        }
    }
    for family in Family::BOTH {
        let corrupted = |case| scene.counted(case, family).effect(ToDevice, Effect::Corrupt);
        let wrong = scene.stack(ToDevice, &Stack::name(family, "Udp", "InCsumErrors"));
        assert_eq!(wrong, cases.iter().map(corrupted).sum::<u64>(), "{family:?}: wrong checksums");
    }
    scene.nothing_else_happened();
}

/// Bytes of a TCP stream: hundreds of segments, under a rate a second.
const STREAM: u64 = 250_000;

fn stream_agrees(outcome: &Outcome<'_>) {
    let Outcome { case, family, client, server, counted } = outcome;
    let what = outcome.what();
    let (sender, receiver, way) =
        if *family == Family::V4 { (client, server, ToDevice) } else { (server, client, FromDevice) };
    let sent = number(sender, "/end/sum_sent/bytes");
    let received = number(receiver, "/end/sum_received/bytes");
    assert!(sent >= STREAM, "{what}");
    // To the device iperf3 ends when all has been given to the kernel, of which nothing need have come by then: that all of it does come
    // the segments are counted for.
    let least = if *family == Family::V6 { STREAM } else { 0 };
    assert!((least..=sent).contains(&received), "{what}: {received} of {sent} bytes");
    assert!(counted.hits(case, way) > 0, "{what}: the fault did something");
    // For the same reason iperf3 may have looked, to the device, before the first one was sent again.
    if *family == Family::V6 && (case.has("loss") || case.has("corrupt")) {
        assert!(number(client, "/end/sum_sent/retransmits") > 0, "{what}: sent again");
    }
    if case.has("rate") {
        outcome.is_no_faster_than(receiver, 2e6, 4e3);
    }
}

#[test]
#[ignore = "kernel rung: needs root, the eBPF object and iperf3"]
fn iperf3_gets_its_bytes_over_tcp_under_every_fault_no_faster_than_the_rate() {
    let cases = kinds::all();
    let scene = Scene::new(Hooks::XdpNative, &cases, |_, fault| fault, &[]);
    let bytes = STREAM.to_string();
    // To the device over IPv4, from it over IPv6.
    let arguments = |family| match family {
        Family::V4 => vec!["-n", &bytes, "-l", "10000"],
        Family::V6 => vec!["-n", &bytes, "-l", "10000", "-R"],
    };
    for outcome in measure(&scene, &cases, arguments) {
        if outcome.case.is_partition() {
            outcome.is_cut_off();
        } else {
            stream_agrees(&outcome);
        }
    }
    scene.all_segments_arrive();
    let sent_again = || scene.stack(FromDevice, "TcpRetransSegs");
    eventually(|| (sent_again() > 0).then_some(()), || "the peer has sent nothing again".to_owned());
    scene.nothing_else_happened();
}
