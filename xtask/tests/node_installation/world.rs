//! The installation that all stories share, made once by what `cargo xtask demo` makes it with, and ways to ask it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::ops::Deref;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use edge_api::fault_node::HookKind;
use edge_api::{Device, FaultNode, FaultProfile};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use xtask::cluster::processes::{self, Process};
use xtask::cluster::{Cluster, network, plan};
use xtask::cmd::Cmd;
use xtask::demo::install::{self, DEVICES, SYSTEM};
use xtask::demo::layout::Layout;
use xtask::demo::world::{OUTSIDE_ADDRESS, World as DemoWorld};
use xtask::{paths, wait};

use super::counters::Page;
use super::operators::{LeaseTimes, USUAL};
use super::readme;
use super::traffic::End;

/// Six devices in a pod on each node, four outside.
pub(crate) const LAYOUT: Layout = Layout { per_pod: 6, outside: 4 };
/// What runs once a story has not declared anything yet.
pub(crate) const FIRMWARE: &str = "1.1.0";
/// Ports of a test's own packets: the target's, its peer's.
pub(crate) const PORTS: (u16, u16) = (7000, 7001);
/// No wait for the cluster is longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);
/// How often a condition is looked at.
pub(crate) const SOON: Duration = Duration::from_millis(100);

/// A cluster with everything installed.
pub(crate) struct World {
    /// The cluster.
    pub(crate) cluster: Cluster,
    /// A client for it.
    pub(crate) client: Client,
    /// How typing the README's commands ended.
    pub(crate) readme: Result<(), String>,
    /// The times of the operators' Lease.
    pub(crate) lease: Mutex<LeaseTimes>,
    runtime: Runtime,
    demo: DemoWorld,
    kubectl: Cmd,
}

/// The time of a story: nothing of an earlier one acts any more; when it fails the world is shown.
pub(crate) struct Story(&'static World);

/// A pod, as stories need it.
#[derive(Clone, Debug)]
pub(crate) struct PodSeen {
    /// Its name.
    pub(crate) name: String,
    /// Its uid.
    pub(crate) uid: String,
    /// Its node's number.
    pub(crate) node: u8,
    /// Its address.
    pub(crate) ip: Ipv4Addr,
}

impl Story {
    /// Begins a story on the installation, which the first one makes.
    pub(crate) fn begin() -> Self {
        Self::with_lease(USUAL)
    }

    /// Begins a story in which operators lead by a Lease of these times.
    pub(crate) fn with_lease(times: LeaseTimes) -> Self {
        static WORLD: OnceLock<Result<World, String>> = OnceLock::new();
        let world = WORLD.get_or_init(|| World::install().map_err(|error| format!("{error:#}")));
        let world = world.as_ref().unwrap_or_else(|error| panic!("the installation: {error}"));
        let story = Self(world);
        story.kubectl(&[
            "-n",
            DEVICES,
            "delete",
            "devicefleets,faultprofiles",
            "--all",
            "--ignore-not-found",
        ]);
        story.lead_by(times);
        story
    }
}

impl Deref for Story {
    type Target = World;

    fn deref(&self) -> &World {
        self.0
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.demo.explain();
        }
    }
}

impl World {
    /// What the README says, and then what the demo installs over it, with fewer devices.
    fn install() -> Result<Self> {
        let name = std::env::var("EDGE_CLUSTER")
            .context("EDGE_CLUSTER names no cluster: run this by `cargo xtask test --rung node`")?;
        let cluster = Cluster::open(&name)?;
        let kubectl = cluster.kubectl()?;
        let runtime = Runtime::new().context("starting the runtime")?;
        let mut demo = DemoWorld::on(cluster.clone());
        let client = runtime.block_on(demo.client())?;

        let readme = readme::type_commands(&kubectl).map_err(|error| format!("{error:#}"));
        let devices = paths::root().join("deploy/device-sim");
        let delete = kubectl.clone().args(["delete", "--ignore-not-found", "--timeout=120s", "-k"]);
        delete.arg(devices).step("removing the README's devices").run()?;
        demo.choose_hooks()?;
        let scratch = tempfile::tempdir().context("making a folder for manifests")?;
        let manifest = install::manifest(&demo, &LAYOUT, 7, scratch.path())?;
        install::apply(&demo, &manifest)?;
        let agents = ["daemonset/chaos-agent", "daemonset/chaos-agent-native"];
        rolled_out(&kubectl, &[&["deployment/edge-operator"][..], &agents].concat())?;
        if !network::existing(&name).contains(&cluster.plan().netns("outside")) {
            demo.start_outside(&LAYOUT, DEVICES, 7)?;
        }
        runtime.block_on(install::enrol_outside(&client, &LAYOUT))?;
        runtime.block_on(install::ready(&client, &LAYOUT, Duration::from_secs(120)))?;
        let world = Self { cluster, client, readme, runtime, demo, kubectl, lease: Mutex::new(USUAL) };
        world.declare(FIRMWARE);
        Ok(world)
    }

