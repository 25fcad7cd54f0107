//! The whole desired state of a device, with what orders it. The payload of `PUT /desired`.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::codec::{LimitError, Payload};
use crate::{
    MAX_CONFIG, MAX_CONFIG_ENTRIES, MAX_FIRMWARE, MAX_NAME, MAX_NAMESPACE, MAX_UID, config_encoded_len,
};

/// Names one attempt to bring a device to a desired state.
///
/// A repeated command with the same id is answered and not carried out again. A new id for the same
/// generation means: if the last attempt failed, try once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CommandId(pub u64);

impl fmt::Display for CommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Tells a device what to run. Answered 2.04 once it is stored durably, which is before it is applied.
///
/// Keys: `s` namespace, `n` name, `u` uid, `g` generation, `e` epoch, `c` command id, `f` firmware,
/// `k` configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredCommand {
    /// Namespace of the Device object.
    #[serde(rename = "s")]
    pub namespace: String,
    /// Name of the Device object.
    #[serde(rename = "n")]
    pub name: String,
    /// Uid of the Device object. A device that holds another refuses ([`RefusalReason::ForeignUid`]).
    ///
    /// [`RefusalReason::ForeignUid`]: crate::RefusalReason::ForeignUid
    #[serde(rename = "u")]
    pub uid: String,
    /// The object's `metadata.generation`; never falls within one uid.
    #[serde(rename = "g")]
    pub generation: u64,
    /// The leader's epoch: the resourceVersion of the write that took the lease; never falls within one uid.
    #[serde(rename = "e")]
    pub epoch: u64,
    /// The attempt.
    #[serde(rename = "c")]
    pub command_id: CommandId,
    /// Firmware version to run.
    #[serde(rename = "f")]
    pub firmware: String,
    /// Configuration to run with.
    #[serde(rename = "k", default, skip_serializing_if = "BTreeMap::is_empty")]
    pub config: BTreeMap<String, String>,
}

impl Payload for DesiredCommand {
    fn check(&self) -> Result<(), LimitError> {
        LimitError::text("namespace", &self.namespace, 1, MAX_NAMESPACE)?;
        LimitError::text("name", &self.name, 1, MAX_NAME)?;
        LimitError::text("uid", &self.uid, 1, MAX_UID)?;
        LimitError::text("firmware", &self.firmware, 1, MAX_FIRMWARE)?;
        if self.config.len() > MAX_CONFIG_ENTRIES {
            return Err(LimitError {
                field: "config",
                actual: format!("{} entries", self.config.len()),
                allowed: format!("at most {MAX_CONFIG_ENTRIES}"),
            });
        }
        let length = config_encoded_len(&self.config);
        if length > MAX_CONFIG {
            return Err(LimitError {
                field: "config",
                actual: format!("{length} bytes encoded"),
                allowed: format!("at most {MAX_CONFIG}"),
            });
        }
        Ok(())
    }
}
