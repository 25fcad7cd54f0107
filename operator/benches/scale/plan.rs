//! How many devices, and where.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// The most devices in one namespace of the cluster: what Kubernetes publishes as the limit of custom objects there.
pub(crate) const A_SITE: u32 = 1_500;
/// Each site's devices listen at ports from here upward.
const FIRST_PORT: u16 = 10_000;

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Plan {
    /// Devices; the aims are those of 10,000
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub(crate) devices: u32,
    /// Percent of requests, and of answers, that are lost
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u8).range(0..=90))]
    pub(crate) loss_percent: u8,
    /// How often the leader is killed, and how often it ends by itself
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=20))]
    pub(crate) changes: u32,
    /// Seconds until a cold start that is not over is given up
    #[arg(long, default_value_t = 1_200)]
    pub(crate) patience: u64,
    /// Leave the operators' logs in this folder
    #[arg(long, value_name = "FOLDER")]
    pub(crate) keep: Option<PathBuf>,
    /// What they log: a level, or `module=level` pairs
    #[arg(long, default_value = "info", value_name = "FILTER")]
    pub(crate) log: String,
}

/// The devices of one namespace of the cluster.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    /// From 0.
    pub(crate) number: u8,
    /// So many.
    pub(crate) devices: u16,
}

impl Plan {
    /// All devices, spread evenly.
    pub(crate) fn sites(&self) -> Vec<Site> {
        let count = self.devices.div_ceil(A_SITE);
        let of = |number: u32| self.devices / count + u32::from(number < self.devices % count);
        (0..count)
            .map(|number| Site {
                number: u8::try_from(number).unwrap(),
                devices: u16::try_from(of(number)).unwrap(),
            })
            .collect()
    }

    /// Its cold start must be over by then.
    pub(crate) fn patience(&self) -> Duration {
        Duration::from_secs(self.patience)
    }

    /// The share of datagrams that are lost, each way.
    pub(crate) fn loss(&self) -> f64 {
        f64::from(self.loss_percent) / 100.0
    }
}

impl Site {
    /// Its namespace in the cluster.
    pub(crate) fn namespace(&self) -> String {
        format!("site-{}", self.number)
    }

    /// Device `number`'s name.
    pub(crate) fn name(&self, number: u16) -> String {
        format!("dev-{number}")
    }

    /// Where the operator is, seen from the site.
    pub(crate) fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.number, 1)
    }

    /// Where its devices are.
    pub(crate) fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.number, 2)
    }

    /// Where device `number` is.
    pub(crate) fn socket(&self, number: u16) -> SocketAddr {
        SocketAddr::from((self.address(), FIRST_PORT + number))
    }
}
