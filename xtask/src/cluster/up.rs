//! Bringing a cluster up, step by step. What goes wrong, or Ctrl-C, removes what was made; a run that was killed leaves
//! it to the next, which begins by removing it.

use std::fs;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use super::handle::{ctr, first_process, load_into};
use super::machine::Machine;
use super::plan::{self, CONTROL_PLANE_NAME, Plan};
use super::record::{Lock, Record};
use super::{cgroups, control_plane, down, forward, kubeconfig, network, node, pki, preflight};
use crate::binaries::{self, Binaries, Module};
use crate::cmd::Cmd;
use crate::images::{self, Archive, Image};
use crate::progress::Step;
use crate::{cleanup, interrupt, wait};

/// How long a component may take to answer on a slow machine.
const PATIENCE: Duration = Duration::from_secs(90);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// DNS, and the API server's right to ask kubelets.
const ADDONS: &str = include_str!("addons.yaml");

/// Whether the control plane and all nodes of `plan` have their first process.
#[must_use]
pub(super) fn is_running(plan: &Plan) -> bool {
    all_alive(plan).is_ok()
}

/// # Errors
/// When one has ended; says which.
fn all_alive(plan: &Plan) -> Result<()> {
    first_process(plan, CONTROL_PLANE_NAME)?;
    plan.node_numbers().try_for_each(|number| first_process(plan, &plan::node_name(number)).map(|_| ()))
}

/// Brings `plan` up, unless it is.
///
/// # Errors
/// With what is missing on this machine, or what did not start and the end of its log.
pub(super) fn up(plan: &Plan) -> Result<()> {
    interrupt::check()?;
    preflight::check()?;
    let programs = binaries::ensure(Module::Kubernetes)?.with(binaries::ensure(Module::Node)?);
    let archives = images::archives(&Image::CLUSTER)?;
    interrupt::install()?;
    let lock = Lock::take(&plan.name)?;
    if let Some(record) =
        Record::read(&plan.name).filter(|record| record.complete && is_running(&record.plan))
    {
        if record.plan == *plan {
            eprintln!("the cluster {} is up", plan.name);
            return Ok(());
        }
        bail!("the cluster {} has {} nodes: `cargo xtask cluster down` first", plan.name, record.plan.nodes);
    }
    if !down::residue(&plan.name)?.is_empty() {
        let step = Step::start(format!("removing what is left of an earlier cluster {}", plan.name));
        down::clean(&plan.name)?;
        step.done("");
    }
    Record { plan: plan.clone(), complete: false }.write()?;
    let made = make(plan, &programs, &archives);
    if let Err(error) = made {
        let error = error.context(told(plan));
        let step = Step::start(format!("removing the unfinished cluster {}", plan.name));
        let cleaned = down::clean(&plan.name);
        if cleaned.is_ok() {
            lock.remove();
            step.done("");
        }
        return Err(cleanup::after(error, cleaned));
    }
    Record { plan: plan.clone(), complete: true }.write()
}

