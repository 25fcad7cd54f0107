//! Mount points, as `/proc/self/mountinfo` lists them.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

/// A mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    /// Where.
    pub(super) point: PathBuf,
    /// Its kind of file system, such as `cgroup2`.
    pub(super) kind: String,
}

/// All mounts that this process sees, in the order in which they were made.
///
/// # Errors
/// When they cannot be read.
pub(super) fn all() -> Result<Vec<Mount>> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("reading /proc/self/mountinfo")?;
    Ok(parse(&text))
}

/// "36 25 0:31 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu": proc_pid_mountinfo(5).
fn parse(mountinfo: &str) -> Vec<Mount> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let point = PathBuf::from(mount.split(' ').nth(4)?);
        Some(Mount { point, kind: filesystem.split(' ').next()?.to_owned() })
    });
    mounts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_and_kinds_are_read_whatever_optional_fields_stand_between() {
        let mounts = "25 1 0:23 / /sys rw - sysfs sysfs rw\n\
                      36 25 0:31 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n";
        let mount = |point: &str, kind: &str| Mount { point: point.into(), kind: kind.to_owned() };
        assert_eq!(parse(mounts), [mount("/sys", "sysfs"), mount("/sys/fs/cgroup/cpu,cpuacct", "cgroup")]);
    }
}
