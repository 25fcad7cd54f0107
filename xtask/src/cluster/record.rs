//! What is known of a cluster on disk: its plan, written before anything is made, and the lock that lets one run at a
//! time change it.

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::plan::{self, Plan};
use crate::{paths, wait};

/// How long the lock of a killed run is waited for: a child that it was about to start has it, too, until it runs its own program.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often is looked.
const AGAIN: Duration = Duration::from_millis(20);

/// Whether there is no process of this number.
fn is_gone(pid: &str) -> bool {
    pid.parse().is_ok_and(|pid| kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH))
}

/// What the cluster's folder says of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// What was to be made.
    pub plan: Plan,
    /// Whether `up` came to its end.
    pub complete: bool,
}

impl Record {
    /// The record of cluster `name`, if there is one that can be read.
    #[must_use]
    pub(super) fn read(name: &str) -> Option<Self> {
        serde_json::from_slice(&fs::read(plan::dir(name).join("cluster.json")).ok()?).ok()
    }

    /// Writes it, and the cluster's folder if need be.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn write(&self) -> Result<()> {
        let dir = self.plan.dir();
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .with_context(|| format!("making {}", dir.display()))?;
        let unfinished = dir.join(".cluster.json");
        fs::write(&unfinished, serde_json::to_vec_pretty(self)?).context("writing the cluster's record")?;
        fs::rename(unfinished, dir.join("cluster.json")).context("writing the cluster's record")
    }
}

/// Held while a cluster is made or removed; the kernel lets go of it when the process ends, however that happens.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Takes the lock of cluster `name`.
    ///
    /// # Errors
    /// When another run holds it; says which.
    pub(super) fn take(name: &str) -> Result<Self> {
        Self::of(&format!("{name}.lock"), &format!("the cluster {name} is being brought up or down"))
    }

    /// Takes the lock in this file; who finds it held is told so.
    fn of(file: &str, held: &str) -> Result<Self> {
        let state = paths::state();
        let path = state.join(file);
        loop {
            fs::create_dir_all(&state).with_context(|| format!("making {} (as root)", state.display()))?;
            let mut file = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .with_context(|| format!("opening {} (as root)", path.display()))?;
            if file.try_lock().is_err() {
                let mut holder = String::new();
                file.read_to_string(&mut holder).context("reading who holds the lock")?;
                let holder = holder.trim();
                let is_free = || Ok(file.try_lock().is_ok().then_some(()));
                if !is_gone(holder)
                    || wait::until_done("the lock of a killed run", PATIENCE, AGAIN, is_free).is_err()
                {
                    bail!("{held} by process {holder}; wait for it");
                }
            }
            file.set_len(0).and_then(|()| file.rewind()).context("noting who holds the lock")?;
            writeln!(file, "{}", std::process::id()).context("noting who holds the lock")?;
            let lock = Self { file, path: path.clone() };
            if lock.is_the_one() {
                return Ok(lock);
            }
        }
    }

    /// Whether the file is still the one of that name: who removed the cluster before removed its lock, too.
    fn is_the_one(&self) -> bool {
        let inode = |meta: fs::Metadata| (meta.dev(), meta.ino());
        match (self.file.metadata(), fs::metadata(&self.path)) {
            (Ok(held), Ok(named)) => inode(held) == inode(named),
            _ => false,
        }
    }

    /// Removes the lock's file, and the folder of all clusters if nothing else is in it.
    pub(super) fn remove(self) {
        // Neither does harm when it stays.
        let _ = fs::remove_file(&self.path);
        let _ = fs::remove_dir(paths::state());
    }
}

/// Held for as long as a verb uses a cluster that it brings up and removes itself, so that no other takes it for a leftover
/// and removes it. Its file goes with it.
#[derive(Debug)]
pub struct Use(Option<Lock>);

impl Use {
    /// Takes the cluster `name`.
    ///
    /// # Errors
    /// When another run has it; says which.
    pub fn begin(name: &str) -> Result<Self> {
        let name = &Plan::new(name, 1)?.name;
        // No cluster's name has a dot.
        Lock::of(&format!("{name}.use.lock"), &format!("the cluster {name} is used"))
            .map(|lock| Self(Some(lock)))
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        if let Some(lock) = self.0.take() {
            lock.remove();
        }
    }
}
