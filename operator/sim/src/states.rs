//! What devices keep through a power cut, in memory: it outlives the simulated process. A write takes its time, so that
//! a power cut can come in the middle; then the old state stays.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use device_sim::durable::{Durable, DurableError};
use device_sim::surroundings::{Keeper, Saving, States};

/// How long a write takes, as on a slow flash.
const WRITE: Duration = Duration::from_millis(3);

type Kept = Arc<Mutex<HashMap<String, Durable>>>;

/// The states of all devices. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Memory(Kept);

#[derive(Debug)]
struct One {
    name: String,
    kept: Kept,
}

impl Memory {
    /// What the device of this name keeps.
    pub fn get(&self, name: &str) -> Option<Durable> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }
}

impl States for Memory {
    fn of(&self, name: &str) -> Box<dyn Keeper> {
        Box::new(One { name: name.to_owned(), kept: self.0.clone() })
    }
}

impl Keeper for One {
    fn load(&self) -> Result<Option<Durable>, DurableError> {
        Ok(self.kept.lock().unwrap_or_else(PoisonError::into_inner).get(&self.name).cloned())
    }

    fn save(&self, durable: Arc<Durable>) -> Saving<'_> {
        Box::pin(async move {
            tokio::time::sleep(WRITE).await;
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.insert(self.name.clone(), (*durable).clone());
            Ok(())
        })
    }
}
