//! Any process may die at any instruction: the agent, and its faults are gone; the operator or a kubelet, and faults end at
//! their deadline all the same.

use std::time::{Duration, Instant};

use edge_api::fault_node::GapBound;
use edge_api::fault_profile::FaultPhase;
use jiff::Timestamp;
use serde_json::json;
use xtask::demo::install::SYSTEM;
use xtask::wait;

use super::probe::{Fate, Moment, Probe};
use super::world::{PATIENCE, PORTS, SOON, Story, World, fault};

/// A dead agent's faults are gone after this.
const GUARANTEE: Duration = Duration::from_millis(100);
/// The kernel's clock and the wall's are read one after the other, and one of them may be disciplined meanwhile.
const CLOCKS: Duration = Duration::from_millis(100);
/// An agent's word and what its hooks do are so far apart: it detaches while it says goodbye.
const GAP_SLACK: Duration = Duration::from_secs(1);
/// Packets in a row that count as a state: half a second of them.
pub(crate) const ROW: usize = 100;

#[test]
#[ignore = "node rung: needs root and a cluster"]
fn a_killed_agents_faults_are_gone_within_100_ms_and_come_back_until_the_original_deadline() {
    let story = Story::begin();
    let mut probes = [1, 2].map(|node| probe(&story, node));
    story.apply(&partition("killed", "20s"));
    story.wait_for("Effective", &["fault/killed"]);
    probes.iter_mut().for_each(|probe| probe.until(false, ROW).unwrap());
    let deadline = deadline(&story, "killed");

    let agents = [1, 2].map(|node| story.process_of(&story.agent_pod(node), "chaos-agent"));
    let killed = agents.map(|agent| {
        agent.kill();
        Instant::now()
    });
    // The DaemonSet starts them again; they resume.
    let ends = |process: xtask::cluster::processes::Process| {
        wait::until("the end of an agent", PATIENCE, SOON, || Ok((!process.is_alive()).then_some(())))
    };
    agents.into_iter().for_each(|agent| ends(agent).unwrap());
    probes.iter_mut().for_each(|probe| probe.until(false, ROW).unwrap());
    let resumed = Instant::now();
    assert_eq!(deadline, self::deadline(&story, "killed"), "the deadline is not the original one");
    probes.iter_mut().for_each(|probe| probe.until(true, ROW).unwrap());
    for (probe, killed) in probes.into_iter().zip(killed) {
        for (way, fates) in probe.stop().unwrap() {
            gone_and_back(&way, &fates, killed, resumed);
            nothing_is_lost_after(&way, &fates, deadline);
        }
    }
    story.wait_for("jsonpath={.status.phase}=Expired", &["fault/killed"]);
}

/// Packets pass from the end of the old agent on until the new one's rules are in the kernel, and that is what is told.
#[test]
#[ignore = "node rung: needs root and a cluster"]
fn an_update_of_the_agents_has_a_gap_that_fault_nodes_and_metrics_tell() {
    let story = Story::begin();
    let mut probes = [1, 2].map(|node| probe(&story, node));
    story.apply(&partition("updated", "10m"));
    story.wait_for("Effective", &["fault/updated"]);
    probes.iter_mut().for_each(|probe| probe.until(false, ROW).unwrap());
    let before = [1, 2].map(|node| story.fault_node(node).status.unwrap_or_default().installed_at);
    let began = Instant::now();
    // The first node has one whose hooks are XDP's, see `world`.
    let sets = ["daemonset/chaos-agent", "daemonset/chaos-agent-native"];
    sets.iter().for_each(|set| drop(story.kubectl(&["-n", SYSTEM, "rollout", "restart", set])));
    for set in sets {
        story.kubectl(&["-n", SYSTEM, "rollout", "status", set, "--timeout=180s"]);
    }
    probes.iter_mut().for_each(|probe| probe.until(false, ROW).unwrap());
    for ((node, probe), before) in [1, 2].into_iter().zip(probes).zip(before) {
        let told = wait::until("the gap in a FaultNode", PATIENCE, SOON, || {
            let status = story.fault_node(node).status.unwrap_or_default();
            Ok(status.gap.filter(|_| status.installed_at != before))
        });
        let told = told.unwrap();
        assert_eq!(told.bound, GapBound::Exact, "an agent that is told to end says when it did");
        assert!(told.seconds() > 0.0, "{told:?}");
        let shown = story.agent(node).sum("edge_agent_enforcement_gap_seconds", &[("bound", "Exact")]);
        assert!((shown - told.seconds()).abs() < 0.001, "the metric shows {shown} s, the FaultNode {told:?}");
        for (way, fates) in probe.stop().unwrap() {
            let passed: Vec<_> = fates.iter().filter(|fate| fate.arrived && fate.sent.at >= began).collect();
            let (first, last) = (passed.first().unwrap(), passed.last().unwrap());
            let measured = (last.sent.at - first.sent.at).as_secs_f64();
            println!(
                "told: {way}: packets passed for {measured:.2} s of an update, {:.2} s by the FaultNode",
                told.seconds()
            );
            assert!((measured - told.seconds()).abs() < GAP_SLACK.as_secs_f64(), "{way}: {told:?}");
        }
    }
}

