//! What a device says of itself. The payload of an answer to `GET /state`.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::codec::{LimitError, Payload};
use crate::{CommandId, ConfigDigest, MAX_ERROR, MAX_FIRMWARE, MAX_NAME, MAX_NAMESPACE, MAX_UID};

/// Drawn anew at each boot of a device: reports are ordered by sequence within one boot only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BootId(pub u64);

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What a device is doing about the command that it holds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Install {
    /// Nothing to do: what it holds is what it runs (or it holds nothing).
    #[default]
    #[serde(rename = "idle")]
    Idle,
    /// It is installing.
    #[serde(rename = "running")]
    Running {
        /// Progress, 0 to 100.
        #[serde(rename = "p")]
        percent: u8,
    },
    /// The attempt failed; it waits for a command with a new id. The text is in [`Report::last_error`].
    #[serde(rename = "failed")]
    Failed {
        /// Attempts that failed for the generation held, this one included; survives reboots.
        #[serde(rename = "a")]
        attempts: u32,
    },
}

/// A device's own account of itself: evidence with a boot id and a sequence, never simply the truth.
///
/// Keys: `s` namespace, `n` name, `u` uid, `f` firmware, `d` config digest, `a` applied generation,
/// `g` held generation, `e` epoch, `c` command id, `b` boot id, `q` sequence, `t` uptime, `i` install,
/// `x` last error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Namespace of the Device that it believes to be.
    #[serde(rename = "s")]
    pub namespace: String,
    /// Name of the Device that it believes to be.
    #[serde(rename = "n")]
    pub name: String,
    /// Uid of the Device whose command it holds; none before the first command.
    #[serde(rename = "u", default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Firmware that runs now.
    #[serde(rename = "f")]
    pub firmware: String,
    /// Digest of the configuration that runs now.
    #[serde(rename = "d")]
    pub config_digest: ConfigDigest,
    /// Generation of the command that runs now; 0 before the first was applied.
    #[serde(rename = "a")]
    pub applied_generation: u64,
    /// Generation of the command stored durably; 0 before the first. Above the applied one while it installs.
    #[serde(rename = "g")]
    pub held_generation: u64,
    /// Epoch of the command stored durably; 0 before the first.
    #[serde(rename = "e")]
    pub epoch: u64,
    /// Id of the command stored durably.
    #[serde(rename = "c", default, skip_serializing_if = "Option::is_none")]
    pub command_id: Option<CommandId>,
    /// This boot.
    #[serde(rename = "b")]
    pub boot_id: BootId,
    /// Rises with each report (and refusal) of this boot, from 1; restarts with a reboot.
    #[serde(rename = "q")]
    pub sequence: u64,
    /// Milliseconds since this boot, by the device's own clock.
    #[serde(rename = "t")]
    pub uptime_ms: u64,
    /// What it does about the command it holds.
    #[serde(rename = "i", default)]
    pub install: Install,
    /// The last thing that went wrong, as a sentence; kept until an install succeeds.
    #[serde(rename = "x", default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

impl Payload for Report {
    fn check(&self) -> Result<(), LimitError> {
        LimitError::text("namespace", &self.namespace, 1, MAX_NAMESPACE)?;
        LimitError::text("name", &self.name, 1, MAX_NAME)?;
        LimitError::text("uid", self.uid.as_deref().unwrap_or("-"), 1, MAX_UID)?;
        LimitError::text("firmware", &self.firmware, 0, MAX_FIRMWARE)?;
        LimitError::text("last error", self.last_error.as_deref().unwrap_or(""), 0, MAX_ERROR)?;
        if let Install::Running { percent: percent @ 101.. } = self.install {
            return Err(LimitError {
                field: "install",
                actual: format!("{percent} percent"),
                allowed: "0 to 100 percent".into(),
            });
        }
        Ok(())
    }
}
