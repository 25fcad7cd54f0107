//! SHA-256 as keys of caches: of bytes, and of files by their names and content.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// Bytes as hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The first eight bytes of a digest: enough for the name of a file or a folder in the cache.
#[must_use]
pub fn short(hasher: Sha256) -> String {
    hex(&hasher.finalize()[..8])
}

/// Adds files to a digest, in the order of their names below `root`.
///
/// # Errors
/// When one cannot be read.
pub fn add_files(hasher: &mut Sha256, root: &Path, mut files: Vec<PathBuf>) -> Result<()> {
    files.sort();
    for file in files {
        let bytes = fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
        let name = file.strip_prefix(root).unwrap_or(&file);
        hasher.update(name.as_os_str().as_encoded_bytes());
        hasher.update([0]);
        hasher.update(u64::try_from(bytes.len())?.to_le_bytes());
        hasher.update(bytes);
    }
    Ok(())
}

/// All files below a folder, but for what cargo builds into `target` and for a crate's `fuzz`, which is in no program and where
/// fuzzing leaves what it found.
///
/// # Errors
/// When a folder cannot be read.
pub fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        if !path.is_dir() {
            files.push(path);
        } else if !path.ends_with("target") && !path.ends_with("fuzz") {
            files.extend(files_below(&path)?);
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(root: &Path) -> String {
        let mut hasher = Sha256::new();
        add_files(&mut hasher, root, files_below(root).unwrap()).unwrap();
        short(hasher)
    }

    #[test]
    fn a_digest_follows_names_and_content_and_not_the_place() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [one, other] = folders.each_ref().map(|folder| folder.path());
        for root in [one, other] {
            fs::create_dir_all(root.join("src/target")).unwrap();
            fs::create_dir_all(root.join("fuzz")).unwrap();
            fs::write(root.join("src/a"), "a").unwrap();
        }
        assert_eq!(of(one), of(other));
        assert_eq!(of(one).len(), 16);
        fs::write(other.join("src/target/built"), "b").unwrap();
        fs::write(other.join("fuzz/found"), "c").unwrap();
        assert_eq!(of(one), of(other), "what is built is no source");
        fs::write(other.join("src/a"), "b").unwrap();
        assert_ne!(of(one), of(other), "other content");
        fs::rename(one.join("src/a"), one.join("src/b")).unwrap();
        fs::write(other.join("src/a"), "a").unwrap();
        assert_ne!(of(one), of(other), "another name");
    }
}