    /// Runs to the end what needs a runtime.
    pub(crate) fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// What kubectl answers.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> String {
        self.try_kubectl(arguments).unwrap()
    }

    /// What kubectl answers, or how it refuses.
    pub(crate) fn try_kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.kubectl.clone().args(arguments).read()
    }

    /// `kubectl apply` of an object in the devices' namespace.
    pub(crate) fn apply(&self, object: &Value) {
        let file = tempfile::NamedTempFile::with_suffix(".json").unwrap();
        fs::write(&file, object.to_string()).unwrap();
        self.kubectl(&["-n", DEVICES, "apply", "-f", file.path().to_str().unwrap()]);
    }

    /// `kubectl wait` in the devices' namespace, for a condition or `jsonpath=…`.
    pub(crate) fn wait_for(&self, what: &str, objects: &[&str]) {
        let what = if what.contains('=') { what.to_owned() } else { format!("condition={what}") };
        let waiting = ["-n", DEVICES, "wait", "--timeout=60s", &format!("--for={what}")];
        self.kubectl(&[&waiting, objects].concat());
    }

    /// `kubectl wait --for=condition=Ready device --all`.
    pub(crate) fn devices_are_ready(&self) {
        self.wait_for("Ready", &["device", "--all"]);
    }

    /// Declares a firmware for all devices.
    pub(crate) fn declare(&self, firmware: &str) {
        let declared = self.run(install::declare(&self.client, firmware)).unwrap();
        assert_eq!(declared, LAYOUT.total() as usize);
    }

    /// All Devices.
    pub(crate) fn devices(&self) -> Vec<Device> {
        let api = Api::<Device>::namespaced(self.client.clone(), DEVICES);
        self.run(api.list(&ListParams::default())).unwrap().items
    }

    /// A profile as it is now.
    pub(crate) fn profile(&self, name: &str) -> FaultProfile {
        let api = Api::<FaultProfile>::namespaced(self.client.clone(), DEVICES);
        self.run(api.get(name)).unwrap()
    }

    /// The pods of a namespace whose name begins so and that are ready.
    pub(crate) fn pods(&self, namespace: &str, prefix: &str) -> Vec<PodSeen> {
        let api = Api::<Pod>::namespaced(self.client.clone(), namespace);
        let pods = self.run(api.list(&ListParams::default())).unwrap().items;
        pods.iter().filter(|pod| pod.name_any().starts_with(prefix)).filter_map(PodSeen::of).collect()
    }

    /// The pod of simulated devices on a node.
    pub(crate) fn device_pod(&self, node: u8) -> PodSeen {
        // Whoever watches nodes takes them for lost when the API server was gone for long, and their pods for unready, until the
        // kubelets' own watches, which wait longer and longer between their tries, have told them that.
        wait::until("the pod of devices", 4 * PATIENCE, SOON, || {
            Ok(self.pods(DEVICES, "device-sim-").into_iter().find(|pod| pod.node == node))
        })
        .unwrap()
    }

    /// The end of a test's conversations that lies in a pod.
    pub(crate) fn in_pod(&self, pod: &PodSeen, port: u16) -> End {
        let process = self.processes_of(pod).into_iter().next().unwrap();
        End::new(format!("/proc/{}/ns/net", process.pid), pod.ip, port)
    }

    /// The end of a test's conversations that lies outside the cluster.
    pub(crate) fn outside(&self, port: u16) -> End {
        End::new(self.cluster.plan().netns("outside"), OUTSIDE_ADDRESS, port)
    }

    /// The processes in a pod's containers, as this machine numbers them.
    pub(crate) fn processes_of(&self, pod: &PodSeen) -> Vec<Process> {
        processes::in_pod(&self.cluster.plan().cgroup(), &pod.uid)
    }

    /// The only process of that name in a pod.
    pub(crate) fn process_of(&self, pod: &PodSeen, name: &str) -> Process {
        let found = self.processes_of(pod);
        let named = |process: &&Process| process.name() == name;
        *found.iter().find(named).unwrap_or_else(|| panic!("no {name} in {found:?} of {pod:?}"))
    }

    /// The process of that name among a node's own services.
    pub(crate) fn service_of(&self, node: u8, name: &str) -> Option<Process> {
        self.cluster.service(&plan::node_name(node), name).unwrap()
    }

    /// The page at an address that nodes reach.
    pub(crate) fn page(&self, address: SocketAddr, path: &str) -> Result<String> {
        let answer = network::within(&self.cluster.plan().netns("node1"), || {
            let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        })?;
        match answer.split_once("\r\n\r\n") {
            Some((head, body)) if head.starts_with("HTTP/1.0 200") || head.starts_with("HTTP/1.1 200") => {
                Ok(body.to_owned())
            }
            _ => bail!("{address}{path}: {answer}"),
        }
    }

    /// What a node's agent counts.
    pub(crate) fn agent(&self, node: u8) -> Page {
        Page::read(&self.page((plan::node_address(node), 9977).into(), "/metrics").unwrap())
    }

    /// What the operator that leads counts.
    pub(crate) fn operator(&self) -> Page {
        self.operator_page(&self.operator_pod()).unwrap()
    }

    fn operator_page(&self, pod: &PodSeen) -> Result<Page> {
        Ok(Page::read(&self.page((pod.ip, 8080).into(), "/metrics")?))
    }

    /// The pod of the operator that leads, once it is ready.
    pub(crate) fn operator_pod(&self) -> PodSeen {
        let leads = |pod: &PodSeen| {
            let page = self.operator_page(pod);
            page.is_ok_and(|page| page.count("leader_election_master_status", &[]) == 1)
        };
        wait::until("an operator that leads", PATIENCE, SOON, || {
            Ok(self.operator_pods().into_iter().find(leads))
        })
        .unwrap()
    }

    /// All of the operator's pods that are ready.
    pub(crate) fn operator_pods(&self) -> Vec<PodSeen> {
        self.pods(SYSTEM, "edge-operator-")
    }

    /// A node's agent, once it is ready.
    pub(crate) fn agent_pod(&self, node: u8) -> PodSeen {
        wait::until("the agent", PATIENCE, SOON, || {
            Ok(self.pods(SYSTEM, "chaos-agent-").into_iter().find(|pod| pod.node == node))
        })
        .unwrap()
    }

    /// What a node's agent says of itself.
    pub(crate) fn fault_node(&self, node: u8) -> FaultNode {
        let api = Api::<FaultNode>::all(self.client.clone());
        self.run(api.get(&plan::node_name(node))).unwrap()
    }

    /// The kinds of hooks that a node's agent has on interfaces.
    pub(crate) fn hooks(&self, node: u8) -> Vec<HookKind> {
        let hooks = self.fault_node(node).status.unwrap_or_default().hooks;
        hooks.iter().filter(|hook| hook.attached > 0).map(|hook| hook.hook).collect()
    }

    /// How many packets an agent counted for a profile, by direction and verdict.
    pub(crate) fn counted(&self, node: u8, profile: &str) -> BTreeMap<(&'static str, &'static str), usize> {
        let page = self.agent(node);
        let count = |direction, verdict| {
            let labels = [
                ("namespace", DEVICES),
                ("profile", profile),
                ("direction", direction),
                ("verdict", verdict),
            ];
            page.count("edge_fault_packets_total", &labels)
        };
        let directions = ["ToDevice", "FromDevice"];
        let verdicts = ["pass", "loss", "partition"];
        let pairs = directions.into_iter().flat_map(|one| verdicts.map(|other| (one, other)));
        pairs.map(|(direction, verdict)| ((direction, verdict), count(direction, verdict))).collect()
    }

    /// What simulated devices say truly happened to them: every entry of every device.
    pub(crate) fn histories(&self) -> BTreeMap<String, Vec<Value>> {
        let mut addresses: Vec<_> = (1..=2).map(|node| self.device_pod(node).ip).collect();
        addresses.push(OUTSIDE_ADDRESS);
        let mut histories = BTreeMap::new();
        for address in addresses {
            let page: Value =
                serde_json::from_str(&self.page((address, 8081).into(), "/history").unwrap()).unwrap();
            for device in page["devices"].as_array().unwrap() {
                let entries = device["history"]["entries"].as_array().unwrap().clone();
                histories.insert(device["name"].as_str().unwrap().to_owned(), entries);
            }
        }
        assert_eq!(histories.len(), LAYOUT.total() as usize);
        histories
    }
}

