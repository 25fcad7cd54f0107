//! The fuzz targets as programs: built by cargo-fuzz or, where that cannot be had, by cargo with the flags that cargo-fuzz gives it. They lie
//! in a folder of the cache, so that a fresh clone builds dependencies once.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::cmd::Cmd;
use crate::stamp::Stamp;
use crate::{digest, interrupt, paths, tools};

/// The version of cargo-fuzz that is installed.
const VERSION: &str = "0.13.2";
/// Changes when this file builds the same sources in another way.
const RECIPE: &str = "1";

/// What cargo-fuzz gives the compiler, as of [`VERSION`]: libFuzzer's instrumentation in everything, and debug assertions. In its order, so
/// that neither way builds anew what the other has built.
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing -Cllvm-args=-simplifycfg-branch-fold-threshold=0";
const FLAGS_BEHIND: &str = "-Cllvm-args=-sanitizer-coverage-stack-depth -Cdebug-assertions -Ccodegen-units=1";

/// A fuzz target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Its name.
    pub(super) name: String,
    /// Where its program lies once it is built.
    pub(super) program: PathBuf,
}

/// The compiler that cargo runs.
#[derive(Debug)]
struct Compiler {
    host: String,
    sysroot: PathBuf,
}

/// The folder of the fuzz targets.
pub(super) fn folder() -> PathBuf {
    paths::root().join("chaos-agent/fuzz")
}

/// The names of all targets: those that cargo finds, in order.
///
/// # Errors
/// When cargo cannot be asked.
pub(super) fn names() -> Result<Vec<String>> {
    Ok(programs(&metadata(true)?))
}

/// Builds all of them into `target`; the caller holds a lock on it.
///
/// # Errors
/// When one does not compile.
pub(super) fn build(target: &Path) -> Result<Vec<Target>> {
    let compiler = Compiler::find()?;
    let runtime = compiler.has_address_sanitizer();
    if !runtime {
        eprintln!(
            "fuzz targets: built without AddressSanitizer, whose runtime library is not in {}",
            compiler.sysroot.display()
        );
    }
    let metadata = metadata(false)?;
    let ours = ours(&metadata);
    let clean = Cmd::cargo()
        .args(["clean", "--release", "--target", &compiler.host, "--target-dir"])
        .arg(target)
        .args(ours.iter().flat_map(|(name, _)| ["--package", name.as_str()]))
        .dir(folder());
    let stamp = Stamp::begin(target, hash(&paths::root(), &ours)?, &clean)?;
    match cargo_fuzz() {
        Ok(program) => {
            let building = by_cargo_fuzz(&program, target, &compiler.host, runtime);
            if let Err(error) = building.step("building the fuzz targets").run() {
                interrupt::check()?;
                eprintln!("cargo-fuzz does not build them, so cargo does with the same flags: {error:#}");
                by_cargo(target, &compiler.host, runtime).step("building the fuzz targets").run()?;
            }
        }
        Err(error) => {
            interrupt::check()?;
            eprintln!("without cargo-fuzz cargo builds the fuzz targets with the same flags: {error:#}");
            by_cargo(target, &compiler.host, runtime).step("building the fuzz targets").run()?;
        }
    }
    stamp.built()?;
    let built = target.join(&compiler.host).join("release");
    let names = programs(&metadata).into_iter();
    Ok(names.map(|name| Target { program: built.join(&name), name }).collect())
}

/// Where cargo-fuzz lies; installs it when it does not.
fn cargo_fuzz() -> Result<PathBuf> {
    if let Some(path) = tools::find("cargo-fuzz") {
        return Ok(path);
    }
    let root = paths::tool(&format!("cargo-fuzz-{VERSION}"));
    let program = root.join("bin/cargo-fuzz");
    if Cmd::new(&program).arg("--version").succeeds() {
        return Ok(program);
    }
    eprintln!("cargo-fuzz {VERSION} is installed in {}", root.display());
    tools::installing("cargo-fuzz", VERSION, &root)?.step("building cargo-fuzz").run()?;
    Ok(program)
}

