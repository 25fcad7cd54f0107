//! A pod that cannot reach what it needs: its packets are lost on its node, both ways and without a word, by rules in the node's own
//! network namespace.

use std::fs;
use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use xtask::cluster::{network, plan};
use xtask::cmd::Cmd;

use super::world::{PodSeen, World};

/// What a pod is cut off from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From {
    /// The API server, by its Service and by its own address.
    ApiServer,
    /// All devices, and whatever else it talks to by UDP, but for DNS.
    Devices,
}

/// A cut, until it is dropped.
#[must_use = "the cut heals at once"]
#[derive(Debug)]
pub(crate) struct Cut {
    netns: String,
    table: String,
}

impl Cut {
    /// Cuts a pod off.
    pub(crate) fn off(world: &World, pod: &PodSeen, from: From) -> Self {
        let netns = world.cluster.plan().netns(&plan::node_name(pod.node));
        let cut = Self { netns, table: format!("test-{}", pod.name) };
        let file = tempfile::NamedTempFile::with_suffix(".nft").unwrap();
        fs::write(&file, rules(&cut.table, pod.ip, from)).unwrap();
        cut.nft(&["-f", file.path().to_str().unwrap()]).unwrap();
        cut
    }

    fn nft(&self, arguments: &[&str]) -> Result<()> {
        network::within(&self.netns, || Cmd::new("nft").args(arguments).run())
            .with_context(|| format!("changing rules of {}", self.netns))
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        if let Err(error) = self.nft(&["delete", "table", "inet", &self.table]) {
            eprintln!("a cut stays: {error:#}");
        }
    }
}

/// Before kube-proxy puts another address into a packet, and before anything of a connection is known (priority raw).
fn rules(table: &str, pod: Ipv4Addr, from: From) -> String {
    let (to, back) = match from {
        From::ApiServer => {
            let server = format!("{{ {}, {} }}", plan::API_SERVICE, plan::CONTROL_PLANE);
            (format!("ip daddr {server}"), format!("ip saddr {server}"))
        }
        From::Devices => ("udp dport != 53".to_owned(), "udp sport != 53".to_owned()),
    };
    format!(
        "table inet {table} {{\n  chain cut {{\n    type filter hook prerouting priority raw; policy accept;\n    \
         ip saddr {pod} {to} drop\n    ip daddr {pod} {back} drop\n  }}\n}}\n"
    )
}

#[test]
fn rules_lose_what_goes_from_the_pod_to_the_server_and_back_and_nothing_else() {
    let rules = rules("t", Ipv4Addr::new(10, 244, 1, 7), From::ApiServer);
    let dropped: Vec<_> = rules.lines().filter(|line| line.ends_with("drop")).map(str::trim).collect();
    let wanted = [
        "ip saddr 10.244.1.7 ip daddr { 10.0.0.1, 10.240.0.1 } drop",
        "ip daddr 10.244.1.7 ip saddr { 10.0.0.1, 10.240.0.1 } drop",
    ];
    assert_eq!(dropped, wanted);
}
