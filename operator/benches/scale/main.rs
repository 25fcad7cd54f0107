//! What the operator costs and how fast it is with thousands of devices on bad lines: `cargo xtask bench --scale`, which builds and
//! runs this. All of it is in a network namespace of its own: etcd and kube-apiserver, the operators, and a namespace more for
//! each site of simulated devices, which are processes of this program. A killed run leaves nothing.
//!
//! ```text
//!  plan.rs      how many devices, where
//!  room.rs      network namespaces and the wires between them
//!  site.rs      the devices of one namespace of the cluster: a process, seen from here and from inside
//!  cluster.rs   the API server, its objects, and how many statuses it writes a second
//!  operator.rs  an operator process: started, scraped, ended, killed, weighed
//!  ideal.rs     the lower bound of a cold start: window, retry schedule, writes. Pure
//!  cold.rs      a cold start, and what each device weighs
//!  change.rs    the leader is killed, or ends: until the next one's first command
//! ```

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark: what fails ends it"
)]

mod change;
mod cluster;
mod cold;
mod ideal;
mod operator;
mod plan;
mod room;
mod site;

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use fault_rig::figures::Report;

use self::plan::Plan;

#[derive(Parser)]
struct Args {
    /// Write the figures as JSON to this file, too
    #[arg(long, global = true)]
    json: Option<PathBuf>,
    /// What `cargo bench` adds
    #[arg(long, hide = true, global = true)]
    bench: bool,
    #[command(subcommand)]
    part: Part,
}

#[derive(Subcommand)]
enum Part {
    /// A cold start and changes of the leader; wants root and KUBEBUILDER_ASSETS
    Scale(Plan),
    /// The devices of one site; started by the former
    Site(site::inside::Args),
}

fn main() {
    let Args { json, bench: _, part } = Args::parse();
    match part {
        Part::Site(args) => site::inside::live(&args),
        Part::Scale(plan) => print(&measure(&plan), json),
    }
}

fn measure(plan: &Plan) -> Report {
    // Before any other thread, so that all of them and their children are inside.
    room::enter_a_new_one();
    room::lay_a_way_out();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let method = format!(
            "{} devices in {} namespaces, {} % loss each way by device-sim, real kube-apiserver and etcd",
            plan.devices,
            plan.sites().len(),
            plan.loss_percent
        );
        let mut report = Report::new(method).unwrap();
        let mut world = cold::World::set(plan).await;
        let leader = cold::measure(plan, &mut world, &mut report).await;
        change::measure(plan, &mut world, leader, &mut report).await;
        report
    })
}

fn print(report: &Report, json: Option<PathBuf>) {
    print!("{}", report.table());
    match json {
        Some(file) => std::fs::write(file, report.json().unwrap()).unwrap(),
        None => print!("\n{}", report.marked().unwrap()),
    }
}

/// Says how far it is. Read by `cargo xtask bench`.
fn say(what: impl AsRef<str>) {
    eprintln!("{}", what.as_ref());
}