impl PodSeen {
    fn of(pod: &Pod) -> Option<Self> {
        let status = pod.status.as_ref()?;
        let ready = status.conditions.iter().flatten().any(|it| it.type_ == "Ready" && it.status == "True");
        let node = pod.spec.as_ref()?.node_name.as_ref()?.strip_prefix("node")?.parse().ok()?;
        let ip = status.pod_ip.as_ref()?.parse().ok()?;
        let going = pod.metadata.deletion_timestamp.is_some();
        (ready && !going).then(|| Self { name: pod.name_any(), uid: pod.uid().unwrap_or_default(), node, ip })
    }
}

/// Waits until what was applied is what runs.
fn rolled_out(kubectl: &Cmd, workloads: &[&str]) -> Result<()> {
    for workload in workloads {
        let rollout = ["-n", SYSTEM, "rollout", "status", workload, "--timeout=60s"];
        kubectl.clone().args(rollout).step(format!("waiting for {workload}")).run()?;
    }
    Ok(())
}

/// A profile whose faults meet a test's own packets alone.
pub(crate) fn fault(name: &str, targets: &Value, faults: &Value, duration: &str) -> Value {
    json!({
        "apiVersion": "edge-operator.dev/v1alpha1",
        "kind": "FaultProfile",
        "metadata": {"name": name},
        "spec": {
            "targets": targets,
            "match": {"protocol": "UDP", "ports": [PORTS.0.to_string()]},
            "faults": faults,
            "seed": 7,
            "duration": duration,
        },
    })
}

/// Targets: one pod by its name.
pub(crate) fn one_pod(pod: &PodSeen) -> Value {
    json!({"pods": {"selector": {"matchLabels": {"statefulset.kubernetes.io/pod-name": pod.name}}}})
}
