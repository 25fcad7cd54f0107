//! The repository's own files, as git knows them (also those not added yet), so that no build folder is read.

use std::path::PathBuf;

use anyhow::Result;

use crate::cmd::Cmd;
use crate::paths;

/// Files whose names end so, relative to the root, in order.
///
/// # Errors
/// When this is no git repository.
pub(super) fn with_ending(ending: &str) -> Result<Vec<PathBuf>> {
    let list = ["ls-files", "--cached", "--others", "--exclude-standard", "--deduplicate"];
    let listed = Cmd::new("git").args(list).dir(paths::root()).read()?;
    let there = |path: &PathBuf| paths::root().join(path).is_file();
    Ok(listed.lines().filter(|path| path.ends_with(ending)).map(PathBuf::from).filter(there).collect())
}
