//! `cluster status`: components, nodes, pods, addresses.

use std::collections::BTreeMap;
use std::fs;

use anyhow::Result;

use super::handle::{Cluster, first_process};
use super::plan::{self, CONTROL_PLANE_NAME};
use super::record::Record;
use super::{down, up};

/// Says how to use a cluster that has just come up.
pub(super) fn introduce(cluster: &Cluster) {
    let name = &cluster.plan().name;
    let option = if name == super::DEFAULT_NAME { String::new() } else { format!(" --name {name}") };
    println!("kubectl:     cargo xtask cluster{option} kubectl get pods --all-namespaces");
    println!("kubeconfig:  export KUBECONFIG={}", cluster.kubeconfig().display());
    println!("away again:  cargo xtask cluster{option} down");
}

/// Prints everything there is to know about the cluster `name`.
///
/// # Errors
/// When there is none or it does not answer.
pub(super) fn show(name: &str) -> Result<()> {
    anyhow::ensure!(crate::tools::is_root(), "a cluster shows itself to root only");
    let Some(record) = Record::read(name) else {
        println!("there is no cluster {name}");
        return print_residue(name);
    };
    let plan = &record.plan;
    let state = match (record.complete, up::is_running(plan)) {
        (true, true) => "up",
        (true, false) => "broken: `cargo xtask cluster up` makes it anew",
        (false, _) => "not up yet, or its `up` was killed: `cargo xtask cluster up` makes it anew",
    };
    println!("cluster {name}: {state}");
    println!("  in {}", plan.dir().display());
    println!("  pods {}, Services {}, DNS {}", plan::PODS, plan::SERVICES, plan::DNS_SERVICE);
    let nodes = plan.node_numbers().map(|number| (plan::node_name(number), plan::node_address(number)));
    let machines = std::iter::once((CONTROL_PLANE_NAME.to_owned(), plan::CONTROL_PLANE)).chain(nodes);
    for (machine, address) in machines {
        let process = first_process(plan, &machine)
            .map_or_else(|_| "down".to_owned(), |process| format!("process {}", process.pid));
        println!("{machine}  {address}  namespace {}  {process}", plan.netns(&machine));
        for (service, (state, starts)) in services(name, &machine) {
            let again = if starts > 1 { format!(", started {starts} times") } else { String::new() };
            println!("  {service}: {state}{again}");
        }
    }
    let cluster = Cluster::open(name)?;
    for what in [&["get", "nodes", "-o", "wide"][..], &["get", "pods", "--all-namespaces", "-o", "wide"]] {
        println!();
        cluster.kubectl()?.args(what).interactive()?;
    }
    Ok(())
}

fn services(name: &str, machine: &str) -> BTreeMap<String, (String, u32)> {
    let shown = plan::dir(name).join(machine).join("log/services.json");
    fs::read(shown).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

fn print_residue(name: &str) -> Result<()> {
    let left = down::residue(name)?;
    if !left.is_empty() {
        println!(
            "but something is left of one, which `cargo xtask cluster down` removes:\n  {}",
            left.join("\n  ")
        );
    }
    Ok(())
}
