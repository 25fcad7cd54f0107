//! The devices of one site: a process of this program in a network namespace of its own. They say when they are ready, and when
//! one of them stores the first command of a leader.

pub(crate) mod inside;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;

use nix::sys::signal::Signal;
use tied_child::Tie as _;
use tokio::sync::mpsc;

use crate::plan::{Plan, Site};
use crate::room;

/// Lines of a site that wait to be read. It says a handful.
const LINES: usize = 64;

/// What a site says, a line each.
pub(crate) const INSIDE: &str = "inside";
/// All its devices run.
pub(crate) const READY: &str = "ready";
/// Followed by an epoch and the milliseconds since 1970 when a device first stored a command of it.
pub(crate) const EPOCH: &str = "epoch";
/// Followed by how many commands were stored, and how many carried out.
pub(crate) const COUNTS: &str = "counts";

/// A running site. Killed when dropped.
pub(crate) struct Running {
    child: Child,
    stdin: ChildStdin,
    lines: mpsc::Receiver<String>,
}

impl Running {
    /// Starts its devices and lays the wire to them. Call it on a thread that is to live as long as the site does: the kernel
    /// ends the process with the thread that started it.
    pub(crate) async fn start(site: &Site, plan: &Plan, folder: &Path) -> Self {
        let states = folder.join(site.namespace());
        std::fs::create_dir(&states).unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg("site").arg("--number").arg(site.number.to_string());
        command.arg("--devices").arg(site.devices.to_string());
        command.arg("--loss-percent").arg(plan.loss_percent.to_string());
        command.arg("--states").arg(&states);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.tie(Signal::SIGKILL);
        let mut child = command.spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (said, lines) = mpsc::channel(LINES);
        thread::spawn(move || {
            let read = BufReader::new(stdout).lines().map_while(Result::ok);
            read.take_while(|line| said.blocking_send(line.clone()).is_ok()).for_each(drop);
        });
        let mut running = Self { child, stdin, lines };
        running.until(INSIDE).await;
        room::ip(&format!(
            "link add site{n} type veth peer name eth0 netns {pid}\naddr add {gateway}/24 dev site{n}\nlink set site{n} up\n",
            n = site.number,
            pid = running.child.id(),
            gateway = site.gateway(),
        ));
        running.tell("go");
        running.until(READY).await;
        running
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").unwrap();
    }

    /// What follows the next line that begins so; what it said before is passed over.
    pub(crate) async fn until(&mut self, word: &str) -> Vec<u64> {
        loop {
            let line =
                self.lines.recv().await.unwrap_or_else(|| panic!("a site ended before it said {word}"));
            let mut words = line.split(' ');
            if words.next() == Some(word) {
                return words.map(|number| number.parse().unwrap()).collect();
            }
        }
    }

    /// Commands stored and carried out so far.
    pub(crate) async fn counts(&mut self) -> (u64, u64) {
        self.tell(COUNTS);
        let counts = self.until(COUNTS).await;
        (counts[0], counts[1])
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
