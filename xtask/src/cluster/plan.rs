//! Names and addresses of a cluster, all following from its name and its number of nodes. Pure.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use crate::paths;

/// More would not fit the last byte of the nodes' addresses, nor any machine.
pub const MAX_NODES: u8 = 50;
/// The bridge that all nodes hang on, and the control plane's address.
pub const CONTROL_PLANE: Ipv4Addr = Ipv4Addr::new(10, 240, 0, 1);
/// The API server's port at [`CONTROL_PLANE`].
pub const API_PORT: u16 = 6443;
/// Service addresses; the first is the API server's, the tenth DNS.
pub const SERVICES: &str = "10.0.0.0/24";
/// The API server's Service address.
pub const API_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// The cluster's DNS Service address.
pub const DNS_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 10);
/// All pods.
pub const PODS: &str = "10.244.0.0/16";
/// What lies outside the cluster, behind the bridge: this gateway, and namespaces made by
/// [`super::Cluster::add_outside_namespace`].
pub const OUTSIDE_GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 1);
/// The name of the machine that runs the control plane.
pub const CONTROL_PLANE_NAME: &str = "cp";

/// What the network namespaces of all clusters begin with.
pub const NETNS_PREFIX: &str = "edo.";
/// What the control groups of all clusters begin with.
pub const CGROUP_PREFIX: &str = "edo-";

/// A cluster's name and size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Distinguishes clusters on one machine.
    pub name: String,
    /// How many nodes, 1 to [`MAX_NODES`].
    pub nodes: u8,
}

impl Plan {
    /// A plan with a name that fits namespaces and folders.
    ///
    /// # Errors
    /// When the name or the number is out of range.
    pub fn new(name: &str, nodes: u8) -> Result<Self> {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || name.len() > 20 || !name.chars().all(fits) || name.starts_with('-') {
            bail!("the cluster name '{name}' must be 1 to 20 of a-z, 0-9 and -, and not begin with -");
        }
        if !(1..=MAX_NODES).contains(&nodes) {
            bail!("a cluster has 1 to {MAX_NODES} nodes, not {nodes}");
        }
        Ok(Self { name: name.to_owned(), nodes })
    }

    /// The numbers of its nodes, from 1.
    pub fn node_numbers(&self) -> impl Iterator<Item = u8> + use<> {
        1..=self.nodes
    }

    /// Everything that belongs to a run lies in here.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        dir(&self.name)
    }

    /// The network namespace of a machine, such as `cp`, `node1` or one outside.
    #[must_use]
    pub fn netns(&self, machine: &str) -> String {
        format!("{}{machine}", netns_prefix(&self.name))
    }

    /// The parent cgroup of all its nodes, in every hierarchy.
    #[must_use]
    pub fn cgroup(&self) -> String {
        cgroup(&self.name)
    }
}

/// Where the cluster `name` keeps what belongs to it.
#[must_use]
pub fn dir(name: &str) -> PathBuf {
    paths::state().join(name)
}

/// What its network namespaces' names begin with. The dot is in no cluster's name, so none is another's beginning.
#[must_use]
pub fn netns_prefix(name: &str) -> String {
    format!("{NETNS_PREFIX}{name}.")
}

/// The name of its parent cgroup.
#[must_use]
pub fn cgroup(name: &str) -> String {
    format!("{CGROUP_PREFIX}{name}")
}

/// A node's name: `node1` …
#[must_use]
pub fn node_name(number: u8) -> String {
    format!("node{number}")
}

/// A node's address: 10.240.0.11 …
#[must_use]
pub fn node_address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 240, 0, 10 + number)
}

/// The range of a node's pods: 10.244.1.0/24 …
#[must_use]
pub fn pod_range(number: u8) -> String {
    format!("10.244.{number}.0/24")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_count_from_one_and_their_addresses_follow() {
        let plan = Plan::new("edge", 2).unwrap();
        assert_eq!(plan.node_numbers().map(node_name).collect::<Vec<_>>(), ["node1", "node2"]);
        assert_eq!(node_address(2).to_string(), "10.240.0.12");
        assert_eq!(pod_range(2), "10.244.2.0/24");
        assert_eq!(plan.netns("node1"), "edo.edge.node1");
    }

    #[test]
    fn names_that_could_leave_their_folder_or_hide_another_are_refused() {
        for name in ["", "..", "a/b", "a.b", "-x", "Edge", "a-name-that-is-much-too-long"] {
            assert!(Plan::new(name, 1).is_err(), "{name} was accepted");
        }
        assert!(Plan::new("edge", 0).is_err());
        assert!(Plan::new("edge", MAX_NODES + 1).is_err());
    }

    #[test]
    fn one_clusters_namespaces_are_never_taken_for_anothers() {
        let other = Plan::new("edge-b", 1).unwrap().netns("cp");
        assert!(!other.starts_with(&netns_prefix("edge")), "{other}");
    }
}
