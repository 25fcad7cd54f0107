//! The processes of a cluster: each carries a mark in its environment, so that it is found again whatever became of
//! the run that started it. A number alone identifies nothing, since numbers are used again.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::machine::MARK;
use crate::wait;

/// A process, identified for as long as the machine is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number, in the root pid namespace.
    pub pid: i32,
    /// When it started, in clock ticks since boot (field 22 of `/proc/PID/stat`).
    pub started: u64,
}

impl Process {
    /// Whether it is still there, and no zombie.
    #[must_use]
    pub fn is_alive(self) -> bool {
        identify(self.pid) == Some(self)
    }

    /// The name of its program, up to 15 characters; empty when it has ended.
    #[must_use]
    pub fn name(self) -> String {
        fs::read_to_string(format!("/proc/{}/comm", self.pid)).unwrap_or_default().trim().to_owned()
    }

    /// Kills it.
    pub fn kill(self) {
        self.signal(Signal::SIGKILL);
    }

    /// Lets it stand still until [`Process::resume`]. The first process of a pid namespace, too.
    pub fn pause(self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Lets it go on.
    pub fn resume(self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(self, signal: Signal) {
        if self.is_alive() {
            // One that ended meanwhile needs none.
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }
}

/// What the process `pid` is; nothing when it has ended or is a zombie.
#[must_use]
pub fn identify(pid: i32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(Process { pid, started: start_of(&stat)? })
}

/// The start time in `/proc/PID/stat`; nothing for a zombie.
fn start_of(stat: &str) -> Option<u64> {
    // The name in parentheses may hold anything, parentheses too.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// All processes that carry the mark of the cluster in `dir`, but for the calling one.
#[must_use]
pub fn of_cluster(dir: &Path) -> Vec<Process> {
    let mark = [MARK.as_bytes(), b"=", dir.as_os_str().as_bytes()].concat();
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    let marked = |pid: &i32| {
        fs::read(format!("/proc/{pid}/environ"))
            .is_ok_and(|environment| environment.split(|byte| *byte == 0).any(|variable| variable == mark))
    };
    pids().filter(|pid| *pid != own).filter(marked).filter_map(identify).collect()
}

/// All processes in the containers of the pod with this uid, as this machine numbers them: by their control group under
/// `cgroup`, the cluster's own.
#[must_use]
pub fn in_pod(cgroup: &str, uid: &str) -> Vec<Process> {
    let (cluster, pod) = (format!("/{cgroup}/"), format!("pod{uid}"));
    let inside = |pid: &i32| {
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        groups.lines().any(|line| line.contains(&cluster) && line.contains(&pod))
    };
    pids().filter(inside).filter_map(identify).collect()
}

fn pids() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Kills all processes of the cluster in `dir` and waits until they are gone.
///
/// # Errors
/// When some are still there after twenty seconds.
pub fn kill_all(dir: &Path) -> Result<usize> {
    let mut killed = 0;
    wait::until_done(
        "the end of the cluster's processes",
        Duration::from_secs(20),
        Duration::from_millis(20),
        || {
            let left = of_cluster(dir);
            killed = killed.max(left.len());
            for process in &left {
                process.kill();
            }
            Ok(left.is_empty().then_some(()))
        },
    )?;
    Ok(killed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn the_start_time_is_read_behind_any_name() {
        let stat = "12 (a) (b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        assert_eq!(start_of(stat), Some(4711));
        assert_eq!(start_of(&stat.replace(") S", ") Z")), None);
    }

    #[test]
    fn marked_processes_are_found_and_killed_and_others_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let sleeper = |mark: &str| {
            Command::new("sleep").arg("600").env(MARK, mark).stdin(Stdio::null()).spawn().unwrap()
        };
        let mut ours = sleeper(dir.path().to_str().unwrap());
        let mut other = sleeper(&format!("{}-other", dir.path().display()));
        wait::until("its mark", Duration::from_secs(10), Duration::from_millis(5), || {
            Ok((of_cluster(dir.path()).len() == 1).then_some(()))
        })
        .unwrap();
        kill_all(dir.path()).unwrap();
        assert!(!ours.wait().unwrap().success());
        assert!(other.try_wait().unwrap().is_none(), "another cluster's process was killed");
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
