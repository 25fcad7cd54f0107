//! The hash of all that goes into the kernel programs.

use std::path::Path;

use anyhow::Result;
use sha2::{Digest, Sha256};

use super::linker;
use crate::digest;

/// Changes when this crate builds the same sources in another way.
const RECIPE: &str = "2";

/// The hash as hexadecimal digits: sources below `root`, lock file, versions of this recipe and of the linker. The compiler is
/// not in it: whichever fits makes programs that do the same, and looking for it takes longer than a second.
///
/// # Errors
/// When a source cannot be read.
pub(super) fn hash(root: &Path) -> Result<String> {
    let mut files = Vec::new();
    for folder in ["ebpf/programs/src", "ebpf/abi/src"] {
        files.extend(digest::files_below(&root.join(folder))?);
    }
    for file in ["ebpf/programs/Cargo.toml", "ebpf/programs/Cargo.lock", "ebpf/abi/Cargo.toml"] {
        files.push(root.join(file));
    }
    let mut hasher = Sha256::new();
    for part in [RECIPE, linker::VERSION] {
        hasher.update(part);
        hasher.update([0]);
    }
    digest::add_files(&mut hasher, root, files)?;
    Ok(digest::hex(&hasher.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn every_file_that_goes_in_changes_the_hash() {
        let tree = tempfile::tempdir().unwrap();
        let root = tree.path();
        let files = [
            "ebpf/programs/src/lib.rs",
            "ebpf/programs/Cargo.toml",
            "ebpf/programs/Cargo.lock",
            "ebpf/abi/src/lib.rs",
            "ebpf/abi/Cargo.toml",
        ];
        for file in files {
            fs::create_dir_all(root.join(file).parent().unwrap()).unwrap();
            fs::write(root.join(file), "before").unwrap();
        }
        let mut last = hash(root).unwrap();
        for file in files {
            assert_eq!(hash(root).unwrap(), last);
            fs::write(root.join(file), "after").unwrap();
            assert_ne!(hash(root).unwrap(), last, "{file} changed, and the hash did not");
            last = hash(root).unwrap();
        }
    }
}
