//! A VLAN of the kernel's own, hooked at its interface or at the one below it. `cargo xtask test` skips these stories where the kernel
//! has no VLANs.

use super::every_fault_acts;
use crate::support::agent::Hooks;
use crate::support::space::{Namespace, Plug, wire};
use crate::support::stage::{ETH, Family, Stage, TO_DEVICE};

/// The VLAN through which node and device talk here.
const VLAN: &str = "cat-vlan";

/// A stage whose device is behind a VLAN. `is_busy`: packets pass the interface below without a tag, too.
fn behind_vlan(is_busy: bool) -> Stage {
    let stage = Stage::without_device();
    stage.plug_peer();
    let near = Plug { space: &stage.node, interface: TO_DEVICE, addresses: &[] };
    wire(&near, &Plug { space: &stage.device, interface: "below", addresses: &[] });
    let over = |space: &Namespace, below: &str, name: &str, hosts: &[u16]| {
        let all = Family::BOTH.into_iter().flat_map(|family| hosts.iter().map(move |host| (family, *host)));
        let addresses = all.map(|(family, host)| {
            let length = if family == Family::V4 { 24 } else { 64 };
            format!("addr add {}/{length} dev {name}\n", family.ip(1, host))
        });
        let addresses = addresses.collect::<String>();
        space.ip(&format!(
            "link add link {below} name {name} type vlan id 7\n{addresses}link set {name} up\n"
        ));
    };
    over(&stage.node, TO_DEVICE, VLAN, &[1]);
    over(&stage.device, "below", ETH, &[2, 3]);
    if is_busy {
        stage.node.ip(&format!("addr add {}/24 dev {TO_DEVICE}\n", Family::V4.ip(3, 1)));
    }
    let routes = Family::BOTH.map(|family| format!("route add default via {}\n", family.ip(1, 1)));
    stage.device.ip(&routes.concat());
    stage
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn every_fault_acts_at_the_interface_of_a_vlan() {
    let stage = behind_vlan(false);
    for hooks in [Hooks::Tcx, Hooks::Clsact] {
        every_fault_acts(&stage, hooks, VLAN, 64);
    }
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn every_fault_acts_on_tagged_packets_at_the_interface_below_a_vlan() {
    let stage = behind_vlan(true);
    for hooks in [Hooks::Tcx, Hooks::XdpNative] {
        every_fault_acts(&stage, hooks, TO_DEVICE, 64);
    }
}
