//! The flags, grouped by what they concern. Each has an environment variable, a unit and a default.

pub mod bounds;

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, ValueEnum};
use edge_api::quantity::{DurationString, Network};

use self::bounds::BoundArgs;
use crate::budget::Backoff;
use crate::leader::decide::Settings;
use crate::link::Timing;
use crate::telemetry::TelemetryArgs;

/// Keeps edge devices at their declared state, and runs fault profiles against them.
#[derive(Parser, Clone, Debug)]
#[command(name = "edge-operator", version, about)]
pub struct Args {
    /// Which controllers run; `fault` alone is for use beside another operator
    #[arg(
        long,
        env = "CONTROLLERS",
        value_enum,
        value_delimiter = ',',
        default_value = "device,fleet,fault"
    )]
    pub controllers: Vec<ControllerName>,
    /// Address of /metrics, /healthz and /readyz
    #[arg(long, env = "LISTEN", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,
    #[command(flatten)]
    #[expect(missing_docs, reason = "documented at its type")]
    pub cluster: ClusterArgs,
    #[command(flatten)]
    #[expect(missing_docs, reason = "documented at its type")]
    pub leader: LeaderArgs,
    #[command(flatten)]
    #[expect(missing_docs, reason = "documented at its type")]
    pub work: WorkArgs,
    #[command(flatten)]
    #[expect(missing_docs, reason = "documented at its type")]
    pub link: LinkArgs,
    #[command(flatten)]
    #[expect(missing_docs, reason = "documented at its type")]
    pub retry: RetryArgs,
    #[command(flatten)]
    #[expect(missing_docs, reason = "documented at its type")]
    pub bounds: BoundArgs,
    #[command(flatten)]
    #[expect(missing_docs, reason = "documented at its type")]
    pub telemetry: TelemetryArgs,
}

/// A controller that `--controllers` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
pub enum ControllerName {
    /// Keeps devices at their desired state.
    Device,
    /// Rolls templates out to fleets of devices.
    Fleet,
    /// Runs fault profiles.
    Fault,
}

/// Where in the cluster this process is and what it may reach.
#[derive(ClapArgs, Clone, Debug)]
#[command(next_help_heading = "Cluster")]
pub struct ClusterArgs {
    /// Namespace this operator runs in; its Lease is there
    #[arg(long, env = "POD_NAMESPACE", default_value = "edge-system")]
    pub namespace: String,
    /// Name of this process in Events; in the Lease each start adds its own ending to it
    #[arg(long, env = "POD_NAME", default_value = "edge-operator")]
    pub identity: String,
    /// Look at this namespace only [default: all]
    #[arg(long, env = "WATCH_NAMESPACE")]
    pub watch_namespace: Option<String>,
    /// Networks outside a device's own namespace that endpoints and fault profiles may name, such as
    /// 192.168.50.0/24,2001:db8::/64 [default: everything outside the cluster's pods, services and nodes]
    #[arg(long, env = "ALLOW_CIDRS", value_delimiter = ',')]
    pub allow_cidrs: Option<Vec<Network>>,
}

/// Which of several processes leads. Names and defaults are those of Kubernetes' own components.
#[derive(ClapArgs, Clone, Debug)]
#[command(next_help_heading = "Leader election")]
pub struct LeaderArgs {
    /// Whether this process acts only while it holds the Lease; `false` is for a single process, which takes it
    #[arg(long, env = "LEADER_ELECT", action = clap::ArgAction::Set, default_value_t = true)]
    pub leader_elect: bool,
    /// Time after the last change of the Lease until another process may take it; whole seconds
    #[arg(long, env = "LEADER_ELECT_LEASE_DURATION", default_value = "15s", value_parser = duration)]
    pub leader_elect_lease_duration: Duration,
    /// Time after its last successful write of the Lease until the leader stops acting; shorter than the lease
    #[arg(long, env = "LEADER_ELECT_RENEW_DEADLINE", default_value = "10s", value_parser = duration)]
    pub leader_elect_renew_deadline: Duration,
    /// Time between writes of the Lease, and before what failed is tried again; shorter than the renew deadline
    #[arg(long, env = "LEADER_ELECT_RETRY_PERIOD", default_value = "2s", value_parser = duration)]
    pub leader_elect_retry_period: Duration,
}

