//! The flags, grouped by what they concern. Each has an environment variable, a unit and a default.

use std::net::SocketAddr;

use clap::{Args as ClapArgs, Parser, ValueEnum};
use edge_api::quantity::Network;

use crate::kernel::LineLimits;
use crate::kernel::hooks::XdpMode;
use crate::table::Capacity;

/// Brings this node's kernel to what the accepted fault profiles ask for, and counts what it did.
#[derive(Parser, Clone, Debug)]
#[command(name = "chaos-agent", version, about)]
pub struct Args {
    /// Name of this node in the cluster
    #[arg(long, env = "NODE_NAME", required_unless_present = "cleanup")]
    pub node_name: Option<String>,
    /// Address of /metrics, /healthz and /readyz
    #[arg(long, env = "LISTEN", default_value = "0.0.0.0:9977")]
    pub listen: SocketAddr,
    #[command(flatten)]
    #[expect(missing_docs, reason = "documented at its type")]
    pub kernel: KernelArgs,
    #[command(flatten)]
    #[expect(missing_docs, reason = "documented at its type")]
    pub line: LineArgs,
    #[command(flatten)]
    #[expect(missing_docs, reason = "documented at its type")]
    pub protection: ProtectionArgs,
    #[command(flatten)]
    #[expect(missing_docs, reason = "documented at its type")]
    pub cleanup: CleanupArgs,
    /// What to log: a level, or `module=level` pairs
    #[arg(
        long,
        env = "LOG",
        default_value = "info,kube_runtime=warn,kube_client=off",
        help_heading = "Logs"
    )]
    pub log: String,
    /// Targets of this node above which metrics have one series a profile instead of one a device
    #[arg(long, env = "PER_DEVICE_SERIES", default_value_t = 2000, help_heading = "Metrics")]
    pub per_device_series: usize,
    /// Connections to /metrics, /healthz and /readyz at once; more wait in the kernel
    #[arg(
        long,
        env = "MAX_CONNECTIONS",
        default_value_t = 64,
        value_parser = clap::value_parser!(u16).range(1..=4096),
        help_heading = "Metrics"
    )]
    pub max_connections: u16,
}

/// What goes into the kernel.
#[derive(ClapArgs, Clone, Copy, Debug)]
#[command(next_help_heading = "Kernel")]
pub struct KernelArgs {
    /// Where packets from devices are decided; where a driver refuses XDP, TC decides
    #[arg(long, env = "XDP", value_enum, default_value_t)]
    pub xdp: XdpMode,
    /// What the kernel programs write into the agent's log, for looking into a fault; at some 250 ns a line
    #[arg(long, env = "KERNEL_LOG", value_enum, default_value_t)]
    pub kernel_log: KernelLog,
    /// Targets at most: entries of each table, and profiles times targets in all
    #[arg(long, env = "MAX_TARGETS", default_value_t = 65_536, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub max_targets: u32,
    /// Profiles at most that act at the same time
    #[arg(long, env = "MAX_RULES", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub max_rules: u32,
    /// Flows at most whose packets are numbered one by one; packets of others are numbered by target
    #[arg(long, env = "MAX_FLOWS", default_value_t = 65_536, value_parser = clap::value_parser!(u32).range(1..=4_194_304))]
    pub max_flows: u32,
    /// Profiles at most that act on one target: the first in order of namespace and name do; the programs' loops are as long
    #[arg(long, env = "MAX_PROFILES_PER_TARGET", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=8))]
    pub max_profiles_per_target: u32,
    /// Networks at most in `match.peers` of all profiles, each address of a Service and each pod being one
    #[arg(long, env = "MAX_PEERS", default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub max_peers: u32,
    /// Namespaces at most in which peers are looked up
    #[arg(long, env = "MAX_PEER_NAMESPACES", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub max_peer_namespaces: u32,
    /// Far ends at most of this node's own conversations, which no fault reaches, and so many networks of --protect; where they do not fit
    /// nothing is done to anybody
    #[arg(long, env = "MAX_PROTECTED", default_value_t = 65_536, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub max_protected: u32,
    /// Addresses at most of this node; IPVS adds one for each Service
    #[arg(long, env = "MAX_NODE_ADDRESSES", default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub max_node_addresses: u32,
}

impl KernelArgs {
    /// What there is room for.
    #[must_use]
    pub const fn capacity(self) -> Capacity {
        Capacity {
            targets: self.max_targets,
            rules: self.max_rules,
            flows: self.max_flows,
            profiles_per_target: self.max_profiles_per_target,
            peers: self.max_peers,
            peer_namespaces: self.max_peer_namespaces,
            protected: self.max_protected,
            node_addresses: self.max_node_addresses,
        }
    }
}

