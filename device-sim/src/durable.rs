//! What a device keeps when its power is cut, and the file that keeps it. A file is replaced as a whole:
//! written beside, synced, renamed, and the folder synced, so that a reader finds the old or the new state.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use edge_protocol::{ConfigDigest, DesiredCommand, Held, config_digest};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::history::History;

/// Objects that released a device and are remembered. Their commands can come late; nobody is late by so many owners.
pub const RELEASED: usize = 4;

/// The state of one device that survives a power cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Durable {
    /// Drawn once, when the device was made: boot ids differ between two lives of the same name.
    pub incarnation: u64,
    /// Boots so far.
    pub boots: u64,
    /// The command that it holds: the last one that was answered with 2.04.
    pub held: Option<DesiredCommand>,
    /// Who adopted it, until the first command of that one.
    #[serde(default)]
    pub claim: Option<Held>,
    /// The last objects that released it, oldest first, at most [`RELEASED`]; their late commands are refused.
    #[serde(default)]
    pub released: VecDeque<String>,
    /// How carrying out the held command went so far.
    pub progress: Progress,
    /// What runs.
    pub running: Running,
    /// The last failure, until an install succeeds.
    pub last_error: Option<String>,
    /// What happened to it.
    pub history: History,
}

/// How carrying out the held command went so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// Installs that failed for the held generation.
    pub failures: u32,
    /// The last one failed, and nobody has asked to try again.
    pub gave_up: bool,
}

/// What runs on a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Running {
    /// Firmware version.
    pub firmware: String,
    /// Configuration.
    pub config: BTreeMap<String, String>,
    /// Generation of the command that brought it; 0 for what the factory installed.
    pub generation: u64,
}

impl Running {
    /// Digest of the configuration.
    #[must_use]
    pub fn digest(&self) -> ConfigDigest {
        config_digest(&self.config)
    }
}

impl Durable {
    /// A device that was never switched on.
    #[must_use]
    pub fn factory(firmware: &str, incarnation: u64) -> Self {
        Self {
            incarnation,
            boots: 0,
            held: None,
            claim: None,
            released: VecDeque::new(),
            progress: Progress::default(),
            running: Running { firmware: firmware.into(), config: BTreeMap::new(), generation: 0 },
            last_error: None,
            history: History::default(),
        }
    }

    /// Whom it obeys, and from which epoch on.
    #[must_use]
    pub fn owner(&self) -> Option<Held> {
        let of_command = |held: &DesiredCommand| Held { uid: held.uid.clone(), epoch: held.epoch };
        self.held.as_ref().map(of_command).or_else(|| self.claim.clone())
    }
}

/// What went wrong with a state file.
#[derive(Debug, Error)]
pub enum DurableError {
    /// The file system refused.
    #[error("{action} {}: {source}; check that the state folder exists, is writable and has room", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The content is not ours. No power cut can cause that.
    #[error("{} is no state of a device ({source}); delete it to start from the factory's state", path.display())]
    Content {
        /// Which file.
        path: PathBuf,
        /// Where reading stopped.
        source: serde_json::Error,
    },
}

impl DurableError {
    /// A write whose thread did not come back.
    #[must_use]
    pub fn interrupted(file: &StateFile, source: io::Error) -> Self {
        Self::Io { action: "finish writing", path: file.path.clone(), source }
    }

    /// A short name for metrics.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::Io { .. } => "io",
            Self::Content { .. } => "content",
        }
    }
}

/// The state file of one device.
#[derive(Debug, Clone)]
pub struct StateFile {
    path: PathBuf,
}

impl StateFile {
    /// The file of the device `name` in `folder`.
    #[must_use]
    pub fn new(folder: &Path, name: &str) -> Self {
        Self { path: folder.join(format!("{name}.json")) }
    }

    /// What the file holds; none when there is no file yet. A half-written one from a power cut does not
    /// count and is overwritten by the next [`StateFile::save`].
    ///
    /// # Errors
    /// When it cannot be read, or is something else.
    pub fn load(&self) -> Result<Option<Durable>, DurableError> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(DurableError::Io { action: "read", path: self.path.clone(), source }),
        };
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|source| DurableError::Content { path: self.path.clone(), source })
    }

    /// Replaces the content. When this returns, the new state survives a power cut.
    ///
    /// # Errors
    /// When it cannot be written; the old state is then still there.
    pub fn save(&self, durable: &Durable) -> Result<(), DurableError> {
        let beside = self.path.with_extension("json.new");
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let bytes = serde_json::to_vec(durable)
            .map_err(|source| DurableError::Content { path: self.path.clone(), source })?;
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |source| DurableError::Io { action, path, source }
        };
        let mut file = File::create(&beside).map_err(failed("create", &beside))?;
        file.write_all(&bytes).map_err(failed("write", &beside))?;
        file.sync_all().map_err(failed("sync", &beside))?;
        fs::rename(&beside, &self.path).map_err(failed("rename to", &self.path))?;
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("sync", folder))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_state_is_read_back_and_a_missing_one_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let file = StateFile::new(folder.path(), "pump-0");
        assert_eq!(file.load().unwrap(), None);
        let durable = Durable { boots: 3, ..Durable::factory("1.0.0", 9) };
        file.save(&durable).unwrap();
        assert_eq!(file.load().unwrap(), Some(durable));
    }

    #[test]
    fn a_half_written_file_beside_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = StateFile::new(folder.path(), "pump-0");
        let durable = Durable::factory("1.0.0", 9);
        file.save(&durable).unwrap();
        fs::write(folder.path().join("pump-0.json.new"), b"{\"incarn").unwrap();
        assert_eq!(file.load().unwrap(), Some(durable.clone()));
        let next = Durable { boots: 1, ..durable };
        file.save(&next).unwrap();
        assert_eq!(file.load().unwrap(), Some(next));
    }

    #[test]
    fn a_foreign_file_is_refused_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("pump-0.json"), b"{}").unwrap();
        let error = StateFile::new(folder.path(), "pump-0").load().unwrap_err();
        assert_eq!(error.category(), "content");
        assert!(error.to_string().contains("delete it"), "{error}");
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let gone = folder.path().join("gone");
        let error = StateFile::new(&gone, "pump-0").save(&Durable::factory("1", 1)).unwrap_err();
        assert_eq!(error.category(), "io");
        assert!(error.to_string().contains("gone"), "{error}");
    }
}
