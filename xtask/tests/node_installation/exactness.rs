//! The packets that captures at both ends miss are exactly those that the kernel counted: at pods and outside the cluster, both
//! ways, by XDP in the driver (node1) and by TC alone (node2).

use edge_api::fault_node::HookKind;
use serde_json::{Value, json};
use xtask::demo::stats::Share;

use super::traffic::{End, Exchange, Way, exchange};
use super::world::{PORTS, Story, fault, one_pod};

/// Packets each way: a loss that is off by a tenth is seen.
const PACKETS: u32 = 5000;
/// Packets each way to show that nothing else loses any.
const FEW: u32 = 300;

#[test]
#[ignore = "node rung: needs root and a cluster"]
fn at_a_pod_with_xdp_in_the_driver_missing_packets_are_the_counted_ones() {
    at_a_pod(1);
}

#[test]
#[ignore = "node rung: needs root and a cluster"]
fn at_a_pod_with_tc_alone_missing_packets_are_the_counted_ones() {
    at_a_pod(2);
}

#[test]
#[ignore = "node rung: needs root and a cluster"]
fn outside_the_cluster_missing_packets_are_the_counted_ones_on_either_nodes_way() {
    let story = Story::begin();
    for node in [1, 2] {
        let pod = story.device_pod(node);
        let (target, peer) = (story.outside(PORTS.0), story.in_pod(&pod, PORTS.1));
        let name = format!("outside-{node}");
        let targets = json!({"cidrs": [format!("{}/32", target.address.ip())]});
        let profile = fault(&name, &targets, &json!({"loss": {"percent": "20%"}}), "5m");
        counted_exactly(&story, &profile, node, &target, &peer);
        story.kubectl(&["-n", "edge-demo", "delete", "faultprofile", &name]);
    }
}

#[test]
#[ignore = "node rung: needs root and a cluster"]
fn the_same_seed_takes_the_same_packets_again() {
    let story = Story::begin();
    for node in [1, 2] {
        let pod = story.device_pod(node);
        let (target, peer) = (story.in_pod(&pod, PORTS.0), story.outside(PORTS.1));
        let profile = fault("again", &one_pod(&pod), &json!({"loss": {"percent": "50%"}}), "5m");
        let run = || {
            story.apply(&profile);
            story.wait_for("Installed", &["fault/again"]);
            let seen = exchange(&target, &peer, FEW).unwrap();
            story.kubectl(&["-n", "edge-demo", "delete", "faultprofile", "again"]);
            seen
        };
        let first = run();
        assert!(!first.to_device.missing().is_empty() && !first.to_device.arrived.is_empty());
        assert_eq!(first, run(), "node{node}");
    }
}

fn at_a_pod(node: u8) {
    let story = Story::begin();
    let pod = story.device_pod(node);
    let (target, peer) = (story.in_pod(&pod, PORTS.0), story.outside(PORTS.1));
    let profile = fault("exact", &one_pod(&pod), &json!({"loss": {"percent": "20%"}}), "5m");
    counted_exactly(&story, &profile, node, &target, &peer);
    // A node that the target is not on has nothing to do with it.
    assert!(story.counted(3 - node, "exact").values().all(|count| *count == 0), "counted twice");
}

fn counted_exactly(story: &Story, profile: &Value, node: u8, target: &End, peer: &End) {
    let name = profile["metadata"]["name"].as_str().unwrap();
    let calm = exchange(target, peer, FEW).unwrap();
    for way in [&calm.to_device, &calm.from_device] {
        assert!(way.missing().is_empty(), "lost without a fault: {:?}", way.missing());
    }
    assert_hooks(story, node);

    story.apply(profile);
    story.wait_for("Installed", &[&format!("fault/{name}")]);
    let Exchange { to_device, from_device } = exchange(target, peer, PACKETS).unwrap();
    let counted = story.counted(node, name);
    for (direction, way) in [("ToDevice", &to_device), ("FromDevice", &from_device)] {
        let Way { sent, arrived } = way;
        let missing = way.missing().len();
        assert_eq!(sent.len(), PACKETS as usize);
        assert!(arrived.is_subset(sent), "{direction}: packets nobody sent");
        assert_eq!(counted[&(direction, "loss")], missing, "{direction}: {counted:?}");
        assert_eq!(counted[&(direction, "pass")], arrived.len(), "{direction}: {counted:?}");
        let share = Share::counted(missing as u64, sent.len() as u64);
        println!(
            "{name} node{node} {direction}: {missing} of {} lost, {:.2} % to {:.2} %",
            sent.len(),
            share.low * 100.0,
            share.high * 100.0
        );
        assert!(share.admits(0.2), "{direction}: {share:?} does not admit 20 %");
    }
    story.wait_for("Effective", &[&format!("fault/{name}")]);
}

/// Both kinds of agents are what they are said to be.
fn assert_hooks(story: &Story, node: u8) {
    let hooks = story.hooks(node);
    assert_eq!(hooks.contains(&HookKind::XdpNative), node == 1, "node{node}: {hooks:?}");
    assert!(hooks.contains(&HookKind::TcxEgress) || hooks.contains(&HookKind::ClsactEgress), "{hooks:?}");
}
