//! The command line: one variant a verb. What a verb takes is declared in the verb's own file.

use clap::{Parser, Subcommand};

/// Builds, tests and shows this project.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, max_term_width = 110)]
pub struct Xtask {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What `cargo xtask` can do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Build the kernel programs (installs the linker that fits the machine's compiler)
    BuildEbpf(crate::build_ebpf::Args),
    /// Write the custom resource definitions to deploy/crds
    Crds(crate::crds::Args),
    /// A real Kubernetes of several nodes on this machine, without Docker or KVM
    Cluster(crate::cluster::Args),
    /// Write OCI image archives, without Docker
    Images(crate::images::Args),
    /// Run every test rung that this machine can run
    Test(crate::test::Args),
    /// Check what is generated or documented against what is there
    Check(crate::check::Args),
    /// Measure what the kernel programs cost a packet
    Bench(crate::bench::Args),
    /// Show the whole thing: cluster, operator, devices, real packet loss, and the report
    Demo(crate::demo::Args),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Xtask::command().debug_assert();
    }
}
