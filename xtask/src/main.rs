//! `cargo xtask VERB`: everything that people and CI do with this repository. This file only dispatches;
//! each verb is a file of the library beside it.

use anyhow::Result;
use clap::Parser;
use xtask::args::{Verb, Xtask};

fn main() -> Result<()> {
    match Xtask::parse().verb {
        Verb::BuildEbpf(args) => xtask::build_ebpf::run(&args),
        Verb::Crds(args) => xtask::crds::run(&args),
        Verb::Cluster(args) => xtask::cluster::run(&args),
        Verb::Images(args) => xtask::images::run(&args),
        Verb::Test(args) => xtask::test::run(&args),
        Verb::Check(args) => xtask::check::run(&args),
        Verb::Bench(args) => xtask::bench::run(&args),
        Verb::Demo(args) => xtask::demo::run(&args),
    }
}
