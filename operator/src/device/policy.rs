//! How patient and how eager the device controller is: the flags, as decisions need them.

use std::time::Duration;

use crate::args::Args;
use crate::budget::{Backoff, Bucket};

/// Installs of one desired state that a device may fail before it is Failed.
const INSTALL_ATTEMPTS: u32 = 3;

/// Shortest time between two reads of one device, whatever asks for more.
const SHORTEST: Duration = Duration::from_millis(20);

/// The flags, as decisions need them.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Delays of retries.
    pub backoff: Backoff,
    /// The longest time until the third transmission of a question may be answered.
    pub opening: Duration,
    /// Time between reads of a device that installs.
    pub poll_interval: Duration,
    /// Longest time for which a resolved name is used.
    pub dns_ttl: Duration,
    /// Time after its deletion until a device that does not answer is given up.
    pub release_deadline: Duration,
    /// How long a phase that leads somewhere lasts before the status of a new device tells it.
    pub progress_after: Duration,
    /// Failed installs that make a device Failed.
    pub install_attempts: u32,
    /// Retries of one device: burst, and how many a second come back.
    pub device_retries: (u32, f64),
    /// Statuses of one device: burst, and how many a second come back.
    pub device_statuses: (u32, f64),
}

impl Policy {
    /// Out of the flags.
    pub fn of(args: &Args) -> Self {
        Self {
            backoff: args.retry.backoff(),
            opening: args.link.timing().opening(),
            poll_interval: args.link.poll_interval,
            dns_ttl: args.link.dns_ttl,
            release_deadline: args.link.release_deadline,
            progress_after: args.bounds.progress_after,
            install_attempts: INSTALL_ATTEMPTS,
            device_retries: (args.retry.device_retry_burst, args.retry.device_retry_rate),
            device_statuses: (args.bounds.device_status_burst, args.bounds.device_status_rate),
        }
    }

    /// A new device's retries.
    pub fn retries(&self) -> Bucket {
        let (burst, rate) = self.device_retries;
        Bucket::new(burst, rate)
    }

    /// A new device's statuses.
    pub fn statuses(&self) -> Bucket {
        let (burst, rate) = self.device_statuses;
        Bucket::new(burst, rate)
    }

    /// The time to the next read: three quarters of the interval to all of it, so that devices that began
    /// together do not stay together, and no device is read later than its owner said.
    pub fn probe_delay(&self, interval: Duration, draw: f64) -> Duration {
        interval.mul_f64(0.75 + 0.25 * draw.clamp(0.0, 1.0)).max(SHORTEST)
    }
}
