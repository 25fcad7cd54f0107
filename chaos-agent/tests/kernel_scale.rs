//! A thousand targets on a real kernel: a change is in the tables in less than a tenth of a second, and its cost
//! does not grow with what stays the same.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use chaos_agent::compile::Limits;
use chaos_agent::diff::Sizes;
use chaos_agent::enforce::{Enforcer, Settings};
use chaos_agent::kernel::aya::{AyaKernel, TableSizes};
use chaos_agent::kernel::hooks::XdpMode;
use chaos_agent::kernel::object;
use chaos_agent::profile::{ObjectName, Profile};
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
fn a_thousand_targets_change_within_a_tenth_of_a_second() {
    let sizes =
        TableSizes { targets: 65_536, rules: 1024, states: 131_072, flows: 1024, peers: 64, protected: 64 };
    let settings = Settings {
        limits: Limits { targets: 65_536, rules: 512, peers: 64, protected: 64 },
        sizes: Sizes { rule_slots: 1024, states: 65_536 },
        flows: 1024,
        xdp: XdpMode::Off,
        has_tcx: true,
    };
    let kernel = AyaKernel::load(object::built_in().unwrap(), sizes, false).unwrap();
    let mut enforcer = Enforcer::new(kernel, settings);
    let mut world = world();
    let server: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    let mut fastest: BTreeMap<&str, Duration> = BTreeMap::new();
    // The fastest of some rounds: what it costs, not who else ran.
    for _ in 0..5 {
        for (what, percent) in [("applied", Some("20%")), ("changed", Some("30%")), ("lifted", None)] {
            // As the agent's thread does while nothing is to be done.
            while enforcer.prepare() {}
            let profiles = percent.map(profile).into_iter();
            world.profiles = profiles.map(|profile| (profile.name.clone(), profile)).collect();
            let began = Instant::now();
            assert!(enforcer.apply(&world, server, BOOT_NS), "{:?}", enforcer.view().failure);
            let took = fastest.entry(what).or_insert(Duration::MAX);
            *took = began.elapsed().min(*took);
            let expected = if percent.is_some() { TARGETS as usize } else { 0 };
            assert_eq!(enforcer.view().states.len(), expected);
        }
    }
    println!("{TARGETS} targets: {fastest:?}");
    assert!(fastest.values().all(|took| *took < Duration::from_millis(100)), "{fastest:?}");
}
