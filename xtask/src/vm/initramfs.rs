//! All that a kernel in qemu finds: one test program and what it calls, with shared libraries, at the same paths as here;
//! busybox; and kernel modules, numbered in the order in which they are to be loaded.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::cpio::Archive;
use super::kernel::Kernel;
use crate::cmd::Cmd;
use crate::{digest, tools};

const INIT: &str = include_str!("init.sh");

/// What the machine starts once it is ready.
const START: &str = "/run-test";

/// What the tests and the agent use, as far as it is a module.
const MODULES: [&str; 10] =
    ["veth", "tun", "bridge", "8021q", "dummy", "ifb", "sch_ingress", "cls_bpf", "sch_fq", "sch_netem"];

/// What programs use that only some tests call: rules of nftables, as far as they are modules.
const MODULES_OF_CALLED: [&str; 6] =
    ["nf_tables", "nft_objref", "nft_ct", "nft_chain_nat", "nft_nat", "nft_masq"];

/// What the tests call. The shell is not busybox's, which would take its own `ip` and `tc` instead of these.
const CALLED: [&str; 4] = ["sh", "ip", "tc", "setpriv"];

/// What a machine runs.
#[derive(Debug)]
pub struct Job<'a> {
    /// The program.
    pub program: &'a Path,
    /// Its arguments.
    pub arguments: &'a [&'a str],
    /// Variables for it.
    pub environment: &'a [(&'a str, &'a str)],
    /// Other programs, which it starts by their paths.
    pub others: &'a [PathBuf],
    /// Programs on PATH that it calls, besides those that all tests call.
    pub called: &'a [&'a str],
}

/// Writes an initramfs whose machine does this job.
///
/// # Errors
/// When something that belongs into it cannot be read.
pub fn write(to: &Path, kernel: &Kernel, job: &Job<'_>) -> Result<()> {
    let mut archive = Archive::default();
    for folder in ["/proc", "/sys", "/dev", "/run", "/tmp"] {
        archive.folder(Path::new(folder));
    }
    archive.file(Path::new("/init"), INIT.as_bytes());
    archive.file(Path::new(START), start(job).as_bytes());
    archive.file(Path::new("/bin/busybox"), &read(&found("busybox")?)?);
    for name in CALLED.into_iter().chain(job.called.iter().copied()) {
        let path = found(name)?;
        add(&mut archive, &path, &Path::new("/bin").join(name), &read(&path)?)?;
    }
    for path in job.others.iter().map(PathBuf::as_path).chain([job.program]) {
        add(&mut archive, path, path, &stripped(path)?)?;
    }
    let wanted = MODULES.iter().chain(MODULES_OF_CALLED.iter().filter(|_| !job.called.is_empty()));
    for (number, (name, content)) in modules(&kernel.modules()?, wanted)?.into_iter().enumerate() {
        archive.file(Path::new(&format!("/modules/{number:03}-{name}.ko")), &content);
    }
    fs::write(to, archive.finish()).with_context(|| format!("writing {}", to.display()))
}

/// A line for the machine's shell.
fn start(job: &Job<'_>) -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
    let variables = job.environment.iter().map(|(name, value)| format!("{name}={}", quoted(value)));
    let program = job.program.to_string_lossy();
    let words = [&*program].into_iter().chain(job.arguments.iter().copied()).map(quoted);
    format!("cd / && exec env {}\n", variables.chain(words).collect::<Vec<_>>().join(" "))
}

fn found(program: &str) -> Result<PathBuf> {
    tools::find(program).with_context(|| format!("{program} is not on PATH"))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("reading {}", path.display()))
}

/// A program's bytes without what only a debugger reads, which is most of them.
fn stripped(program: &Path) -> Result<Vec<u8>> {
    let fresh = tempfile::NamedTempFile::new().context("making a file for a stripped program")?;
    Cmd::new("strip").arg("--strip-debug").arg("-o").arg(fresh.path()).arg(program).run()?;
    read(fresh.path())
}

/// Adds a program and the libraries that it is linked with.
fn add(archive: &mut Archive, program: &Path, to: &Path, content: &[u8]) -> Result<()> {
    archive.file(to, content);
    for library in linked(program)? {
        archive.file(&library, &read(&library)?);
    }
    Ok(())
}

