//! A cluster does what a cluster does, and nothing of it is left: not after `down`, not after Ctrl-C, not after a kill
//! in the middle of `up`.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail with it")]

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use xtask::cluster::{Cluster, Options, network, plan, residue};
use xtask::{interrupt, paths, wait};

const XTASK: &str = env!("CARGO_BIN_EXE_xtask");
const SECONDS: fn(u64) -> Duration = Duration::from_secs;
const SOON: Duration = Duration::from_millis(2);

/// Brings a cluster down when a test ends, however it ends.
struct Named(String);

impl Named {
    /// The same name in each run, so that one finds what a killed one left.
    fn new(test: &str) -> Self {
        interrupt::install().unwrap();
        let name = format!("test-{test}");
        if !residue(&name).unwrap().is_empty() {
            Cluster::down_by_name(&name).unwrap();
        }
        Self(name)
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let status = Command::new(XTASK).args(["cluster", "--name", &self.0, "status"]).output();
        eprintln!("{}", String::from_utf8_lossy(&status.map(|output| output.stdout).unwrap_or_default()));
        let _ = Cluster::down_by_name(&self.0);
    }
}

/// Everything on this machine whose name has `name` in it, found without the code under test; and its own interfaces.
fn traces(name: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let names = |dir: &str| -> Vec<String> {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|entry| format!("{dir}/{}", entry.file_name().display())).collect()
    };
    let hierarchies: Vec<String> = names("/sys/fs/cgroup");
    let groups = hierarchies.iter().flat_map(|hierarchy| names(hierarchy));
    let state = paths::state().display().to_string();
    let folders = ["/run/netns", &state, "/sys/fs/cgroup"].into_iter().flat_map(names);
    found.extend(groups.chain(folders).filter(|path| path.contains(name)));
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    found.extend(mounts.lines().filter(|line| line.contains(name)).map(|line| format!("mount {line}")));
    for process in names("/proc") {
        let environment = fs::read(format!("{process}/environ")).unwrap_or_default();
        if String::from_utf8_lossy(&environment).contains(&format!("={}\0", plan::dir(name).display())) {
            found.insert(format!("process {process}"));
        }
    }
    found.extend(names("/sys/class/net"));
    found
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

fn start_up(name: &str) -> Child {
    let mut up = Command::new(XTASK);
    up.args(["cluster", "--name", name, "up", "--nodes", "1"]).stdout(Stdio::null()).stderr(Stdio::null());
    up.spawn().unwrap()
}

/// Moments of `up`, by what it has just made.
fn moments(name: &str) -> Vec<(&'static str, std::path::PathBuf)> {
    let dir = plan::dir(name);
    let netns =
        |machine: &str| Path::new("/run/netns").join(format!("{}{machine}", plan::netns_prefix(name)));
    vec![
        ("record", dir.join("cluster.json")),
        ("certificates", dir.join("pki/ca.crt")),
        ("first namespace", netns("cp")),
        ("last namespace", netns("node1")),
        ("control plane", dir.join("cp/log/init.log")),
        ("node", dir.join("node1/first-process.json")),
        ("forwarder", dir.join("forward.log")),
        ("kubeconfig", dir.join("kubeconfig")),
        ("node's images", dir.join("node1/etc/kubelet-may-start")),
    ]
}

fn reaches(child: &mut Child, path: &Path) {
    wait::until(&path.display().to_string(), SECONDS(120), SOON, || {
        if let Some(status) = child.try_wait()? {
            anyhow::bail!("`up` ended too soon: {status}");
        }
        Ok(path.exists().then_some(()))
    })
    .unwrap();
}

/// Asks a DNS server for the address of `name` (RFC 1035 §4) and returns the last address of the answer.
fn resolve(server: SocketAddr, name: &str) -> anyhow::Result<Ipv4Addr> {
    let mut question = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        question.push(u8::try_from(label.len())?);
        question.extend(label.bytes());
    }
    question.extend([0, 0, 1, 0, 1]);
    let socket = UdpSocket::bind(("0.0.0.0", 0))?;
    socket.set_read_timeout(Some(SECONDS(2)))?;
    socket.send_to(&question, server)?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer)?;
    let answer = &answer[..length];
    anyhow::ensure!(answer[3] & 0xf == 0 && answer[7] > 0, "{name}: {answer:?}");
    let last: [u8; 4] = answer[length - 4..].try_into()?;
    Ok(last.into())
}

