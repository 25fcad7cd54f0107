//! A cluster that is up, as the demo and the tests of the node rung use it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use super::machine::MARK;
use super::plan::{self, Plan};
use super::processes::Process;
use super::record::{Lock, Record};
use super::{down, forward, network, node, processes, up};
use crate::binaries::{self, Module};
use crate::cmd::Cmd;
use crate::progress::Step;
use crate::wait;

/// What [`Cluster::up`] is asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its name, which tells it from others on this machine.
    pub name: String,
    /// How many nodes.
    pub nodes: u8,
}

impl Default for Options {
    fn default() -> Self {
        Self { name: super::DEFAULT_NAME.to_owned(), nodes: 2 }
    }
}

/// A cluster that was brought up. Dropping it leaves it up; [`Cluster::down`] removes it.
#[derive(Clone, Debug)]
pub struct Cluster {
    plan: Plan,
}

impl Cluster {
    /// Brings it up and waits until its nodes and its DNS are ready; one that is up already is taken as it is. On an
    /// error or Ctrl-C what was made is removed.
    ///
    /// # Errors
    /// With what is missing on this machine, or what did not start and the end of its log.
    pub fn up(options: &Options) -> Result<Self> {
        let plan = Plan::new(&options.name, options.nodes)?;
        up::up(&plan)?;
        Ok(Self { plan })
    }

    /// The cluster `name`, which must be up.
    ///
    /// # Errors
    /// When it is not.
    pub fn open(name: &str) -> Result<Self> {
        match Record::read(name) {
            Some(record) if record.complete && up::is_running(&record.plan) => Ok(Self { plan: record.plan }),
            Some(_) => bail!("the cluster {name} is broken or not up yet; `cargo xtask cluster up` mends it"),
            None => bail!(
                "there is no cluster {name} (that this user can see); `cargo xtask cluster up` makes it"
            ),
        }
    }

    /// Removes it: no process, namespace, interface, mount, control group or file is left.
    ///
    /// # Errors
    /// With what could not be removed.
    pub fn down(self) -> Result<()> {
        Self::down_by_name(&self.plan.name)
    }

    /// Removes whatever there is of the cluster `name`, up or broken.
    ///
    /// # Errors
    /// With what could not be removed.
    pub fn down_by_name(name: &str) -> Result<()> {
        if !crate::tools::is_root() {
            bail!("removing a cluster needs root");
        }
        let name = &Plan::new(name, 1)?.name;
        let lock = Lock::take(name)?;
        let found = down::residue(name)?;
        if found.is_empty() {
            lock.remove();
            eprintln!("there is nothing of a cluster {name}");
            return Ok(());
        }
        let step = Step::start(format!("removing the cluster {name}"));
        down::clean(name)?;
        let left = down::residue(name)?;
        if !left.is_empty() {
            bail!("not everything could be removed:\n  {}", left.join("\n  "));
        }
        lock.remove();
        step.done("nothing is left");
        Ok(())
    }

