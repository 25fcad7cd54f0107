//! Which compiler builds the kernel programs: it must know the target, be new enough, and have its library's source
//! beside it, since nobody ships that library built for the kernel. A rustup nightly comes first, then rustup's others,
//! then the distribution's.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::{TARGET, linker};
use crate::cmd::Cmd;
use crate::progress::Step;
use crate::tools::{self, Need};

/// The oldest compiler: `rust-version` of the kernel programs.
const OLDEST: (u32, u32) = (1, 95);

/// Debian's matched compiler, cargo and library source.
const DEBIAN: &[&str] = &["rustc-web", "cargo-web", "rust-web-src"];

/// A compiler with what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Toolchain {
    /// Its compiler.
    pub(super) rustc: PathBuf,
    /// Its cargo.
    pub(super) cargo: PathBuf,
    /// Its root.
    pub(super) sysroot: PathBuf,
    /// The major version of its LLVM.
    pub(super) llvm: u32,
}

/// A choice with its reason.
#[derive(Debug)]
pub(super) struct Chosen {
    /// What was chosen.
    pub(super) toolchain: Toolchain,
    /// What was chosen and why, and why not what comes before it.
    pub(super) explanation: String,
}

/// A place to look at.
#[derive(Clone, Debug)]
struct Candidate {
    name: String,
    bin: PathBuf,
}

/// Chooses; on Debian, as root, installs the distribution's when nothing fits.
///
/// # Errors
/// When nothing fits; says what to install.
pub(super) fn choose() -> Result<Chosen> {
    let refused = match first_fitting() {
        Ok(chosen) => return Ok(chosen),
        Err(refused) => refused,
    };
    let reasons: String = refused.iter().map(|reason| format!("\n  {reason}")).collect();
    let what = "a Rust compiler with its library's source";
    let by_hand = format!(
        "{what} is missing, needed to build the kernel programs. Install one of:\n  \
         rustup toolchain install nightly --component rust-src\n  \
         apt-get install --no-install-recommends {} (Debian)\nWhat was looked at:{reasons}",
        DEBIAN.join(" ")
    );
    let is_debian = Path::new("/etc/debian_version").exists();
    if !is_debian || !tools::is_root() {
        bail!("{by_hand}");
    }
    eprintln!("no compiler here has its library's source beside it:{reasons}");
    let need = Need { purpose: "to build the kernel programs", packages: DEBIAN };
    tools::ensure(what, need, || first_fitting().is_ok()).map_err(|error| error.context(by_hand))?;
    first_fitting()
        .map_err(|_| anyhow::anyhow!("{what} is still missing after installing {}", DEBIAN.join(" ")))
}

/// The first that fits; else why each does not.
fn first_fitting() -> Result<Chosen, Vec<String>> {
    let mut step = Step::start("looking for a compiler for the kernel programs");
    let mut refused = Vec::new();
    for candidate in candidates() {
        step.note(&candidate.name);
        match examine(&candidate) {
            Ok((toolchain, version)) => {
                step.done(&candidate.name);
                let mut explanation = format!(
                    "kernel programs: built by {version} of {}, which has its library's source beside it (LLVM {})",
                    candidate.name, toolchain.llvm
                );
                for reason in &refused {
                    explanation.push_str(&format!("\n  not by {reason}"));
                }
                return Ok(Chosen { toolchain, explanation });
            }
            Err(reason) => refused.push(format!("{}: {reason}", candidate.name)),
        }
    }
    step.done("none");
    Err(refused)
}

/// In the order of preference.
fn candidates() -> Vec<Candidate> {
    let mut found: Vec<Candidate> = Cmd::new("rustup")
        .args(["toolchain", "list", "-v"])
        .read()
        .unwrap_or_default()
        .lines()
        .filter_map(rustup_line)
        .collect();
    // Stable sort: nightlies first, else as rustup lists them.
    found.sort_by_key(|candidate| !candidate.name.contains("nightly"));
    let mut bins = vec![PathBuf::from("/usr/bin"), PathBuf::from("/usr/local/bin")];
    let versioned = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let mut versioned: Vec<_> = versioned
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("rust-"))
        .map(|entry| entry.path().join("bin"))
        .collect();
    versioned.sort();
    bins.extend(versioned.into_iter().rev());
    let distribution = bins.into_iter().filter(|bin| bin.join("rustc").is_file());
    found.extend(
        distribution.map(|bin| Candidate { name: format!("the distribution ({})", bin.display()), bin }),
    );
    found
}

/// `nightly-x86_64-unknown-linux-gnu (active) /home/me/.rustup/toolchains/nightly-…`
fn rustup_line(line: &str) -> Option<Candidate> {
    let name = line.split_whitespace().next()?;
    let folder = &line[line.find('/')?..];
    Some(Candidate { name: format!("rustup ({name})"), bin: Path::new(folder.trim()).join("bin") })
}

/// The toolchain and its version, or why it does not fit.
fn examine(candidate: &Candidate) -> Result<(Toolchain, String), String> {
    let rustc = candidate.bin.join("rustc");
    let about = Cmd::new(&rustc).arg("-vV").read().map_err(|_| "its compiler does not run".to_owned())?;
    let field = |name: &str| about.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let release = field("release:").unwrap_or_default();
    if version(release) < Some(OLDEST) {
        return Err(format!("{release} is older than {}.{}", OLDEST.0, OLDEST.1));
    }
    let sysroot =
        Cmd::new(&rustc).args(["--print", "sysroot"]).read().map_err(|_| "it has no root".to_owned())?;
    let sysroot = PathBuf::from(sysroot);
    if !sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml").is_file() {
        return Err("it has no rust-src".to_owned());
    }
    let cargo = candidate.bin.join("cargo");
    if !cargo.is_file() {
        return Err("it has no cargo".to_owned());
    }
    let llvm = field("LLVM version:").and_then(|llvm| llvm.split('.').next()?.parse().ok()).unwrap_or(0);
    if !linker::LLVM.contains(&llvm) {
        return Err(format!("bpf-linker {} cannot be built against its LLVM {llvm}", linker::VERSION));
    }
    let targets = Cmd::new(&rustc).args(["--print", "target-list"]).read().unwrap_or_default();
    if !targets.lines().any(|target| target == TARGET) {
        return Err(format!("it does not know {TARGET}"));
    }
    Ok((Toolchain { rustc, cargo, sysroot, llvm }, format!("rustc {release}")))
}

/// `1.96.0-nightly` as (1, 96).
fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_rustup_names_a_toolchain_and_its_folder() {
        let candidate =
            rustup_line("nightly-x86_64-unknown-linux-gnu (active) /home/a b/toolchains/nightly").unwrap();
        assert_eq!(candidate.name, "rustup (nightly-x86_64-unknown-linux-gnu)");
        assert_eq!(candidate.bin, Path::new("/home/a b/toolchains/nightly/bin"));
        assert!(rustup_line("no installed toolchains").is_none());
    }

    #[test]
    fn a_release_has_a_version_whatever_its_channel() {
        assert_eq!(version("1.96.0-nightly"), Some((1, 96)));
        assert!(version("unknown") < Some(OLDEST));
    }

    #[test]
    fn a_place_without_a_compiler_is_refused_with_a_reason() {
        let nothing = Candidate { name: "nothing".into(), bin: PathBuf::from("/nonexistent") };
        assert_eq!(examine(&nothing), Err("its compiler does not run".to_owned()));
    }
}
