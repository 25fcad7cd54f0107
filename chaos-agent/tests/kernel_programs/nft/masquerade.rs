//! A node whose uplink masquerades: what leaves has the node's address, so peers behind it cannot be told apart there, and what
//! the node itself needs must not be taken for what its pods send.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use fault_abi::key::{Direction, PROTOCOL_TCP};
use fault_abi::verdict::Verdict;
use serde_json::json;

use super::{MASQUERADE, load};
use crate::support::agent::{Agent, Hooks};
use crate::support::conversation::{Conversation, Server};
use crate::support::fault::Fault;
use crate::support::stage::{Family, Stage};
use crate::support::time::eventually;
use crate::support::traffic::End;

const COUNT: u32 = 100;
const API: u16 = 6443;
const KUBELET: u16 = 10_250;
const OTHER: u16 = 8081;
/// A partitioned conversation does not begin within this time; one that is not begins in less than a millisecond.
const SILENCE: Duration = Duration::from_millis(300);

fn agent_on(stage: &Stage, hooks: Hooks) -> Agent {
    let mut agent = Agent::start(&stage.node, hooks);
    let nodes = [1, 2].map(|network| Family::BOTH.map(|family| family.ip(network, 1)));
    agent.world.node_addresses = nodes.into_iter().flatten().collect();
    agent
}

