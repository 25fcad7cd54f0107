//! The program itself: its pages, its end by SIGTERM, and its power cut by SIGKILL.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use edge_protocol::DesiredCommand;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStderr, Command};

use crate::client::{Client, command, report};

/// Far longer than anything here takes; a test that waits for it fails.
const PATIENCE: Duration = Duration::from_secs(20);

struct Process {
    child: Child,
    coap: SocketAddr,
    pages: String,
    _log: Lines<BufReader<ChildStderr>>,
}

impl Process {
    /// Starts the program with one device and waits until it says that it is up.
    async fn start(state: &Path, flags: &[&str]) -> Self {
        let free = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_device-sim"))
            .args(["--listen-address", "127.0.0.1", "--http", "127.0.0.1:0", "--boot-time", "0s"])
            .args(["--install-time", "0s", "--port", &free.port().to_string()])
            .arg("--state-dir")
            .arg(state)
            .args(flags)
            .env_clear()
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut seen = Vec::new();
        let pages = loop {
            let line = tokio::time::timeout(PATIENCE, log.next_line()).await.expect("it says nothing");
            let Some(line) = line.unwrap() else { panic!("it ended: {seen:#?}") };
            if let Some((_, address)) = line.split_once("pages on http://") {
                break address.to_owned();
            }
            seen.push(line);
        };
        Self { child, coap: free, pages, _log: log }
    }

    async fn page(&self, path: &str) -> (u16, String) {
        self.ask("GET", path, "").await
    }

    async fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.pages).await.unwrap();
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// Cuts the power.
    async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}

#[tokio::test]
async fn its_pages_show_metrics_readiness_and_the_true_history() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &["--devices", "2"]).await;
    let mut client = Client::of(process.coap).await;
    assert_eq!(client.put(&command(3, 1, 1, "2.0.0")).await.code, "2.04");

    assert_eq!(process.page("/healthz").await.0, 200);
    assert_eq!(process.page("/readyz").await.0, 200);
    let (_, metrics) = process.page("/metrics").await;
    for line in [
        "device_sim_devices 2",
        "device_sim_requests_total{code=\"2.04\",method=\"PUT\"} 1",
        "device_sim_reboots_total 2",
        "device_sim_limit{name=\"durable_writes\"} 8",
        "device_sim_usage{name=\"remembered_messages\"} 1",
        "device_sim_limit{name=\"sent_answers\"} 16",
        "device_sim_usage{name=\"sent_answers\"} 1",
        "device_sim_limit{name=\"history\"} 512",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is missing in\n{metrics}");
    }
    let kept = metrics.lines().find_map(|line| line.strip_prefix("device_sim_usage{name=\"history\"} "));
    assert!(
        ["3", "4"].map(Some).contains(&kept),
        "a boot of each, what was stored, and perhaps applied: {kept:?}"
    );
    let (status, history) = process.page("/history/device-0").await;
    assert_eq!(status, 200);
    let device: serde_json::Value = serde_json::from_str(&history).unwrap();
    let entries = device["history"]["entries"].as_array().unwrap();
    let stored = entries.iter().find(|entry| entry["what"] == "stored").unwrap();
    assert_eq!((&stored["generation"], &stored["firmware"]), (&3.into(), &"2.0.0".into()));
    let all: serde_json::Value = serde_json::from_str(&process.page("/history").await.1).unwrap();
    assert_eq!(all["devices"].as_array().map(Vec::len), Some(2));
    assert_eq!(process.page("/history/nobody").await.0, 404);
}

#[tokio::test]
async fn behaviour_is_switched_while_it_runs_for_all_devices_or_one_and_nonsense_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &["--devices", "2", "--drop", "1%"]).await;
    let shown = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    let of = async |name: &str| shown(&process.page(&format!("/behaviour/{name}")).await.1);
    assert_eq!(of("device-1").await["drop"], "1%");

    let (status, now) = process.ask("PUT", "/behaviour", r#"{"stale": "2.5%", "late": "5%:800ms"}"#).await;
    assert_eq!((status, &shown(&now)["late"]), (200, &"5%:800ms".into()));
    let (status, _) = process.ask("PUT", "/behaviour/device-0", r#"{"contradict": "100%"}"#).await;
    assert_eq!(status, 200);
    let all = shown(&process.page("/behaviour").await.1);
    assert_eq!(all["device-0"]["contradict"], "100%");
    assert_eq!((&all["device-0"]["stale"], &all["device-1"]["stale"]), (&"0%".into(), &"2.5%".into()));
    assert_eq!(all["device-1"]["drop"], "0%", "a behaviour is replaced as a whole");

    let (status, sentence) = process.ask("PUT", "/behaviour", r#"{"dorp": "5%"}"#).await;
    assert!(status == 400 && sentence.contains("dorp") && sentence.contains("write JSON"), "{sentence}");
    assert_eq!(process.ask("PUT", "/behaviour/nobody", "{}").await.0, 404);
    assert_eq!(process.ask("PUT", "/behaviour", &" ".repeat(20_000)).await.0, 413);
    assert_eq!(shown(&process.page("/behaviour").await.1), all);

    let mut client = Client::of(process.coap).await;
    let told = report(&client.get_state().await);
    let factory = (0, 0, edge_protocol::config_digest(&Default::default()));
    assert_ne!((told.held_generation, told.applied_generation, told.config_digest), factory);
}

#[tokio::test]
async fn it_ends_cleanly_on_sigterm() {
    let folder = tempfile::tempdir().unwrap();
    let mut process = Process::start(folder.path(), &[]).await;
    let pid = nix::unistd::Pid::from_raw(process.child.id().unwrap().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    let status = tokio::time::timeout(PATIENCE, process.child.wait()).await.expect("it ends").unwrap();
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn flags_that_cannot_work_end_it_with_a_sentence() {
    let output = Command::new(env!("CARGO_BIN_EXE_device-sim"))
        .args(["--port", "65535", "--devices", "2"])
        .env_clear()
        .output()
        .await
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(said.contains("lower --port or --devices"), "{said}");
}

/// One command is acknowledged; the power is cut while the next is being stored, at another moment of it
/// in each round. What was acknowledged must be there then, or what followed it, and nothing else.
#[tokio::test]
async fn a_power_cut_in_the_middle_of_a_durable_write_loses_nothing_that_was_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let mut held = 0;
    for round in 0..25u64 {
        let process = Process::start(folder.path(), &[]).await;
        let mut client = Client::of(process.coap).await;
        let survived = report(&client.get_state().await);
        let allowed = [held, held + u64::from(round > 0)];
        assert!(allowed.contains(&survived.held_generation), "{survived:?}, held {held}");
        assert_eq!(survived.applied_generation, survived.held_generation);
        held = survived.held_generation + 1;
        let asked = |n: u64| DesiredCommand { firmware: format!("2.0.{n}"), ..command(n, 1, n, "") };
        assert_eq!(client.put(&asked(held)).await.code, "2.04");

        let request = client.put_request(&asked(held + 1));
        client.send(&request).await;
        let cut = tokio::time::Instant::now() + Duration::from_micros(150 * round);
        while tokio::time::Instant::now() < cut {
            tokio::task::yield_now().await;
        }
        process.kill().await;
    }
    assert!(held >= 25);
}
