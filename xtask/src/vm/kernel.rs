//! Which kernels the package archive offers: Debian's for clouds, which have little but what a virtual machine needs.
//! One is fetched and unpacked into the cache, and never installed.

use std::cmp::Ordering;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use super::archive::Archive;
use crate::cmd::Cmd;
use crate::{lock, paths};

const PREFIX: &str = "linux-image-";
const SUFFIX: &str = "-cloud-amd64";

/// The packages that a kernel comes in. Debian's newer ones have its image and its modules in packages of their own.
const PACKAGES: [&str; 3] = [PREFIX, "linux-binary-", "linux-modules-"];

/// A kernel that an archive offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// What `uname -r` says there: `6.1.0-56-cloud-amd64`.
    pub release: String,
    archive: Archive,
}

/// A kernel, unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// What `uname -r` says there: `6.1.0-56-cloud-amd64`.
    pub release: String,
    /// Its packages' content.
    folder: PathBuf,
}

impl Kernel {
    /// What qemu boots.
    ///
    /// # Errors
    /// When the packages have none.
    pub fn image(&self) -> Result<PathBuf> {
        let release = &self.release;
        let places = [format!("boot/vmlinuz-{release}"), format!("usr/lib/modules/{release}/vmlinuz")];
        let found = places.into_iter().map(|place| self.folder.join(place)).find(|place| place.is_file());
        found.with_context(|| format!("{release} has no image below {}", self.folder.display()))
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
pub fn offered() -> Result<Vec<Offer>> {
    let kernels = offers(&Archive::of_machine())?;
    if kernels.is_empty() {
        bail!(
            "apt's sources offer no package {PREFIX}VERSION{SUFFIX}: are they Debian's, and the lists up to date?"
        );
    }
    Ok(kernels)
}

/// The newest kernel of Debian's backports; nothing when `known` has one of its series.
///
/// # Errors
/// When the archive cannot be asked.
pub fn newest(known: &[Offer]) -> Result<Option<Offer>> {
    let newest = offers(&Archive::backports()?)?.pop();
    Ok(newest.filter(|newest| known.iter().all(|known| series(&known.release) != series(&newest.release))))
}

fn offers(archive: &Archive) -> Result<Vec<Offer>> {
    let names = archive.ask("apt-cache").args(["pkgnames", PREFIX]).read()?;
    let releases = newest_of_series(&names, |release| archive.has(&format!("{PREFIX}{release}")));
    Ok(releases.into_iter().map(|release| Offer { release, archive: archive.clone() }).collect())
}

/// The oldest and the newest; one if they are the same.
#[must_use]
pub fn ends(kernels: &[Offer]) -> Vec<Offer> {
    let mut ends: Vec<_> = kernels.first().into_iter().chain(kernels.last()).cloned().collect();
    ends.dedup();
    ends
}

/// Fetches a kernel unless it is in the cache.
///
/// # Errors
/// When its packages cannot be fetched or unpacked.
pub fn ensure(offer: &Offer) -> Result<Kernel> {
    let release = &offer.release;
    let folder = paths::cache().join("kernels").join(release);
    let kernel = Kernel { release: release.clone(), folder: folder.clone() };
    let _lock = lock::take(&folder.with_extension("lock"), "another download of a kernel")?;
    if kernel.image().is_ok() {
        return Ok(kernel);
    }
    let parent = folder.parent().unwrap_or(&folder);
    let fresh = tempfile::tempdir_in(parent).with_context(|| format!("in {}", parent.display()))?;
    let unpacked = fresh.path().join("unpacked");
    for (number, prefix) in PACKAGES.iter().enumerate() {
        let package = format!("{prefix}{release}");
        if number > 0 && !offer.archive.has(&package) {
            continue;
        }
        let into = fresh.path().join(number.to_string());
        fs::create_dir(&into).with_context(|| format!("making {}", into.display()))?;
        let fetched = offer.archive.fetch(&package, &into)?;
        Cmd::new("dpkg").arg("-x").arg(&fetched).arg(&unpacked).step(format!("unpacking {package}")).run()?;
    }
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    fs::rename(&unpacked, &folder).with_context(|| format!("making {}", folder.display()))?;
    kernel.image()?;
    Ok(kernel)
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
        let offer = |release: &str| Offer { release: release.to_owned(), archive: Archive::of_machine() };
        assert_eq!(ends(&["a", "b", "c"].map(offer)), ["a", "c"].map(offer));
        assert_eq!(ends(&["a"].map(offer)), ["a"].map(offer));
    }

    #[test]
    fn an_image_lies_where_older_or_where_newer_packages_put_it() {
        let release = "7.2.11+deb13-cloud-amd64";
        for place in [format!("boot/vmlinuz-{release}"), format!("usr/lib/modules/{release}/vmlinuz")] {
            let folder = tempfile::tempdir().unwrap();
            let kernel = Kernel { release: release.to_owned(), folder: folder.path().to_owned() };
            assert!(kernel.image().is_err());
            let image = folder.path().join(place);
            fs::create_dir_all(image.parent().unwrap()).unwrap();
            fs::write(&image, "").unwrap();
            assert_eq!(kernel.image().unwrap(), image);
        }
    }
}
