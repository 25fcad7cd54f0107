//! What truly happened to a device, so that a test can compare it with what the operator believed.
//! It is part of the durable state: an entry exists exactly if what it tells did happen.

use std::collections::VecDeque;

use edge_protocol::{CommandId, ConfigDigest};
use serde::{Deserialize, Serialize};

/// Entries kept for each device; older ones are counted and forgotten.
pub const CAPACITY: usize = 256;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum What {
    /// The device started.
    Booted,
    /// A command was stored durably; its answer is 2.04.
    Stored,
    /// A command was carried out: this is what runs from now on.
    Applied,
    /// An install failed; what ran goes on running.
    InstallFailed,
    /// A command was refused, as what it brings is not for this device; it is not held.
    Refused,
    /// The object that it obeyed was deleted and gave it up; what ran goes on running, as nobody's command.
    Released,
    /// It was given to another object, or to the same one from a lower epoch on.
    Adopted,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Counts from 1 over the device's whole life.
    pub number: u64,
    /// When, in milliseconds since 1970, by the clock of the machine that simulates.
    pub unix_ms: u64,
    /// During which boot, from 1.
    pub boot: u64,
    /// What.
    pub what: What,
    /// Generation of the command concerned; of the one that runs for `Booted`; 0 for none.
    pub generation: u64,
    /// Epoch of the command concerned; 0 for none.
    pub epoch: u64,
    /// Id of the command concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command_id: Option<CommandId>,
    /// Firmware concerned.
    pub firmware: String,
    /// Digest of the configuration concerned.
    pub config_digest: ConfigDigest,
}

/// The latest entries, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct History {
    /// Entries ever made.
    pub recorded: u64,
    /// The latest [`CAPACITY`] of them.
    pub entries: VecDeque<Entry>,
}

impl History {
    /// Appends, numbers the entry, and forgets the oldest one above [`CAPACITY`].
    pub fn record(&mut self, entry: Entry) {
        self.recorded += 1;
        self.entries.push_back(Entry { number: self.recorded, ..entry });
        if self.entries.len() > CAPACITY {
            self.entries.pop_front();
        }
    }

    /// Is nothing forgotten?
    pub fn is_whole(&self) -> bool {
        self.entries.front().is_none_or(|oldest| oldest.number == 1)
    }

    /// The entries of one kind, oldest first.
    pub fn of(&self, what: What) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| entry.what == what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_history_keeps_its_latest_entries_and_its_count() {
        let mut history = History::default();
        for generation in 0..CAPACITY as u64 + 3 {
            history.record(Entry {
                number: 0,
                unix_ms: 0,
                boot: 1,
                what: What::Applied,
                generation,
                epoch: 1,
                command_id: None,
                firmware: "1".into(),
                config_digest: edge_protocol::config_digest(&Default::default()),
            });
        }
        assert_eq!(history.entries.len(), CAPACITY);
        assert_eq!(history.recorded, CAPACITY as u64 + 3);
        assert!(!history.is_whole() && History::default().is_whole());
        assert_eq!(history.entries.front().map(|entry| entry.number), Some(4));
        assert_eq!(history.entries.back().map(|entry| entry.generation), Some(CAPACITY as u64 + 2));
    }
}
