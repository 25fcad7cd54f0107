//! curl: a download is whole under every fault that lets anything through, and ends with the right code under a partition.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use fault_abi::key::Direction::{self, FromDevice};
use fault_abi::verdict::{Effect, Verdict};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::kinds::{self, Case};
use crate::process::{Ran, Running};
use crate::scene::{Scene, peers};
use crate::stack::is_listened_to;
use crate::support::agent::Hooks;
use crate::support::stage::Family;
use crate::support::time::{ms, ms_here};

const PORT: u16 = 8_080;
/// Bytes of the file: a second at the rate.
const LENGTH: u32 = 250_000;
/// curl's exit codes: connection refused (or reset while it was made), and time is up.
const REFUSED: i32 = 7;
const TIME_IS_UP: i32 = 28;

/// A file of no two words alike, on an HTTP server of the device.
struct Site {
    folder: TempDir,
    digest: Vec<u8>,
    _server: Running,
}

impl Site {
    fn new(scene: &Scene) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let words = (0..LENGTH / 4).map(|word| word.wrapping_mul(2_654_435_761));
        let content: Vec<u8> = words.flat_map(u32::to_be_bytes).collect();
        std::fs::write(folder.path().join("file"), &content).unwrap();
        let arguments = ["httpd", "-f", "-p", &format!("[::]:{PORT}"), "-h", folder.path().to_str().unwrap()];
        let server = Running::start(&scene.stage.device, "busybox", &arguments);
        is_listened_to(&scene.stage.device, SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), PORT));
        Self { folder, digest: digest(&content), _server: server }
    }

    fn download(&self, case: &Case, family: Family) -> PathBuf {
        self.folder.path().join(format!("{}-{family:?}", case.name))
    }
}

fn digest(bytes: &[u8]) -> Vec<u8> {
    Sha256::digest(bytes).to_vec()
}

fn start(scene: &Scene, case: &Case, family: Family, to: &Path) -> Running {
    let url = format!("http://{}/file", SocketAddr::new(case.ip(family), PORT));
    // A refusal must not have to wait for the end of this time; silence has to.
    let seconds = if case.is_partition() && !case.is_reject() { 1 } else { 40 };
    let limit = (ms_here(seconds * 1_000) / ms(1_000)).to_string();
    let arguments = ["-sS", "-g", "--max-time", &limit, "-w", "%{json}", "-o", to.to_str().unwrap(), &url];
    Running::start(&scene.stage.peer, "curl", &arguments)
}

fn agrees(scene: &Scene, site: &Site, case: &Case, family: Family, ran: &Ran) {
    let counted = scene.counted(case, family);
    let what = format!("{} {family:?}: {ran}", case.name);
    if case.is_partition() {
        let (code, verdict) =
            if case.is_reject() { (REFUSED, Verdict::Reject) } else { (TIME_IS_UP, Verdict::Partition) };
        assert_eq!(ran.code, Some(code), "{what}");
        let seen = counted.seen(Direction::ToDevice);
        assert!(seen > 0 && seen == counted.verdict(Direction::ToDevice, verdict), "{what}");
        assert_eq!(counted.seen(FromDevice), 0, "{what}");
        return;
    }
    assert_eq!(ran.code, Some(0), "{what}");
    let content = std::fs::read(site.download(case, family)).unwrap();
    assert_eq!(digest(&content), site.digest, "{what}: {} bytes", content.len());
    assert!(counted.hits(case, FromDevice) > 0, "{what}: the fault did something");
    let said: Value = serde_json::from_str(&ran.stdout).unwrap();
    let seconds = |name: &str| said[name].as_f64().unwrap();
    if case.has("delay") {
        // Two ways of 15 ms at least until there is a connection, and two more until the first byte comes.
        assert!(seconds("time_connect") >= 0.03 && seconds("time_starttransfer") >= 0.06, "{what}");
    }
    if case.has("rate") {
        let bits = f64::from(LENGTH - 4_000) * 8.0;
        assert!(seconds("time_total") >= bits / 2e6, "{what}");
    }
}

/// At a port that no profile names the device's own stack says at once that nobody listens, whatever the fault.
fn other_ports_are_let_alone(scene: &Scene, all: &[(&Case, Family)]) {
    let seen = || {
        let of = |(case, family): &(&Case, Family)| {
            Direction::ALL.map(|direction| scene.counted(case, *family).seen(direction))
        };
        all.iter().map(of).collect::<Vec<_>>()
    };
    let before = seen();
    let ran = scene.run_all(all, |(case, family)| {
        let url = format!("http://{}/file", SocketAddr::new(case.ip(*family), PORT + 1_000));
        Running::start(&scene.stage.peer, "curl", &["-sS", "-g", "--max-time", "20", &url])
    });
    for ((case, family), ran) in all.iter().zip(&ran) {
        assert_eq!(ran.code, Some(REFUSED), "{} {family:?}: {ran}", case.name);
    }
    assert_eq!(seen(), before);
}

#[test]
#[ignore = "kernel rung: needs root, the eBPF object and curl"]
fn curl_downloads_the_same_bytes_under_every_fault_and_fails_as_it_should_under_a_partition() {
    let cases = kinds::all();
    let matching = json!({"protocol": "TCP", "ports": ["8000-8100"], "peers": peers()});
    let scene = Scene::new(Hooks::Clsact, &cases, |_, fault| fault.matching(matching.clone()), &[]);
    let site = Site::new(&scene);
    let all = || cases.iter().flat_map(|case| Family::BOTH.map(|family| (case, family)));
    let each: Vec<_> = all().collect();
    let ran =
        scene.run_all(&each, |(case, family)| start(&scene, case, *family, &site.download(case, *family)));
    for ((case, family), ran) in all().zip(&ran) {
        agrees(&scene, &site, case, family, ran);
    }
    scene.all_segments_arrive();
    other_ports_are_let_alone(&scene, &each);
    for direction in Direction::ALL {
        let corrupted = |(case, family)| scene.counted(case, family).effect(direction, Effect::Corrupt);
        let (wrong, corrupted) =
            (scene.stack(direction, "TcpInCsumErrors"), all().map(corrupted).sum::<u64>());
        assert_eq!(wrong, corrupted, "{direction:?}: wrong checksums that the receiver counted");
    }
    scene.nothing_else_happened();
}
