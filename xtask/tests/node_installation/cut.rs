//! Rules of a story's own in a node's network namespace: a pod that cannot reach what it needs, since its packets are lost both ways
//! and without a word; a node that masquerades.

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

/// Rules, until they are dropped.
#[must_use = "the rules go at once"]
#[derive(Debug)]
pub(crate) struct Rules {
    netns: String,
    table: String,
}

impl Rules {
    /// Cuts a pod off.
    pub(crate) fn cut(world: &World, pod: &PodSeen, from: From) -> Self {
        Self::add(world, pod.node, &pod.name, &losing(pod.ip, from))
    }

    /// What leaves a node by its uplink shows the node's address, whoever sent it.
    pub(crate) fn masquerade(world: &World, node: u8) -> Self {
        Self::add(world, node, "masquerade", MASQUERADE)
    }

    fn add(world: &World, node: u8, name: &str, chain: &str) -> Self {
        let netns = world.cluster.plan().netns(&plan::node_name(node));
        let rules = Self { netns, table: format!("test-{name}") };
        let file = tempfile::NamedTempFile::with_suffix(".nft").unwrap();
        fs::write(&file, format!("table inet {} {{\n{chain}}}\n", rules.table)).unwrap();
        rules.nft(&["-f", file.path().to_str().unwrap()]).unwrap();
        rules
    }

    fn nft(&self, arguments: &[&str]) -> Result<()> {
        network::within(&self.netns, || Cmd::new("nft").args(arguments).run())
            .with_context(|| format!("changing rules of {}", self.netns))
    }
}

impl Drop for Rules {
    fn drop(&mut self) {
        if let Err(error) = self.nft(&["delete", "table", "inet", &self.table]) {
            eprintln!("rules stay: {error:#}");
        }
    }
}

const MASQUERADE: &str = "  chain leaves {\n    type nat hook postrouting priority srcnat; policy accept;\n    \
                          oifname \"eth0\" masquerade\n  }\n";

/// Before kube-proxy puts another address into a packet, and before anything of a connection is known (priority raw).
fn losing(pod: Ipv4Addr, from: From) -> String {
    let (to, back) = match from {
        From::ApiServer => {
            let server = format!("{{ {}, {} }}", plan::API_SERVICE, plan::CONTROL_PLANE);
            (format!("ip daddr {server}"), format!("ip saddr {server}"))
        }
        From::Devices => ("udp dport != 53".to_owned(), "udp sport != 53".to_owned()),
    };
    format!(
        "  chain cut {{\n    type filter hook prerouting priority raw; policy accept;\n    \
         ip saddr {pod} {to} drop\n    ip daddr {pod} {back} drop\n  }}\n"
    )
}

#[test]
fn rules_lose_what_goes_from_the_pod_to_the_server_and_back_and_nothing_else() {
    let rules = losing(Ipv4Addr::new(10, 244, 1, 7), From::ApiServer);
    let dropped: Vec<_> = rules.lines().filter(|line| line.ends_with("drop")).map(str::trim).collect();
    let wanted = [
        "ip saddr 10.244.1.7 ip daddr { 10.0.0.1, 10.240.0.1 } drop",
        "ip daddr 10.244.1.7 ip saddr { 10.0.0.1, 10.240.0.1 } drop",
    ];
    assert_eq!(dropped, wanted);
}
