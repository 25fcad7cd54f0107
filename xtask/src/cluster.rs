//! `cargo xtask cluster`: a real Kubernetes on this machine. Control plane and nodes are machines made of namespaces;
//! [`up`] builds them, [`down`] leaves nothing of them, a [`Cluster`] is how the other verbs use one.
//!
//! ```text
//!   this machine          edo.NAME.cp                edo.NAME.node1      edo.NAME.node2
//!   127.0.0.1:PORT ──►  kube-apiserver … ── br0 ──┬── containerd, kubelet, kube-proxy, pods
//!     (forward)           10.240.0.1              ├── the same: 10.240.0.12, pods 10.244.2.0/24
//!                                                 └── edo.NAME.outside: 10.20.0.0/24, behind the router
//! ```

use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Subcommand;

pub mod cgroups;
mod control_plane;
mod down;
mod forward;
mod handle;
mod init;
mod kubeconfig;
pub mod machine;
mod mounts;
pub mod network;
mod node;
mod outage;
mod pki;
pub mod plan;
mod preflight;
pub mod processes;
mod record;
mod status;
mod up;

pub use down::residue;
pub use handle::{Cluster, Options};
pub use outage::Outage;
pub use preflight::check as can_be_made_here;
pub use record::Use;

/// The cluster's name where none is given.
pub const DEFAULT_NAME: &str = "edge";

/// What `cargo xtask cluster` takes.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Which cluster; several can be up at once
    #[arg(long, env = "EDGE_CLUSTER", default_value = DEFAULT_NAME, global = true)]
    name: String,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Clone, Debug, Subcommand)]
enum Verb {
    /// Bring it up (builds what it needs, once), or say that it is
    Up {
        /// How many nodes
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=i64::from(plan::MAX_NODES)))]
        nodes: u8,
    },
    /// Remove it and everything it made, also what a killed `up` left
    Down,
    /// Show its components, nodes, pods and addresses
    Status,
    /// Print a kubeconfig that works from this machine: `cargo xtask cluster kubeconfig > file`
    Kubeconfig,
    /// Run kubectl on it
    #[command(disable_help_flag = true)]
    Kubectl {
        /// kubectl's arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Load image archives into all nodes
    Load {
        /// OCI archives, as `cargo xtask images` writes them
        #[arg(required = true)]
        archives: Vec<PathBuf>,
    },
    /// Make a TCP address inside the cluster reachable on this machine's loopback, until Ctrl-C
    Forward {
        /// The address, such as 10.240.0.11:9977 (a node) or 10.0.0.7:9090 (a Service)
        target: SocketAddr,
        /// The machine to connect from: Service addresses work from nodes alone
        #[arg(long, default_value = "node1")]
        from: String,
        /// The local port; 0 takes a free one
        #[arg(long, default_value_t = 0)]
        port: u16,
    },
    #[command(hide = true)]
    Machine { description: PathBuf },
    #[command(hide = true)]
    Init { description: PathBuf },
    #[command(hide = true)]
    Serve {
        netns: String,
        target: SocketAddr,
        #[arg(long, default_value_t = 0)]
        port: u16,
    },
}

/// Runs the verb.
///
/// # Errors
/// With what went wrong and what to do.
pub fn run(args: &Args) -> Result<()> {
    let name = &args.name;
    match &args.verb {
        Verb::Up { nodes } => {
            let cluster = Cluster::up(&Options { name: name.clone(), nodes: *nodes })?;
            status::introduce(&cluster);
            Ok(())
        }
        Verb::Down => Cluster::down_by_name(name),
        Verb::Status => status::show(name),
        Verb::Kubeconfig => {
            let path = Cluster::open(name)?.kubeconfig();
            print!(
                "{}",
                std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?
            );
            Ok(())
        }
        Verb::Kubectl { arguments } => {
            let kubectl = Cluster::open(name)?.kubectl()?.args(arguments);
            Err(kubectl.command().exec()).context("running kubectl")
        }
        Verb::Load { archives } => {
            let cluster = Cluster::open(name)?;
            archives.iter().try_for_each(|archive| cluster.load_image(archive))
        }
        Verb::Forward { target, from, port } => {
            let cluster = Cluster::open(name)?;
            eprintln!("forwarding to {target} until Ctrl-C; listening on:");
            // As a process of the cluster, so that `down` ends it and it keeps no namespace alive.
            let mut serve =
                forward::command(&cluster.plan().dir(), &cluster.plan().netns(from), *target, *port)?;
            Err(serve.exec()).context("starting the forwarder")
        }
        Verb::Machine { description } => machine::enter(description),
        Verb::Init { description } => init::run(description),
        Verb::Serve { netns, target, port } => forward::serve(netns, *target, *port),
    }
}

/// The API server's address inside the cluster.
fn server_inside() -> String {
    format!("https://{}:{}", plan::CONTROL_PLANE, plan::API_PORT)
}
