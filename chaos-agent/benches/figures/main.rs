//! What packets pay on their way, how fast rules come and go, and how that compares with others: `cargo xtask bench` with `--paths`,
//! `--replace`, `--line`, `--cluster` or `--vm`, which builds and runs this. Each part makes network namespaces of its own and is bounded in
//! time; what is compared is measured in turn, since other work on the machine comes and goes.
//!
//! ```text
//!  paths.rs     real packets between namespaces: bare, hooks, splitter, delay line
//!  replace.rs   the rules of 65,536 targets are replaced under traffic
//!  line.rs      the delay line's userspace engine by itself: packets a second, and how late they leave it
//!  apply.rs     from a write to a real API server to the first packet that is hit
//!  machine.rs   in an emulated machine: instructions, and how exact a delay is, beside bare interfaces and tc netem
//!  speed.rs     there, too: how fast TCP is under a delay, beside tc netem
//!  soak.rs      counts what a processor does, by soaking up the rest
//!  measure.rs   clocks, quantiles
//! ```

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark: what fails ends it"
)]

mod apply;
mod line;
mod machine;
mod measure;
mod paths;
mod replace;
mod soak;
mod speed;
mod support;

use std::path::PathBuf;

use chaos_agent::args::EngineChoice;
use clap::{Parser, Subcommand};
use fault_rig::figures::Report;

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
    /// Real packets between namespaces
    Paths {
        /// The delay line's engine
        #[arg(long, value_enum, default_value_t)]
        engine: EngineChoice,
        /// Rounds through all cases; the best of a case counts
        #[arg(long, default_value_t = 15)]
        rounds: u32,
    },
    /// The rules of many targets are replaced
    Replace {
        /// Targets
        #[arg(long, default_value_t = 65_536)]
        targets: u32,
        /// Replacements
        #[arg(long, default_value_t = 11)]
        rounds: u32,
    },
    /// The delay line's userspace engine by itself
    Line {
        /// Seconds for each load
        #[arg(long, default_value_t = 3)]
        seconds: u64,
        /// Threads that do nothing but take CPU time meanwhile
        #[arg(long, default_value_t = 0)]
        busy: u32,
    },
    /// From a write to an API server to the first packet that is hit; wants KUBEBUILDER_ASSETS
    Apply {
        /// Targets
        #[arg(long, default_value_t = 1_000)]
        targets: u32,
        /// Profiles, one after the other
        #[arg(long, default_value_t = 100)]
        profiles: u32,
    },
    /// In a machine in qemu whose clock counts instructions
    Machine {
        /// The delay line's engine
        #[arg(long, value_enum, default_value_t)]
        engine: EngineChoice,
        /// Rounds through all cases; the median of a case counts
        #[arg(long, default_value_t = 3)]
        rounds: u32,
    },
}

fn main() {
    let Args { json, bench: _, part } = Args::parse();
    let report = match part {
        Part::Paths { engine, rounds } => paths::measure(&paths::Plan { engine, rounds, ..paths::WHOLE }),
        Part::Replace { targets, rounds } => replace::measure(targets, rounds),
        Part::Line { seconds, busy } => line::measure(seconds, busy),
        Part::Apply { targets, profiles } => apply::measure(targets, profiles),
        Part::Machine { engine, rounds } => {
            machine::measure(&machine::Plan { engine, rounds, ..machine::WHOLE })
        }
    };
    print(&report, json);
}

fn print(report: &Report, json: Option<PathBuf>) {
    print!("{}", report.table());
    match json {
        Some(file) => std::fs::write(file, report.json().unwrap()).unwrap(),
        None => print!("\n{}", report.marked().unwrap()),
    }
}