/// What the kernel programs write into the agent's log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, ValueEnum)]
pub enum KernelLog {
    /// Nothing: the kernel has removed what would write it.
    #[default]
    Off,
    /// A line for each packet of a target, with what becomes of it.
    Packets,
}

/// Which engine holds delayed packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, ValueEnum)]
pub enum EngineChoice {
    /// The kernel's queue `fq` where it is there, else the agent itself.
    #[default]
    Auto,
    /// The kernel's queue `fq`, on a veth pair of the agent's: needs the module sch_fq.
    Fq,
    /// The agent itself, by a TAP and a timing wheel.
    Userspace,
    /// Nothing: profiles that delay, reorder or shape are Degraded.
    None,
}

/// The delay line.
#[derive(ClapArgs, Clone, Copy, Debug)]
#[command(next_help_heading = "Delay line")]
pub struct LineArgs {
    /// What holds delayed packets
    #[arg(long, env = "ENGINE", value_enum, default_value_t)]
    pub engine: EngineChoice,
    /// Packets in the line at most; more are dropped, and counted
    #[arg(long, env = "LINE_PACKETS", default_value_t = 65_536, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub line_packets: u32,
    /// Bytes in the line at most
    #[arg(long, env = "LINE_BYTES", default_value_t = 64 << 20, value_parser = clap::value_parser!(u64).range(65_536..=4 << 30))]
    pub line_bytes: u64,
    /// Packets of one target under one profile in the line at most
    #[arg(long, env = "LINE_TARGET_PACKETS", default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub line_target_packets: u32,
    /// Bytes of one target under one profile in the line at most
    #[arg(long, env = "LINE_TARGET_BYTES", default_value_t = 16 << 20, value_parser = clap::value_parser!(u64).range(65_536..=4 << 30))]
    pub line_target_bytes: u64,
}

impl LineArgs {
    /// The limits alone.
    #[must_use]
    pub const fn limits(self) -> LineLimits {
        LineLimits {
            packets: self.line_packets,
            bytes: self.line_bytes,
            target_packets: self.line_target_packets,
            target_bytes: self.line_target_bytes,
        }
    }
}

/// What no fault touches.
#[derive(ClapArgs, Clone, Debug)]
#[command(next_help_heading = "Protection")]
pub struct ProtectionArgs {
    /// Networks whose conversations with this node no fault touches, such as 10.1.2.3/32
    #[arg(long, env = "PROTECT", value_delimiter = ',')]
    pub protect: Vec<Network>,
    /// TCP port of this node's kubelet [default: as the Node says, else 10250]
    #[arg(long, env = "KUBELET_PORT")]
    pub kubelet_port: Option<u16>,
}

/// Removing what a killed agent left.
#[derive(ClapArgs, Clone, Copy, Debug)]
#[command(next_help_heading = "Cleaning up")]
pub struct CleanupArgs {
    /// Remove what a killed agent left on this node's interfaces, and end
    #[arg(long)]
    pub cleanup: bool,
    /// With --cleanup: only show it
    #[arg(long, requires = "cleanup")]
    pub dry_run: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::compile::size;
    use crate::shared::Bounds;

    #[test]
    fn the_flags_are_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn what_metrics_are_told_stands_together() {
        let command = Args::command();
        for name in ["per-device-series", "max-connections"] {
            let flag = command.get_arguments().find(|flag| flag.get_long() == Some(name)).unwrap();
            assert_eq!(flag.get_help_heading(), Some("Metrics"), "{name}");
        }
    }

    #[test]
    fn what_is_bounded_outside_of_the_kernels_tables_is_so_by_default_as_the_flags_say() {
        let args = Args::try_parse_from(["chaos-agent", "--node-name", "n1"]).unwrap();
        let Bounds { peer_namespaces, connections } = Bounds::default();
        assert_eq!(usize::from(args.max_connections), connections);
        assert_eq!(size(args.kernel.max_peer_namespaces), peer_namespaces);
    }

    #[test]
    fn the_node_must_be_named_unless_it_is_only_cleaned_up() {
        assert!(Args::try_parse_from(["chaos-agent", "--node-name", "n1"]).is_ok());
        assert!(Args::try_parse_from(["chaos-agent", "--cleanup", "--dry-run"]).is_ok());
        assert!(Args::try_parse_from(["chaos-agent", "--dry-run"]).is_err());
    }
}
