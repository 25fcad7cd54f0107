//! libcoap's client and our simulated device: an answer comes under every fault that lets anything through, by retransmission
//! where it has to, and the device does once what it was asked twice.

use std::net::SocketAddr;
use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use device_sim::{Behaviour, Sim, SimConfig};
use edge_protocol::{PATH_STATE, Report, decode};
use fault_abi::draw::Kind;
use fault_abi::key::Direction::{self, FromDevice, ToDevice};
use fault_abi::key::PROTOCOL_UDP;
use fault_abi::verdict::{Effect, Verdict};
use serde_json::json;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::kinds::{self, Case};
use crate::process::{Ran, Running};
use crate::scene::Scene;
use crate::stack::Stack;
use crate::support::agent::Hooks;
use crate::support::fault::Fault;
use crate::support::space::Namespace;
use crate::support::stage::Family;

const PORT: u16 = 5_683;
/// Debian's package has it in three builds; this one needs no library for TLS.
const CLIENT: &str = "coap-client-notls";
/// After so long a request is sent again, at the earliest (RFC 7252 §4.8).
const ACK_TIMEOUT: Duration = Duration::from_secs(2);

/// A device at each address, on a thread in their namespace.
struct Devices {
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
    folder: TempDir,
}

impl Devices {
    /// Starts them; returns when all of them listen.
    fn new(space: &Namespace, cases: &[Case]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listen = cases.iter().flat_map(|case| Family::BOTH.map(|family| case.ip(family)));
        let config = SimConfig {
            listen: listen.map(|ip| SocketAddr::new(ip, PORT)).collect(),
            behaviour: Behaviour { boot_time: "1ms".parse().unwrap(), ..Behaviour::default() },
            ..SimConfig::on_loopback(0, folder.path().into())
        };
        let stop = CancellationToken::new();
        let (stopped, (booted, boots)) = (stop.clone(), std::sync::mpsc::sync_channel(1));
        let live = async move || {
            let sim = Sim::start(config).await.unwrap();
            for device in sim.devices() {
                device.wait_for(|view| view.up).await.unwrap();
            }
            booted.send(()).unwrap();
            stopped.cancelled().await;
            sim.shutdown().await;
        };
        // A thread begins in the namespace of the one that starts it.
        let inside = space.enter();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let thread = thread::spawn(move || runtime.block_on(live()));
        drop(inside);
        boots.recv().expect("the devices boot");
        Self { stop, thread: Some(thread), folder }
    }
}