/// Packets from the pod to the peer, and as many answers: all of them arrive.
fn exchange(stage: &Stage, family: Family) {
    let (pod, peer) = (stage.device_end(family), stage.peer_end(family));
    pod.reaches(&peer, COUNT);
    // To the address that the peer sees, and the port, which is kept.
    let node = End::new(&stage.node, SocketAddr::new(family.ip(2, 1), pod.address.port()));
    (0..COUNT).for_each(|number| peer.send(&node, number).unwrap());
    let mut came = 0;
    let all = || {
        came += pod.take().len();
        (came == COUNT as usize).then_some(())
    };
    eventually(all, || "the answers have not come to the pod".to_owned());
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn peers_that_an_uplink_hides_behind_the_nodes_address_are_told_and_that_address_stands_for_them() {
    let stage = Stage::new();
    load(&stage.node, MASQUERADE);
    let mut agent = agent_on(&stage, Hooks::Tcx);
    for family in Family::BOTH {
        let target = family.host(2, 2);
        let cut = |peers: &[String]| {
            let peers: Vec<_> = peers.iter().map(|peer| json!({"cidr": peer})).collect();
            Fault::partition().on(std::slice::from_ref(&target)).matching(json!({"peers": peers}))
        };
        let (pod, node) = (family.host(1, 2), family.host(2, 1));
        agent.set(&[]);
        agent.entry();
        agent.set(&[cut(std::slice::from_ref(&pod))]);
        let quiet = agent.entry().unwrap();
        assert_eq!((quiet.reason, quiet.external_enforced), (None, 1), "nobody has talked so far");
        // The rule never meets the pod.
        exchange(&stage, family);
        for direction in Direction::ALL {
            let counter = agent.counter("partition", &target, direction);
            assert_eq!((counter.node_misses, counter.seen()), (COUNT.into(), 0), "{family:?} {direction:?}");
        }
        let hidden = agent.entry().unwrap();
        assert_eq!(hidden.reason.as_deref(), Some("PeersMasqueraded"), "{hidden:?}");
        assert_eq!((hidden.external_enforced, hidden.effective), (0, false));

        agent.set(&[]);
        agent.entry();
        agent.set(&[cut(&[pod, node])]);
        let (from, to) = (stage.device_end(family), stage.peer_end(family));
        (0..COUNT).for_each(|number| from.send(&to, number).unwrap());
        let counter = || agent.counter("partition", &target, Direction::ToDevice);
        let all = || (counter().packets[Verdict::Partition as usize] == u64::from(COUNT)).then_some(());
        eventually(all, || format!("{:?}", counter()));
        assert!(to.take().is_empty());
        let hit = agent.entry().unwrap();
        assert_eq!((hit.reason, hit.external_enforced, hit.effective), (None, 1, true));
    }
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn without_masquerading_the_pods_own_address_is_met() {
    let stage = Stage::new();
    let mut agent = agent_on(&stage, Hooks::Tcx);
    let (target, pod) = (Family::V4.host(2, 2), Family::V4.host(1, 2));
    let by_pod = json!({"peers": [{"cidr": pod}]});
    agent.set(&[Fault::loss("0.0001%").on(&[target]).matching(by_pod)]);
    // The node talks to the target, too, but so does the pod.
    let node = End::new(&stage.node, SocketAddr::new(Family::V4.ip(2, 1), 0));
    let peer = stage.peer_end(Family::V4);
    node.reaches(&peer, COUNT);
    assert_eq!(agent.entry().unwrap().reason.as_deref(), Some("PeersMasqueraded"), "it could be so, by now");
    stage.device_end(Family::V4).reaches(&peer, COUNT);
    let entry = agent.entry().unwrap();
    assert_eq!((entry.reason, entry.external_enforced), (None, 1), "it is not");
}

/// What the node needs, and what a pod wants, at the peer.
struct Servers {
    api: Server,
    kubelet: Server,
    other: Server,
}

impl Servers {
    fn new(stage: &Stage, family: Family) -> Self {
        Self {
            api: Server::new(&stage.peer, family.ip(2, 2), API),
            kubelet: Server::new(&stage.node, family.ip(2, 1), KUBELET),
            other: Server::new(&stage.peer, family.ip(2, 2), OTHER),
        }
    }

    /// The node's own conversations.
    fn protected(&self, stage: &Stage) -> [Conversation; 2] {
        [self.api.converse(&stage.node), self.kubelet.converse(&stage.peer)]
    }
}

/// `networks`: those that are cut off; `with_pods`: those of the pods are among them.
fn the_node_is_not_cut_off(hooks: Hooks, networks: &[String], with_pods: bool) {
    let stage = Stage::new();
    load(&stage.node, MASQUERADE);
    let mut agent = agent_on(&stage, hooks);
    agent.world.kubelet_port = KUBELET;
    let api = |family: Family| (family.ip(2, 2), PROTOCOL_TCP, API);
    agent.world.control_plane = Family::BOTH.map(api).into();
    for family in Family::BOTH {
        agent.set(&[]);
        let servers = Servers::new(&stage, family);
        let mut of_node = servers.protected(&stage);
        let mut of_pod = servers.other.converse(&stage.device);
        agent.set(&[Fault::partition().on(networks)]);
        of_node.iter_mut().for_each(Conversation::go_on);
        servers.protected(&stage);
        assert!(of_pod.is_silent(SILENCE), "{family:?}: a pod's conversation, by the node's address, is cut");
        assert!(servers.other.connect(&stage.device, SILENCE).is_none(), "{family:?}: and no other begins");
        assert!(
            servers.other.connect(&stage.node, SILENCE).is_none(),
            "{family:?}: nor one of the node's own"
        );
        // On the uplink a pod's way to the API server is the node's. At the pod itself it is not.
        let pods_way = servers.api.connect(&stage.device, SILENCE);
        assert_eq!(pods_way.is_some(), !with_pods, "{family:?}: a pod's way to the API server");
    }
}

fn everything() -> Vec<String> {
    vec!["0.0.0.0/0".to_owned(), "::/0".to_owned()]
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn a_node_that_masquerades_keeps_its_own_conversations_under_a_partition_of_everything_on_tcx() {
    the_node_is_not_cut_off(Hooks::Tcx, &everything(), true);
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn a_node_that_masquerades_keeps_its_own_conversations_under_a_partition_of_everything_on_native_xdp() {
    the_node_is_not_cut_off(Hooks::XdpNative, &everything(), true);
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn the_nodes_address_alone_protects_nothing_of_what_its_pods_send() {
    let outside: Vec<String> = Family::BOTH.map(|family| network(family.ip(2, 0), family)).into();
    the_node_is_not_cut_off(Hooks::Tcx, &outside, false);
}

fn network(ip: IpAddr, family: Family) -> String {
    format!("{ip}/{}", if family == Family::V4 { 24 } else { 64 })
}
