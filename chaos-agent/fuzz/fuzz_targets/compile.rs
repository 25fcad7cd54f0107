//! Any sequence of profiles and devices: compiling neither panics nor exceeds its limits, and the operations bring an
//! in-memory kernel to exactly what was compiled, after which there is nothing more to do.

#![no_main]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use arbitrary::Arbitrary;
use chaos_agent::compile::{Plan, compile};
use chaos_agent::diff::{QUARANTINE_NS, diff, release};
use chaos_agent::kernel::Kernel as _;
use chaos_agent::kernel::fake::FakeKernel;
use chaos_agent::ledger::{Ledger, bindings};
use chaos_agent::peers::{NeighbourEvent, Neighbourhood};
use chaos_agent::profile::{ObjectName, Profile};
use chaos_agent::table::{Capacity, Op};
use chaos_agent::world::{DeviceTarget, World};
use fault_abi::rule::MAX_BINDINGS;
use kube::runtime::watcher::Event;
use libfuzzer_sys::fuzz_target;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Small, so that limits are met.
const CAPACITY: Capacity =
    Capacity { targets: 12, rules: 6, flows: 16, protected: 4, node_addresses: 2, ..Capacity::of_each(8) };

#[derive(Arbitrary, Debug)]
struct Scene {
    profiles: Vec<Wish>,
    devices: Vec<(u8, u8, bool)>,
    node_addresses: Vec<u8>,
    /// Addresses of the Service and of the pods that profiles name as peers; none: that list has not arrived.
    service: Option<Vec<u8>>,
    pods: Option<Vec<u8>>,
}

#[derive(Arbitrary, Debug)]
struct Wish {
    name: u8,
    selects_devices: bool,
    networks: Vec<(u8, u8, bool)>,
    peers: Vec<(u8, u8, bool)>,
    names_service: bool,
    names_pods: bool,
    ports: Vec<(u16, u16)>,
    phases: Vec<(u16, u8, u8)>,
    cutoff: Option<u64>,
    paused: bool,
    /// Which direction and protocol.
    way: u8,
}

/// An address of a few, so that targets meet.
fn address(host: u8, is_v6: bool) -> IpAddr {
    if is_v6 {
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, u16::from(host >> 6), u16::from(host)).into()
    } else {
        Ipv4Addr::new(10, 20, host >> 6, host).into()
    }
}

/// A network around such an address, without bits behind its prefix.
fn network((host, bits, is_v6): (u8, u8, bool)) -> String {
    match address(host, is_v6) {
        IpAddr::V4(ip) => {
            let bits = u32::from(bits % 33);
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            format!("{}/{bits}", Ipv4Addr::from(u32::from(ip) & mask))
        }
        IpAddr::V6(ip) => {
            let bits = u32::from(bits) % 129;
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            format!("{}/{bits}", Ipv6Addr::from(u128::from(ip) & mask))
        }
    }
}

