//! How long the queues and tables are. What a flag bounds shows in `edge_limit`, and how full it is in `edge_usage`.

use std::time::Duration;

use clap::Args as ClapArgs;

/// How much waits and is remembered at most.
#[derive(ClapArgs, Clone, Debug)]
#[command(next_help_heading = "Bounds")]
pub struct BoundArgs {
    /// Devices that this process keeps in memory; more are not managed, and an Event says so. A hundredth more (one at least) are
    /// kept while they are deleted and their devices released
    #[arg(long, env = "MAX_DEVICES", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_devices: u32,
    /// Objects of each kind that this process keeps in memory; more are left out, and what must be decided from all of them is not
    #[arg(long, env = "MAX_OBJECTS", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub max_objects: u32,
    /// Changes of each kind of object that wait for a slow reader; one that falls further behind is told of every object again
    #[arg(long, env = "CHANGE_RING", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub change_ring: u32,
    /// Moves of pods' addresses that wait for a slow reader; one that falls further behind looks at every device again
    #[arg(long, env = "MOVE_RING", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub move_ring: u32,
    /// Exchanges that ended and are remembered, so that late and repeated answers are told from noise
    #[arg(long, env = "REMEMBERED_EXCHANGES", default_value_t = 8192, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub remembered_exchanges: u32,
    /// Messages that wait for one exchange; more are dropped, as the network might
    #[arg(long, env = "EXCHANGE_MAILBOX", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub exchange_mailbox: u16,
    /// Devices whose exchange or lookup ended and that wait to be looked at; those that end then wait, too
    #[arg(long, env = "OUTCOME_QUEUE", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub outcome_queue: u32,
    /// Notifications of devices that wait to be looked at; more are dropped, and the next probe finds what they said
    #[arg(long, env = "NOTIFICATION_QUEUE", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub notification_queue: u32,
    /// Notifications of one device that are heeded at once; more are dropped, and the next probe finds what they said
    #[arg(long, env = "NOTIFICATION_BURST", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub notification_burst: u32,
    /// Notifications of one device that are heeded a second after that
    #[arg(long, env = "NOTIFICATION_RATE", default_value_t = 1.0, value_parser = super::positive)]
    pub notification_rate: f64,
    /// Statuses of one device that are written at once; more wait. What its address asks for is written all the same, and what its object asks for a third of a second later at most
    #[arg(long, env = "DEVICE_STATUS_BURST", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub device_status_burst: u32,
    /// Statuses of one device that are written a second after that
    #[arg(long, env = "DEVICE_STATUS_RATE", default_value_t = 0.2, value_parser = super::positive)]
    pub device_status_rate: f64,
    /// Events that wait to be told; more are dropped and counted, since the status says the same
    #[arg(long, env = "EVENT_QUEUE", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub event_queue: u32,
    /// Events that may be told at once
    #[arg(long, env = "EVENT_BURST", default_value_t = 50)]
    pub event_burst: u32,
    /// Events a second that may be told after that
    #[arg(long, env = "EVENT_RATE", default_value_t = 5.0, value_parser = super::positive)]
    pub event_rate: f64,
    /// How long a new device's Pending or Syncing must last until its status says so; what is over before is not written
    #[arg(long, env = "PROGRESS_AFTER", default_value = "2s", value_parser = super::duration)]
    pub progress_after: Duration,
    /// Such statuses of all devices together that may be written at once; more wait, as long as their device's lostAfter
    #[arg(long, env = "PROGRESS_BURST", default_value_t = 20)]
    pub progress_burst: u32,
    /// Such statuses of all devices together that may be written a second after that
    #[arg(long, env = "PROGRESS_RATE", default_value_t = 1.0, value_parser = super::positive)]
    pub progress_rate: f64,
    /// Connections to /metrics, /healthz and /readyz at once; more wait in the kernel
    #[arg(long, env = "MAX_CONNECTIONS", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub max_connections: u16,
}

/// A bound as a size.
pub fn size(bound: u32) -> usize {
    usize::try_from(bound).unwrap_or(usize::MAX)
}
