//! What a machine must have for a cluster, asked before anything is made: each missing thing is a sentence that says how
//! to get it.

use std::fs;
use std::path::Path;

use anyhow::{Result, bail};

use super::cgroups;
use crate::binaries::{self, Module};
use crate::cmd::Cmd;
use crate::tools::{self, Need};

/// Checks root, programs and the kernel; installs programs where it can.
///
/// # Errors
/// With all that is missing of the kernel, or the first program.
pub fn check() -> Result<()> {
    if !tools::is_root() {
        bail!(
            "a cluster needs root, for namespaces and control groups: run the same command as root \
             (`sudo -E env PATH=$PATH …`)"
        );
    }
    binaries::check([Module::Kubernetes, Module::Node, Module::Coredns].into_iter().flat_map(Module::names))?;
    tools::program("ip", Need { purpose: "to connect nodes", packages: &["iproute2"] })?;
    tools::program("nft", Need { purpose: "for Service addresses (kube-proxy)", packages: &["nftables"] })?;
    tools::program("mount", Need { purpose: "for volumes (kubelet)", packages: &["mount"] })?;
    let missing = missing_of_kernel();
    if !missing.is_empty() {
        bail!("this kernel cannot run a cluster:\n  {}", missing.join("\n  "));
    }
    Ok(())
}

fn missing_of_kernel() -> Vec<String> {
    let mut missing = Vec::new();
    for (file, kind) in
        [("net", "NET_NS"), ("mnt", "NAMESPACES"), ("pid", "PID_NS"), ("uts", "UTS_NS"), ("ipc", "IPC_NS")]
    {
        if !Path::new("/proc/self/ns").join(file).exists() {
            missing.push(format!("no {file} namespaces: a kernel with CONFIG_{kind}=y"));
        }
    }
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let has = |list: &str, name: &str| list.lines().any(|line| line.split_whitespace().last() == Some(name));
    if !has(&known, "overlay") && !Cmd::new("modprobe").arg("overlay").succeeds() {
        missing.push(
            "no overlay file system, for containers: `modprobe overlay` (CONFIG_OVERLAY_FS)".to_owned(),
        );
    }
    if !has(&known, "cgroup") && !has(&known, "cgroup2") {
        missing.push("no control groups: a kernel with CONFIG_CGROUPS=y".to_owned());
    } else if let Err(error) = cgroups::check() {
        missing.push(format!("{error:#}"));
    }
    if !Cmd::new("nft").args(["--check", "add", "table", "ip", "edge_preflight"]).succeeds() {
        missing
            .push("no nf_tables, for Service addresses: `modprobe nf_tables` (CONFIG_NF_TABLES)".to_owned());
    }
    missing
}
