//! Locks between processes: files whose lock the kernel lets go of when the process ends, however that happens.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result};

use crate::progress::Step;

/// Takes the lock, or gives nothing when another process holds it.
///
/// # Errors
/// When its file cannot be made.
pub fn try_take(path: &Path) -> Result<Option<File>> {
    let file = open(path)?;
    Ok(file.try_lock().is_ok().then_some(file))
}

/// Takes the lock; while another process holds it, waits and says for what.
///
/// # Errors
/// When its file cannot be made.
pub fn take(path: &Path, holder: &str) -> Result<File> {
    let file = open(path)?;
    if file.try_lock().is_err() {
        let step = Step::start(format!("waiting for {holder}"));
        file.lock().with_context(|| format!("waiting for the lock {}", path.display()))?;
        step.done("");
    }
    Ok(file)
}

fn open(path: &Path) -> Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    File::create(path).with_context(|| format!("making the lock {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holds_it_and_the_next_gets_it_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("not/there/yet.lock");
        let held = try_take(&path).unwrap();
        assert!(held.is_some());
        assert!(try_take(&path).unwrap().is_none());
        drop(held);
        // Not at once: a process that another test starts just now has a copy of the file until it runs its program.
        assert!(take(&path, "a copy of the lock").is_ok());
    }
}
