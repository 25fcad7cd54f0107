//! The rungs, from what needs nothing to what needs a whole cluster. More come (simulation, other kernels, fuzzing).

use std::fmt;
use std::time::Duration;

use clap::ValueEnum;

use super::program::Program;

/// A set of tests with the same needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Rung {
    /// Decisions, layouts, properties: needs cargo alone
    Pure,
    /// A real etcd and kube-apiserver, no node: needs Go, once
    ControlPlane,
    /// The kernel programs, by test run and by real packets between namespaces: needs root
    Kernel,
    /// The installation as users install it, on a real cluster of two nodes: needs root
    Node,
}

impl Rung {
    /// All of them, in the order in which they run.
    pub const ALL: [Self; 4] = [Self::Pure, Self::ControlPlane, Self::Kernel, Self::Node];

    /// What the names of this rung's test files begin with; the pure one takes all files.
    const fn prefix(self) -> &'static str {
        match self {
            Self::Pure => "",
            Self::ControlPlane => "control_plane_",
            Self::Kernel => "kernel_",
            Self::Node => "node_",
        }
    }

    /// A pattern of this rung's test files, as `cargo test --test` takes it.
    pub(super) fn files(self) -> String {
        format!("{}*", self.prefix())
    }

    /// Are there tests of this rung in the program?
    pub(super) fn has(self, program: &Program) -> bool {
        program.target.starts_with(self.prefix())
    }

    /// Is the program of a rung above the pure one, so that its ignored tests run there?
    pub(super) fn claims(program: &Program) -> bool {
        Self::ALL.iter().any(|rung| *rung != Self::Pure && rung.has(program))
    }

    /// Arguments of the test program.
    pub(super) const fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Pure => &[],
            Self::ControlPlane => &["--ignored"],
            // One at a time: they measure, and they share a machine's network or a cluster.
            Self::Kernel | Self::Node => &["--ignored", "--test-threads=1"],
        }
    }

    /// How long one test program may take before it counts as hung.
    pub(super) const fn limit(self) -> Duration {
        match self {
            Self::Pure | Self::ControlPlane | Self::Kernel => Duration::from_secs(15 * 60),
            Self::Node => Duration::from_secs(30 * 60),
        }
    }
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pure => "pure",
            Self::ControlPlane => "control-plane",
            Self::Kernel => "kernel",
            Self::Node => "node",
        })
    }
}