#[test]
#[ignore = "node rung: needs root, builds a cluster"]
fn pods_services_names_and_the_outside_reach_each_other_and_down_leaves_nothing() {
    assert!(is_root(), "needs root");
    let name = Named::new("whole");
    let before = traces(&name.0);
    let cluster = Cluster::up(&Options { name: name.0.clone(), nodes: 2 }).unwrap();
    let kubectl = |args: &[&str]| cluster.kubectl().unwrap().args(args).read().unwrap();

    let manifest = cluster.plan().dir().join("test.yaml");
    fs::write(&manifest, include_str!("node_cluster.yaml")).unwrap();
    kubectl(&["apply", "-f", manifest.to_str().unwrap()]);
    kubectl(&["rollout", "status", "daemonset/names", "--timeout=60s"]);
    let hosts = kubectl(&["get", "pods", "-l", "app=names", "-o", "jsonpath={.items[*].spec.nodeName}"]);
    assert_eq!(hosts.split(' ').collect::<BTreeSet<_>>(), BTreeSet::from(["node1", "node2"]));
    assert!(kubectl(&["exec", "daemonset/names", "--", "/coredns", "-version"]).contains("CoreDNS"));
    assert!(kubectl(&["logs", "daemonset/names"]).contains("CoreDNS"));

    // A Service address and DNS, from either node.
    let service: Ipv4Addr =
        kubectl(&["get", "service", "names", "-o", "jsonpath={.spec.clusterIP}"]).parse().unwrap();
    for node in ["node1", "node2"] {
        let found = network::within(&cluster.plan().netns(node), || {
            wait::until("the Service", SECONDS(20), SOON, || {
                Ok(resolve((service, 53).into(), "names.default.svc.cluster.local").ok())
            })
        });
        assert_eq!(found.unwrap(), service, "from {node}");
    }

    // The outside, with its own address, to a pod with its own.
    let address = Ipv4Addr::new(10, 20, 0, 17);
    cluster.add_outside_namespace("site", &[address]).unwrap();
    let pods = kubectl(&["get", "pods", "-l", "app=names", "-o", "jsonpath={.items[*].status.podIP}"]);
    for pod in pods.split(' ') {
        let pod: Ipv4Addr = pod.parse().unwrap();
        let found = network::within(&cluster.plan().netns("site"), || {
            resolve((pod, 53).into(), "names.default.svc.cluster.local")
        });
        assert_eq!(found.unwrap(), service, "pod {pod}");
    }

    // The machine's loopback.
    let port = cluster.forward("node1", (service, 53).into()).unwrap();
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();

    cluster.down().unwrap();
    assert_eq!(residue(&name.0).unwrap(), Vec::<String>::new());
    assert_eq!(traces(&name.0), before);
}

#[test]
#[ignore = "node rung: needs root, builds a cluster"]
fn a_killed_node_takes_its_pods_along_and_comes_back() {
    assert!(is_root(), "needs root");
    let name = Named::new("node");
    let cluster = Cluster::up(&Options { name: name.0.clone(), nodes: 1 }).unwrap();
    let before = cluster.node_pids().unwrap();
    cluster.kill_node(1).unwrap();
    assert!(cluster.node_pids().is_err(), "the node is still there");
    cluster.start_node(1).unwrap();
    assert_ne!(cluster.node_pids().unwrap(), before);
    let rollout = ["--namespace", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=90s"];
    cluster.kubectl().unwrap().args(rollout).run().unwrap();
    cluster.down().unwrap();
}

#[test]
#[ignore = "node rung: needs root, builds a cluster"]
fn an_up_that_was_killed_at_any_moment_is_cleaned_by_down() {
    assert!(is_root(), "needs root");
    let name = Named::new("killed");
    let before = traces(&name.0);
    for (moment, path) in moments(&name.0) {
        let mut up = start_up(&name.0);
        reaches(&mut up, &path);
        up.kill().unwrap();
        up.wait().unwrap();
        assert!(!residue(&name.0).unwrap().is_empty(), "{moment}: killed too late to test anything");
        Cluster::down_by_name(&name.0).unwrap();
        assert_eq!(traces(&name.0), before, "{moment}");
    }
}

#[test]
#[ignore = "node rung: needs root, builds a cluster"]
fn an_up_that_was_killed_is_cleaned_by_the_next() {
    assert!(is_root(), "needs root");
    let name = Named::new("again");
    let before = traces(&name.0);
    let mut up = start_up(&name.0);
    reaches(&mut up, &plan::dir(&name.0).join("kubeconfig"));
    up.kill().unwrap();
    up.wait().unwrap();
    let cluster = Cluster::up(&Options { name: name.0.clone(), nodes: 1 }).unwrap();
    cluster.kubectl().unwrap().args(["get", "node", "node1"]).run().unwrap();
    cluster.down().unwrap();
    assert_eq!(traces(&name.0), before);
}

#[test]
#[ignore = "node rung: needs root, builds a cluster"]
fn ctrl_c_during_up_cleans_up_at_once() {
    assert!(is_root(), "needs root");
    let name = Named::new("ctrlc");
    let before = traces(&name.0);
    for (moment, path) in moments(&name.0).into_iter().skip(1).step_by(3) {
        let mut up = start_up(&name.0);
        reaches(&mut up, &path);
        kill(Pid::from_raw(i32::try_from(up.id()).unwrap()), Signal::SIGINT).unwrap();
        assert_eq!(up.wait().unwrap().code(), Some(130), "{moment}");
        assert_eq!(traces(&name.0), before, "{moment}");
    }
}

#[test]
#[ignore = "node rung: needs root, builds a cluster"]
fn two_ups_of_one_name_at_once_are_refused() {
    assert!(is_root(), "needs root");
    let name = Named::new("twice");
    let mut first = start_up(&name.0);
    reaches(&mut first, &plan::dir(&name.0).join("pki/ca.crt"));
    let refused = Cluster::up(&Options { name: name.0.clone(), nodes: 1 }).unwrap_err();
    assert!(refused.to_string().contains(&format!("by process {}", first.id())), "{refused}");
    first.kill().unwrap();
    first.wait().unwrap();
    Cluster::down_by_name(&name.0).unwrap();
}
