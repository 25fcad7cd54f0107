//! Which kernels the package archive offers: Debian's for clouds, which have little but what a virtual machine needs.
//! One is fetched and unpacked into the cache, and never installed.

use std::cmp::Ordering;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::cmd::Cmd;
use crate::{lock, paths};

const PREFIX: &str = "linux-image-";
const SUFFIX: &str = "-cloud-amd64";

/// A kernel, unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// What `uname -r` says there: `6.1.0-56-cloud-amd64`.
    pub release: String,
    /// Its package's content.
    folder: PathBuf,
}

impl Kernel {
    /// What qemu boots.
    #[must_use]
    pub fn image(&self) -> PathBuf {
        self.folder.join(format!("boot/vmlinuz-{}", self.release))
    }

    /// Its modules, in folders below this one.
    ///
    /// # Errors
    /// When the package has none.
    pub fn modules(&self) -> Result<PathBuf> {
        let places =
            ["lib/modules", "usr/lib/modules"].map(|place| self.folder.join(place).join(&self.release));
        let found = places.into_iter().find(|place| place.is_dir());
        found.with_context(|| format!("{} has no modules below {}", self.release, self.folder.display()))
    }
}

/// The newest kernel of each series that apt's sources on this machine offer, the oldest series first.
///
/// # Errors
/// When apt cannot be asked, or offers none.
pub fn offered() -> Result<Vec<String>> {
    let names = Cmd::new("apt-cache").args(["pkgnames", PREFIX]).read()?;
    // A name may be known from another package's dependencies alone.
    let is_there = |release: &str| Cmd::new("apt-cache").args(["show", &package(release)]).succeeds();
    let kernels = newest_of_series(&names, is_there);
    if kernels.is_empty() {
        bail!(
            "apt's sources offer no package {PREFIX}VERSION{SUFFIX}: are they Debian's, and the lists up to date?"
        );
    }
    Ok(kernels)
}

/// The oldest and the newest; one if they are the same.
#[must_use]
pub fn ends(kernels: &[String]) -> Vec<String> {
    let mut ends: Vec<_> = kernels.first().into_iter().chain(kernels.last()).cloned().collect();
    ends.dedup();
    ends
}

/// Fetches a kernel unless it is in the cache.
///
/// # Errors
/// When its package cannot be fetched or unpacked.
pub fn ensure(release: &str) -> Result<Kernel> {
    let folder = paths::cache().join("kernels").join(release);
    let kernel = Kernel { release: release.to_owned(), folder: folder.clone() };
    let _lock = lock::take(&folder.with_extension("lock"), "another download of a kernel")?;
    if kernel.image().is_file() {
        return Ok(kernel);
    }
    let parent = folder.parent().unwrap_or(&folder);
    let fresh = tempfile::tempdir_in(parent).with_context(|| format!("in {}", parent.display()))?;
    let archive = download(release, fresh.path())?;
    let unpacked = fresh.path().join("unpacked");
    Cmd::new("dpkg").arg("-x").arg(&archive).arg(&unpacked).step(format!("unpacking {release}")).run()?;
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    fs::rename(&unpacked, &folder).with_context(|| format!("making {}", folder.display()))?;
    if !kernel.image().is_file() {
        bail!("{} has no kernel at {}", package(release), kernel.image().display());
    }
    Ok(kernel)
}

fn package(release: &str) -> String {
    format!("{PREFIX}{release}")
}

fn download(release: &str, folder: &Path) -> Result<PathBuf> {
    let fetching = Cmd::new("apt-get").args(["download", &package(release)]).dir(folder);
    fetching.step(format!("fetching {}", package(release))).run()?;
    let mut files = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    let is_archive = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "deb");
    let found = files.find_map(|entry| entry.ok().map(|entry| entry.path()).filter(is_archive));
    found.with_context(|| format!("apt-get download {} left no package", package(release)))
}

/// Out of package names, a line each: `linux-image-6.1.0-56-cloud-amd64`.
fn newest_of_series(names: &str, is_there: impl Fn(&str) -> bool) -> Vec<String> {
    let mut releases: Vec<_> = names.lines().filter_map(release).collect();
    releases.sort_by(|a, b| compare(b, a));
    let mut newest: Vec<&str> = Vec::new();
    for release in releases {
        let is_known = newest.iter().any(|known| series(known) == series(release));
        if !is_known && is_there(release) {
            newest.push(release);
        }
    }
    newest.into_iter().rev().map(str::to_owned).collect()
}

/// Of a package with a kernel, not one that only names another (`linux-image-6.12-cloud-amd64`).
fn release(package: &str) -> Option<&str> {
    let release = package.strip_prefix(PREFIX)?;
    let version = release.strip_suffix(SUFFIX)?;
    (version.starts_with(|c: char| c.is_ascii_digit()) && numbers(version).len() > 2).then_some(release)
}

fn series(release: &str) -> Vec<u64> {
    numbers(release).into_iter().take(2).collect()
}

fn compare(a: &str, b: &str) -> Ordering {
    numbers(a).cmp(&numbers(b))
}

fn numbers(text: &str) -> Vec<u64> {
    text.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: &str = "linux-image-6.1.0-9-cloud-amd64\nlinux-image-6.1.0-56-cloud-amd64\n\
        linux-image-6.1.0-56-cloud-amd64-unsigned\nlinux-image-6.1.0-56-amd64\nlinux-image-cloud-amd64\n\
        linux-image-6.12-cloud-amd64\nlinux-image-6.12.117+deb12-cloud-amd64\nlinux-image-6.12.99+deb12-cloud-amd64\n";

    #[test]
    fn the_newest_of_each_series_is_taken_and_the_oldest_series_comes_first() {
        let newest = newest_of_series(NAMES, |_| true);
        assert_eq!(newest, ["6.1.0-56-cloud-amd64", "6.12.117+deb12-cloud-amd64"]);
        let without = newest_of_series(NAMES, |release| !release.contains("117"));
        assert_eq!(without[1], "6.12.99+deb12-cloud-amd64", "one that is known by its name only");
    }

    #[test]
    fn the_ends_of_a_list_are_two_unless_it_has_one() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(ends(&names(&["a", "b", "c"])), ["a", "c"]);
        assert_eq!(ends(&names(&["a"])), ["a"]);
    }
}
