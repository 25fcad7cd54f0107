//! A VLAN of the kernel's own, hooked at its interface or at the one below it. `cargo xtask test` skips these stories where the kernel
//! has no VLANs.

use super::every_fault_acts;
use crate::support::agent::Hooks;
use crate::support::space::{Plug, wire};
use crate::support::stage::{ETH, Family, Stage, TO_DEVICE};

/// The VLAN through which node and device talk here.
const VLAN: &str = "cat-vlan";

/// A VLAN upon that: its packets have two tags.
const SECOND: &str = "cat-qinq";

/// A stage whose device is behind a VLAN. `is_busy`: packets pass the interface below without a tag, too.
fn behind_vlan(is_busy: bool) -> Stage {
    behind_tags(is_busy, &[(VLAN, ETH, "802.1Q")])
}

/// A stage whose device is behind VLANs upon each other, with their names here and there and the kind of their tags.
fn behind_tags(is_busy: bool, tags: &[(&str, &str, &str)]) -> Stage {
    let stage = Stage::without_device();
    stage.plug_peer();
    let near = Plug { space: &stage.node, interface: TO_DEVICE, addresses: &[] };
    wire(&near, &Plug { space: &stage.device, interface: "below", addresses: &[] });
    let (mut here, mut there) = (TO_DEVICE, "below");
    for (near, far, kind) in tags {
        for (space, below, name) in [(&stage.node, here, near), (&stage.device, there, far)] {
            space.ip(&format!(
                "link add link {below} name {name} type vlan proto {kind} id 7\nlink set {name} up\n"
            ));
        }
        (here, there) = (near, far);
    }
    for (space, name, hosts) in [(&stage.node, here, [1].as_slice()), (&stage.device, there, &[2, 3])] {
        let all = Family::BOTH.into_iter().flat_map(|family| hosts.iter().map(move |host| (family, *host)));
        let addresses = all.map(|(family, host)| {
            let length = if family == Family::V4 { 24 } else { 64 };
            format!("addr add {}/{length} dev {name}\n", family.ip(1, host))
        });
        space.ip(&addresses.collect::<String>());
    }
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

mod fq {
    use std::net::SocketAddr;

    use fault_abi::counter::Global;
    use fault_abi::key::Direction;
    use serde_json::json;

    use super::{SECOND, behind_tags};
    use crate::stream;
    use crate::support::agent::{Agent, Holds, Hooks};
    use crate::support::fault::Fault;
    use crate::support::stage::{ETH, Family, TO_DEVICE};

    /// What the kernel takes apart in the line loses all but its first part there, whose others have no ticket.
    #[test]
    #[ignore = "kernel rung: needs root, the eBPF object and the kernel's queue fq"]
    fn super_packets_with_two_tags_pass_the_line_as_they_are() {
        let stage = behind_tags(true, &[("cat-outer", "outer", "802.1ad"), (SECOND, ETH, "802.1Q")]);
        let mut agent = Agent::start(&stage.node, (Hooks::Tcx, Holds::Fq));
        let hooked = agent.hooked();
        assert!(hooked.contains_key(TO_DEVICE), "{hooked:?}");
        for family in Family::BOTH {
            agent.set(&[]);
            let delay = Fault::new("stream", json!({"delay": {"time": "2ms"}}));
            agent.set(&[delay.on(&stream::addresses(family))]);
            let before = agent.line.released().unwrap().unwrap();
            let (device, peer) = (&stage.device, &stage.peer);
            for (from, to, ip) in [(peer, device, family.ip(1, 2)), (device, peer, family.ip(2, 2))] {
                let came = stream::transfer(from, to, SocketAddr::new(ip, stream::PORT));
                assert!(came == stream::bytes(), "to {ip}");
            }
            let segments: u64 = Direction::ALL.map(|direction| agent.total(direction).seen()).iter().sum();
            let held = agent.line.released().unwrap().unwrap() - before;
            assert!(held < segments * 3 / 4, "{held} of {segments} were held one by one");
        }
        for what in [Global::Stray, Global::LineRefused, Global::Unsplit] {
            assert_eq!(agent.global(what), 0, "{what:?}");
        }
        assert_eq!(agent.line.dropped(), 0, "packets lost in the line");
        // A few of the kernel's own come by there, too.
        let foreign = agent.global(Global::Foreign);
        assert!(foreign < 20, "{foreign} parts without a ticket");
    }
}
