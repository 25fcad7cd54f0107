//! Lints declared at the root do nothing for a crate that does not inherit them.

use std::fs;

use anyhow::{Context, Result};

use super::{none, sources};
use crate::paths;

pub(super) fn run() -> Result<()> {
    let mut wrong = Vec::new();
    let mut crates = 0;
    for manifest in sources::with_ending("Cargo.toml")? {
        let text = fs::read_to_string(paths::root().join(&manifest))
            .with_context(|| format!("reading {}", manifest.display()))?;
        if !has_section(&text, "[package]") {
            continue;
        }
        crates += 1;
        if !inherits(&text) {
            wrong.push(format!("{}: write [lints] with workspace = true", manifest.display()));
        }
    }
    anyhow::ensure!(crates > 1, "only {crates} crates were found: this check reads the wrong place");
    none(&wrong)
}

fn has_section(manifest: &str, section: &str) -> bool {
    manifest.lines().any(|line| line.trim() == section)
}

/// Does the section `[lints]` say `workspace = true`? A workspace of its own declares its lints itself.
fn inherits(manifest: &str) -> bool {
    let own = has_section(manifest, "[workspace]");
    let section = if own { "[lints.rust]" } else { "[lints]" };
    let after = manifest.lines().map(str::trim).skip_while(|line| *line != section).skip(1);
    let mut body = after.take_while(|line| !line.starts_with('['));
    if own { body.next().is_some() } else { body.any(|line| line.replace(' ', "") == "workspace=true") }
}

#[cfg(test)]
mod tests {
    use super::inherits;

    #[test]
    fn a_crate_inherits_only_by_saying_so() {
        assert!(inherits("[package]\nname = \"x\"\n\n[lints]\nworkspace = true\n"));
        assert!(!inherits("[package]\nname = \"x\"\nversion.workspace = true\n"));
        assert!(!inherits("[lints]\n[dependencies]\nworkspace = true\n"));
        assert!(!inherits("[lints]\nworkspace = false\n"));
    }

    #[test]
    fn a_workspace_of_its_own_declares_its_own() {
        assert!(inherits("[workspace]\n[package]\n[lints.rust]\nmissing_docs = \"warn\"\n"));
        assert!(!inherits("[workspace]\n[package]\n[lints]\nworkspace = true\n"));
    }
}
