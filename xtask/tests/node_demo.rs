//! The demo as people run it: it shows what it is there to show, and leaves nothing, however it ends.

#![expect(clippy::unwrap_used, reason = "tests end at what they cannot have")]

use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use xtask::cluster::{Cluster, plan, residue};
use xtask::demo::report::{Delayed, Report};
use xtask::{interrupt, wait};

/// A cluster apart from that of a demo that somebody keeps.
const CLUSTER: &str = "test-demo";
const XTASK: &str = env!("CARGO_BIN_EXE_xtask");
const LIMIT: Duration = Duration::from_secs(3600);
const SOON: Duration = Duration::from_millis(20);

/// A demo that is ended when its test ends, with what it made.
struct Demo(Child);

impl Demo {
    fn start(arguments: &[&str]) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "needs root");
        // Ctrl-C ends a wait here, and what was started goes.
        interrupt::install().unwrap();
        let mut demo = Command::new(XTASK);
        demo.args(["demo", "--cluster", CLUSTER]).args(arguments).stdin(Stdio::null());
        Self(demo.spawn().unwrap())
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), signal).unwrap();
    }

    /// Waits until its devices run, also those outside the cluster; their log is another file than `earlier`.
    fn runs_its_devices(&mut self, earlier: Option<u64>) -> u64 {
        let log = plan::dir(CLUSTER).join("outside/device-sim.log");
        wait::until("the devices of the demo", LIMIT, SOON, || {
            if let Some(status) = self.0.try_wait()? {
                anyhow::bail!("the demo ended too soon: {status}");
            }
            let inode = log.metadata().ok().map(|meta| meta.ino());
            Ok(inode.filter(|inode| Some(*inode) != earlier))
        })
        .unwrap()
    }

    fn ends(&mut self) -> bool {
        wait::until("the demo's end", LIMIT, SOON, || Ok(self.0.try_wait()?)).unwrap().success()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.0.kill();
            let _ = self.0.wait();
            let _ = Cluster::down_by_name(CLUSTER);
        }
    }
}

fn nothing_is_left() {
    let left = residue(CLUSTER).unwrap();
    assert!(left.is_empty(), "{left:#?}");
}

#[test]
#[ignore = "node rung: needs root, builds a cluster and runs the whole demo"]
fn losses_are_as_asked_all_devices_end_in_sync_and_every_panel_shows_something() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("report.json");
    let mut demo = Demo::start(&["--check-dashboard", "--report", file.to_str().unwrap()]);
    assert!(demo.ends(), "the demo failed; its report is above");

    let report: Report = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(report.devices, 50);
    assert!(report.verdict.passed, "{:?}", report.verdict.problems);
    let loss = report.phases.iter().find(|phase| phase.name == "loss").unwrap();
    assert_eq!(loss.counted.len(), 2, "both directions were counted");
    assert!(loss.counted.iter().all(|counted| counted.within && counted.lost.of > 100), "{:?}", loss.counted);
    assert!(loss.retransmissions > 0, "nobody retried");
    let bursts = report.phases.iter().find(|phase| phase.name == "bursts").unwrap();
    assert!(bursts.counted.iter().all(|counted| counted.lost.hits > 0), "{:?}", bursts.counted);
    let delay = report.phases.iter().find(|phase| phase.name == "delay").unwrap();
    let late = |it: &Delayed| it.within && it.reorder_within && it.delay.of > 100 && it.reordered.hits > 0;
    assert!(delay.delayed.len() == 2 && delay.delayed.iter().all(late), "{:?}", delay.delayed);
    let given: f64 = delay.delayed.iter().map(|it| it.delay.mean).sum();
    assert!(
        delay.round_trips.unwrap().mean > given - 0.01,
        "the operator did not feel it: {:?}",
        delay.round_trips
    );
    assert!(report.nodes.iter().all(|node| node.lateness.is_some()), "{:?}", report.nodes);
    let leader = report.leader.unwrap();
    assert!(leader.by_signal && leader.changes >= 1 && leader.leaderless < 15.0, "{leader:?}");
    let [_, rollout] = &report.rollouts[..] else { panic!("two rollouts: {:?}", report.rollouts) };
    let (began, batches) = (rollout.began, &rollout.batches_after);
    let ended = began + rollout.complete_after.unwrap();
    assert!(batches.len() == 3 && batches.is_sorted(), "{rollout:?}");
    assert!(began < leader.at && leader.at < ended, "it was not under way: {leader:?}, {rollout:?}");
    assert!(rollout.in_flight > 1 && rollout.in_sync == 50 && rollout.failed == 0, "{rollout:?}");
    assert!(!report.series.is_empty());
    nothing_is_left();
}

#[test]
#[ignore = "node rung: needs root, builds a cluster"]
fn what_a_killed_demo_leaves_the_next_removes_and_ctrl_c_leaves_nothing() {
    let mut killed = Demo::start(&[]);
    let first = killed.runs_its_devices(None);
    killed.signal(Signal::SIGKILL);
    assert!(!killed.ends());

    let mut next = Demo::start(&[]);
    next.runs_its_devices(Some(first));
    next.signal(Signal::SIGINT);
    assert!(!next.ends(), "an interrupted demo has shown nothing");
    nothing_is_left();
}
