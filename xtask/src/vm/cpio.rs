//! The archive that a kernel unpacks as its first file system: cpio, "newc" (the kernel's
//! Documentation/driver-api/early-userspace/buffer-format.rst).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const FOLDER: u32 = 0o040_755;
const FILE: u32 = 0o100_755;

/// An archive under construction. All in it is root's and executable.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    paths: BTreeSet<PathBuf>,
}

impl Archive {
    /// Adds a folder and those that it is in, unless they are there.
    pub(super) fn folder(&mut self, path: &Path) {
        let folders: Vec<_> = path.ancestors().filter(|path| path.file_name().is_some()).collect();
        for folder in folders.into_iter().rev() {
            if self.paths.insert(folder.to_owned()) {
                self.entry(folder, FOLDER, &[]);
            }
        }
    }

    /// Adds a file, unless it is there.
    pub(super) fn file(&mut self, path: &Path, content: &[u8]) {
        if let Some(folder) = path.parent() {
            self.folder(folder);
        }
        if self.paths.insert(path.to_owned()) {
            self.entry(path, FILE, content);
        }
    }

    /// The whole archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry(Path::new("TRAILER!!!"), 0, &[]);
        self.bytes
    }

    fn entry(&mut self, path: &Path, mode: u32, content: &[u8]) {
        let name = path.strip_prefix("/").unwrap_or(path).as_os_str().as_encoded_bytes();
        self.entries += 1;
        // Inode, mode, owner, group, links, time, size, four numbers of devices, length of the name, checksum.
        let size = [mode, 0, 0, 1, 0].map(u64::from);
        let header = [u64::from(self.entries)].into_iter().chain(size).chain([content.len() as u64]);
        let header = header.chain([0; 4]).chain([name.len() as u64 + 1, 0]);
        self.bytes.extend(b"070701");
        for number in header {
            self.bytes.extend(format!("{number:08x}").into_bytes());
        }
        self.bytes.extend(name);
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_brings_its_folders_and_nothing_is_there_twice() {
        let mut archive = Archive::default();
        archive.file(Path::new("/a/b/c"), b"hello");
        archive.folder(Path::new("/a/b"));
        archive.file(Path::new("/a/b/c"), b"again");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(text.matches("070701").count(), 4, "a, a/b, a/b/c and the end");
        assert!(text.contains("a/b/c\0") && text.contains("hello") && !text.contains("again"));
    }
}
