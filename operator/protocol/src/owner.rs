//! Which Device object a device obeys: released when the object is deleted, adopted when a person says so. The
//! payload of `PUT /owner`.

use serde::{Deserialize, Serialize};

use crate::codec::{LimitError, Payload};
use crate::{MAX_NAME, MAX_NAMESPACE, MAX_UID};

/// What a device holds: whom it obeys. An adoption names it, so that it is an adoption of that and of nothing later.
///
/// Keys: `u` uid, `e` epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Uid of the Device object that it obeys.
    #[serde(rename = "u")]
    pub uid: String,
    /// Epoch that it obeys; 0 of one that was released.
    #[serde(rename = "e")]
    pub epoch: u64,
}

/// What changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum OwnerChange {
    /// It obeys the object of the command no longer, and will not again; it goes on running what it runs, and whoever
    /// commands it next owns it.
    #[serde(rename = "release")]
    Release,
    /// It obeys the object of the command from now on, from the command's epoch and from generation 0 on, if it holds
    /// this now.
    #[serde(rename = "adopt")]
    Adopt(Held),
}

/// Changes whom a device obeys. Answered 2.04 once that is stored durably; refused as a command for another owner is.
///
/// Keys: `s` namespace, `n` name, `u` uid, `e` epoch, `w` what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerCommand {
    /// Namespace of the Device object.
    #[serde(rename = "s")]
    pub namespace: String,
    /// Name of the Device object.
    #[serde(rename = "n")]
    pub name: String,
    /// Uid of the Device object that releases or adopts.
    #[serde(rename = "u")]
    pub uid: String,
    /// The leader's epoch. A release with a lower one than the device holds is refused.
    #[serde(rename = "e")]
    pub epoch: u64,
    /// What changes.
    #[serde(rename = "w")]
    pub change: OwnerChange,
}

impl Payload for OwnerCommand {
    fn check(&self) -> Result<(), LimitError> {
        LimitError::text("namespace", &self.namespace, 1, MAX_NAMESPACE)?;
        LimitError::text("name", &self.name, 1, MAX_NAME)?;
        LimitError::text("uid", &self.uid, 1, MAX_UID)?;
        match &self.change {
            OwnerChange::Release => Ok(()),
            OwnerChange::Adopt(held) => LimitError::text("held uid", &held.uid, 1, MAX_UID),
        }
    }
}
