//! Removing a cluster, whatever state it is in: by what its name implies, not by what a run remembers. The same list
//! tells tests and the next run what is left.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::{cgroups, mounts, network, plan, processes};
use crate::wait;

/// Everything of cluster `name` that exists now, a line each; empty when there is nothing.
///
/// # Errors
/// When the mounts cannot be read.
pub fn residue(name: &str) -> Result<Vec<String>> {
    let dir = plan::dir(name);
    let mut found: Vec<_> =
        processes::of_cluster(&dir).iter().map(|process| format!("process {}", process.pid)).collect();
    found.extend(network::existing(name).iter().map(|netns| format!("network namespace {netns}")));
    found.extend(cgroups::existing(name)?.iter().map(|group| format!("control group {}", group.display())));
    found.extend(cgroups::left_enabled()?.iter().map(|line| format!("enabled controller {line}")));
    found.extend(mounts_in(&dir)?.iter().map(|mount| format!("mount {}", mount.display())));
    if dir.exists() {
        found.push(format!("folder {}", dir.display()));
    }
    Ok(found)
}

/// Removes everything of cluster `name`. The caller holds its lock.
///
/// # Errors
/// With what could not be removed.
pub(super) fn clean(name: &str) -> Result<()> {
    let dir = plan::dir(name);
    processes::kill_all(&dir)?;
    network::remove(name)?;
    cgroups::remove(name)?;
    for mount in mounts_in(&dir)? {
        nix::mount::umount2(&mount, nix::mount::MntFlags::MNT_DETACH)
            .with_context(|| format!("unmounting {}", mount.display()))?;
    }
    if !dir.exists() {
        return Ok(());
    }
    // The kernel ends the last mounts of a pid namespace a moment after its processes.
    wait::until_done(
        "removing the cluster's folder",
        Duration::from_secs(10),
        Duration::from_millis(100),
        || match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => Ok(None),
            other => other.map(Some).with_context(|| format!("removing {}", dir.display())),
        },
    )
}

/// Mounts of the machine's own below `dir`, the deepest first.
fn mounts_in(dir: &Path) -> Result<Vec<PathBuf>> {
    let all = mounts::all()?.into_iter().rev().map(|mount| mount.point);
    Ok(all.filter(|point| point.starts_with(dir)).collect())
}
