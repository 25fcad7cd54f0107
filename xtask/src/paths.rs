//! Where things lie: the repository, the cache that outlives `cargo clean` and fresh clones, the state of
//! running clusters. Only names paths; creates nothing.

use std::env;
use std::path::{Path, PathBuf};

/// The repository's root.
#[must_use]
pub fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// What is built or fetched once and kept: `$EDGE_CACHE_DIR`, else `$XDG_CACHE_HOME/edge-device-operator`, else
/// `~/.cache/edge-device-operator`. Everything in it can be deleted at any time.
#[must_use]
pub fn cache() -> PathBuf {
    absolute("EDGE_CACHE_DIR").unwrap_or_else(|| {
        absolute("XDG_CACHE_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
            .unwrap_or_else(|| PathBuf::from("/var/cache"))
            .join("edge-device-operator")
    })
}

/// Where cargo keeps what it downloads: `$CARGO_HOME`, else `~/.cargo`; without a home, where cargo itself would not look.
#[must_use]
pub fn cargo_home() -> PathBuf {
    absolute("CARGO_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cargo")))
        .unwrap_or_else(|| PathBuf::from("/nonexistent/.cargo"))
}

/// Programs that xtask installs for itself, such as bpf-linker: `<cache>/tools/<name>`.
#[must_use]
pub fn tool(name: &str) -> PathBuf {
    cache().join("tools").join(name)
}

/// Where clusters keep what belongs to one run: `$EDGE_STATE_DIR`, else `/var/lib/edge-device-operator`.
#[must_use]
pub fn state() -> PathBuf {
    absolute("EDGE_STATE_DIR").unwrap_or_else(|| PathBuf::from("/var/lib/edge-device-operator"))
}

/// A folder that the environment names. Relative ones are ignored, as the XDG specification asks.
fn absolute(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_holds_the_workspace() {
        let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
        assert!(manifest.contains("[workspace]"), "{manifest}");
    }
}
