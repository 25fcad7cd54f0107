//! A device as others see it.

use std::sync::Arc;

use edge_protocol::BootId;

use crate::device::Device;
use crate::durable::Durable;

/// What a device is just now.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// It hears requests: it neither boots nor is off.
    pub up: bool,
    /// This boot.
    pub boot_id: BootId,
    /// A firmware is being installed.
    pub installing: bool,
    /// What it keeps, with its history.
    pub durable: Arc<Durable>,
}

impl View {
    pub(crate) fn of(device: &Device) -> Self {
        Self {
            up: device.is_up(),
            boot_id: device.boot_id(),
            installing: device.is_installing(),
            durable: Arc::clone(device.durable()),
        }
    }
}
