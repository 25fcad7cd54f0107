//! A partition of everything, where the operator was told that it may: pods are cut off, and the nodes themselves are not.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::api::Api;
use serde_json::json;
use xtask::cluster::plan;
use xtask::demo::install::{DEVICES, SYSTEM};
use xtask::wait;

use super::cut::Rules;
use super::deaths::{ROW, deadline, nothing_is_lost_after, probe};
use super::probe::Moment;
use super::world::{PATIENCE, SOON, Story};

/// Four renewals of a kubelet's Lease, which are ten seconds apart (Kubernetes, `KubeletConfiguration.nodeLeaseDurationSeconds`).
const DURATION: &str = "45s";
const OPERATORS: &str = "deployment/edge-operator";

/// Operators that may be told to fault everything, until dropped.
struct Allowed<'a>(&'a Story);

impl<'a> Allowed<'a> {
    fn everything(story: &'a Story) -> Self {
        let allowed = Self(story);
        allowed.set("ALLOW_CIDRS=0.0.0.0/0");
        allowed
    }

    fn set(&self, environment: &str) {
        self.0.kubectl(&["-n", SYSTEM, "set", "env", OPERATORS, environment]);
        self.0.kubectl(&["-n", SYSTEM, "rollout", "status", OPERATORS, "--timeout=180s"]);
    }
}

impl Drop for Allowed<'_> {
    fn drop(&mut self) {
        self.set("ALLOW_CIDRS-");
    }
}

/// What shows that a node is not cut off: when its kubelet and its agent last told the API server, and since when it is Ready.
#[derive(Debug)]
struct Life {
    kubelet: Timestamp,
    agent: Timestamp,
    ready_since: Option<Timestamp>,
}

impl Life {
    fn of(story: &Story, node: u8) -> Self {
        let name = plan::node_name(node);
        let leases = Api::<Lease>::namespaced(story.client.clone(), "kube-node-lease");
        let lease = story.run(leases.get(&name)).unwrap();
        let renewed = lease.spec.and_then(|spec| spec.renew_time).unwrap().0;
        let it = story.run(Api::<Node>::all(story.client.clone()).get(&name)).unwrap();
        let conditions = it.status.and_then(|status| status.conditions).unwrap_or_default();
        let ready = conditions.into_iter().find(|it| it.type_ == "Ready" && it.status == "True");
        Self {
            kubelet: renewed,
            agent: story.fault_node(node).status.and_then(|status| status.renewed_at).unwrap().0,
            ready_since: ready.and_then(|ready| ready.last_transition_time).map(|time| time.0),
        }
    }
}

#[test]
#[ignore = "node rung: needs root and a cluster"]
fn a_partition_of_everything_cuts_pods_off_and_neither_agents_nor_kubelets_and_one_node_masquerades() {
    let story = Story::begin();
    let _masquerades = Rules::masquerade(&story, 2);
    let allowed = Allowed::everything(&story);
    let mut probes = [1, 2].map(|node| probe(&story, node));
    probes.iter_mut().for_each(|probe| probe.until(true, ROW).unwrap());
    let before = [1, 2].map(|node| Life::of(&story, node));
    story.apply(&json!({
        "apiVersion": "edge-operator.dev/v1alpha1",
        "kind": "FaultProfile",
        "metadata": {"name": "everything"},
        "spec": {
            "targets": {"cidrs": ["0.0.0.0/0"]},
            "faults": {"partition": {}},
            "seed": 7,
            "duration": DURATION,
        },
    }));
    probes.iter_mut().for_each(|probe| probe.until(false, ROW).unwrap());
    let ends = deadline(&story, "everything");
    let begun = story.profile("everything").status.unwrap().started_at.unwrap().0;

    for (node, before) in [1, 2].into_iter().zip(before) {
        let mut renewals = vec![before.kubelet];
        let patience = Duration::from_secs(60);
        let life = wait::until("two renewals of a kubelet, and one of an agent", patience, SOON, || {
            let life = Life::of(&story, node);
            if renewals.last() != Some(&life.kubelet) {
                renewals.push(life.kubelet);
            }
            let of_then = renewals.iter().filter(|renewed| **renewed > begun).count();
            Ok((of_then >= 2 && life.agent > begun).then_some(life))
        });
        let life = life.unwrap();
        assert!(life.kubelet < ends && life.agent < ends, "node{node}: too late to show anything: {life:?}");
        assert_eq!(life.ready_since, before.ready_since, "node{node} was not Ready for a while");
        let pod = story.device_pod(node);
        let logs = story.kubectl(&["-n", DEVICES, "logs", &pod.name, "--tail=1"]);
        assert!(!logs.trim().is_empty(), "node{node}: no line of {}", pod.name);
        let on_node = story.fault_node(node).status.unwrap().profiles;
        println!("node{node}: {life:?}, {on_node:?}");
        assert!(on_node.iter().any(|profile| profile.name == "everything"), "node{node}: {on_node:?}");
    }
    let still = Moment::now().wall;
    assert!(still < ends, "all of that was seen by {still}, and it ended at {ends}");

    probes.iter_mut().for_each(|probe| probe.until(true, ROW).unwrap());
    for (way, fates) in probes.into_iter().flat_map(|probe| probe.stop().unwrap()) {
        nothing_is_lost_after(&way, &fates, ends);
    }
    for node in [1, 2] {
        let spared = story.agent(node).count("edge_agent_protected_packets_total", &[]);
        println!("node{node}: {spared} packets of the node's own were spared");
        assert!(spared > 0, "node{node}: nothing was spared");
    }
    wait::until("operators after that", 3 * PATIENCE, SOON, || {
        Ok((story.operator_pods().len() == 2).then_some(()))
    })
    .unwrap();
    drop(allowed);
    story.devices_are_ready();
}
