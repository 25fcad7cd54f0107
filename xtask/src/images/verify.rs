//! `cargo xtask images --verify`: the same sources give the same images, wherever they lie and whatever was built before.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::{Archive, Image, ours, pack};
use crate::build_ebpf;
use crate::cmd::Cmd;
use crate::paths;
use crate::progress::Step;

/// Builds ours, and the kernel programs in them, a second time: from a copy of the sources, into folders where nothing was
/// built. `first` are the archives to compare with.
///
/// # Errors
/// With each image that is another one.
pub(super) fn run(first: &[Archive]) -> Result<()> {
    let ours: Vec<_> = first.iter().filter(|archive| Image::OURS.contains(&archive.image)).collect();
    let scratch = tempfile::tempdir_in(cache()?).context("making a folder for the second build")?;
    let root = scratch.path().join("elsewhere");
    copy_sources(&paths::root(), &root)?;
    build_ebpf::build(&root, &root.join("target/ebpf"))?;
    let built = ours::build(&root, &scratch.path().join("built"))?;
    let mut differ = Vec::new();
    for archive in ours {
        let program = built.join(archive.image.name());
        let digest = pack(archive.image, &program, &scratch.path().join("second.tar"))?;
        println!("{digest}  {}  built a second time", archive.image.reference());
        if digest != archive.digest {
            differ.push(archive.image.reference());
        }
    }
    if !differ.is_empty() {
        bail!("the same sources gave another image: {}", differ.join(", "));
    }
    Ok(())
}

fn cache() -> Result<std::path::PathBuf> {
    let cache = paths::cache();
    fs::create_dir_all(&cache).with_context(|| format!("making {}", cache.display()))?;
    Ok(cache)
}

/// Copies what git tracks, and what it would track, as it is now.
fn copy_sources(from: &Path, to: &Path) -> Result<()> {
    let step = Step::start("copying the sources");
    let list = ["ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate"];
    let listed = Cmd::new("git").args(list).dir(from).read()?;
    let mut count = 0;
    for file in listed.split('\0').filter(|file| from.join(file).is_file() && !file.is_empty()) {
        let copy = to.join(file);
        let folder = copy.parent().unwrap_or(to);
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        fs::copy(from.join(file), &copy).with_context(|| format!("copying {file}"))?;
        count += 1;
    }
    step.done(&format!("{count} files"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_tracked_and_what_is_new_is_copied_and_what_is_built_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::create_dir_all(from.join("src")).unwrap();
        let git = |args: &[&str]| Cmd::new("git").args(args).dir(&from).run().unwrap();
        git(&["init", "--quiet"]);
        for (file, text) in [(".gitignore", "/target"), ("src/a b.rs", "tracked"), ("gone", "")] {
            fs::write(from.join(file), text).unwrap();
        }
        git(&["add", "."]);
        fs::remove_file(from.join("gone")).unwrap();
        fs::write(from.join("src/new.rs"), "new").unwrap();
        fs::create_dir(from.join("target")).unwrap();
        fs::write(from.join("target/built"), "built").unwrap();
        copy_sources(&from, &to).unwrap();
        assert_eq!(fs::read_to_string(to.join("src/a b.rs")).unwrap(), "tracked");
        assert!(to.join("src/new.rs").is_file() && to.join(".gitignore").is_file());
        assert!(!to.join("target").exists() && !to.join("gone").exists() && !to.join(".git").exists());
    }
}
