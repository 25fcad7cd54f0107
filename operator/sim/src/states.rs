//! What devices keep through a power cut, in memory: it outlives the simulated process. A write takes its time, so that
//! a power cut can come in the middle; then the old state stays.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use device_sim::durable::{Durable, DurableError};
use device_sim::surroundings::{Keeper, Saving, States};

use crate::mutation::falsify;
use crate::rule::Rule;
use crate::weather::Weather;

/// How long a write takes, as on a slow flash.
const WRITE: Duration = Duration::from_millis(3);

type Kept = Arc<Mutex<HashMap<String, Durable>>>;

/// The states of all devices. Clones share them.
#[derive(Clone)]
pub struct Memory {
    kept: Kept,
    weather: Arc<Weather>,
    breaks: Option<Rule>,
}

struct One {
    name: String,
    memory: Memory,
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory")
    }
}

impl fmt::Debug for One {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Memory {
    /// Nothing kept yet.
    pub fn new(weather: Arc<Weather>, breaks: Option<Rule>) -> Self {
        Self { kept: Kept::default(), weather, breaks }
    }

    /// What the device of this name keeps.
    pub fn get(&self, name: &str) -> Option<Durable> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }
}

impl States for Memory {
    fn of(&self, name: &str) -> Box<dyn Keeper> {
        Box::new(One { name: name.to_owned(), memory: self.clone() })
    }
}

impl Keeper for One {
    fn load(&self) -> Result<Option<Durable>, DurableError> {
        Ok(self.memory.get(&self.name))
    }

    fn save(&self, durable: Arc<Durable>) -> Saving<'_> {
        Box::pin(async move {
            tokio::time::sleep(WRITE).await;
            let mut kept = self.memory.kept.lock().unwrap_or_else(PoisonError::into_inner);
            let mut new = (*durable).clone();
            falsify(self.memory.breaks, &mut new);
            let before = kept.insert(self.name.clone(), new);
            let command =
                |durable: &Durable| durable.held.as_ref().map(|held| (held.generation, held.command_id));
            if command(&durable) != before.as_ref().and_then(command) {
                self.memory.weather.sweep().effect();
            }
            Ok(())
        })
    }
}