impl LeaderArgs {
    /// The rules of the election, for a process that is named so in the Lease.
    ///
    /// # Errors
    /// When the times are in another order than they must be; the sentence says what to write.
    pub fn settings(&self, holder: String) -> Result<Settings, String> {
        let Self { leader_elect_lease_duration: lease, .. } = *self;
        let (renew, retry) = (self.leader_elect_renew_deadline, self.leader_elect_retry_period);
        if lease.subsec_nanos() != 0 || lease > Duration::from_secs(86_400) {
            return Err(format!(
                "--leader-elect-lease-duration {lease:?}: write whole seconds, at most a day; a Lease holds nothing else"
            ));
        }
        if renew >= lease {
            return Err(format!(
                "--leader-elect-renew-deadline {renew:?}: write less than the lease duration ({lease:?}), so that a \
                 leader that cannot renew stops before another one starts"
            ));
        }
        if retry >= renew / 2 {
            return Err(format!(
                "--leader-elect-retry-period {retry:?}: write less than half of the renew deadline ({renew:?}), so that \
                 one lost write costs no leader its place"
            ));
        }
        Ok(Settings { holder, duration: lease, renew_deadline: renew, retry_period: retry })
    }
}

/// How much is done at once.
#[derive(ClapArgs, Clone, Debug)]
#[command(next_help_heading = "Work")]
pub struct WorkArgs {
    /// Reconciles at once, of each controller; more wait in order of arrival, what is new first
    #[arg(long, env = "WORKERS", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub workers: u16,
    /// Statuses and finalizers of devices that are written to the API server at once; whoever waits for that holds no worker
    #[arg(long, env = "DEVICE_WRITERS", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub device_writers: u16,
    /// Exchanges with devices at once; each device has one at most
    #[arg(long, env = "MAX_IN_FLIGHT", default_value_t = 2048, value_parser = clap::value_parser!(u16).range(1..=16384))]
    pub max_in_flight: u16,
    /// Devices that are observed (RFC 7641) at once; more are probed alone
    #[arg(long, env = "MAX_OBSERVATIONS", default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(0..=1_048_576))]
    pub max_observations: u32,
    /// DNS lookups at once
    #[arg(long, env = "MAX_LOOKUPS", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub max_lookups: u16,
    /// Devices of one fleet; one that selects more is paused and says so
    #[arg(long, env = "MAX_FLEET_DEVICES", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub max_fleet_devices: u32,
    /// Devices that all fleets together write to the API server at once
    #[arg(long, env = "FLEET_WRITERS", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub fleet_writers: u16,
    /// Devices above which metrics have no series a device any more
    #[arg(long, env = "PER_DEVICE_SERIES", default_value_t = 2000)]
    pub per_device_series: u32,
}

/// CoAP's timing (RFC 7252 §4.8).
#[derive(ClapArgs, Clone, Debug)]
#[command(next_help_heading = "CoAP")]
pub struct LinkArgs {
    /// Wait for an acknowledgement before the first retransmission; drawn from 1 to 1.5 times this, then doubled
    #[arg(long, env = "ACK_TIMEOUT", default_value = "2s", value_parser = duration)]
    pub ack_timeout: Duration,
    /// Retransmissions of a message
    #[arg(long, env = "MAX_RETRANSMIT", default_value_t = 4, value_parser = clap::value_parser!(u32).range(0..=8))]
    pub max_retransmit: u32,
    /// Time between reads of a device that is installing
    #[arg(long, env = "POLL_INTERVAL", default_value = "1s", value_parser = duration)]
    pub poll_interval: Duration,
    /// Longest time for which a resolved DNS name is used
    #[arg(long, env = "DNS_TTL", default_value = "30s", value_parser = duration)]
    pub dns_ttl: Duration,
    /// Time after a Device's deletion until a device that does not answer is given up, unreleased
    #[arg(long, env = "RELEASE_DEADLINE", default_value = "30s", value_parser = duration)]
    pub release_deadline: Duration,
}

impl LinkArgs {
    /// When messages are sent again.
    pub(crate) fn timing(&self) -> Timing {
        Timing { ack_timeout: self.ack_timeout, max_retransmit: self.max_retransmit }
    }
}

