//! Flags, grouped by concern, and what they mean together.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser};
use edge_api::Liveness;
use edge_api::quantity::{DurationString, Share};
use thiserror::Error;

use crate::behaviour::{Behaviour, Delayed, Span, duration, share};
use crate::sim::SimConfig;

/// Simulates unreliable edge devices that speak CoAP.
///
/// Each plays a small chip, so that what it holds is fixed: `device_sim_limit` on /metrics says how much, `device_sim_usage` how much of that
/// is used. A process takes 4096 devices at most; start several for more.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Args {
    /// Which devices.
    #[command(flatten)]
    pub devices: DeviceArgs,
    /// How they behave.
    #[command(flatten)]
    pub behaviour: BehaviourArgs,
    /// Their Devices in a cluster.
    #[command(flatten)]
    pub enrol: EnrolArgs,
    /// Address of /metrics, /healthz, /readyz, /history and /behaviour
    #[arg(long, env = "HTTP_ADDRESS", default_value = "0.0.0.0:8081")]
    pub http: SocketAddr,
    /// Log filter, such as `info` or `device_sim=debug`
    #[arg(long, env = "LOG", default_value = "info")]
    pub log: String,
}

/// Which devices.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Devices")]
pub struct DeviceArgs {
    /// Devices on each address, at ports from `--port` upward
    #[arg(long, env = "DEVICES", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub devices: u16,
    /// Addresses to listen on, each of an interface that exists; separated by commas or given repeatedly
    #[arg(long, env = "LISTEN_ADDRESS", value_delimiter = ',', default_values_t = [IpAddr::V4(Ipv4Addr::UNSPECIFIED)])]
    pub listen_address: Vec<IpAddr>,
    /// UDP port of the first device on each address
    #[arg(long, env = "COAP_PORT", default_value_t = 5683, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,
    /// Namespace of the Devices that they are
    #[arg(long, env = "POD_NAMESPACE", default_value = "default")]
    pub namespace: String,
    /// Device number n is named PREFIX-n, from 0; the pod's name in a cluster
    #[arg(long, env = "POD_NAME", default_value = "device")]
    pub name_prefix: String,
    /// Folder of the devices' durable state, one file each; made if it is not there
    #[arg(long, env = "STATE_DIR", default_value = "device-sim-state")]
    pub state_dir: PathBuf,
    /// Firmware of a device that has no state yet
    #[arg(long, env = "FACTORY_FIRMWARE", default_value = "1.0.0")]
    pub factory_firmware: String,
    /// What all draws come from: same seed and names, same draws
    #[arg(long, env = "SEED", default_value_t = 1)]
    pub seed: u64,
}

