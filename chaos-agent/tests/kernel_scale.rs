//! A thousand targets on a real kernel: it takes each change in one round, and the output says how long that took.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use chaos_agent::enforce::{Enforcer, Settings};
use chaos_agent::kernel::Ahead;
use chaos_agent::kernel::aya::AyaKernel;
use chaos_agent::kernel::hooks::XdpMode;
use chaos_agent::kernel::object;
use chaos_agent::profile::{ObjectName, Profile};
use chaos_agent::table::Capacity;
use chaos_agent::world::{DeviceTarget, World};
use jiff::Timestamp;
use serde_json::json;

const TARGETS: u32 = 1000;
const BOOT_NS: u64 = 1_000_000_000;

fn named(name: &str) -> ObjectName {
    ObjectName { namespace: "demo".to_owned(), name: name.to_owned() }
}

/// Devices of 20 pods, told apart by their ports.
fn world() -> World {
    let device = |number: u32| {
        let [_, _, _, pod] = (number / 50).to_be_bytes();
        let at = IpAddr::from(Ipv4Addr::new(10, 244, 1, pod));
        let labels = BTreeMap::from([("site".to_owned(), "berlin".to_owned())]);
        let port = 5683 + u16::try_from(number % 50).unwrap();
        DeviceTarget { labels, port, addresses: vec![(at, Some("node1".to_owned()))] }
    };
    let devices = (0..TARGETS).map(|number| (named(&format!("pump-{number}")), device(number))).collect();
    World { node: "node1".to_owned(), devices, ..World::default() }
}

fn profile(percent: &str) -> Profile {
    let object = json!({
        "apiVersion": "edge-operator.dev/v1alpha1", "kind": "FaultProfile",
        "metadata": {"namespace": "demo", "name": "p", "uid": "u", "generation": 1},
        "spec": {"targets": {"devices": {"selector": {"matchLabels": {"site": "berlin"}}}},
            "faults": {"loss": {"percent": percent}}, "duration": "10m"},
        "status": {"phase": "Active", "cutoff": edge_api::choose::MAX_RANK,
            "startedAt": "2026-01-01T00:00:00.000000Z", "expiresAt": "2026-01-01T00:10:00.000000Z",
            "conditions": [{"type": "Accepted", "status": "True", "reason": "Accepted", "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
    });
    Profile::parse(&serde_json::from_value(object).unwrap()).unwrap()
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn a_thousand_targets_come_change_and_go_in_one_round_each() {
    let capacity = Capacity { targets: 65_536, rules: 512, flows: 1024, ..Capacity::of_each(64) };
    let settings = Settings { capacity, xdp: XdpMode::Off, has_tcx: true };
    let kernel = AyaKernel::load(object::built_in().unwrap(), capacity, false).unwrap();
    let mut enforcer = Enforcer::new(kernel, settings);
    let mut world = world();
    let server: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    for (what, percent) in [("applied", Some("20%")), ("changed", Some("30%")), ("lifted", None)] {
        // As the agent's thread does while nothing is to be done.
        while enforcer.prepare() != Ahead::Done {}
        let profiles = percent.map(profile).into_iter();
        world.profiles = profiles.map(|profile| (profile.name.clone(), profile)).collect();
        let began = Instant::now();
        assert!(enforcer.apply(&world, server, BOOT_NS), "{:?}", enforcer.view().failure);
        println!("{TARGETS} targets {what} in {:?}", began.elapsed());
        let expected = if percent.is_some() { TARGETS as usize } else { 0 };
        assert_eq!(enforcer.view().states.len(), expected);
    }
}