/// The libraries that a program is linked with, and those that they are linked with.
fn linked(program: &Path) -> Result<Vec<PathBuf>> {
    let asking = Cmd::new("ldd").arg(program).env("LC_ALL", "C");
    let output = asking.command().output().with_context(|| format!("starting `{asking}`"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    match output.status.success() {
        true => Ok(libraries(&String::from_utf8_lossy(&output.stdout))),
        // A script would be of no use without what it runs.
        false if errors.contains("not a dynamic executable") && is_elf(program)? => Ok(Vec::new()),
        false => bail!("`{asking}` failed: {errors}"),
    }
}

/// Whether it is a program of its own (ELF-64 Object File Format, version 1.5, "File identification").
fn is_elf(program: &Path) -> Result<bool> {
    Ok(read(program)?.starts_with(b"\x7fELF"))
}

/// The paths in what `ldd` says.
fn libraries(said: &str) -> Vec<PathBuf> {
    said.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect()
}

/// The modules and those that they depend on, each behind what it depends on. What is built in has no file.
fn modules<'a>(folder: &Path, wanted: impl Iterator<Item = &'a &'a str>) -> Result<Vec<(String, Vec<u8>)>> {
    let files: BTreeMap<_, _> =
        digest::files_below(folder)?.into_iter().filter_map(|path| Some((module(&path)?, path))).collect();
    let mut ordered = Vec::new();
    for name in wanted {
        load(name, &files, &mut ordered)?;
    }
    Ok(ordered)
}

fn load(name: &str, files: &BTreeMap<String, PathBuf>, ordered: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
    let Some(path) = files.get(name) else { return Ok(()) };
    if ordered.iter().any(|(other, _)| other == name) {
        return Ok(());
    }
    let content = unpacked(path)?;
    for needed in needed(&content) {
        load(&needed, files, ordered)?;
    }
    ordered.push((name.to_owned(), content));
    Ok(())
}

/// The name of a module, which has underscores where its file may have hyphens.
fn module(path: &Path) -> Option<String> {
    let (name, end) = path.file_name()?.to_str()?.split_once(".ko")?;
    matches!(end, "" | ".xz" | ".zst" | ".gz").then(|| name.replace('-', "_"))
}

fn unpacked(path: &Path) -> Result<Vec<u8>> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("ko") => read(path),
        Some("xz") => {
            let unpacking = Cmd::new("xz").args(["--decompress", "--stdout"]).arg(path);
            let output = unpacking.command().output().with_context(|| format!("starting `{unpacking}`"))?;
            if !output.status.success() {
                bail!("`{unpacking}` failed: {}", String::from_utf8_lossy(&output.stderr));
            }
            Ok(output.stdout)
        }
        _ => bail!("{} is packed in a way that is not known here", path.display()),
    }
}

/// What a module says it depends on, in its section `.modinfo`: strings that end with a zero byte.
fn needed(module: &[u8]) -> Vec<String> {
    let strings = module.split(|byte| *byte == 0);
    let said = strings.filter_map(|string| string.strip_prefix(b"depends="));
    let names = said.flat_map(|names| names.split(|byte| *byte == b','));
    names.filter(|name| !name.is_empty()).map(|name| String::from_utf8_lossy(name).into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module_of(depends: &str) -> Vec<u8> {
        format!("\x7fELF\0license=GPL\0depends={depends}\0name=x\0").into_bytes()
    }

    #[test]
    fn modules_come_behind_what_they_depend_on_and_once() {
        let folder = tempfile::tempdir().unwrap();
        for (path, depends) in [
            ("net/bridge.ko", "llc,stp"),
            ("net/llc.ko", ""),
            ("net/stp.ko", "llc"),
            ("net/sch-fq.ko", ""),
            ("modules.order", ""),
        ] {
            fs::create_dir_all(folder.path().join("net")).unwrap();
            fs::write(folder.path().join(path), module_of(depends)).unwrap();
        }
        let names: Vec<_> =
            modules(folder.path(), MODULES.iter()).unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["llc", "stp", "bridge", "sch_fq"]);
    }

    #[test]
    fn libraries_are_the_paths_that_ldd_names() {
        let said = "\tlinux-vdso.so.1 (0x00007ffc)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(libraries(said), expected);
        assert_eq!(libraries("\tstatically linked"), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_program_that_is_linked_with_nothing_needs_nothing() {
        let alone = tempfile::NamedTempFile::new().unwrap();
        fs::write(alone.path(), "\x7fELF, and nothing that ldd could read").unwrap();
        assert_eq!(linked(alone.path()).unwrap(), Vec::<PathBuf>::new());
        fs::write(alone.path(), "#!/bin/sh\nexec something-else").unwrap();
        assert!(linked(alone.path()).is_err(), "a script");
        let this = linked(&std::env::current_exe().unwrap()).unwrap();
        assert!(!this.is_empty() && this.iter().all(|library| library.is_file()), "{this:?}");
        assert!(linked(Path::new("/nowhere")).is_err());
    }

    #[test]
    fn what_the_shell_could_misread_is_quoted() {
        let (program, arguments) = (Path::new("/a b/test"), &["--ignored", "it's"][..]);
        let line = start(&Job { program, arguments, environment: &[("X", "a b")], others: &[], called: &[] });
        assert_eq!(line, "cd / && exec env X='a b' '/a b/test' '--ignored' 'it'\\''s'\n");
    }
}
