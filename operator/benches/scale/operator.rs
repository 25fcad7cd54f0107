//! An operator process: started, scraped, ended, killed, weighed.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Pid, SysconfVar, sysconf};
use tied_child::Tie as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::cluster::{Cluster, NAMESPACE};
use crate::plan::Plan;

/// Two cores with a compiler beside it take their time.
const WITHIN: Duration = Duration::from_secs(120);
/// Between two looks at what is waited for.
const LOOK: Duration = Duration::from_millis(100);
/// Of the log of one that ended too early.
const LAST_LINES: usize = 20;

/// One that runs. Killed when dropped.
pub(crate) struct Operator {
    child: Child,
    port: u16,
    begun: Instant,
    log: PathBuf,
}

impl Operator {
    /// Starts one, under the defaults of all flags but what is named. Its log goes beside the control plane's, if nobody keeps it.
    pub(crate) fn start(cluster: &Cluster, plan: &Plan, identity: &str, flags: &[&str]) -> Self {
        let folder = cluster.control_plane.folder();
        let port = free_port();
        let config = folder.join("operator.kubeconfig");
        std::fs::write(&config, cluster.kubeconfig()).unwrap();
        let logs = plan.keep.as_deref().unwrap_or(folder);
        let path = logs.join(identity).with_extension("log");
        let log = std::fs::File::create(&path).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_edge-operator"));
        command.env_clear().env("KUBECONFIG", &config);
        command.arg(format!("--listen=127.0.0.1:{port}")).arg(format!("--namespace={NAMESPACE}"));
        command.arg(format!("--identity={identity}")).arg("--allow-cidrs=10.77.0.0/16").args(flags);
        command.arg(format!("--log={}", plan.log));
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        command.tie(Signal::SIGKILL);
        Self { child: command.spawn().unwrap(), port, begun: Instant::now(), log: path }
    }

    /// Since it was started.
    pub(crate) fn age(&self) -> Duration {
        self.begun.elapsed()
    }

    /// All of its metrics; nothing while it does not listen yet. One that has ended ends the benchmark.
    pub(crate) async fn scrape(&self) -> Scrape {
        let scrape = get(self.port, "/metrics").await;
        if scrape.is_none() {
            self.runs();
        }
        Scrape(scrape.unwrap_or_default())
    }

    fn runs(&self) {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        let status = waitid(Id::Pid(self.pid()), flags).unwrap();
        if status != WaitStatus::StillAlive {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let last: Vec<_> = log.lines().rev().take(LAST_LINES).collect();
            let last: Vec<_> = last.into_iter().rev().collect();
            panic!("an operator ended ({status:?}); its log ends so:\n{}", last.join("\n"));
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    /// Waits until its caches are warm.
    pub(crate) async fn is_ready(&self) {
        let begun = Instant::now();
        while !get(self.port, "/readyz").await.is_some_and(|answer| answer.starts_with("HTTP/1.0 200")) {
            assert!(begun.elapsed() < WITHIN, "an operator is not ready");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until it leads.
    pub(crate) async fn leads(&self) {
        let begun = Instant::now();
        while self.scrape().await.sum("leader_election_master_status", &[]) < 0.5 {
            assert!(begun.elapsed() < WITHIN, "an operator does not lead");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Bytes of memory that are its own.
    pub(crate) fn bytes(&self) -> f64 {
        let status = std::fs::read_to_string(self.proc("status")).unwrap();
        let own = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        own.trim().trim_end_matches(" kB").parse::<f64>().unwrap() * 1024.0
    }

    /// Seconds of a processor that it has used.
    pub(crate) fn cpu(&self) -> f64 {
        cpu(self.child.id())
    }

    /// Kills it; gives when.
    pub(crate) fn killed(mut self) -> SystemTime {
        let now = now();
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        now
    }

    /// Asks it to end; gives when. It goes on until it is waited for.
    pub(crate) fn is_asked_to_end(&self) -> SystemTime {
        let now = now();
        kill(self.pid(), Signal::SIGTERM).unwrap();
        now
    }

    /// Waits until it has ended, well.
    pub(crate) async fn has_ended(mut self) {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert!(status.success(), "an operator ended with {status}");
                return;
            }
            assert!(begun.elapsed() < WITHIN, "an operator does not end");
            tokio::time::sleep(LOOK).await;
        }
    }

    fn proc(&self, file: &str) -> PathBuf {
        Path::new("/proc").join(self.child.id().to_string()).join(file)
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Seconds of a processor that a process has used.
#[expect(clippy::cast_precision_loss, reason = "ticks of a benchmark are far below 2^53")]
pub(crate) fn cpu(process: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // After the name in brackets: the 14th and 15th fields of proc_pid_stat(5).
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: f64 = fields[11..13].iter().map(|field| field.parse::<f64>().unwrap()).sum();
    ticks / sysconf(SysconfVar::CLK_TCK).unwrap().unwrap() as f64
}

/// What a scrape brought.
pub(crate) struct Scrape(String);

impl Scrape {
    /// The sum of all series of a name that have all of these labels, written as in a scrape.
    pub(crate) fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let of_name = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
        let lines = self.0.lines().filter(of_name);
        let lines = lines.filter(|line| labels.iter().all(|label| line.contains(label)));
        let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        // The sum of none is minus zero, which is no count.
        values.fold(0.0, |sum, value| sum + value)
    }

    /// How many series of a name there are.
    pub(crate) fn series(&self, name: &str) -> usize {
        self.0
            .lines()
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{')))
            .count()
    }

    /// Writes to the API server, whatever became of them.
    pub(crate) fn writes(&self) -> f64 {
        let of = |method: &str| self.sum("rest_client_requests_total", &[method]);
        [r#"method="PATCH""#, r#"method="POST""#, r#"method="PUT""#].into_iter().map(of).sum()
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "devices tell the time of day of what they store, and nothing else"
)]
fn now() -> SystemTime {
    SystemTime::now()
}

async fn get(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    Some(answer)
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
