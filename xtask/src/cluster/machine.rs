//! A machine of the cluster (the control plane, a node) as data, and how it is started: namespaces first, then
//! [`super::init`] as their first process. Everything in it ends with that process.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns, unshare};
use serde::{Deserialize, Serialize};

use super::processes::{self, Process};

/// Set in each process of a cluster, to the cluster's folder: by this a later run finds them again.
pub const MARK: &str = "EDGE_CLUSTER_DIR";
/// Inside a machine: its configuration, from [`Machine::etc`].
pub const ETC: &str = "/run/edge/etc";
/// Inside a machine: certificates, from the cluster's folder.
pub const PKI: &str = "/run/edge/pki";
/// Inside a machine: what its services print, from [`Machine::log`].
pub const LOG: &str = "/run/edge/log";
/// Inside a machine: folders of programs, numbered.
pub const BIN: &str = "/run/edge/bin";

/// A program that a machine keeps running.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its name, and its log's.
    pub name: String,
    /// The program (looked up in the machine's folders of programs) and its arguments.
    pub command: Vec<String>,
    /// Starts when this path exists, seen from inside.
    pub after: Option<PathBuf>,
}

impl Service {
    /// A service named after its program.
    pub fn new(program: &str, arguments: impl IntoIterator<Item = String>) -> Self {
        let command = std::iter::once(program.to_owned()).chain(arguments).collect();
        Self { name: program.to_owned(), command, after: None }
    }

    /// Starts only when `path` exists.
    #[must_use]
    pub fn after(mut self, path: impl Into<PathBuf>) -> Self {
        self.after = Some(path.into());
        self
    }
}

/// What [`super::init`] needs to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    /// Its name: `cp`, `node1` …
    pub name: String,
    /// The network namespace that it enters.
    pub netns: String,
    /// Its folder on the real machine.
    pub dir: PathBuf,
    /// The certificates' folder on the real machine.
    pub pki: PathBuf,
    /// Folders of programs on the real machine, in the order of PATH.
    pub programs: Vec<PathBuf>,
    /// Whether it runs containers: then it gets its own `/sys` and a `/sys/fs/bpf`.
    pub runs_containers: bool,
    /// What it runs.
    pub services: Vec<Service>,
}

impl Machine {
    /// Configuration files; [`ETC`] inside.
    #[must_use]
    pub fn etc(&self) -> PathBuf {
        self.dir.join("etc")
    }

    /// Logs; [`LOG`] inside.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// Its `/var`.
    #[must_use]
    pub fn var(&self) -> PathBuf {
        self.dir.join("var")
    }

    /// Writes a configuration file and returns where it lies inside.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn configure(&self, file: &str, text: &str) -> Result<String> {
        let path = self.etc().join(file);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        }
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        Ok(format!("{ETC}/{file}"))
    }

    /// Starts it and returns its first process. Its folders are made; its description is kept beside them.
    ///
    /// # Errors
    /// When a namespace cannot be made; says which.
    pub fn start(&self, cluster: &Path) -> Result<Process> {
        for folder in [self.etc(), self.log(), self.var()] {
            fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        }
        let description = self.dir.join("machine.json");
        fs::write(&description, serde_json::to_vec_pretty(self)?)
            .context("writing a machine's description")?;
        let log = File::create(self.log().join("init.log")).context("making a machine's log")?;
        let output = Command::new(xtask()?)
            .args(["cluster", "machine"])
            .arg(&description)
            .env(MARK, cluster)
            .stdin(Stdio::null())
            .stderr(log)
            .output()
            .with_context(|| format!("starting {}", self.name))?;
        let said = String::from_utf8_lossy(&output.stdout);
        match said.trim().parse() {
            Ok(pid) if output.status.success() => {
                let first = processes::identify(pid)
                    .with_context(|| format!("{} ended at once; see {}", self.name, self.log().display()))?;
                fs::write(self.dir.join("first-process.json"), serde_json::to_vec(&first)?)
                    .context("noting a machine's first process")?;
                Ok(first)
            }
            _ => {
                let why = fs::read_to_string(self.log().join("init.log")).unwrap_or_default();
                bail!("{} could not be started: {}", self.name, why.trim())
            }
        }
    }
}

/// This program, for what it starts of itself: by a path that outlives a rebuild, or, in a test of the library, the
/// program that cargo builds beside the tests.
///
/// # Errors
/// When it is not there.
pub(super) fn xtask() -> Result<PathBuf> {
    let own = std::env::current_exe().context("asking for this program's path")?;
    let name = own.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if name == "xtask" || name.starts_with("xtask ") {
        return Ok(PathBuf::from("/proc/self/exe"));
    }
    let beside = own.ancestors().skip(1).take(2).map(|dir| dir.join("xtask")).find(|file| file.is_file());
    beside.with_context(|| format!("no xtask lies beside {}: `cargo build -p xtask`", own.display()))
}

/// Reads the description that [`Machine::start`] wrote.
///
/// # Errors
/// When it cannot be read.
pub fn read(description: &Path) -> Result<Machine> {
    let text = fs::read(description).with_context(|| format!("reading {}", description.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("reading {}", description.display()))
}

/// The short-lived process between `up` and a machine: enters and makes the namespaces, starts the first process in
/// them, prints its number and ends. Must run on the only thread of its process, as the kernel asks.
///
/// # Errors
/// When a namespace is missing or cannot be made.
pub fn enter(description: &Path) -> Result<()> {
    let machine = read(description)?;
    let netns = Path::new("/run/netns").join(&machine.netns);
    let file = File::open(&netns).with_context(|| format!("opening the namespace {}", netns.display()))?;
    setns(&file, CloneFlags::CLONE_NEWNET).with_context(|| format!("entering {}", netns.display()))?;
    // Opened before there is a new mount namespace: a file open for writing would keep its root from becoming read-only.
    let log = File::options().append(true).open(machine.log().join("init.log")).context("opening the log")?;
    // Away from the terminal: a Ctrl-C there is for `up`, which cleans up in order.
    nix::unistd::setsid().context("leaving the terminal")?;
    for (flag, name) in [
        (CloneFlags::CLONE_NEWNS, "mount"),
        (CloneFlags::CLONE_NEWUTS, "uts"),
        (CloneFlags::CLONE_NEWIPC, "ipc"),
        (CloneFlags::CLONE_NEWPID, "pid"),
    ] {
        unshare(flag).with_context(|| {
            format!(
                "making a {name} namespace: does this kernel have them (CONFIG_NAMESPACES), and is this root?"
            )
        })?;
    }
    let first = Command::new("/proc/self/exe")
        .args(["cluster", "init"])
        .arg(description)
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("sharing the log")?)
        .stderr(log)
        .spawn()
        .context("starting the first process")?;
    writeln!(std::io::stdout(), "{}", first.id()).context("telling the first process's number")
}