fn by_cargo_fuzz(program: &Path, target: &Path, host: &str, runtime: bool) -> Cmd {
    let sanitizer = if runtime { "address" } else { "none" };
    let cmd = Cmd::new(program).args(["build", "--target", host, "--sanitizer", sanitizer, "--fuzz-dir"]);
    unstable(cmd.arg(folder()).arg("--target-dir").arg(target)).env_remove("RUSTFLAGS")
}

fn by_cargo(target: &Path, host: &str, runtime: bool) -> Cmd {
    let sanitizer = if runtime { "-Zsanitizer=address" } else { "" };
    let cmd = Cmd::cargo()
        .args(["build", "--release", "--bins", "--config", "profile.release.debug=\"line-tables-only\""])
        .args(["--target", host, "--manifest-path"])
        .arg(folder().join("Cargo.toml"))
        .arg("--target-dir")
        .arg(target);
    unstable(cmd).env("RUSTFLAGS", [FLAGS, sanitizer, FLAGS_BEHIND].join(" "))
}

/// Sanitizers and their instrumentation are not stable, in any toolchain.
fn unstable(cmd: Cmd) -> Cmd {
    cmd.env("RUSTC_BOOTSTRAP", "1").env_remove("CARGO_ENCODED_RUSTFLAGS").dir(folder())
}

impl Compiler {
    fn find() -> Result<Self> {
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let about = Cmd::new(&rustc).arg("-vV").read()?;
        let host = about.lines().find_map(|line| line.strip_prefix("host: "));
        let host = host.context("the compiler does not say which machine it runs on")?.to_owned();
        let sysroot = PathBuf::from(Cmd::new(&rustc).args(["--print", "sysroot"]).read()?);
        Ok(Self { host, sysroot })
    }

    /// Rust's own toolchains ship it, distributions' do not.
    fn has_address_sanitizer(&self) -> bool {
        let libraries = self.sysroot.join("lib/rustlib").join(&self.host).join("lib");
        let mut files = fs::read_dir(libraries).into_iter().flatten().flatten();
        files.any(|file| file.file_name().to_string_lossy().ends_with("_rt.asan.a"))
    }
}

/// What cargo knows of the fuzz targets, and with `no_deps` of nothing else.
fn metadata(no_deps: bool) -> Result<Value> {
    let asking = Cmd::cargo().args(["metadata", "--format-version", "1"]).dir(folder());
    let asking = if no_deps { asking.arg("--no-deps") } else { asking };
    serde_json::from_str(&asking.read()?).context("reading what cargo knows of the fuzz targets")
}

/// The programs of the package that says it is cargo-fuzz's, in order.
fn programs(metadata: &Value) -> Vec<String> {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let fuzz = packages.filter(|package| package["metadata"]["cargo-fuzz"] == true);
    let targets = fuzz.flat_map(|package| package["targets"].as_array().into_iter().flatten());
    let programs = targets.filter(|target| target["kind"][0] == "bin");
    let mut names: Vec<_> =
        programs.filter_map(|target| target["name"].as_str().map(str::to_owned)).collect();
    names.sort();
    names
}

/// Names and folders of the packages that come from this repository.
fn ours(metadata: &Value) -> Vec<(String, PathBuf)> {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let ours = packages.filter(|package| package["source"].is_null());
    let place = |package: &Value| {
        let folder = Path::new(package["manifest_path"].as_str()?).parent()?;
        Some((package["name"].as_str()?.to_owned(), folder.to_owned()))
    };
    ours.filter_map(place).collect()
}

