//! Why a command was not taken, and what the device holds instead. The payload of 4.03, 4.12 and 4.22.

use serde::{Deserialize, Serialize};

use crate::codec::{LimitError, Payload};
use crate::{BootId, MAX_ERROR, MAX_NAME, MAX_NAMESPACE, MAX_UID};

/// Why a device refused. Each reason has one CoAP code, see [`RefusalReason::code`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RefusalReason {
    /// The generation is lower than the one held: an old command, delivered late.
    #[serde(rename = "generation")]
    LowerGeneration,
    /// The epoch is lower than the one held: a leader that no longer is one.
    #[serde(rename = "epoch")]
    LowerEpoch,
    /// The command names another device: the address was used again.
    #[serde(rename = "name")]
    WrongName,
    /// The command names this device and another object: somebody else's, or one made anew.
    #[serde(rename = "uid")]
    ForeignUid,
    /// The command names an object that released the device: an old command, delivered late.
    #[serde(rename = "released")]
    Released,
    /// The device can never run what is asked for (another model's firmware, say).
    #[serde(rename = "unsupported")]
    Unsupported,
}

impl RefusalReason {
    /// The CoAP response code as class and detail: (4, 12) is 4.12.
    #[must_use]
    pub fn code(self) -> (u8, u8) {
        match self {
            Self::LowerGeneration | Self::LowerEpoch => (4, 12),
            Self::WrongName | Self::ForeignUid | Self::Released => (4, 3),
            Self::Unsupported => (4, 22),
        }
    }
}

/// A refusal and what the device holds, so that the operator need not ask again.
///
/// Keys: `r` reason, `s` namespace, `n` name, `u` uid, `g` generation, `e` epoch, `b` boot id,
/// `q` sequence, `x` detail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Why.
    #[serde(rename = "r")]
    pub reason: RefusalReason,
    /// Namespace of the Device that it believes to be.
    #[serde(rename = "s")]
    pub namespace: String,
    /// Name of the Device that it believes to be.
    #[serde(rename = "n")]
    pub name: String,
    /// Uid of the object that it obeys; none before the first command, and after it was released.
    #[serde(rename = "u", default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Generation of the command held; 0 before the first.
    #[serde(rename = "g")]
    pub held_generation: u64,
    /// Epoch of the command held; 0 before the first.
    #[serde(rename = "e")]
    pub epoch: u64,
    /// The boot that refused.
    #[serde(rename = "b")]
    pub boot_id: BootId,
    /// Drawn from the same counter as reports.
    #[serde(rename = "q")]
    pub sequence: u64,
    /// A sentence for a person.
    #[serde(rename = "x", default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl Payload for Refusal {
    fn check(&self) -> Result<(), LimitError> {
        LimitError::text("namespace", &self.namespace, 1, MAX_NAMESPACE)?;
        LimitError::text("name", &self.name, 1, MAX_NAME)?;
        LimitError::text("uid", self.uid.as_deref().unwrap_or("-"), 1, MAX_UID)?;
        LimitError::text("detail", self.detail.as_deref().unwrap_or(""), 0, MAX_ERROR)
    }
}
