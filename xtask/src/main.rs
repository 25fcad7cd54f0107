//! `cargo xtask VERB`: everything that people and CI do with this repository. This file only dispatches;
//! each verb is a file of the library beside it.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use xtask::args::{Verb, Xtask};

fn main() -> ExitCode {
    match run(&Xtask::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", explained(&error));
            // As shells have it for a program that Ctrl-C ended.
            if xtask::interrupt::seen() { ExitCode::from(130) } else { ExitCode::FAILURE }
        }
    }
}

fn run(verb: &Verb) -> Result<()> {
    match verb {
        Verb::BuildEbpf(args) => xtask::build_ebpf::run(args),
        Verb::Crds(args) => xtask::crds::run(args),
        Verb::Cluster(args) => xtask::cluster::run(args),
        Verb::Images(args) => xtask::images::run(args),
        Verb::Test(args) => xtask::test::run(args),
        Verb::Check(args) => xtask::check::run(args),
        Verb::Bench(args) => xtask::bench::run(args),
        Verb::Demo(args) => xtask::demo::run(args),
    }
}

/// An error with its causes, a line each; a backtrace says nothing to who runs a command.
fn explained(error: &anyhow::Error) -> String {
    let causes: String = error.chain().skip(1).map(|cause| format!("\n  because: {cause}")).collect();
    format!("error: {error}{causes}")
}
