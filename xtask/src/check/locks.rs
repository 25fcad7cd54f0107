//! Lock files of the workspaces. Cargo mends a stale one without a word, in the tree of whoever builds next.

use anyhow::Result;

use super::none;
use crate::cmd::Cmd;
use crate::paths;

/// Each workspace's folder, from the project's root.
const WORKSPACES: [&str; 3] = ["", "ebpf/programs", "chaos-agent/fuzz"];

/// # Errors
/// With the lock files that cargo would change, and how to have them changed.
pub(super) fn run() -> Result<()> {
    let wrong: Vec<String> = WORKSPACES.iter().filter_map(|folder| stale(folder)).collect();
    none(&wrong)
}

fn stale(folder: &str) -> Option<String> {
    let manifest = paths::root().join(folder).join("Cargo.toml");
    let metadata = Cmd::cargo().args(["metadata", "--locked", "--format-version", "1", "--manifest-path"]);
    let error = metadata.arg(&manifest).read().err()?;
    let mend =
        format!("`cargo metadata --manifest-path {}` mends what is stale: commit it", manifest.display());
    Some(format!("{error:#}\n{mend}"))
}
