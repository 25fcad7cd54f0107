//! `nft`, in the place of those who keep rules of their own on a node: a CNI that masquerades, kube-proxy in its mode for nftables,
//! a firewall that asks conntrack.
//!
//! The device is a pod here, the peer something outside of the cluster.

mod conntrack;
mod masquerade;
mod service;

use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::support::space::Namespace;

/// Everything that leaves by the uplink has the node's address.
const MASQUERADE: &str = r#"
table inet nat {
    chain leaving {
        type nat hook postrouting priority srcnat
        oifname "cat-up" masquerade
    }
}
"#;

/// Takes in rules as a file of `nft` has them.
fn load(space: &Namespace, rules: &str) {
    nft(space, &["-f", "-"], rules);
}

/// The packets of a counter with a name, in the table `inet watch`.
fn counted(space: &Namespace, counter: &str) -> u64 {
    let said = nft(space, &["list", "counter", "inet", "watch", counter], "");
    let behind = said.split_once("packets ").unwrap_or_else(|| panic!("{counter}: {said}")).1;
    behind.split_whitespace().next().unwrap().parse().unwrap()
}

fn nft(space: &Namespace, arguments: &[&str], input: &str) -> String {
    let output = space.run(|| {
        let mut command = Command::new("nft");
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut nft = command.spawn().expect("nftables is needed");
        nft.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        nft.wait_with_output().unwrap()
    });
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "nft said {said}to {arguments:?}\n{input}");
    String::from_utf8(output.stdout).unwrap()
}
