//! The programs of ours, static, in a folder of the cache: not in `target`, so that a fresh clone builds dependencies once.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::Image;
use crate::cmd::Cmd;
use crate::stamp::Stamp;
use crate::{digest, paths};

/// What the programs are built for.
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Changes when this file builds the same sources in another way.
const RECIPE: &str = "1";

/// Where it is built, below a folder for what cargo builds.
pub(super) fn folder(target: &Path) -> PathBuf {
    target.join(TARGET).join("release")
}

/// Builds all of them from the sources below `root`, whose kernel programs are built, into `target`, and returns the
/// folder that they lie in. All each time, since cargo unites the features of what is built together, and the same sources
/// must give the same program. The caller holds a lock on `target`.
///
/// # Errors
/// When one does not compile.
pub(super) fn build(root: &Path, target: &Path) -> Result<PathBuf> {
    if !cfg!(all(target_arch = "x86_64", target_os = "linux")) {
        bail!("images are built on Linux on x86-64 only");
    }
    let packages = packages(root)?;
    let sources = hash(root, &packages)?;
    let names = packages.iter().flat_map(|(name, _)| ["--package", name.as_str()]);
    let clean = cargo(root, target).args(["clean", "--release", "--target", TARGET]).args(names);
    let stamp = Stamp::begin(target, sources, &clean)?;
    let images = Image::OURS.iter().flat_map(|image| ["--package", image.name()]);
    cargo(root, target)
        .args(["build", "--release", "--locked", "--target", TARGET])
        .args(images)
        .env("CARGO_ENCODED_RUSTFLAGS", flags(target))
        .step("building edge-operator, chaos-agent, device-sim")
        .run()?;
    stamp.built()?;
    Ok(folder(target))
}

fn cargo(root: &Path, target: &Path) -> Cmd {
    Cmd::cargo().dir(root).env("CARGO_TARGET_DIR", target)
}

/// Static, and nothing of this machine's places: cargo compiles our own crates by relative paths, and other flags would
/// build every dependency anew in each clone. The last that fits wins, so the widest comes first.
fn flags(target: &Path) -> String {
    let places = [(paths::cargo_home(), "/cargo"), (target.to_owned(), "/target")];
    let maps = places.map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display()));
    [vec!["-Ctarget-feature=+crt-static".to_owned()], maps.to_vec()].concat().join("\x1f")
}

/// Names and folders of the workspace's members; xtask is in no image.
fn packages(root: &Path) -> Result<Vec<(String, PathBuf)>> {
    let metadata = ["metadata", "--no-deps", "--offline", "--format-version", "1"];
    let metadata: Value = serde_json::from_str(&Cmd::cargo().args(metadata).dir(root).read()?)
        .context("reading what cargo knows of the workspace")?;
    let packages = metadata["packages"].as_array().into_iter().flatten().filter_map(|package| {
        let folder = Path::new(package["manifest_path"].as_str()?).parent()?;
        Some((package["name"].as_str()?.to_owned(), folder.to_owned()))
    });
    Ok(packages.filter(|(name, _)| name != "xtask").collect())
}

/// What the programs are made of: the members' files, the manifests above them, and the kernel programs. Tests are in none of them, so
/// that who writes one waits for no build.
fn hash(root: &Path, packages: &[(String, PathBuf)]) -> Result<String> {
    let mut files = vec![root.join("Cargo.toml"), root.join("Cargo.lock")];
    for (_, folder) in packages {
        let tests = folder.join("tests");
        files.extend(digest::files_below(folder)?.into_iter().filter(|file| !file.starts_with(&tests)));
    }
    let kernel_programs = root.join("target/ebpf");
    if kernel_programs.is_dir() {
        files.extend(digest::files_below(&kernel_programs)?);
    }
    // A member may lie in another's folder.
    files.sort();
    files.dedup();
    let mut hasher = Sha256::new_with_prefix(RECIPE);
    digest::add_files(&mut hasher, root, files)?;
    Ok(digest::hex(&hasher.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn every_member_but_xtask_is_cleaned_before_other_sources_are_built() {
        let found = packages(&paths::root()).unwrap();
        let names: Vec<_> = found.iter().map(|(name, _)| name.as_str()).collect();
        for image in Image::OURS {
            assert!(names.contains(&image.name()), "{names:?}");
        }
        assert!(names.contains(&"fault-abi") && !names.contains(&"xtask"), "{names:?}");
        assert!(found.iter().all(|(_, folder)| folder.join("Cargo.toml").is_file()), "{found:?}");
    }

    #[test]
    fn another_source_or_another_kernel_program_is_another_build() {
        let tree = tempfile::tempdir().unwrap();
        let root = tree.path();
        let packages = [("one".to_owned(), root.join("one")), ("two".to_owned(), root.join("one/two"))];
        let files = ["Cargo.toml", "Cargo.lock", "one/a.rs", "one/two/b.rs", "target/ebpf/fault.o"];
        for file in files {
            fs::create_dir_all(root.join(file).parent().unwrap()).unwrap();
            fs::write(root.join(file), "before").unwrap();
        }
        for file in files {
            let before = hash(root, &packages).unwrap();
            assert_eq!(hash(root, &packages).unwrap(), before);
            fs::write(root.join(file), "after").unwrap();
            assert_ne!(hash(root, &packages).unwrap(), before, "{file}");
        }
        let before = hash(root, &packages).unwrap();
        fs::create_dir_all(root.join("one/tests")).unwrap();
        fs::write(root.join("one/tests/c.rs"), "a test").unwrap();
        assert_eq!(hash(root, &packages).unwrap(), before, "a test is in no program");
    }
}