    /// Its names and addresses.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// A kubeconfig that works from this machine.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.plan.dir().join("kubeconfig")
    }

    /// kubectl for it, without arguments yet.
    ///
    /// # Errors
    /// When kubectl cannot be built.
    pub fn kubectl(&self) -> Result<Cmd> {
        let kubectl = binaries::ensure_some(Module::Kubernetes, &["kubectl"])?;
        let cache = self.plan.dir().join("kubectl-cache");
        Ok(Cmd::new(kubectl.path("kubectl")?).env("KUBECONFIG", self.kubeconfig()).env("KUBECACHEDIR", cache))
    }

    /// Starts a program in a network namespace of the cluster (`cp`, `node1`, one made by
    /// [`Cluster::add_outside_namespace`]). It is found by [`Cluster::down`]; who starts it should end it before.
    ///
    /// # Errors
    /// When the namespace is missing or the program does not start.
    pub fn run_in_netns(&self, machine: &str, mut command: Command) -> Result<Child> {
        command.env(MARK, self.plan.dir());
        network::within(&self.plan.netns(machine), || {
            command
                .spawn()
                .with_context(|| format!("starting {} in {machine}", command.get_program().display()))
        })
    }

    /// Makes a network namespace outside the cluster with `addresses` of 10.20.0.0/24 on its interface `eth0`; pods and
    /// it reach each other with their own addresses. 10.20.0.1 is the gateway.
    ///
    /// # Errors
    /// When the name or an address does not fit or is taken.
    pub fn add_outside_namespace(&self, name: &str, addresses: &[Ipv4Addr]) -> Result<()> {
        // It names an interface on the bridge, and those names are short.
        Plan::new(name, 1)?;
        anyhow::ensure!(name.len() <= 15, "the name {name} is too long for an interface (15 at most)");
        let outside = |address: &Ipv4Addr| address.octets()[..3] == plan::OUTSIDE_GATEWAY.octets()[..3];
        if let Some(address) =
            addresses.iter().find(|address| !outside(address) || **address == plan::OUTSIDE_GATEWAY)
        {
            bail!("{address} is not in 10.20.0.0/24, or is its gateway");
        }
        network::add_outside(&self.plan, name, addresses)
    }

    /// Loads an OCI archive into all nodes.
    ///
    /// # Errors
    /// When a node refuses it.
    pub fn load_image(&self, archive: &Path) -> Result<()> {
        let name = archive.file_stem().unwrap_or_default().to_string_lossy();
        let step = Step::start(format!("loading {name} into {} nodes", self.plan.nodes));
        thread::scope(|scope| {
            let load = |number| scope.spawn(move || load_into(&self.plan, number, archive));
            let loading: Vec<_> = self.plan.node_numbers().map(load).collect();
            loading
                .into_iter()
                .try_for_each(|node| node.join().map_err(|_| anyhow!("loading an image panicked"))?)
        })?;
        step.done("");
        Ok(())
    }

    /// The first process of each node, by number; killing one kills the node with everything in it.
    ///
    /// # Errors
    /// When a node is down.
    pub fn node_pids(&self) -> Result<Vec<Process>> {
        self.plan.node_numbers().map(|number| first_process(&self.plan, &plan::node_name(number))).collect()
    }

    /// Kills node `number`, as a power cut does, and waits until its last process is gone. Its network namespace stays.
    ///
    /// # Errors
    /// When it was down or does not end.
    pub fn kill_node(&self, number: u8) -> Result<()> {
        let first = first_process(&self.plan, &plan::node_name(number))?;
        first.kill();
        // The first process goes last: the kernel ends its pid namespace before.
        wait::until_done("the node's end", Duration::from_secs(20), Duration::from_millis(10), || {
            Ok((!first.is_alive() && processes::identify(first.pid).is_none()).then_some(()))
        })
    }

    /// Starts node `number` again after [`Cluster::kill_node`], and waits until the API server sees it Ready.
    ///
    /// # Errors
    /// When it does not get ready.
    pub fn start_node(&self, number: u8) -> Result<()> {
        up::restart_node(&self.plan, number)?;
        let node = format!("node/{}", plan::node_name(number));
        self.kubectl()?.args(["wait", "--for=condition=Ready", &node, "--timeout=60s"]).run()
    }

    /// Makes a TCP address that `machine` reaches reachable on this machine's loopback, for as long as the cluster is
    /// up, and returns the port. Service addresses are reached from nodes.
    ///
    /// # Errors
    /// When the machine is missing.
    pub fn forward(&self, machine: &str, target: SocketAddr) -> Result<u16> {
        forward::start(&self.plan.dir(), &self.plan.netns(machine), target)
    }
}

/// The first process of a machine, which must be alive.
pub(super) fn first_process(plan: &Plan, machine: &str) -> Result<Process> {
    let note = plan.dir().join(machine).join("first-process.json");
    let text = std::fs::read(&note).with_context(|| format!("{machine} was never started"))?;
    let process: Process =
        serde_json::from_slice(&text).with_context(|| format!("reading {}", note.display()))?;
    anyhow::ensure!(process.is_alive(), "{machine} is down");
    Ok(process)
}

/// `ctr` for a node's containerd, through its socket as seen from outside.
pub(super) fn ctr(plan: &Plan, number: u8) -> Result<Cmd> {
    let first = first_process(plan, &plan::node_name(number))?;
    let socket = format!("/proc/{}/root{}", first.pid, node::CONTAINERD);
    let ctr = binaries::ensure_some(Module::Node, &["ctr"])?;
    Ok(Cmd::new(ctr.path("ctr")?).args(["--address", &socket]))
}

/// Loads an archive into one node.
pub(super) fn load_into(plan: &Plan, number: u8, archive: &Path) -> Result<()> {
    ctr(plan, number)?
        .args(["--namespace", "k8s.io", "images", "import"])
        .arg(archive)
        .run()
        .with_context(|| format!("loading {} into {}", archive.display(), plan::node_name(number)))
}
