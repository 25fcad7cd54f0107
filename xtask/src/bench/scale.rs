//! `cargo xtask bench --scale`: the operator's benchmark `scale`, which runs etcd, kube-apiserver, operators and devices in network
//! namespaces of its own.

use std::path::Path;

use anyhow::Result;
use fault_rig::figures::Report;

use super::figures;

/// The operator's benchmark.
const NAME: &str = "scale";

/// Builds and runs it; a missed aim is shown and is no error.
///
/// # Errors
/// When it does not build, when etcd or kube-apiserver cannot be built, or when the benchmark fails, with what it said.
pub(super) fn run(program: Option<&Path>, devices: u32, changes: u32) -> Result<Report> {
    let program = program.map_or_else(|| figures::build(NAME), |program| Ok(program.to_owned()))?;
    let assets = crate::test::control_plane()?;
    let (devices, changes) = (devices.to_string(), changes.to_string());
    let arguments = [NAME, "--devices", &devices, "--changes", &changes];
    let report = figures::run(&program, "a cold start and changes of the leader", &arguments, &assets)?;
    print!("{}", report.table());
    Ok(report)
}
