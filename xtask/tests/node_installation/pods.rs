//! A pod that starts again has another interface and another address: hooks and rules follow.

use std::time::Duration;

use serde_json::json;
use xtask::demo::install::DEVICES;
use xtask::wait;

use super::probe::Probe;
use super::world::{PATIENCE, PORTS, SOON, Story, fault, one_pod};

#[test]
#[ignore = "node rung: needs root and a cluster"]
fn a_pod_that_starts_again_is_hit_again_at_its_new_address() {
    let story = Story::begin();
    for node in [1, 2] {
        let pod = story.device_pod(node);
        story.apply(&fault("follows", &one_pod(&pod), &json!({"partition": {}}), "5m"));
        story.wait_for("Installed", &["fault/follows"]);
        story.kubectl(&["-n", DEVICES, "delete", "pod", &pod.name, "--grace-period=1"]);
        let again = wait::until("the pod again", PATIENCE, SOON, || {
            Ok(story.pods(DEVICES, &pod.name).into_iter().find(|found| found.uid != pod.uid))
        })
        .unwrap();
        assert_ne!(again.ip, pod.ip, "the address is the old one");
        assert_eq!(again.node, node, "it went to the other node");

        let started = std::time::Instant::now();
        let mut probe =
            Probe::start(pod.name, story.in_pod(&again, PORTS.0), story.outside(PORTS.1)).unwrap();
        probe.until(false, 200).unwrap();
        println!(
            "node{node}: hit again {} ms after the pod was ready",
            (started.elapsed() - Duration::from_secs(1)).as_millis()
        );
        for (way, fates) in probe.stop().unwrap() {
            let passed = fates.iter().take_while(|fate| fate.arrived).count();
            println!("{way}: {passed} packets passed between its readiness and its first loss");
            // Once hit, no packet escapes.
            let escaped = fates.iter().skip_while(|fate| fate.arrived).filter(|fate| fate.arrived).count();
            assert_eq!(escaped, 0, "{way}");
        }
        story.wait_for("Effective", &["fault/follows"]);
        story.wait_for("jsonpath={.status.phase}=Active", &["fault/follows"]);
        story.kubectl(&["-n", DEVICES, "delete", "faultprofile", "follows"]);
    }
    // Its devices were given their new address by the pod itself, and are reached there.
    story.devices_are_ready();
}
