//! What a decision about a fleet asks for, as values. They say what to do, not how; [`super::act`] does it.

use std::sync::Arc;

use edge_api::{Desired, DeviceFleetStatus};

use crate::action::Notice;

/// Something to do for one fleet.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// Keep a template.
    MakeRevision {
        /// Its number.
        number: i64,
        /// What is kept.
        template: Arc<Desired>,
    },
    /// Write the status, on the resourceVersion that it was decided on.
    WriteStatus(Box<DeviceFleetStatus>),
    /// Set a device's desired state, on the resourceVersion that it was decided on.
    Change(Change),
    /// A template is no longer kept.
    DeleteRevision {
        /// Its number.
        number: i64,
    },
    /// Tell a person.
    Notify(Notice),
}

/// One device and what it shall run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    /// The device.
    pub(crate) name: String,
    /// Its uid: one that was deleted and made again is another.
    pub(crate) uid: String,
    /// The resourceVersion that this was decided on.
    pub(crate) version: Option<String>,
    /// What it shall run.
    pub(crate) desired: Arc<Desired>,
    /// It is reserved: never done before the status says so.
    pub(crate) reserved: bool,
}
