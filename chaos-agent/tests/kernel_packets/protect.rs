//! What a node needs goes on under a partition of everything: its own way to the API server, its kubelet, DNS,
//! probes, and the link's own upkeep. Conversations of others by the same addresses do not.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use chaos_agent::profile::ObjectName;
use chaos_agent::table::Capacity;
use chaos_agent::world::PodTarget;
use fault_abi::counter::Global;
use fault_abi::key::{PROTOCOL_TCP, PROTOCOL_UDP};
use serde_json::json;

use crate::support::agent::{Agent, CAPACITY, Hooks, Start};
use crate::support::conversation::{Conversation, Server};
use crate::support::fault::Fault;
use crate::support::stage::{Family, Stage};
use crate::support::time::eventually;
use crate::support::traffic::End;

const API: u16 = 6443;
const DNS: u16 = 53;
const KUBELET: u16 = 10_250;
const PROBED: u16 = 8080;
const OTHER: u16 = 8081;

/// A partitioned conversation does not begin within this time; one that is not begins in less than a millisecond.
const SILENCE: Duration = Duration::from_millis(300);

/// What the agent knows of the cluster: the node's addresses, the API server and DNS at the peer, a pod.
fn teach(agent: &mut Agent) {
    let both = |network, host| Family::BOTH.map(|family: Family| family.ip(network, host));
    let world = &mut agent.world;
    world.node_addresses = both(1, 1).into_iter().chain(both(2, 1)).collect();
    let ends = |ip: IpAddr| [(ip, PROTOCOL_TCP, API), (ip, PROTOCOL_UDP, DNS)];
    world.control_plane = both(2, 2).into_iter().flat_map(ends).collect();
    world.kubelet_port = KUBELET;
    let pod = PodTarget {
        labels: BTreeMap::new(),
        addresses: both(1, 2).into_iter().collect(),
        probe_ports: BTreeSet::from([PROBED]),
    };
    let name = ObjectName { namespace: "demo".to_owned(), name: "pod".to_owned() };
    world.pods = BTreeMap::from([(name, pod)]);
}

/// Servers of a family.
struct Servers {
    api: Server,
    kubelet: Server,
    probed: Server,
    other: Server,
}

impl Servers {
    fn new(stage: &Stage, family: Family) -> Self {
        Self {
            api: Server::new(&stage.peer, family.ip(2, 2), API),
            kubelet: Server::new(&stage.node, family.ip(2, 1), KUBELET),
            probed: Server::new(&stage.device, family.ip(1, 2), PROBED),
            other: Server::new(&stage.device, family.ip(1, 2), OTHER),
        }
    }

    /// The node's conversations.
    fn protected(&self, stage: &Stage) -> [Conversation; 3] {
        [
            self.api.converse(&stage.node),
            self.kubelet.converse(&stage.peer),
            self.probed.converse(&stage.node),
        ]
    }

    /// Nobody else gets an answer.
    fn others_are_cut_off(&self, stage: &Stage) {
        for (server, from, what) in [
            (&self.api, &stage.device, "a pod's way to the API server"),
            (&self.probed, &stage.peer, "a probed port, from elsewhere"),
            (&self.other, &stage.node, "another port of the pod, from the node"),
        ] {
            assert!(server.connect(from, SILENCE).is_none(), "{what} must be cut");
        }
    }
}

fn the_node_is_not_cut_off(hooks: Hooks) {
    let stage = Stage::new();
    let mut agent = Agent::start(&stage.node, hooks);
    teach(&mut agent);
    for family in Family::BOTH {
        agent.set(&[]);
        let servers = Servers::new(&stage, family);
        let mut before = servers.protected(&stage);
        let mut cut = servers.other.converse(&stage.peer);
        let everything = ["0.0.0.0/0".to_owned(), "::/0".to_owned()];
        agent.set(&[Fault::partition().on(&everything), Fault::partition().named("pods").on_pods()]);
        let counted = agent.global(Global::Protected);
        // All have to ask for link addresses again: ARP and NDP.
        for space in [&stage.node, &stage.device, &stage.peer] {
            space.ip("neigh flush all");
        }
        before.iter_mut().for_each(Conversation::go_on);
        servers.protected(&stage);
        assert!(cut.is_silent(SILENCE), "a conversation of others is cut");
        servers.others_are_cut_off(&stage);
        let end = |space, ip, port| End::new(space, SocketAddr::new(ip, port));
        let dns = end(&stage.peer, family.ip(2, 2), DNS);
        let resolver = end(&stage.node, family.ip(2, 1), 50_000);
        resolver.reaches(&dns, 50);
        dns.reaches(&resolver, 50);
        // Answers can be longer than a packet, and only the first fragment of one has ports.
        (0..50).for_each(|number| dns.send_long(&resolver, number, 4_000).unwrap());
        let mut came = 0;
        let all = || {
            came += resolver.take().len();
            (came == 50).then_some(())
        };
        eventually(all, || format!("{family:?}: answers in fragments are lost"));
        assert!(agent.global(Global::Protected) > counted + 100, "protected packets are counted");
    }
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn a_node_keeps_its_own_conversations_under_a_partition_of_everything_on_tcx() {
    the_node_is_not_cut_off(Hooks::Tcx);
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn a_node_keeps_its_own_conversations_under_a_partition_of_everything_on_native_xdp() {
    the_node_is_not_cut_off(Hooks::XdpNative);
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn a_peer_that_names_the_node_lifts_the_protection_of_probes_and_of_nothing_else() {
    let stage = Stage::new();
    let mut agent = Agent::start(&stage.node, Hooks::Tcx);
    teach(&mut agent);
    let servers = Servers::new(&stage, Family::V4);
    let matching = json!({"peers": [{"cidr": Family::V4.host(1, 1)}]});
    agent.set(&[Fault::partition().on_pods().matching(matching)]);
    assert!(servers.probed.connect(&stage.node, SILENCE).is_none(), "its probes are lost");
    servers.api.converse(&stage.node);
    servers.kubelet.converse(&stage.peer);
    servers.probed.converse(&stage.peer);
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn as_many_networks_can_be_protected_as_the_limit_says_and_with_more_nothing_is_done() {
    const MANY: u16 = 1_500;
    let stage = Stage::new();
    let capacity = Capacity { protected: u32::from(MANY), ..CAPACITY };
    let mut agent = Agent::start(&stage.node, Start { capacity, ..Hooks::Tcx.into() });
    let network = |number: u16| {
        let [high, low] = number.to_be_bytes();
        format!("100.64.{high}.{low}/32").parse().unwrap()
    };
    let faults = [Fault::partition().on(&[Family::V4.host(1, 2)])];
    agent.world.protect = (0..MANY).map(network).collect();
    agent.set(&faults);
    assert_eq!(agent.enforced(), (1, 1));
    agent.world.protect.push(network(MANY));
    agent.set(&faults);
    let entry = agent.entry().unwrap();
    assert_eq!((entry.reason.as_deref(), entry.external_enforced), (Some("Limit"), 0), "{entry:?}");
    assert!(entry.message.unwrap().contains("--max-protected"));
}
