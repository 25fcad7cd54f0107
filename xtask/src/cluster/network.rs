//! Network namespaces and what connects them. Nothing is ever made in the machine's own namespace: each pair of
//! interfaces is created inside.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};

use super::mounts;
use super::plan::{self, Plan};
use crate::cmd::Cmd;
use crate::paths;

/// Where `ip netns` keeps names.
const NAMED: &str = "/run/netns";

/// Makes the namespaces of the control plane and all nodes, connected by a bridge, with a route to each node's pods.
///
/// # Errors
/// When `ip` fails or the kernel lacks bridges or veth pairs.
pub fn make(plan: &Plan) -> Result<()> {
    let hub = plan.netns(plan::CONTROL_PLANE_NAME);
    note_whether_first()?;
    add(&hub)?;
    for number in plan.node_numbers() {
        add(&plan.netns(&plan::node_name(number)))?;
    }
    configure(plan, &hub, &bridge(plan)).context(
        "building the nodes' network: the kernel needs bridges and veth pairs (`modprobe bridge veth`)",
    )?;
    router(&hub)?;
    for number in plan.node_numbers() {
        let netns = plan.netns(&plan::node_name(number));
        configure(plan, &netns, &node(number))?;
        router(&netns)?;
    }
    Ok(())
}

/// A namespace outside the cluster, behind the bridge: pods and it reach each other through the control plane's
/// namespace as a router, with their own addresses.
///
/// # Errors
/// When `ip` fails, as when the namespace or an address exists already.
pub fn add_outside(plan: &Plan, name: &str, addresses: &[Ipv4Addr]) -> Result<()> {
    let netns = plan.netns(name);
    add(&netns)?;
    let hub = plan.netns(plan::CONTROL_PLANE_NAME);
    configure(plan, &hub, &[cable(name, &netns), format!("link set {name} master br0 up")])?;
    let mut lines = vec!["link set lo up".to_owned()];
    lines.extend(addresses.iter().map(|address| format!("addr add {address}/24 dev eth0")));
    lines.push("link set eth0 up".to_owned());
    lines.push(format!("route add default via {}", plan::OUTSIDE_GATEWAY));
    configure(plan, &netns, &lines)
}

fn bridge(plan: &Plan) -> Vec<String> {
    let mut lines = vec![
        "link set lo up".to_owned(),
        "link add br0 type bridge".to_owned(),
        format!("addr add {}/24 dev br0", plan::CONTROL_PLANE),
        format!("addr add {}/24 dev br0", plan::OUTSIDE_GATEWAY),
        "link set br0 up".to_owned(),
    ];
    for number in plan.node_numbers() {
        let node = plan::node_name(number);
        lines.push(cable(&node, &plan.netns(&node)));
        lines.push(format!("link set {node} master br0 up"));
        lines.push(format!("route add {} via {}", plan::pod_range(number), plan::node_address(number)));
    }
    lines
}

fn cable(name: &str, netns: &str) -> String {
    format!("link add {name} type veth peer name eth0 netns {netns}")
}

fn node(number: u8) -> Vec<String> {
    vec![
        "link set lo up".to_owned(),
        format!("addr add {}/24 dev eth0", plan::node_address(number)),
        "link set eth0 up".to_owned(),
        format!("route add default via {}", plan::CONTROL_PLANE),
    ]
}

fn add(netns: &str) -> Result<()> {
    Cmd::new("ip").args(["netns", "add", netns]).run()
}

/// The first `ip netns add` of a machine mounts [`NAMED`] on itself. Noted before, so that the last [`remove`] undoes it.
fn note_whether_first() -> Result<()> {
    if mounts::all()?.iter().any(|mount| mount.point == Path::new(NAMED)) {
        return Ok(());
    }
    let note = mounted_by_us();
    fs::write(&note, NAMED).with_context(|| format!("writing {}", note.display()))
}

fn mounted_by_us() -> PathBuf {
    paths::state().join("netns-mounted")
}

/// Runs lines of `ip` inside a namespace, all or none of the rest.
fn configure(plan: &Plan, netns: &str, lines: &[String]) -> Result<()> {
    let batch = plan.dir().join(format!("{netns}.ip"));
    fs::write(&batch, lines.join("\n") + "\n").with_context(|| format!("writing {}", batch.display()))?;
    Cmd::new("ip").args(["-n", netns, "-batch"]).arg(&batch).run()
}

/// Lets a namespace forward; it says nothing of shorter ways, which its neighbours could not take.
fn router(netns: &str) -> Result<()> {
    within(netns, || {
        for (setting, value) in
            [("ip_forward", "1"), ("conf/all/send_redirects", "0"), ("conf/default/send_redirects", "0")]
        {
            let path = Path::new("/proc/sys/net/ipv4").join(setting);
            fs::write(&path, value).with_context(|| format!("writing {}", path.display()))?;
        }
        for interface in fs::read_dir("/proc/sys/net/ipv4/conf").context("listing interfaces")? {
            let path = interface?.path().join("send_redirects");
            fs::write(&path, "0").with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(())
    })
}

/// Runs `work` on a thread of its own inside the network namespace; what it starts stays there.
///
/// # Errors
/// When the namespace does not exist; with the work's own error.
pub fn within<T: Send>(netns: &str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let path = Path::new(NAMED).join(netns);
    let entered = || {
        let file = File::open(&path).with_context(|| format!("opening the namespace {netns}"))?;
        setns(&file, CloneFlags::CLONE_NEWNET).with_context(|| format!("entering the namespace {netns}"))?;
        work()
    };
    thread::scope(|scope| scope.spawn(entered).join().map_err(|_| anyhow!("work in {netns} panicked"))?)
}

/// The named namespaces of the cluster `name` that exist.
#[must_use]
pub fn existing(name: &str) -> Vec<String> {
    let prefix = plan::netns_prefix(name);
    let mut names = existing_of_all();
    names.retain(|netns| netns.starts_with(&prefix));
    names
}

fn existing_of_all() -> Vec<String> {
    let entries = fs::read_dir(NAMED).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.retain(|netns| netns.starts_with(plan::NETNS_PREFIX));
    names.sort();
    names
}

/// Deletes the named namespaces of the cluster `name`, with their interfaces and rules.
///
/// # Errors
/// When `ip` fails.
pub fn remove(name: &str) -> Result<()> {
    for netns in existing(name) {
        Cmd::new("ip").args(["netns", "delete", &netns]).run()?;
    }
    if !existing_of_all().is_empty() {
        return Ok(());
    }
    let empty = fs::read_dir(NAMED).is_ok_and(|mut entries| entries.next().is_none());
    // Fails, rightly, when somebody else uses it by now; then it stays theirs.
    if empty && mounted_by_us().exists() && nix::mount::umount(NAMED).is_ok() {
        let _ = fs::remove_dir(NAMED);
    }
    match fs::remove_file(mounted_by_us()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).context("forgetting a note"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_node_is_on_the_bridge_and_its_pods_are_behind_it() {
        let lines = bridge(&Plan::new("t", 2).unwrap()).join("\n");
        for line in [
            "link add node2 type veth peer name eth0 netns edo.t.node2",
            "link set node2 master br0 up",
            "route add 10.244.2.0/24 via 10.240.0.12",
            "addr add 10.20.0.1/24 dev br0",
        ] {
            assert!(lines.contains(line), "{line} is missing in:\n{lines}");
        }
        assert!(node(2).contains(&"route add default via 10.240.0.1".to_owned()));
    }
}
