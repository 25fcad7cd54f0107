//! The rungs, from what needs nothing to what needs a whole cluster.

use std::fmt;
use std::time::Duration;

use clap::ValueEnum;

use super::program::Program;

/// The program that runs the kernel programs by test run.
const ON_RIGS: &str = "kernel_test_run";

/// A set of tests with the same needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Rung {
    /// Decisions, layouts, properties: needs cargo alone
    Pure,
    /// The operator, its devices and an API server in memory, simulated, many seeds, see `--seeds`: needs cargo alone
    Sim,
    /// A real etcd and kube-apiserver, no node: needs Go, once
    ControlPlane,
    /// The kernel programs, by test run and by real packets between namespaces: needs root
    Kernel,
    /// The agent's kernel rung again under other kernels, in qemu without KVM, which takes some twenty minutes of a core for each: Debian's oldest and newest,
    /// see `--all`
    Kernels,
    /// The installation as users install it, on a real cluster of two nodes: needs root
    Node,
    /// The agent's fuzz targets, each for a while, see `--seconds`: needs a C++ compiler
    Fuzz,
}

impl Rung {
    /// All of them, in the order in which they run.
    pub const ALL: [Self; 7] =
        [Self::Pure, Self::Sim, Self::ControlPlane, Self::Kernel, Self::Kernels, Self::Node, Self::Fuzz];

    /// Those that run when none is named: under emulation a program takes ten times as long, and fuzzing takes as long as one likes.
    pub const DEFAULT: [Self; 5] = [Self::Pure, Self::Sim, Self::ControlPlane, Self::Kernel, Self::Node];

    /// What the names of this rung's test files begin with; the pure one takes all files.
    const fn prefix(self) -> &'static str {
        match self {
            Self::Pure => "",
            Self::Sim => "sim_",
            Self::ControlPlane => "control_plane_",
            Self::Kernel | Self::Kernels => "kernel_",
            Self::Node => "node_",
            Self::Fuzz => "fuzz_",
        }
    }

    /// Are its tests in programs that `cargo test` builds?
    pub(super) fn has_programs(self) -> bool {
        self != Self::Fuzz
    }

    /// A pattern of this rung's test files, as `cargo test --test` takes it.
    pub(super) fn files(self) -> String {
        format!("{}*", self.prefix())
    }

    /// Are there tests of this rung in the program?
    pub(super) fn has(self, program: &Program) -> bool {
        // Other crates' programs measure, or build.
        let is_ours = self != Self::Kernels || program.folder.ends_with("chaos-agent");
        self.has_programs() && is_ours && program.target.starts_with(self.prefix())
    }

    /// Is the program of a rung above the pure one, so that its ignored tests run there?
    pub(super) fn claims(program: &Program) -> bool {
        Self::ALL.iter().any(|rung| *rung != Self::Pure && rung.has(program))
    }

    /// Arguments of the test program: which of its tests are the rung's.
    pub(super) const fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Pure | Self::Fuzz => &[],
            // What they found is of interest also when it is as it shall be.
            Self::Sim | Self::Node => &["--ignored", "--show-output"],
            Self::ControlPlane | Self::Kernel | Self::Kernels => &["--ignored"],
        }
    }

    /// Arguments of the test program: whether its tests run one at a time.
    pub(super) fn order(self, program: &Program) -> &'static [&'static str] {
        match self {
            Self::Pure | Self::ControlPlane | Self::Fuzz => &[],
            // Each story has maps and programs of its own, and no packet leaves them.
            Self::Kernel if program.target == ON_RIGS => &[],
            // Each of them uses all processors; or they measure, and share a machine's network or a cluster.
            Self::Sim | Self::Kernel | Self::Kernels | Self::Node => &["--test-threads=1"],
        }
    }

    /// Does it run beside the others, in the time that they leave? Its clocks are simulated and nobody's but its own: a busy machine
    /// changes how long it takes and nothing else.
    pub(super) const fn is_beside(self) -> bool {
        matches!(self, Self::Sim)
    }

    /// How long one test program may take before it counts as hung.
    pub(super) const fn limit(self) -> Duration {
        match self {
            Self::Pure | Self::ControlPlane | Self::Kernel | Self::Fuzz => Duration::from_secs(15 * 60),
            // The simulation takes what the others leave.
            Self::Node | Self::Sim => Duration::from_secs(30 * 60),
            // Emulated, and the verifier takes seconds for each of the programs.
            Self::Kernels => Duration::from_secs(45 * 60),
        }
    }
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pure => "pure",
            Self::Sim => "sim",
            Self::ControlPlane => "control-plane",
            Self::Kernel => "kernel",
            Self::Kernels => "kernels",
            Self::Node => "node",
            Self::Fuzz => "fuzz",
        })
    }
}
