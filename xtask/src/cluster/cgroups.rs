//! Control groups: one parent a cluster with a child for each node, in every mounted hierarchy, of version 1 or 2.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::unistd::{AccessFlags, access};

use super::mounts::{self, Mount};
use super::plan::{self, Plan};
use crate::{paths, wait};

/// What the kubelet wants to find in a version 2 hierarchy.
const CONTROLLERS: [&str; 6] = ["cpu", "cpuset", "memory", "pids", "io", "hugetlb"];

/// Which controllers a group's children have (version 2).
const SUBTREE: &str = "cgroup.subtree_control";

/// A mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hierarchy {
    /// Where it is mounted.
    path: PathBuf,
    /// Version 2 ("unified").
    unified: bool,
}

/// The hierarchies among these mounts.
fn among(mounts: Vec<Mount>) -> Vec<Hierarchy> {
    let hierarchies = mounts.into_iter().filter_map(|Mount { point, kind }| match kind.as_str() {
        "cgroup" => Some(Hierarchy { path: point, unified: false }),
        "cgroup2" => Some(Hierarchy { path: point, unified: true }),
        _ => None,
    });
    hierarchies.collect()
}

fn mounted() -> Result<Vec<Hierarchy>> {
    mounts::all().map(among)
}

/// Whether nodes can have control groups here.
///
/// # Errors
/// When no hierarchy is mounted or one cannot be written: what to do.
pub fn check() -> Result<()> {
    let mounted = mounted()?;
    anyhow::ensure!(
        !mounted.is_empty(),
        "no cgroup filesystem is mounted, and no container runs without one: `mount -t cgroup2 none /sys/fs/cgroup`"
    );
    for Hierarchy { path, .. } in mounted {
        access(&path, AccessFlags::W_OK).with_context(|| {
            format!(
                "the control groups of {path} cannot be written, and nodes need their own: `mount -o remount,rw {path}`, or in a \
                 container its option for privileged ones",
                path = path.display()
            )
        })?;
    }
    Ok(())
}

/// Makes the groups of all nodes.
///
/// # Errors
/// When there is no hierarchy or a group cannot be made.
pub fn make(plan: &Plan) -> Result<()> {
    check()?;
    for hierarchy in mounted()? {
        let parent = hierarchy.path.join(plan.cgroup());
        // The root is the machine's: what is changed there is noted before, and undone with the last cluster.
        delegate(&hierarchy.path, &hierarchy.path, Some(&noted()))?;
        make_one(&hierarchy, &parent)?;
        delegate(&hierarchy.path, &parent, None)?;
        for number in plan.node_numbers() {
            make_one(&hierarchy, &parent.join(plan::node_name(number)))?;
        }
    }
    Ok(())
}

fn make_one(hierarchy: &Hierarchy, group: &Path) -> Result<()> {
    if !group.is_dir() {
        fs::create_dir(group).with_context(|| format!("making the control group {}", group.display()))?;
    }
    // A new group of version 1 has no CPUs and no memory nodes, and nothing could enter it.
    if !hierarchy.unified {
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let from = hierarchy.path.join(file);
            if let Ok(value) = fs::read_to_string(&from) {
                let to = group.join(file);
                fs::write(&to, value.trim()).with_context(|| format!("filling {}", to.display()))?;
            }
        }
    }
    Ok(())
}

/// Lets the children of `group` use the controllers that the root has (version 2; does nothing on version 1). What it
/// enables is added to `note`, a line each.
fn delegate(root: &Path, group: &Path, note: Option<&Path>) -> Result<()> {
    let Ok(available) = fs::read_to_string(root.join("cgroup.controllers")) else { return Ok(()) };
    let control = group.join(SUBTREE);
    let enabled = fs::read_to_string(&control).unwrap_or_default();
    for controller in CONTROLLERS {
        let has = |list: &str| list.split_whitespace().any(|name| name == controller);
        if !has(&available) || has(&enabled) {
            continue;
        }
        if let Some(note) = note {
            let mut noted = File::options()
                .create(true)
                .append(true)
                .open(note)
                .with_context(|| format!("opening {}", note.display()))?;
            writeln!(noted, "{controller} {}", group.display()).context("noting an enabled controller")?;
        }
        fs::write(&control, format!("+{controller}"))
            .with_context(|| format!("enabling {controller} in {}", control.display()))?;
    }
    Ok(())
}

/// What [`delegate`] enabled in the machine's own groups.
fn noted() -> PathBuf {
    paths::state().join("cgroup-controllers")
}

