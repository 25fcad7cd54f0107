//! bpf-linker, built against the LLVM of the chosen compiler, in the project's own tool folder. An LLVM older than the
//! compiler's cannot read what the compiler wrote.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::toolchain::Toolchain;
use crate::cmd::Cmd;
use crate::paths;
use crate::tools::{self, Need};

/// The version that is installed.
pub(super) const VERSION: &str = "0.13.0";

/// LLVM's major versions that this version of bpf-linker can be built against.
pub(super) const LLVM: std::ops::RangeInclusive<u32> = 21..=23;

/// Where the linker lies; installs it when it does not.
///
/// # Errors
/// When LLVM's headers are missing and cannot be installed, or the linker does not build.
pub(super) fn ensure(toolchain: &Toolchain) -> Result<PathBuf> {
    let llvm = toolchain.llvm;
    let root = paths::tool(&format!("bpf-linker-{VERSION}-llvm-{llvm}"));
    let program = root.join("bin/bpf-linker");
    if Cmd::new(&program).arg("--version").succeeds() {
        return Ok(program);
    }
    let prefix = llvm_prefix(llvm)?;
    eprintln!(
        "bpf-linker {VERSION} is built against LLVM {llvm} in {} and installed in {}",
        prefix.display(),
        root.display()
    );
    let features = ["--no-default-features", "--features", &format!("llvm-{llvm}")];
    tools::installing("bpf-linker", VERSION, &root)?
        .args(features)
        .env("LLVM_PREFIX", &prefix)
        .step("building bpf-linker")
        .run()
        .context("bpf-linker links the kernel programs")?;
    Ok(program)
}

/// LLVM's program that changes objects.
///
/// # Errors
/// When LLVM is missing and cannot be installed.
pub(super) fn objcopy(toolchain: &Toolchain) -> Result<PathBuf> {
    Ok(llvm_prefix(toolchain.llvm)?.join("bin/llvm-objcopy"))
}

/// Where LLVM of this major version lies, with headers and libraries.
fn llvm_prefix(major: u32) -> Result<PathBuf> {
    let package = format!("llvm-{major}-dev");
    tools::ensure(
        &format!("LLVM {major} with its headers"),
        Need { purpose: "to build bpf-linker and to strip what it links", packages: &[&package] },
        || find_llvm(major).is_some(),
    )?;
    match find_llvm(major) {
        Some(prefix) => Ok(prefix),
        None => bail!("LLVM {major} is not where its package should have put it"),
    }
}

fn find_llvm(major: u32) -> Option<PathBuf> {
    let named = std::env::var_os("LLVM_PREFIX").map(|prefix| Path::new(&prefix).join("bin/llvm-config"));
    let places = [
        PathBuf::from(format!("/usr/lib/llvm-{major}/bin/llvm-config")),
        PathBuf::from(format!("/usr/lib64/llvm{major}/bin/llvm-config")),
        PathBuf::from(format!("llvm-config-{major}")),
        PathBuf::from("llvm-config"),
    ];
    named.into_iter().chain(places).find_map(|config| {
        let version = Cmd::new(&config).arg("--version").read().ok()?;
        let is_right = version.split('.').next()?.parse() == Ok(major);
        let prefix = PathBuf::from(Cmd::new(&config).arg("--prefix").read().ok()?);
        (is_right && prefix.join("include/llvm-c/Core.h").is_file()).then_some(prefix)
    })
}