fn make(plan: &Plan, programs: &Binaries, archives: &[Archive]) -> Result<()> {
    let step = Step::start(format!("starting the control plane of {}", plan.name));
    pki::write(&plan.dir().join("pki"), plan)?;
    network::make(plan)?;
    cgroups::make(plan)?;
    let mut control_plane = machine(plan, CONTROL_PLANE_NAME, programs);
    control_plane.services = control_plane::services(&control_plane)?;
    control_plane.start(&plan.dir())?;
    for number in plan.node_numbers() {
        start_node(plan, number, programs)?;
    }
    let kubectl = reach(plan, programs)?;
    // Nodes take their first images while the API server starts.
    thread::scope(|scope| {
        let loading: Vec<_> = plan
            .node_numbers()
            .map(|number| scope.spawn(move || load_first(plan, number, archives)))
            .collect();
        wait::until("an answer of the API server", PATIENCE, LOOK_EVERY, || {
            all_alive(plan)?;
            Ok(kubectl.clone().args(["get", "--raw", "/readyz"]).succeeds().then_some(()))
        })?;
        step.done("");
        apply(plan, &kubectl, "nodes.yaml", &nodes(plan)?)?;
        apply(plan, &kubectl, "addons.yaml", ADDONS)?;
        loading
            .into_iter()
            .try_for_each(|node| node.join().map_err(|_| anyhow!("loading images panicked"))?)
    })?;

    let step = Step::start(format!("starting {} nodes", plan.nodes));
    for number in plan.node_numbers() {
        let gate = plan.dir().join(plan::node_name(number)).join("etc").join(node::MAY_START);
        fs::write(&gate, "").with_context(|| format!("writing {}", gate.display()))?;
    }
    wait::until("nodes that are Ready", PATIENCE, LOOK_EVERY, || {
        all_alive(plan)?;
        let waiting =
            kubectl.clone().args(["wait", "--for=condition=Ready", "nodes", "--all", "--timeout=1s"]);
        Ok(waiting.succeeds().then_some(()))
    })?;
    step.done("");

    let step = Step::start("starting DNS");
    wait::until("the cluster's DNS", PATIENCE, LOOK_EVERY, || {
        let rollout =
            ["--namespace", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=1s"];
        Ok(kubectl.clone().args(rollout).succeeds().then_some(()))
    })?;
    step.done("");
    // A signal in the last moment counts, too.
    interrupt::check()
}

/// Starts a node again that was killed.
pub(super) fn restart_node(plan: &Plan, number: u8) -> Result<()> {
    cgroups::forget_containers(plan, number)?;
    let description = plan.dir().join(plan::node_name(number)).join("machine.json");
    super::machine::read(&description)?.start(&plan.dir())?;
    Ok(())
}

fn machine(plan: &Plan, name: &str, programs: &Binaries) -> Machine {
    Machine {
        name: name.to_owned(),
        netns: plan.netns(name),
        dir: plan.dir().join(name),
        pki: plan.dir().join("pki"),
        programs: programs.folders(),
        runs_containers: name != CONTROL_PLANE_NAME,
        services: Vec::new(),
    }
}

fn start_node(plan: &Plan, number: u8, programs: &Binaries) -> Result<()> {
    let mut node = machine(plan, &plan::node_name(number), programs);
    node.services = node::services(plan, number, &node)?;
    node.start(&plan.dir())?;
    Ok(())
}

/// Waits for a node's containerd and loads the images that the cluster itself needs.
fn load_first(plan: &Plan, number: u8, archives: &[Archive]) -> Result<()> {
    let name = plan::node_name(number);
    let version = ctr(plan, number)?.arg("version");
    wait::until(&format!("containerd of {name}"), PATIENCE, LOOK_EVERY, || {
        Ok(version.succeeds().then_some(()))
    })?;
    archives.iter().try_for_each(|archive| load_into(plan, number, &archive.path))
}

/// Makes the API server reachable from the machine and writes the kubeconfig.
fn reach(plan: &Plan, programs: &Binaries) -> Result<Cmd> {
    let target = SocketAddr::from((plan::CONTROL_PLANE, plan::API_PORT));
    let port = forward::start(&plan.dir(), &plan.netns(CONTROL_PLANE_NAME), target)?;
    let server = format!("https://127.0.0.1:{port}");
    let context = format!("edo-{}", plan.name);
    let text = kubeconfig::by_value(&context, &server, &plan.dir().join("pki"), "admin")?;
    let path = plan.dir().join("kubeconfig");
    fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    let cache = plan.dir().join("kubectl-cache");
    Ok(Cmd::new(programs.path("kubectl")?).env("KUBECONFIG", path).env("KUBECACHEDIR", cache))
}

/// The nodes' objects come first, so that each has its range of pods from the start.
fn nodes(plan: &Plan) -> Result<String> {
    let nodes: Vec<_> = plan
        .node_numbers()
        .map(|number| {
            let range = plan::pod_range(number);
            serde_json::json!({
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": plan::node_name(number)},
                "spec": {"podCIDR": range, "podCIDRs": [range]},
            })
        })
        .collect();
    let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": nodes});
    serde_json::to_string(&list).context("writing the nodes' objects")
}

fn apply(plan: &Plan, kubectl: &Cmd, file: &str, text: &str) -> Result<()> {
    let path = plan.dir().join(file);
    fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    // Right after the start, namespaces and default roles may still be on their way.
    let mut last = None;
    let applied = wait::until(&format!("applying {file}"), Duration::from_secs(20), LOOK_EVERY, || {
        match kubectl.clone().args(["apply", "--filename"]).arg(&path).run() {
            Ok(()) => Ok(Some(())),
            Err(error) => {
                last = Some(error);
                Ok(None)
            }
        }
    });
    applied.map_err(|error| last.unwrap_or(error))
}

/// The end of each component's log, for an error.
fn told(plan: &Plan) -> String {
    let mut text = format!("the cluster {} did not come up", plan.name);
    let machines =
        std::iter::once(CONTROL_PLANE_NAME.to_owned()).chain(plan.node_numbers().map(plan::node_name));
    for machine in machines.take_while(|_| !interrupt::seen()) {
        let logs = fs::read_dir(plan.dir().join(&machine).join("log")).into_iter().flatten().flatten();
        for log in logs.filter(|entry| entry.path().extension().is_some_and(|kind| kind == "log")) {
            let said = fs::read_to_string(log.path()).unwrap_or_default();
            let lines: Vec<_> = said.lines().collect();
            let end = lines[lines.len().saturating_sub(6)..].join("\n    ");
            if !end.is_empty() {
                text += &format!("\n  {machine} {}:\n    {end}", log.file_name().display());
            }
        }
    }
    text
}
