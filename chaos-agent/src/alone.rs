//! One agent a node: a name in the abstract namespace of sockets, which belongs to the network namespace and goes with
//! the process that holds it, however it ends.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};

use anyhow::{Context as _, Result, bail};

const NAME: &str = "edge-operator.dev/chaos-agent";

/// Takes the name for as long as the returned value lives.
///
/// # Errors
/// When another agent has it.
pub fn on_this_node() -> Result<UnixListener> {
    let address = SocketAddr::from_abstract_name(NAME).context("the name of the agent's lock")?;
    match UnixListener::bind_addr(&address) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            bail!("another chaos-agent is running on this node (in this network namespace): end it first")
        }
        taken => taken.context("the agent's lock"),
    }
}