/// Disables what `note` says, the last first, and forgets it. What somebody hands on by now stays theirs: the kernel
/// refuses.
fn restore(note: &Path) -> Result<()> {
    let Ok(text) = fs::read_to_string(note) else { return Ok(()) };
    for line in text.lines().rev() {
        if let Some((controller, group)) = line.split_once(' ') {
            let _ = fs::write(Path::new(group).join(SUBTREE), format!("-{controller}"));
        }
    }
    fs::remove_file(note).context("forgetting the enabled controllers")
}

/// Whether groups of any cluster exist.
fn any() -> Result<bool> {
    let is_ours = |entry: &fs::DirEntry| {
        entry.file_name().to_string_lossy().starts_with(plan::CGROUP_PREFIX) && entry.path().is_dir()
    };
    Ok(mounted()?.iter().any(|hierarchy| {
        fs::read_dir(&hierarchy.path).into_iter().flatten().flatten().any(|entry| is_ours(&entry))
    }))
}

/// The groups of cluster `name` that exist.
///
/// # Errors
/// When the mounts cannot be read.
pub fn existing(name: &str) -> Result<Vec<PathBuf>> {
    let groups = mounted()?.into_iter().map(|hierarchy| hierarchy.path.join(plan::cgroup(name)));
    Ok(groups.filter(|group| group.is_dir()).collect())
}

/// What clusters enabled in the machine's own groups and did not undo, though none is left.
///
/// # Errors
/// When the mounts cannot be read.
pub fn left_enabled() -> Result<Vec<String>> {
    if any()? {
        return Ok(Vec::new());
    }
    Ok(fs::read_to_string(noted()).unwrap_or_default().lines().map(str::to_owned).collect())
}

/// Removes what a killed node's containers had, as a machine that starts has nothing of it: the kubelet would look at each group of it for
/// seconds before it starts a pod.
///
/// # Errors
/// When something of it cannot be removed within ten seconds: then a process of the node is still there.
pub(super) fn forget_containers(plan: &Plan, number: u8) -> Result<()> {
    for hierarchy in mounted()? {
        let node = hierarchy.path.join(plan.cgroup()).join(plan::node_name(number));
        for entry in fs::read_dir(&node).with_context(|| format!("listing {}", node.display()))? {
            let group = entry?.path();
            if group.is_dir() {
                remove_group(&group)?;
            }
        }
    }
    Ok(())
}

/// Removes the groups of cluster `name`, and with the last cluster's what was enabled for them. Their processes must have ended; the kernel may need a moment for the last.
///
/// # Errors
/// When one cannot be removed within ten seconds.
pub fn remove(name: &str) -> Result<()> {
    existing(name)?.iter().try_for_each(|group| remove_group(group))?;
    if any()? { Ok(()) } else { restore(&noted()) }
}

fn remove_group(group: &Path) -> Result<()> {
    let what = format!("removing the control group {}", group.display());
    wait::until_done(&what, Duration::from_secs(10), Duration::from_millis(50), || {
        remove_tree(group);
        Ok((!group.exists()).then_some(()))
    })
}

/// Children first; the files in a group cannot be removed and go with it.
fn remove_tree(group: &Path) {
    let children = fs::read_dir(group).into_iter().flatten().flatten();
    for child in children.filter(|child| child.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_tree(&child.path());
    }
    // A group that is still busy is tried again by the caller.
    let _ = fs::remove_dir(group);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_of_both_versions_are_found_among_the_mounts() {
        let mount = |point: &str, kind: &str| Mount { point: point.into(), kind: kind.to_owned() };
        let found = among(vec![
            mount("/sys", "sysfs"),
            mount("/sys/fs/cgroup/cpu,cpuacct", "cgroup"),
            mount("/sys/fs/cgroup/unified", "cgroup2"),
        ]);
        let hierarchy = |path: &str, unified| Hierarchy { path: path.into(), unified };
        let expected =
            [hierarchy("/sys/fs/cgroup/cpu,cpuacct", false), hierarchy("/sys/fs/cgroup/unified", true)];
        assert_eq!(found, expected);
    }

    #[test]
    fn what_was_enabled_for_the_nodes_is_noted_and_nothing_else_is_disabled_again() {
        let dir = tempfile::tempdir().unwrap();
        let (root, note) = (dir.path(), dir.path().join("note"));
        fs::write(root.join("cgroup.controllers"), "cpu memory rdma\n").unwrap();
        fs::write(root.join(SUBTREE), "cpu\n").unwrap();
        delegate(root, root, Some(&note)).unwrap();
        // In place of the kernel, a file holds what was written last.
        assert_eq!(fs::read_to_string(root.join(SUBTREE)).unwrap(), "+memory");
        assert_eq!(fs::read_to_string(&note).unwrap(), format!("memory {}\n", root.display()));
        restore(&note).unwrap();
        assert_eq!(fs::read_to_string(root.join(SUBTREE)).unwrap(), "-memory");
        assert!(!note.exists());
        restore(&note).unwrap();
    }
}