/// How they behave.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Behaviour (shares as 5%, durations as 800ms or 1s..3s)")]
pub struct BehaviourArgs {
    /// Share of requests that never reach the device
    #[arg(long, env = "DROP", default_value = "0%", value_parser = share)]
    pub drop: Share,
    /// Share of answers that are lost
    #[arg(long, env = "LOSE_ANSWERS", default_value = "0%", value_parser = share)]
    pub lose_answers: Share,
    /// Share of answers that come late, and by how much, as 5%:800ms or 5%:200ms..2s
    #[arg(long, env = "LATE", default_value = "0%")]
    pub late: Delayed,
    /// Share of answers that come twice, and how long after the first, as 2%:500ms
    #[arg(long, env = "DUPLICATE", default_value = "0%")]
    pub duplicate: Delayed,
    /// Share of answers that are held back until another has overtaken them, and how long at most, as 5%:2s
    #[arg(long, env = "REORDER", default_value = "0%")]
    pub reorder: Delayed,
    /// Share of answers behind which one of earlier is sent again
    #[arg(long, env = "REPEAT", default_value = "0%", value_parser = share)]
    pub repeat: Share,
    /// Share of reports that are one of earlier
    #[arg(long, env = "STALE", default_value = "0%", value_parser = share)]
    pub stale: Share,
    /// Share of reports that contradict themselves or what was acknowledged
    #[arg(long, env = "CONTRADICT", default_value = "0%", value_parser = share)]
    pub contradict: Share,
    /// Share of requests before which a device loses what is volatile, without a reboot
    #[arg(long, env = "FORGET", default_value = "0%", value_parser = share)]
    pub forget: Share,
    /// Mean time between a device's spontaneous reboots; never if not given
    #[arg(long, env = "REBOOT_EVERY", value_parser = duration)]
    pub reboot_every: Option<Duration>,
    /// Share of installs in the middle of which a device reboots
    #[arg(long, env = "REBOOT_IN_INSTALL", default_value = "0%", value_parser = share)]
    pub reboot_in_install: Share,
    /// Mean time between a device's changes that are none: it says that it installs, and that it does not; never if not given
    #[arg(long, env = "FLOOD", value_parser = duration)]
    pub flood: Option<Duration>,
    /// How long a boot takes
    #[arg(long, env = "BOOT_TIME", default_value = "100ms..500ms")]
    pub boot_time: Span,
    /// How long a firmware takes to install
    #[arg(long, env = "INSTALL_TIME", default_value = "1s..3s")]
    pub install_time: Span,
    /// Share of installs that fail
    #[arg(long, env = "INSTALL_FAIL", default_value = "0%", value_parser = share)]
    pub install_fail: Share,
    /// By how much a device's clock is too fast or too slow at most, drawn at each boot
    #[arg(long, env = "CLOCK_SKEW", default_value = "0%", value_parser = share)]
    pub clock_skew: Share,
    /// A firmware version that the devices refuse
    #[arg(long, env = "REFUSE_FIRMWARE")]
    pub refuse_firmware: Option<String>,
}

/// Their Devices in a cluster.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Enrolment")]
pub struct EnrolArgs {
    /// Keep a Device for each device, by server-side apply, inside the cluster that this runs in
    #[arg(long, env = "ENROL", requires = "pod_ip")]
    pub enrol: bool,
    /// Host of the Devices' endpoints: the pod's address
    #[arg(long, env = "POD_IP")]
    pub pod_ip: Option<IpAddr>,
    /// Labels of the Devices, as site=berlin,model=px4
    #[arg(long, env = "LABELS", value_delimiter = ',', value_parser = label)]
    pub labels: Vec<(String, String)>,
    /// Liveness of the Devices as PROBE_INTERVAL/SUSPECT_AFTER/LOST_AFTER, such as 2s/6s/15s; the API's
    /// defaults if not given
    #[arg(long, env = "LIVENESS", value_parser = liveness)]
    pub liveness: Option<Liveness>,
}

fn label(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .filter(|(key, _)| !key.is_empty())
        .map(|(key, value)| (key.into(), value.into()))
        .ok_or_else(|| "write KEY=VALUE".into())
}

fn liveness(text: &str) -> Result<Liveness, String> {
    let parts: Vec<&str> = text.split('/').collect();
    let [probe_interval, suspect_after, lost_after] = parts.as_slice() else {
        return Err("write three durations such as 2s/6s/15s".into());
    };
    let read =
        |text: &str| duration(text).map(|_| DurationString::new(text)).map_err(|error| error.to_string());
    Ok(Liveness {
        probe_interval: read(probe_interval)?,
        suspect_after: read(suspect_after)?,
        lost_after: read(lost_after)?,
    })
}

/// Flags that do not fit together.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum ArgsError {
    /// Ports above 65535.
    #[error("{devices} devices from port {port} on need ports above 65535; lower --port or --devices")]
    Ports {
        /// Devices on each address.
        devices: u16,
        /// The first port.
        port: u16,
    },
}

