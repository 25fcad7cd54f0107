//! Programs and packages of the machine. What is missing is installed where that is possible (root and apt), after
//! saying so; elsewhere the error says what to install.

use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context, Result, bail};

use crate::cmd::Cmd;

/// Something the machine must have: how to see that it is there, and the Debian package that brings it.
#[derive(Clone, Copy, Debug)]
pub struct Need<'a> {
    /// What it is needed for, as the end of the sentence "needed …": "to build runc".
    pub purpose: &'a str,
    /// Debian packages to install.
    pub packages: &'a [&'a str],
}

/// Makes sure that `program` is on PATH and returns where.
///
/// # Errors
/// When it is missing and cannot be installed; says what to install.
pub fn program(program: &str, need: Need<'_>) -> Result<PathBuf> {
    if let Some(path) = find(program) {
        return Ok(path);
    }
    install(&format!("the program {program}"), need)?;
    match find(program) {
        Some(path) => Ok(path),
        None => bail!("{program} is still not on PATH after installing {}", need.packages.join(" ")),
    }
}

/// Makes sure that `present()` holds, such as "pkg-config finds this library".
///
/// # Errors
/// When it does not and cannot be made to; says what to install.
pub fn ensure(what: &str, need: Need<'_>, present: impl Fn() -> bool) -> Result<()> {
    if present() {
        return Ok(());
    }
    install(what, need)?;
    if !present() {
        bail!("{what} is still missing after installing {}", need.packages.join(" "));
    }
    Ok(())
}

/// Where `program` lies on PATH.
#[must_use]
pub fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|dir| dir.join(program)).find(|file| is_executable(file))
}

/// `cargo install` of a version of a package into `root`, and run there: no configuration of this repository's reaches it.
///
/// # Errors
/// When the folder cannot be made.
pub fn installing(package: &str, version: &str, root: &Path) -> Result<Cmd> {
    fs::create_dir_all(root).with_context(|| format!("making {}", root.display()))?;
    Ok(Cmd::cargo()
        .args(["install", "--version", version, package, "--locked", "--force", "--root"])
        .arg(root)
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_TARGET_DIR")
        .dir(root))
}

/// Whether this process is root.
#[must_use]
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn install(what: &str, need: Need<'_>) -> Result<()> {
    let packages = need.packages.join(" ");
    let by_hand = format!(
        "{what} is missing, needed {}. Install it: `apt-get install --no-install-recommends {packages}` \
         (Debian's names), then try again.",
        need.purpose
    );
    if !is_root() || find("apt-get").is_none() {
        bail!("{by_hand}");
    }
    eprintln!("{what} is missing, needed {}: installing {packages}", need.purpose);
    let apt = || Cmd::new("apt-get").env("DEBIAN_FRONTEND", "noninteractive");
    let installing = apt()
        .args(["install", "--yes", "--no-install-recommends"])
        .args(need.packages)
        .step(format!("installing {packages}"));
    if installing.run().is_ok() {
        return Ok(());
    }
    // The package lists of a fresh machine are empty or old.
    apt().args(["update"]).step("updating the package lists").run()?;
    installing.run().map_err(|error| error.context(by_hand))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_of_every_machine_is_found() {
        assert!(find("sh").is_some_and(|path| path.ends_with("sh")));
        assert_eq!(find("no-such-program"), None);
    }

    #[test]
    fn what_is_present_is_not_installed() {
        ensure("nothing", Need { purpose: "for a test", packages: &["no-such-package"] }, || true).unwrap();
    }

    #[test]
    fn on_a_machine_that_never_built_anything_a_tool_is_installed_in_a_folder_that_exists() {
        let machine = tempfile::tempdir().unwrap();
        let root = machine.path().join("cache/tools/bpf-linker");
        let command = installing("bpf-linker", "0.13.0", &root).unwrap().command();
        assert!(command.get_current_dir().is_some_and(Path::is_dir), "{command:?}");
    }
}
