//! `cargo xtask build-ebpf`: the kernel programs into `target/ebpf/`, with whatever fitting toolchain the machine has.
//!
//! ```text
//!  sources.rs     the hash of all that goes in: the same sources build once, on this machine and in each clone
//!  toolchain.rs   which compiler: one that has its library's source beside it
//!  linker.rs      bpf-linker, built against that compiler's LLVM
//! ```

mod linker;
mod sources;
mod toolchain;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};

use crate::cmd::Cmd;
use crate::{paths, progress};
use toolchain::Toolchain;

/// What `cargo xtask build-ebpf` takes.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Args {
    /// Build again, also where the sources have not changed
    #[arg(long)]
    pub force: bool,
    /// Lint them instead, if the toolchain that builds them has clippy; else say so
    #[arg(long, conflicts_with = "force")]
    pub clippy: bool,
}

/// The target: little-endian, as all machines are that this project supports.
const TARGET: &str = "bpfel-unknown-none";

/// The objects: what cargo calls them.
const OBJECTS: [&str; 2] = ["fault", "baseline"];

/// What the agent loads; `chaos-agent/build.rs` looks for it here.
#[must_use]
pub fn object() -> PathBuf {
    output("fault")
}

/// What `cargo xtask bench` compares with.
#[must_use]
pub fn baseline() -> PathBuf {
    output("baseline")
}

/// Runs the verb. Prints one line of outcome to stderr.
///
/// # Errors
/// When no toolchain fits (it says what to install) or the programs do not compile.
pub fn run(args: &Args) -> Result<()> {
    if args.clippy {
        return lint();
    }
    let started = Instant::now();
    let hash = sources::hash(&paths::root())?;
    let kept = paths::cache().join("ebpf").join(&hash);
    if !args.force && is_current(&hash) {
        eprintln!("kernel programs: {} is up to date", object().display());
        return Ok(());
    }
    if args.force || !OBJECTS.iter().all(|name| kept.join(format!("{name}.o")).is_file()) {
        build(&paths::root(), &kept)?;
    }
    for name in OBJECTS {
        replace(&kept.join(format!("{name}.o")), &output(name))?;
    }
    fs::write(stamp(), &hash).with_context(|| format!("writing {}", stamp().display()))?;
    eprintln!("kernel programs: {} ({})", object().display(), progress::seconds(started.elapsed()));
    Ok(())
}

/// Whether this machine has, or can be given, a toolchain that fits; builds nothing.
///
/// # Errors
/// When it cannot: what to install.
pub fn check_machine() -> Result<()> {
    toolchain::choose().map(drop)
}

fn output(name: &str) -> PathBuf {
    paths::root().join("target/ebpf").join(format!("{name}.o"))
}

/// Outside of `target/ebpf`, whose changes make cargo build the agent again.
fn stamp() -> PathBuf {
    paths::root().join("target/ebpf.stamp")
}

fn is_current(hash: &str) -> bool {
    OBJECTS.iter().all(|name| output(name).is_file())
        && fs::read_to_string(stamp()).is_ok_and(|stamped| stamped == hash)
}

/// Builds all objects from the sources below `root` into `kept`.
///
/// # Errors
/// As [`run`].
pub(crate) fn build(root: &Path, kept: &Path) -> Result<()> {
    let chosen = toolchain::choose()?;
    eprintln!("{}", chosen.explanation);
    let linker = linker::ensure(&chosen.toolchain)?;
    let built = root.join("target/ebpf-build");
    cargo(&chosen.toolchain, "build", &linker, root, &built).step("building the kernel programs").run()?;
    let folder = built.join(TARGET).join("release");
    let objcopy = linker::objcopy(&chosen.toolchain)?;
    for name in OBJECTS {
        let (whole, bare) = (folder.join(name), folder.join(format!("{name}.o")));
        // What a debugger would read names places and, by way of cargo's hashes of them, the folder that this was built in.
        // The kernel's own types and line numbers (BTF) stay.
        Cmd::new(&objcopy).arg("--strip-debug").arg(&whole).arg(&bare).run()?;
        replace(&bare, &kept.join(format!("{name}.o")))?;
    }
    Ok(())
}

/// Clippy of the toolchain that builds the programs; distributions' have none.
fn lint() -> Result<()> {
    let chosen = toolchain::choose()?;
    if !chosen.toolchain.cargo.with_file_name("cargo-clippy").is_file() {
        println!(
            "lints of the kernel programs: skipped, the toolchain has no clippy. {}",
            chosen.explanation
        );
        return Ok(());
    }
    let linker = linker::ensure(&chosen.toolchain)?;
    let built = paths::root().join("target/ebpf-clippy");
    cargo(&chosen.toolchain, "clippy", &linker, &paths::root(), &built)
        .step("linting the kernel programs")
        .run()
}

/// The compiler's own cargo, cut off from the environment of the cargo that started us.
fn cargo(toolchain: &Toolchain, verb: &str, linker: &Path, root: &Path, built: &Path) -> Cmd {
    let mut flags = vec![
        // A warning of a build that succeeds is seen by nobody.
        "-Dwarnings".to_owned(),
        format!("-Clinker={}", linker.display()),
        // The verifier's log names lines; the kernel gets types.
        "-Clink-arg=--btf".to_owned(),
        "-Cdebuginfo=2".to_owned(),
        // Atomic additions that return the old value (kernel 5.12).
        "-Ctarget-cpu=v3".to_owned(),
    ];
    // The same sources give the same object wherever they lie. The last that fits wins, so the widest comes first.
    let home = paths::cargo_home();
    let places = [(home.as_path(), "/cargo"), (toolchain.sysroot.as_path(), "/toolchain"), (root, "/src")];
    flags.extend(places.iter().map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display())));
    let clean = ["RUSTUP_TOOLCHAIN", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTFLAGS", "RUSTDOC"];
    let cargo = clean.iter().fold(Cmd::new(&toolchain.cargo), |cmd, name| cmd.env_remove(name));
    cargo
        .args([verb, "--release", "--locked", "--bins", "-Zbuild-std=core", "--target", TARGET])
        .arg("--target-dir")
        .arg(built)
        .env("RUSTC", &toolchain.rustc)
        .env("CARGO", &toolchain.cargo)
        // Building the library from its source is not stable, in any toolchain.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .dir(root.join("ebpf/programs"))
}

/// Copies in one step, so that nobody reads half an object; leaves equal files alone.
fn replace(from: &Path, to: &Path) -> Result<()> {
    let bytes = fs::read(from).with_context(|| format!("reading {}", from.display()))?;
    if fs::read(to).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    let folder = to.parent().unwrap_or(to);
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let fresh =
        tempfile::NamedTempFile::new_in(folder).with_context(|| format!("in {}", folder.display()))?;
    fs::write(fresh.path(), bytes).with_context(|| format!("writing {}", fresh.path().display()))?;
    // A temporary file is its owner's alone.
    fs::set_permissions(fresh.path(), fs::Permissions::from_mode(0o644))
        .with_context(|| format!("making {} readable", fresh.path().display()))?;
    fresh.persist(to).with_context(|| format!("writing {}", to.display()))?;
    Ok(())
}