/// How soon and how often what failed is tried again.
#[derive(ClapArgs, Clone, Debug)]
#[command(next_help_heading = "Retries")]
pub struct RetryArgs {
    /// Ceiling of the first retry's delay, which is drawn from zero up to it; it doubles with each failure
    #[arg(long, env = "BACKOFF_BASE", default_value = "1s", value_parser = duration)]
    pub backoff_base: Duration,
    /// Highest ceiling of a retry's delay
    #[arg(long, env = "BACKOFF_CAP", default_value = "1m", value_parser = duration)]
    pub backoff_cap: Duration,
    /// Retries that one device may use at once
    #[arg(long, env = "DEVICE_RETRY_BURST", default_value_t = 10)]
    pub device_retry_burst: u32,
    /// Retries a second that each device gets back
    #[arg(long, env = "DEVICE_RETRY_RATE", default_value_t = 0.2, value_parser = positive)]
    pub device_retry_rate: f64,
    /// Retries of commands that all devices together may use at once; and, by itself, of reconciles that failed, of all controllers together
    #[arg(long, env = "RETRY_BURST", default_value_t = 200)]
    pub retry_burst: u32,
    /// Retries a second that come back to each of the two
    #[arg(long, env = "RETRY_RATE", default_value_t = 50.0, value_parser = positive)]
    pub retry_rate: f64,
}

impl RetryArgs {
    /// Delays of retries.
    pub(crate) fn backoff(&self) -> Backoff {
        Backoff { base: self.backoff_base, cap: self.backoff_cap }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration = DurationString::new(text).parse().map_err(|error| error.to_string())?;
    if duration.is_zero() { Err("must be longer than zero".to_owned()) } else { Ok(duration) }
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number.is_finite() => Ok(number),
        _ => Err(format!("{text:?} is no number above zero")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_flags_are_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn every_flag_has_an_environment_variable_and_a_help_text() {
        let command = Args::command();
        let flags =
            command.get_arguments().filter(|arg| !["help", "version"].contains(&arg.get_id().as_str()));
        let mut seen = 0;
        for flag in flags {
            assert!(flag.get_env().is_some(), "{} has no environment variable", flag.get_id());
            assert!(flag.get_help().is_some(), "{} has no help", flag.get_id());
            seen += 1;
        }
        assert!(seen > 10, "only {seen} flags");
    }

    #[test]
    fn the_times_of_the_election_are_those_of_kubernetes_and_others_must_be_in_order() {
        let settings = |flags: &[&str]| {
            let args = Args::parse_from(["edge-operator"].iter().chain(flags));
            args.leader.settings("a".into())
        };
        let seconds = Duration::from_secs;
        let usual = settings(&[]).unwrap();
        assert_eq!(
            (usual.duration, usual.renew_deadline, usual.retry_period),
            (seconds(15), seconds(10), seconds(2))
        );
        for (flags, names) in [
            (&["--leader-elect-renew-deadline=15s"][..], "renew-deadline"),
            (&["--leader-elect-retry-period=5s"], "retry-period"),
            (&["--leader-elect-lease-duration=10500ms"], "lease-duration"),
            (&["--leader-elect-lease-duration=48h"], "lease-duration"),
        ] {
            let sentence = settings(flags).unwrap_err();
            assert!(sentence.contains(names) && sentence.contains("write"), "{sentence}");
        }
        let short = ["--leader-elect-lease-duration=3s", "--leader-elect-renew-deadline=2s"];
        assert!(settings(&[short[0], short[1], "--leader-elect-retry-period=500ms"]).is_ok());
    }

    #[test]
    fn networks_and_durations_are_read_as_kubernetes_users_write_them() {
        let args = Args::parse_from([
            "edge-operator",
            "--allow-cidrs=10.20.0.0/24,2001:db8::/64",
            "--ack-timeout=500ms",
        ]);
        assert_eq!(args.link.ack_timeout, Duration::from_millis(500));
        assert_eq!(args.cluster.allow_cidrs.map(|networks| networks.len()), Some(2));
        assert!(Args::try_parse_from(["edge-operator", "--ack-timeout=0s"]).is_err());
        assert!(Args::try_parse_from(["edge-operator", "--retry-rate=-1"]).is_err());
    }
}
