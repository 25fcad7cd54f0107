//! Where the binaries are. By convention of controller-runtime's envtest: the folder KUBEBUILDER_ASSETS.

use std::path::{Path, PathBuf};

use crate::Error;

/// A folder that has etcd and kube-apiserver, and perhaps kubectl.
#[derive(Clone, Debug)]
pub struct Assets {
    folder: PathBuf,
}

impl Assets {
    /// The folder that the environment names.
    ///
    /// # Errors
    /// When it names none, or one without the binaries.
    pub fn from_environment() -> Result<Self, Error> {
        let folder = std::env::var_os("KUBEBUILDER_ASSETS").ok_or(Error::NoAssets)?;
        Self::at(Path::new(&folder))
    }

    /// This folder.
    ///
    /// # Errors
    /// When it lacks a binary.
    pub fn at(folder: &Path) -> Result<Self, Error> {
        let assets = Self { folder: folder.to_owned() };
        for binary in [assets.etcd(), assets.apiserver()] {
            if !binary.is_file() {
                return Err(Error::NoBinary(binary));
            }
        }
        Ok(assets)
    }

    pub(crate) fn etcd(&self) -> PathBuf {
        self.folder.join("etcd")
    }

    pub(crate) fn apiserver(&self) -> PathBuf {
        self.folder.join("kube-apiserver")
    }

    /// For people and for dumps; not needed to run.
    pub(crate) fn kubectl(&self) -> Option<PathBuf> {
        Some(self.folder.join("kubectl")).filter(|kubectl| kubectl.is_file())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_the_command_that_brings_it() {
        let folder = tempfile::tempdir().unwrap();
        let refused = Assets::at(folder.path()).unwrap_err().to_string();
        for part in ["etcd is missing", "cargo xtask test --rung control-plane"] {
            assert!(refused.contains(part), "{part} is missing in: {refused}");
        }
    }
}
