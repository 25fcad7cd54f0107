//! Where kernels come from: apt's sources on this machine, or Debian's backports, which have the newest kernel. Those are read with lists of
//! their own in the cache, so that apt on this machine offers nothing else than before.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::cmd::Cmd;
use crate::paths;

/// Debian's key, which its package `debian-archive-keyring` brings.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// The suite's name, whichever release is the stable one.
const BACKPORTS: &str = "stable-backports";

/// A package archive, as apt sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Archive {
    /// What apt is told besides; nothing for the machine's own sources.
    options: Vec<String>,
}

impl Archive {
    /// What apt's sources on this machine offer, as of their last update.
    #[must_use]
    pub(super) fn of_machine() -> Self {
        Self::default()
    }

    /// Debian's backports, as of now.
    ///
    /// # Errors
    /// When Debian's key is missing, or the archive cannot be reached.
    pub(super) fn backports() -> Result<Self> {
        if !Path::new(KEYRING).is_file() {
            bail!("{KEYRING} is missing: install debian-archive-keyring");
        }
        let folder = paths::cache().join("kernels/backports");
        let partial = folder.join("lists/partial");
        fs::create_dir_all(&partial).with_context(|| format!("making {}", partial.display()))?;
        let mirror = mirror()?;
        let sources = folder.join("sources.list");
        fs::write(&sources, format!("deb [signed-by={KEYRING}] {mirror} {BACKPORTS} main\n"))
            .with_context(|| format!("writing {}", sources.display()))?;
        let archive = Self { options: options(&folder) };
        archive.ask("apt-get").arg("update").step(format!("asking Debian for {BACKPORTS}")).run()?;
        Ok(archive)
    }

    /// One of apt's programs, about this archive.
    #[must_use]
    pub(super) fn ask(&self, program: &str) -> Cmd {
        Cmd::new(program).args(self.options.iter().flat_map(|option| ["-o", option]))
    }

    /// Whether there is such a package. A name may be known from another package's dependencies alone.
    #[must_use]
    pub(super) fn has(&self, package: &str) -> bool {
        self.ask("apt-cache").args(["show", package]).succeeds()
    }

    /// Fetches a package into a folder that has none, and returns its file.
    ///
    /// # Errors
    /// When it cannot be fetched.
    pub(super) fn fetch(&self, package: &str, folder: &Path) -> Result<PathBuf> {
        let fetching = self.ask("apt-get").args(["download", package]).dir(folder);
        fetching.step(format!("fetching {package}")).run()?;
        let mut files = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
        let is_package = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "deb");
        let found = files.find_map(|entry| entry.ok().map(|entry| entry.path()).filter(is_package));
        found.with_context(|| format!("apt-get download {package} left no package"))
    }
}

/// Where this machine's apt finds Debian itself: the same place has the backports.
fn mirror() -> Result<String> {
    let debian = ["indextargets", "--format", "$(SITE)", "Created-By: Packages", "Label: Debian"];
    let sites = Cmd::new("apt-get").args(debian).read()?;
    let site = sites.lines().next().map(str::to_owned);
    site.context("apt's sources on this machine do not name Debian: add them, and run apt-get update")
}

/// Everything that apt reads and writes lies in this folder, but for its keys.
fn options(folder: &Path) -> Vec<String> {
    let place = |option: &str, name: &str| format!("{option}={}", folder.join(name).display());
    vec![
        place("Dir::Etc::SourceList", "sources.list"),
        "Dir::Etc::SourceParts=-".to_owned(),
        place("Dir::State::Lists", "lists"),
        place("Dir::Cache", "cache"),
        "Acquire::Languages=none".to_owned(),
        // Root's apt fetches as a user of its own, who may not look into a cache below /root.
        "APT::Sandbox::User=root".to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_archive_is_asked_as_a_user_does_and_backports_in_a_folder_of_their_own() {
        assert_eq!(Archive::of_machine().ask("apt-cache").arg("x").to_string(), "apt-cache x");
        let backports = Archive { options: options(Path::new("/c")) };
        let asking = backports.ask("apt-get").arg("update").to_string();
        for place in ["SourceList=/c/sources.list", "SourceParts=-", "Lists=/c/lists", "Cache=/c/cache"] {
            assert!(asking.contains(place), "{place} is missing in: {asking}");
        }
    }
}
