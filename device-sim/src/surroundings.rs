//! What lies around the devices of a process: the network, and where each keeps its state. This machine's, or
//! those that a simulation plays.

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use edge_protocol::network::{Network, System};

use crate::durable::{Durable, DurableError, StateFile};

/// A write under way.
pub type Saving<'a> = Pin<Box<dyn Future<Output = Result<(), DurableError>> + Send + 'a>>;

/// Keeps the durable state of one device.
pub trait Keeper: Debug + Send + Sync {
    /// What it keeps; none for a device that was never switched on.
    ///
    /// # Errors
    /// When it cannot be read.
    fn load(&self) -> Result<Option<Durable>, DurableError>;

    /// Replaces it. When this ends well, the new state survives a power cut; else the old one does.
    fn save(&self, durable: Arc<Durable>) -> Saving<'_>;
}

/// Where devices keep their states.
pub trait States: Debug + Send + Sync {
    /// The keeper of the device of this name.
    fn of(&self, name: &str) -> Box<dyn Keeper>;
}

/// What lies around the devices of a process.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// The network that they are in.
    pub network: Arc<dyn Network>,
    /// Where they keep their states.
    pub states: Arc<dyn States>,
}

impl Surroundings {
    /// This machine's network, and a file for each device in `folder`.
    pub fn of_this_machine(folder: &Path) -> Self {
        Self { network: Arc::new(System), states: Arc::new(Folder(folder.to_owned())) }
    }
}

#[derive(Debug)]
struct Folder(PathBuf);

impl States for Folder {
    fn of(&self, name: &str) -> Box<dyn Keeper> {
        Box::new(StateFile::new(&self.0, name))
    }
}

impl Keeper for StateFile {
    fn load(&self) -> Result<Option<Durable>, DurableError> {
        Self::load(self)
    }

    fn save(&self, durable: Arc<Durable>) -> Saving<'_> {
        Box::pin(async move {
            let file = self.clone();
            let written = tokio::task::spawn_blocking(move || Self::save(&file, &durable)).await;
            written.unwrap_or_else(|error| Err(DurableError::interrupted(self, error.into())))
        })
    }
}
