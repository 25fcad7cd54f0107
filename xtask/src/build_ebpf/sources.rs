//! The hash of all that goes into the kernel programs.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::linker;
use crate::paths;

/// Changes when this crate builds the same sources in another way.
const RECIPE: &str = "1";

/// The hash as hexadecimal digits: sources, lock file, versions of this recipe and of the linker. The compiler is not in it:
/// whichever fits makes programs that do the same, and looking for it takes longer than a second.
///
/// # Errors
/// When a source cannot be read.
pub(super) fn hash() -> Result<String> {
    let root = paths::root();
    let mut files = Vec::new();
    for folder in ["ebpf/programs/src", "ebpf/abi/src"] {
        collect(&root.join(folder), &mut files)?;
    }
    for file in ["ebpf/programs/Cargo.toml", "ebpf/programs/Cargo.lock", "ebpf/abi/Cargo.toml"] {
        files.push(root.join(file));
    }
    files.sort();
    let mut hasher = Sha256::new();
    for part in [RECIPE, linker::VERSION] {
        hasher.update(part);
        hasher.update([0]);
    }
    for file in files {
        let bytes = fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
        let name = file.strip_prefix(&root).unwrap_or(&file);
        hasher.update(name.as_os_str().as_encoded_bytes());
        hasher.update([0]);
        hasher.update(u64::try_from(bytes.len())?.to_le_bytes());
        hasher.update(bytes);
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_same_twice() {
        let first = hash().unwrap();
        assert_eq!(first.len(), 64);
        assert_eq!(first, hash().unwrap());
    }
}
