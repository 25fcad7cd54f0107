//! The leader's process is killed, or its node.

use std::time::Instant;

use kube::ResourceExt;
use xtask::wait;

use super::super::deaths::{ROW, deadline, partition};
use super::super::probe::Probe;
use super::super::world::{PATIENCE, PORTS, PodSeen, SOON, Story};
use super::{
    MOST, all, begin, commands_are_under_way, new_firmware, rough, the_next_one_ends_it_well,
    the_standby_follows,
};

#[test]
#[ignore = "node rung: needs root and a cluster"]
fn a_leader_that_is_killed_in_the_middle_of_its_commands_is_followed_and_nothing_is_commanded_twice() {
    let story = begin();
    let pair = story.both_operators();
    let process = story.process_of(&pair.leader, "edge-operator");
    story.apply(&rough(MOST));
    story.wait_for("Effective", &["fault/rough"]);
    let (before, firmware) = (story.truth(), new_firmware(&story, 6));
    commands_are_under_way(&story, &firmware);

    process.kill();
    the_standby_follows(&story, &pair);
    story.kubectl(&["-n", "edge-demo", "delete", "fault", "rough"]);
    the_next_one_ends_it_well(&story, &firmware, &before);

    // It knows what was done: devices are asked, and told nothing any more.
    let (truth, answered) = (story.truth(), story.operator().count("edge_device_exchanges_total", &[]));
    wait::until("three probes of each device", PATIENCE, SOON, || {
        let exchanges = story.operator().count("edge_device_exchanges_total", &[]);
        Ok((exchanges >= answered + 3 * all()).then_some(()))
    })
    .unwrap();
    assert_eq!(truth, story.truth());
}

#[test]
#[ignore = "node rung: needs root and a cluster"]
fn when_the_leaders_node_is_killed_the_other_one_brings_its_devices_in_sync_and_those_of_the_node_when_it_is_back()
 {
    let story = begin();
    let pair = story.both_operators();
    let node = pair.leader.node;
    let other = story.device_pod(3 - node);
    let gone = story.device_pod(node);
    story.apply(&rough(MOST));
    story.apply(&partition("outlives", "10m"));
    story.wait_for("Effective", &["fault/rough"]);
    story.wait_for("Installed", &["fault/outlives"]);
    let until = deadline(&story, "outlives");
    let (before, firmware) = (story.truth(), new_firmware(&story, 7));
    commands_are_under_way(&story, &firmware);

    let killed = Instant::now();
    story.cluster.kill_node(node).unwrap();
    let back = Back { story: &story, node };
    the_standby_follows(&story, &pair);
    story.kubectl(&["-n", "edge-demo", "delete", "fault", "rough"]);
    let runs = format!("jsonpath={{.status.reported.firmware}}={firmware}");
    let near = names(&story, |name| is_of(&other, name) || name.starts_with("outside-"));
    for what in [&runs, "Ready"] {
        story.wait_for(what, &near.iter().map(String::as_str).collect::<Vec<_>>());
    }
    println!("the other node's devices are in sync {} ms after it", killed.elapsed().as_millis());
    let far = names(&story, |name| is_of(&gone, name));
    story.wait_for(
        "jsonpath={.status.phase}=Unreachable",
        &far.iter().map(String::as_str).collect::<Vec<_>>(),
    );

    let began = Instant::now();
    drop(back);
    println!("the node is back after {} ms", began.elapsed().as_millis());
    wait::until("the node's devices", PATIENCE, SOON, || {
        Ok((story.pods("edge-demo", "device-sim-").len() == 2).then_some(()))
    })
    .unwrap();
    story.agent_pod(node);
    // A fault that was on when it died is there again for its pods. What the API server says of them may still be of before.
    let mut probe = wait::until("the node's pod at its new address", PATIENCE, SOON, || {
        let pod = story.device_pod(node);
        let has_begun = !story.processes_of(&pod).is_empty();
        Ok(has_begun
            .then(|| Probe::start("back", story.in_pod(&pod, PORTS.0), story.outside(PORTS.1)).ok())
            .flatten())
    })
    .unwrap();
    probe.until(false, ROW).unwrap();
    probe.stop().unwrap();
    story.wait_for("jsonpath={.status.phase}=Active", &["fault/outlives"]);
    assert_eq!(until, deadline(&story, "outlives"), "the deadline is not the original one");
    story.kubectl(&["-n", "edge-demo", "delete", "fault", "outlives"]);
    the_next_one_ends_it_well(&story, &firmware, &before);
}

/// A node that is started again when a story ends, however that is.
struct Back<'a> {
    story: &'a Story,
    node: u8,
}

impl Drop for Back<'_> {
    fn drop(&mut self) {
        let started = self.story.cluster.start_node(self.node);
        if let Err(error) = started {
            eprintln!("node{} does not come back: {error:#}", self.node);
        }
    }
}

/// Those devices, as kubectl names them.
fn names(story: &Story, which: impl Fn(&str) -> bool) -> Vec<String> {
    let all = story.devices().into_iter().map(|device| device.name_any());
    let named: Vec<_> = all.filter(|name| which(name)).map(|name| format!("device/{name}")).collect();
    assert!(!named.is_empty(), "no such devices");
    named
}

/// Is a device one of a pod's?
fn is_of(pod: &PodSeen, device: &str) -> bool {
    device.strip_prefix(&pod.name).is_some_and(|rest| rest.starts_with('-'))
}
