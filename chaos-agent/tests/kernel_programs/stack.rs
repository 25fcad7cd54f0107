//! What a namespace's own stack counted: `/proc/net/snmp` and `snmp6`.

use std::collections::BTreeMap;
use std::fs::read_to_string;
use std::net::SocketAddr;

use crate::support::space::Namespace;
use crate::support::stage::Family;
use crate::support::time::eventually;

/// A name as in `snmp` and `snmp6`: `TcpInSegs` (of both families), `UdpInErrors`, `Udp6InErrors`.
#[derive(Clone, Debug)]
pub(crate) struct Stack(BTreeMap<String, u64>);

impl Stack {
    /// Reads all of them.
    pub(crate) fn of(space: &Namespace) -> Self {
        let read = || ["snmp", "snmp6"].map(|name| read_to_string(format!("/proc/thread-self/net/{name}")));
        let [both, v6] = space.run(read).map(Result::unwrap);
        let mut counts = BTreeMap::new();
        let mut lines = both.lines();
        while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
            let (table, names) = names.split_once(": ").unwrap();
            let values = values.split_whitespace().skip(1).map(|value| value.parse().unwrap_or_default());
            let names = names.split_whitespace().map(|name| format!("{table}{name}"));
            counts.extend(names.zip(values));
        }
        for line in v6.lines() {
            let mut words = line.split_whitespace();
            let (name, value) = (words.next().unwrap(), words.next().unwrap());
            counts.insert(name.to_owned(), value.parse().unwrap());
        }
        Self(counts)
    }

    /// How much more this is than `before`.
    pub(crate) fn since(&self, before: &Self, name: &str) -> u64 {
        self.0[name] - before.0[name]
    }

    /// The name of a family's counter: `protocol` is `Udp` or `Icmp`.
    pub(crate) fn name(family: Family, protocol: &str, name: &str) -> String {
        format!("{protocol}{}{name}", if family == Family::V4 { "" } else { "6" })
    }
}

/// Waits until somebody listens for TCP at a port.
pub(crate) fn is_listened_to(space: &Namespace, address: SocketAddr) {
    let table = if address.is_ipv4() { "tcp" } else { "tcp6" };
    let read = || space.run(|| read_to_string(format!("/proc/thread-self/net/{table}"))).unwrap();
    // Number, local address:port, remote address:port, state 0A.
    let local = match address.ip() {
        std::net::IpAddr::V4(ip) => format!("{:08X}", u32::from_ne_bytes(ip.octets())),
        std::net::IpAddr::V6(ip) => {
            let words = ip.octets();
            let words = words.chunks(4).map(|word| u32::from_ne_bytes(word.try_into().unwrap()));
            words.map(|word| format!("{word:08X}")).collect()
        }
    };
    let local = format!("{local}:{:04X}", address.port());
    let listens = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().take(4).collect();
        words.get(1) == Some(&local.as_str()) && words.get(3) == Some(&"0A")
    };
    eventually(
        || read().lines().any(listens).then_some(()),
        || format!("nobody listens at {address}\n{}", read()),
    );
}
