//! Which sources a folder of the cache was built from. Cargo tells what is fresh by times and relative paths, and clones have both in
//! common; so a stamp of the sources lies beside what was built from them, and other sources begin with nothing of ours there.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cmd::Cmd;

/// A build under way.
#[derive(Debug)]
pub struct Stamp {
    file: PathBuf,
    sources: String,
}

impl Stamp {
    /// Begins a build of these sources, named by their hash, in `folder`. When others were built there last, or a build did not come to its
    /// end, `clean` removes what is ours first. The caller holds a lock on the folder.
    ///
    /// # Errors
    /// When what was there cannot be removed.
    pub fn begin(folder: &Path, sources: String, clean: &Cmd) -> Result<Self> {
        let file = folder.join("sources");
        if fs::read_to_string(&file).ok().as_ref() != Some(&sources) {
            match fs::remove_file(&file) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("removing {}", file.display()));
                }
                _ => clean.run()?,
            }
        }
        Ok(Self { file, sources })
    }

    /// All of it is built.
    ///
    /// # Errors
    /// When that cannot be written down.
    pub fn built(self) -> Result<()> {
        fs::write(&self.file, self.sources).with_context(|| format!("writing {}", self.file.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Begins a build; was what is ours removed before?
    fn cleans(folder: &Path, sources: &str) -> (Stamp, bool) {
        let cleaned = folder.join("cleaned");
        let stamp = Stamp::begin(folder, sources.to_owned(), &Cmd::new("touch").arg(&cleaned)).unwrap();
        (stamp, fs::remove_file(cleaned).is_ok())
    }

    #[test]
    fn other_sources_and_a_build_without_an_end_begin_with_nothing_of_ours() {
        let folder = tempfile::tempdir().unwrap();
        let (stamp, cleaned) = cleans(folder.path(), "a");
        assert!(cleaned, "nothing is known of what is there");
        stamp.built().unwrap();
        assert!(!cleans(folder.path(), "a").1);
        let (without_end, cleaned) = cleans(folder.path(), "b");
        assert!(cleaned, "other sources");
        drop(without_end);
        assert!(cleans(folder.path(), "b").1);
        assert!(cleans(folder.path(), "a").1);
    }
}