fn profile(wish: &Wish) -> Option<Profile> {
    let name = format!("p{}", wish.name % 8);
    let cidrs: Vec<String> = wish.networks.iter().take(6).map(|one| network(*one)).collect();
    let targets = if wish.selects_devices || cidrs.is_empty() {
        json!({"devices": {"selector": {"matchLabels": {"site": "berlin"}}}})
    } else {
        json!({"cidrs": cidrs})
    };
    let mut peers: Vec<Value> = wish.peers.iter().take(4).map(|one| json!({"cidr": network(*one)})).collect();
    peers.extend(wish.names_service.then(|| json!({"service": "broker"})));
    peers.extend(wish.names_pods.then(|| json!({"pods": {"matchLabels": {"app": "broker"}}})));
    let ports: Vec<String> =
        wish.ports.iter().take(20).map(|(a, b)| format!("{}-{}", a.min(b), a.max(b))).collect();
    let phases: Vec<Value> = wish.phases.iter().take(70).map(|phase| self::phase(*phase)).collect();
    let direction = ["Both", "ToDevice", "FromDevice"][usize::from(wish.way % 3)];
    let mut spec = json!({"targets": targets, "timeline": phases, "paused": wish.paused, "direction": direction});
    let protocol = [None, Some("UDP"), Some("TCP"), Some("ICMP")][usize::from(wish.way / 3 % 4)];
    if !peers.is_empty() || !ports.is_empty() {
        spec["match"] = json!({"peers": peers, "ports": ports});
    }
    if let Some(protocol) = protocol {
        spec["match"]["protocol"] = protocol.into();
    }
    let object = json!({
        "apiVersion": "edge-operator.dev/v1alpha1", "kind": "FaultProfile",
        "metadata": {"namespace": "demo", "name": name, "uid": format!("uid-{name}-{}", wish.name / 128), "generation": 1},
        "spec": spec,
        "status": {
            "phase": "Active", "startedAt": "2026-01-01T00:00:00.000000Z", "expiresAt": "2026-01-01T00:10:00.000000Z",
            "cutoff": wish.cutoff.map_or((1_u64 << 53) - 1, |cutoff| cutoff >> 11),
            "conditions": [{"type": "Accepted", "status": "True", "reason": "Accepted", "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1}],
        },
    });
    let object = serde_json::from_value(object).ok()?;
    Profile::parse(&object).ok()
}

/// One kind of fault, or several of what is done to packets that stay; a few of them are not allowed, and their profiles are none.
fn phase((milliseconds, kind, amount): (u16, u8, u8)) -> Value {
    let percent = format!("{}%", amount % 101);
    let distribution = ["Uniform", "Normal", "Pareto"][usize::from(amount % 3)];
    let delay = json!({
        "time": format!("{}ms", u32::from(amount) * 7), "jitter": format!("{}us", u32::from(amount % 16) * 999),
        "distribution": distribution, "correlation": percent,
    });
    let faults = match kind % 10 {
        0 => json!({"loss": {"percent": percent}}),
        1 => json!({"loss": {"every": u32::from(amount) + 1, "scope": "Flow"}}),
        2 => json!({"loss": {"gilbertElliott": {"enterBurst": format!("{}%", kind / 10), "leaveBurst": percent}}}),
        3 => json!({"partition": {"mode": if amount % 2 == 0 { "Drop" } else { "Reject" }}}),
        4 => json!({"corrupt": {"percent": percent}}),
        5 => json!({"duplicate": {"percent": percent}}),
        6 => json!({"delay": delay}),
        7 => json!({"reorder": {"percent": percent, "by": format!("{}us", u32::from(amount) * 40)}}),
        8 => json!({"rate": {
            "bitsPerSecond": format!("{}k", u32::from(amount) + 1), "burst": (u32::from(kind) * 100).to_string(),
            "queue": format!("{}ms", u32::from(amount) * 4),
        }}),
        _ => json!({
            "loss": {"percent": percent}, "corrupt": {"percent": percent}, "duplicate": {"percent": percent}, "delay": delay,
            "reorder": {"percent": percent, "by": "1ms"}, "rate": {"bitsPerSecond": "1M", "burst": "15k", "queue": "100ms"},
        }),
    };
    json!({"for": format!("{milliseconds}ms"), "faults": faults})
}

fn world(scene: &Scene) -> World {
    let mut world = World { node: "n".to_owned(), ..World::default() };
    for profile in scene.profiles.iter().take(12).filter_map(profile) {
        world.profiles.insert(profile.name.clone(), profile);
    }
    for (host, port, is_v6) in scene.devices.iter().take(24) {
        let name = ObjectName { namespace: "demo".to_owned(), name: format!("d{host}-{port}") };
        let device = DeviceTarget {
            labels: BTreeMap::from([("site".to_owned(), "berlin".to_owned())]),
            port: 5683 + u16::from(*port % 3),
            addresses: vec![(address(*host, *is_v6), (port % 2 == 0).then(|| "n".to_owned()))],
        };
        world.devices.insert(name, device);
    }
    world.neighbours = neighbours(scene);
    world.node_addresses = scene.node_addresses.iter().take(4).map(|host| address(*host, false)).collect();
    world
}

/// A list as a watch brings it.
fn list<K: DeserializeOwned>(objects: Vec<Value>) -> Vec<Event<K>> {
    let objects = objects.into_iter().filter_map(|object| serde_json::from_value(object).ok());
    let mut events = vec![Event::Init];
    events.extend(objects.map(Event::InitApply));
    events.push(Event::InitDone);
    events
}

/// What peers are found in.
fn neighbours(scene: &Scene) -> Neighbourhood {
    let mut all = Neighbourhood::default();
    let mut hear = |event| all.take("demo".to_owned(), event);
    let hosts = |hosts: &[u8]| hosts.iter().take(12).map(|host| address(*host, false)).collect::<Vec<_>>();
    if let Some(service) = &scene.service {
        let metadata = json!({"namespace": "demo", "name": "broker"});
        let service = json!({"metadata": metadata, "spec": {"externalIPs": hosts(service)}});
        list(vec![service]).into_iter().map(NeighbourEvent::Service).for_each(|event| _ = hear(event));
        list(Vec::new()).into_iter().map(NeighbourEvent::Slice).for_each(|event| _ = hear(event));
    }
    if let Some(pods) = &scene.pods {
        let pod = |(number, ip): (usize, IpAddr)| {
            json!({
                "metadata": {"namespace": "demo", "name": format!("b{number}"), "labels": {"app": "broker"}},
                "spec": {"containers": []}, "status": {"podIP": ip},
            })
        };
        let pods = hosts(pods).into_iter().enumerate().map(pod).collect();
        list(pods).into_iter().map(NeighbourEvent::Pod).for_each(|event| _ = hear(event));
    }
    all
}

/// A profile that names peers acts on none but some.
fn nobody_is_not_everybody(world: &World, plan: &Plan) {
    for profile in world.profiles.values().filter(|profile| !profile.peers.is_empty()) {
        assert!(plan.rules.get(&profile.uid).is_none_or(|spec| !spec.peers.is_empty()), "{}", profile.name);
    }
}

struct Node {
    kernel: FakeKernel,
    ledger: Ledger,
    now_ns: u64,
}

impl Node {
    fn reach(&mut self, plan: &Plan) -> usize {
        let ops = diff(&self.ledger, plan, CAPACITY);
        self.perform(&ops);
        let cleared = release(&self.ledger, self.now_ns, usize::MAX);
        self.perform(&cleared);
        ops.len() + cleared.len()
    }

    fn perform(&mut self, ops: &[Op]) {
        for op in ops {
            assert!(self.kernel.perform(op).is_ok(), "{op:?}");
            self.ledger.record(op, self.now_ns);
        }
    }
}

fn holds_together(plan: &Plan, node: &Node) {
    assert!(plan.entries.len() <= 3 * CAPACITY.targets as usize);
    assert!(plan.rules.len() <= CAPACITY.rules as usize);
    for (place, spec) in &plan.entries {
        assert!(spec.bindings.len() <= MAX_BINDINGS);
        let Some(entry) = node.kernel.entries.get(place) else { panic!("{place:?} is not in the kernel") };
        assert_eq!(bindings(entry).len(), spec.bindings.len(), "{place:?}");
        for (binding, bound) in bindings(entry).iter().zip(&spec.bindings) {
            assert_eq!(binding.key, bound.key);
            let Some(rule) = node.kernel.rule_of(binding) else { panic!("a handle without a rule") };
            assert_eq!(rule.phases, plan.rules[&bound.uid].rule.phases);
            assert!(node.kernel.states.contains(&binding.state), "counters for each binding");
        }
    }
    assert_eq!(node.kernel.entries.len(), plan.entries.len(), "nothing else is in the kernel");
}

fuzz_target!(|scenes: Vec<Scene>| {
    let mut node = Node { kernel: FakeKernel::default(), ledger: Ledger::default(), now_ns: 1 };
    let mut last = Plan::default();
    for scene in scenes.iter().take(6) {
        let world = world(scene);
        last = compile(&world, CAPACITY, node.now_ns, |_| u64::MAX);
        nobody_is_not_everybody(&world, &last);
        node.reach(&last);
        // Later than any quarantine: slots are free again, whatever was there before.
        node.now_ns += QUARANTINE_NS;
        node.reach(&last);
    }
    holds_together(&last, &node);
    node.now_ns += QUARANTINE_NS;
    node.reach(&last);
    let rest: Vec<Op> = diff(&node.ledger, &last, CAPACITY);
    assert!(rest.is_empty(), "there is still something to do: {rest:?}");
});