/// What the programs are made of; tests are in none.
fn hash(root: &Path, packages: &[(String, PathBuf)]) -> Result<String> {
    let mut files = vec![root.join("Cargo.toml")];
    for (_, folder) in packages {
        if folder.ends_with("fuzz") {
            // What fuzzing finds lies beside its sources.
            files.extend(digest::files_below(&folder.join("fuzz_targets"))?);
            files.extend(["Cargo.toml", "Cargo.lock"].map(|file| folder.join(file)));
        } else {
            let tests = folder.join("tests");
            let below = digest::files_below(folder)?.into_iter();
            files.extend(below.filter(|file| !file.starts_with(&tests)));
        }
    }
    // A package may lie in another's folder.
    files.sort();
    files.dedup();
    let mut hasher = Sha256::new_with_prefix(RECIPE);
    digest::add_files(&mut hasher, root, files)?;
    Ok(digest::hex(&hasher.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_targets_folder_is_a_target_that_is_found() {
        let files = fs::read_dir(folder().join("fuzz_targets")).unwrap().map(|file| file.unwrap().path());
        let mut files: Vec<_> =
            files.map(|file| file.file_stem().unwrap().to_string_lossy().into_owned()).collect();
        files.sort();
        assert_eq!(names().unwrap(), files, "each has a [[bin]] in Cargo.toml");
    }

    #[test]
    fn programs_of_other_packages_are_no_targets_and_packages_of_others_are_not_ours() {
        let metadata = serde_json::json!({"packages": [
            {"name": "a-fuzz", "manifest_path": "/r/a/fuzz/Cargo.toml", "source": null, "metadata": {"cargo-fuzz": true},
                "targets": [{"kind": ["bin"], "name": "two"}, {"kind": ["bin"], "name": "one"},
                    {"kind": ["custom-build"], "name": "build-script-build"}]},
            {"name": "a", "manifest_path": "/r/a/Cargo.toml", "source": null, "metadata": null,
                "targets": [{"kind": ["bin"], "name": "a"}]},
            {"name": "b", "manifest_path": "/registry/b/Cargo.toml", "source": "registry+…", "metadata": null, "targets": []},
        ]});
        assert_eq!(programs(&metadata), ["one", "two"]);
        let expected = [("a-fuzz", "/r/a/fuzz"), ("a", "/r/a")];
        assert_eq!(ours(&metadata), expected.map(|(name, place)| (name.to_owned(), place.into())));
    }

    #[test]
    fn a_source_changes_the_hash_and_neither_a_test_nor_what_fuzzing_found_does() {
        let tree = tempfile::tempdir().unwrap();
        let root = tree.path();
        let sources = [
            "Cargo.toml",
            "a/src/lib.rs",
            "a/fuzz/fuzz_targets/one.rs",
            "a/fuzz/Cargo.toml",
            "a/fuzz/Cargo.lock",
        ];
        let others = ["a/fuzz/corpus/one/seed-1", "a/fuzz/artifacts/one/crash-1", "a/tests/story.rs"];
        let write = |file: &str, text: &str| {
            fs::create_dir_all(root.join(file).parent().unwrap()).unwrap();
            fs::write(root.join(file), text).unwrap();
        };
        sources.iter().chain(&others).for_each(|file| write(file, "before"));
        let packages = [("a".to_owned(), root.join("a")), ("a-fuzz".to_owned(), root.join("a/fuzz"))];
        let of = || hash(root, &packages).unwrap();
        let first = of();
        others.iter().for_each(|file| write(file, "after"));
        assert_eq!(of(), first);
        for file in sources {
            let before = of();
            write(file, "after");
            assert_ne!(of(), before, "{file}");
        }
    }

    #[test]
    fn the_runtime_of_the_sanitizer_is_looked_for_where_the_compiler_keeps_it() {
        let sysroot = tempfile::tempdir().unwrap();
        let compiler =
            Compiler { host: "x86_64-unknown-linux-gnu".to_owned(), sysroot: sysroot.path().into() };
        assert!(!compiler.has_address_sanitizer(), "a folder that is not there");
        let libraries = sysroot.path().join("lib/rustlib/x86_64-unknown-linux-gnu/lib");
        fs::create_dir_all(&libraries).unwrap();
        assert!(!compiler.has_address_sanitizer());
        fs::write(libraries.join("librustc-stable_rt.asan.a"), "").unwrap();
        assert!(compiler.has_address_sanitizer());
    }
}