#[test]
#[ignore = "node rung: needs root and a cluster"]
fn with_operator_and_kubelets_dead_faults_end_at_their_deadline() {
    let story = Story::begin();
    let mut probes = [1, 2].map(|node| probe(&story, node));
    story.apply(&partition("orphaned", "25s"));
    story.wait_for("Effective", &["fault/orphaned"]);
    probes.iter_mut().for_each(|probe| probe.until(false, ROW).unwrap());
    let deadline = deadline(&story, "orphaned");

    // Kubelets come back at once, operators do not until they are asked to.
    let operators = story.operator_pods();
    assert_eq!(operators.len(), 2);
    let agents = [1, 2].map(|node| story.process_of(&story.agent_pod(node), "chaos-agent"));
    operators.iter().for_each(|pod| story.process_of(pod, "edge-operator").kill());
    story.kubectl(&["-n", SYSTEM, "scale", "deployment/edge-operator", "--replicas=0"]);
    let kubelets = [1, 2].map(|node| story.service_of(node, "kubelet").unwrap());
    kubelets.iter().for_each(|kubelet| kubelet.kill());
    assert!(Moment::now().wall < deadline, "killed too late to test anything");

    probes.iter_mut().for_each(|probe| probe.until(true, ROW).unwrap());
    for (way, fates) in probes.into_iter().flat_map(|probe| probe.stop().unwrap()) {
        nothing_is_lost_after(&way, &fates, deadline);
        let early = |fate: &&Fate| {
            deadline.duration_since(fate.sent.wall).unsigned_abs() > CLOCKS && fate.sent.wall < deadline
        };
        let before = fates.iter().filter(early).rev().take(ROW);
        assert_eq!(before.filter(|fate| fate.arrived).count(), 0, "{way}: it ended before its deadline");
    }
    for node in [1, 2] {
        wait::until("a new kubelet", PATIENCE, SOON, || {
            Ok(story.service_of(node, "kubelet").filter(|kubelet| !kubelets.contains(kubelet)))
        })
        .unwrap();
    }
    assert!(agents.iter().all(|agent| agent.is_alive()), "a kubelet's death ended an agent");
    assert_ne!(
        story.profile("orphaned").status.unwrap().phase,
        FaultPhase::Expired,
        "an operator is not dead"
    );
    story.kubectl(&["-n", SYSTEM, "scale", "deployment/edge-operator", "--replicas=2"]);
    story.operator_pod();
    story.wait_for("jsonpath={.status.phase}=Expired", &["fault/orphaned"]);
}

/// Waits until all devices run a firmware and the operator knows it.
pub(crate) fn in_sync(world: &World, firmware: &str) {
    world.wait_for(&format!("jsonpath={{.status.reported.firmware}}={firmware}"), &["device", "--all"]);
    world.devices_are_ready();
}

pub(crate) fn probe(story: &Story, node: u8) -> Probe {
    let pod = story.device_pod(node);
    let peer = story.outside(PORTS.1 + u16::from(node));
    Probe::start(format!("node{node}"), story.in_pod(&pod, PORTS.0), peer).unwrap()
}

pub(crate) fn partition(name: &str, duration: &str) -> serde_json::Value {
    let targets = json!({"pods": {"selector": {"matchLabels": {"app.kubernetes.io/name": "device-sim"}}}});
    fault(name, &targets, &json!({"partition": {}}), duration)
}

pub(crate) fn deadline(story: &Story, profile: &str) -> Timestamp {
    story.profile(profile).status.unwrap().expires_at.unwrap().0
}

/// No packet is lost from [`GUARANTEE`] after the kill on until the agent is back. Judged by when the last one that was lost was
/// sent, so that a machine that is busy elsewhere spoils nothing.
fn gone_and_back(way: &str, fates: &[Fate], killed: Instant, resumed: Instant) {
    let after = || fates.iter().filter(|fate| fate.sent.at >= killed && fate.sent.at < resumed);
    let gap =
        after().take_while(|fate| !fate.arrived).last().map_or(Duration::ZERO, |lost| lost.sent.at - killed);
    println!("{way}: the last packet that was lost was sent {} ms after the kill", gap.as_millis());
    assert!(gap <= GUARANTEE, "{way}: faults outlived their agent by {gap:?}");
    let passed = after().skip_while(|fate| !fate.arrived).take_while(|fate| fate.arrived).count();
    let all = after().filter(|fate| fate.arrived).count();
    assert_eq!(passed, all, "{way}: packets were lost between the agent's death and its return");
    // Less is no proof: the agent would have been back before the guarantee could be seen.
    assert!(passed >= 10, "{way}: only {passed} packets passed");
}

pub(crate) fn nothing_is_lost_after(way: &str, fates: &[Fate], deadline: Timestamp) {
    let late: Vec<_> = fates.iter().filter(|fate| !fate.arrived && fate.sent.wall > deadline).collect();
    let last = late.last().map_or(Duration::ZERO, |fate| {
        fate.sent.wall.duration_since(deadline).try_into().unwrap_or_default()
    });
    println!("{way}: the last packet lost was sent {} ms after the deadline", last.as_millis());
    assert!(
        last <= CLOCKS,
        "{way}: {} packets lost after the deadline, the last {last:?} after it",
        late.len()
    );
    assert!(
        fates.iter().any(|fate| fate.arrived && fate.sent.wall > deadline),
        "{way}: nothing was sent after it"
    );
}