impl Drop for Devices {
    fn drop(&mut self) {
        self.stop.cancel();
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// What hits the first request over IPv4, the first answer over IPv6, and nothing else of the beginning.
fn hits_one(family: Family, direction: Direction, index: u64, share: f64) -> bool {
    (share < 0.5) == (index == 0 && direction == one_way(family))
}

/// Which way goes the one packet that [`hits_one`] is about.
const fn one_way(family: Family) -> Direction {
    match family {
        Family::V4 => ToDevice,
        Family::V6 => FromDevice,
    }
}

/// The faults that one exchange of two packets meets.
fn cases() -> Vec<Case> {
    kinds::of([
        ("drop", json!({"partition": {}})),
        ("reject", json!({"partition": {"mode": "Reject"}})),
        ("percent", json!({"loss": {"percent": "50%"}})),
        // Each second packet is lost: by counting, and by a burst behind each packet that passes.
        ("every", json!({"loss": {"every": 2}})),
        ("bursts", json!({"loss": {"gilbertElliott": {"enterBurst": "100%", "leaveBurst": "100%"}}})),
        ("corrupt", json!({"corrupt": {"percent": "50%"}})),
        ("duplicate", json!({"duplicate": {"percent": "100%"}})),
        ("delay", json!({"delay": {"time": "200ms", "jitter": "50ms", "distribution": "Uniform"}})),
        ("reorder", json!({"reorder": {"percent": "100%", "by": "150ms"}})),
        ("rate", json!({"rate": {"bitsPerSecond": "8k", "burst": "10", "queue": "10s"}})),
    ])
}

/// Whether the fault lets the first request pass and hits the second.
fn hits_the_second(case: &Case) -> bool {
    ["every", "bursts"].contains(&case.name)
}

/// Whether a draw decides which packet it hits.
fn is_drawn(case: &Case) -> bool {
    ["percent", "corrupt"].contains(&case.name)
}

fn profile(case: &Case, fault: Fault) -> Fault {
    match case.name {
        "percent" => fault.seed(case.seed(PROTOCOL_UDP, PORT, Kind::Loss, hits_one)),
        "corrupt" => fault.seed(case.seed(PROTOCOL_UDP, PORT, Kind::Corrupt, hits_one)),
        // Whoever has its answer is gone when the second one comes, and its kernel says so by ICMP, twice.
        "duplicate" => fault.matching(json!({"protocol": "UDP"})),
        _ if hits_the_second(case) => fault.direction("ToDevice"),
        _ => fault,
    }
}

/// Asks for the report of the device at an address; it writes the answer's payload to a file.
fn get(scene: &Scene, case: &Case, family: Family, to: &Path) -> Running {
    let url = format!("coap://{}/{PATH_STATE}", SocketAddr::new(case.ip(family), PORT));
    let seconds = if case.is_partition() { "1" } else { "30" };
    Running::start(&scene.stage.peer, CLIENT, &["-B", seconds, "-o", to.to_str().unwrap(), &url])
}

/// Nothing came back; a client that is rejected says so.
fn is_cut_off(scene: &Scene, case: &Case, family: Family, ran: &Ran) {
    let counted = scene.counted(case, family);
    let verdict = if case.is_reject() { Verdict::Reject } else { Verdict::Partition };
    let (seen, dropped) = (counted.seen(ToDevice), counted.verdict(ToDevice, verdict));
    let is_told = ran.to_string().contains("coap_network_read");
    let what = format!("{} {family:?}: {ran}", case.name);
    assert!(seen > 0 && seen == dropped && counted.seen(FromDevice) == 0, "{what}");
    assert_eq!(is_told, case.is_reject(), "{what}");
}

fn agrees(scene: &Scene, case: &Case, family: Family, answer: &Report, ran: &Ran) {
    let counted = scene.counted(case, family);
    let what = format!("{} {family:?}: {ran}", case.name);
    let exchanges = if hits_the_second(case) { 2 } else { 1 };
    assert_eq!(answer.sequence, exchanges, "{what}: asked again, the device repeats what it said");
    let way = if is_drawn(case) { one_way(family) } else { ToDevice };
    assert!(counted.hits(case, way) > 0, "{what}: the fault did something");
    if is_drawn(case) {
        let all: u64 = Direction::ALL.into_iter().map(|direction| counted.hits(case, direction)).sum();
        assert_eq!(all, 1, "{what}: it hit one packet in all");
    }
    if case.has("loss") || case.has("corrupt") {
        assert!(counted.seen(ToDevice) > exchanges, "{what}: the client asked again");
        assert!(ran.took >= ACK_TIMEOUT, "{what}");
    }
    if case.has("duplicate") {
        assert_eq!(counted.seen(FromDevice), counted.came(ToDevice), "{what}: both are answered");
        assert_eq!(counted.effect(FromDevice, Effect::Duplicate), counted.seen(FromDevice), "{what}");
    }
    if case.has("delay") || case.has("reorder") {
        assert!(ran.took >= Duration::from_millis(300), "{what}: 150 ms each way at least");
    }
}

#[test]
#[ignore = "kernel rung: needs root, the eBPF object and libcoap's client"]
fn libcoaps_client_gets_its_answer_by_retransmission_under_every_fault_and_none_under_a_partition() {
    let cases = cases();
    let scene = Scene::new(Hooks::Tcx, &cases, profile, &[]);
    let devices = Devices::new(&scene.stage.device, &cases);
    let all = || cases.iter().flat_map(|case| Family::BOTH.map(|family| (case, family)));
    let path = |case: &Case, family: Family| devices.folder.path().join(format!("{}-{family:?}", case.name));
    for (case, family) in all().filter(|(case, _)| hits_the_second(case)) {
        scene.end(get(&scene, case, family, &path(case, family)));
        std::fs::remove_file(path(case, family)).expect("the first answer");
    }
    let each: Vec<_> = all().collect();
    let ran = scene.run_all(&each, |(case, family)| get(&scene, case, *family, &path(case, *family)));
    for (number, ((case, family), ran)) in all().zip(&ran).enumerate() {
        match std::fs::read(path(case, family)) {
            Ok(payload) => {
                let answer: Report = decode(&payload).unwrap();
                assert_eq!(answer.name, format!("device-{number}"), "{}: {ran}", case.name);
                assert!(!case.is_partition(), "{}: {ran}", case.name);
                agrees(&scene, case, family, &answer, ran);
            }
            Err(error) => {
                assert!(case.is_partition(), "{}: no answer ({error}): {ran}", case.name);
                is_cut_off(&scene, case, family, ran);
            }
        }
    }
    for family in Family::BOTH {
        let corrupted = |case| scene.counted(case, family).effect(ToDevice, Effect::Corrupt);
        let wrong = scene.stack(ToDevice, &Stack::name(family, "Udp", "InCsumErrors"));
        assert_eq!(wrong, cases.iter().map(corrupted).sum::<u64>(), "{family:?}: wrong checksums");
    }
    scene.nothing_else_happened();
}