impl Args {
    /// The devices to start. `incarnation` is random in the field, see [`SimConfig::incarnation`].
    ///
    /// # Errors
    /// When the flags do not fit together.
    pub fn sim(&self, incarnation: u64) -> Result<SimConfig, ArgsError> {
        let DeviceArgs {
            devices,
            listen_address,
            port,
            namespace,
            name_prefix,
            state_dir,
            factory_firmware,
            seed,
        } = &self.devices;
        if u32::from(*port) + u32::from(*devices) > 1 << 16 {
            return Err(ArgsError::Ports { devices: *devices, port: *port });
        }
        let sockets = |address: &IpAddr| {
            let address = *address;
            (0..*devices).map(move |number| SocketAddr::new(address, port + number))
        };
        Ok(SimConfig {
            namespace: namespace.clone(),
            name_prefix: name_prefix.clone(),
            listen: listen_address.iter().flat_map(sockets).collect(),
            state_dir: state_dir.clone(),
            factory_firmware: factory_firmware.clone(),
            seed: *seed,
            incarnation,
            behaviour: self.behaviour.to_behaviour(),
        })
    }
}

impl BehaviourArgs {
    fn to_behaviour(&self) -> Behaviour {
        let Self {
            drop,
            lose_answers,
            late,
            duplicate,
            reorder,
            repeat,
            stale,
            contradict,
            forget,
            reboot_every,
            reboot_in_install,
            flood,
            boot_time,
            install_time,
            install_fail,
            clock_skew,
            refuse_firmware,
        } = self;
        Behaviour {
            drop: *drop,
            lose_answers: *lose_answers,
            late: *late,
            duplicate: *duplicate,
            reorder: *reorder,
            repeat: *repeat,
            stale: *stale,
            contradict: *contradict,
            forget: *forget,
            reboot_every: *reboot_every,
            reboot_in_install: *reboot_in_install,
            flood: *flood,
            boot_time: *boot_time,
            install_time: *install_time,
            install_fail: *install_fail,
            clock_skew: *clock_skew,
            refuse_firmware: refuse_firmware.clone(),
        }
    }
}

impl EnrolArgs {
    /// The labels as a map.
    #[must_use]
    pub fn label_map(&self) -> BTreeMap<String, String> {
        self.labels.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(flags: &[&str]) -> Args {
        Args::try_parse_from([&["device-sim"], flags].concat()).unwrap()
    }

    #[test]
    fn the_command_is_well_formed() {
        Args::command().debug_assert();
    }

    #[test]
    fn devices_are_numbered_over_all_addresses_and_ports() {
        let args = parse(&["--devices", "2", "--listen-address", "10.0.0.1,10.0.0.2", "--port", "7000"]);
        let listen: Vec<String> = args.sim(0).unwrap().listen.iter().map(ToString::to_string).collect();
        assert_eq!(listen, ["10.0.0.1:7000", "10.0.0.1:7001", "10.0.0.2:7000", "10.0.0.2:7001"]);
    }

    #[test]
    fn ports_above_the_last_one_are_refused() {
        assert!(parse(&["--devices", "6", "--port", "65530"]).sim(0).is_ok());
        let error = parse(&["--devices", "7", "--port", "65530"]).sim(0).unwrap_err();
        assert!(error.to_string().contains("lower --port"), "{error}");
    }

    #[test]
    fn behaviour_is_read_as_documented() {
        let args = parse(&["--drop", "5%", "--late", "5%:800ms", "--install-time", "1s..3s"]);
        let behaviour = args.sim(0).unwrap().behaviour;
        assert_eq!(behaviour.drop.ppm(), 50_000);
        assert_eq!(behaviour.late, "5%:800ms".parse().unwrap());
        assert_eq!(behaviour.install_time, "1s..3s".parse().unwrap());
    }

    #[test]
    fn labels_and_liveness_are_read_as_documented() {
        let args = parse(&["--labels", "site=berlin,model=px4", "--liveness", "2s/6s/15s"]);
        assert_eq!(args.enrol.label_map()["site"], "berlin");
        assert_eq!(args.enrol.liveness.unwrap().lost_after.as_str(), "15s");
        for bad in [["--liveness", "2s/6s"], ["--labels", "site"], ["--drop", "5"], ["--devices", "0"]] {
            assert!(Args::try_parse_from(["device-sim"].iter().chain(&bad)).is_err(), "{bad:?}");
        }
        assert!(Args::try_parse_from(["device-sim", "--enrol"]).is_err(), "it needs the pod's address");
    }
}
