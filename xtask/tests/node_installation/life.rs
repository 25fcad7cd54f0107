//! A profile's life as a person sees it: `kubectl wait`, `kubectl describe`, and the loss that the kernel counted.

use serde_json::json;
use xtask::demo::install::DEVICES;
use xtask::demo::stats::Share;
use xtask::wait;

use super::world::{LAYOUT, PATIENCE, SOON, Story};

/// Packets counted each way before the share is judged: a loss of 10 or of 30 % would be seen.
const ENOUGH: usize = 400;

#[test]
#[ignore = "node rung: needs root and a cluster"]
fn devices_get_ready_and_a_loss_of_20_percent_becomes_effective_counted_and_told() {
    let story = Story::begin();
    story.devices_are_ready();
    assert_eq!(story.devices().len(), LAYOUT.total() as usize);

    story.apply(&json!({
        "apiVersion": "edge-operator.dev/v1alpha1",
        "kind": "FaultProfile",
        "metadata": {"name": "lossy"},
        "spec": {
            "targets": {"devices": {"selector": {"matchLabels": {"model": "px4"}}}},
            "match": {"protocol": "UDP"},
            "faults": {"loss": {"percent": "20%"}},
            "seed": 11,
            "duration": "5m",
        },
    }));
    for condition in ["Accepted", "Installed", "Effective"] {
        story.wait_for(condition, &["fault/lossy"]);
    }
    let status = story.profile("lossy").status.unwrap();
    assert_eq!((status.targets.selected, status.targets.enforced), (LAYOUT.total(), LAYOUT.total()));

    // The operator's own traffic is what is lost; its devices stay in sync.
    let counted = |direction: &str| {
        let nodes = [story.counted(1, "lossy"), story.counted(2, "lossy")];
        let sum = |verdict: &str| nodes.iter().map(|node| node[&(direction, verdict)]).sum::<usize>();
        (sum("loss"), sum("loss") + sum("pass"))
    };
    for direction in ["ToDevice", "FromDevice"] {
        let (lost, of) = wait::until("packets to judge", PATIENCE, SOON, || {
            let (lost, of) = counted(direction);
            Ok((of >= ENOUGH).then_some((lost, of)))
        })
        .unwrap();
        let share = Share::counted(lost as u64, of as u64);
        println!(
            "{direction}: {lost} of {of} lost, {:.1} % to {:.1} %",
            share.low * 100.0,
            share.high * 100.0
        );
        assert!(share.admits(0.2), "{direction}: {share:?} does not admit 20 %");
    }
    let told = story.kubectl(&["-n", DEVICES, "describe", "fault", "lossy"]);
    for event in ["Accepted", "Started"] {
        assert!(
            told.lines().any(|line| line.contains("Normal") && line.contains(event)),
            "no {event} in {told}"
        );
    }
    let columns = story.kubectl(&["-n", DEVICES, "get", "fault", "lossy"]);
    assert!(columns.contains("Active"), "{columns}");
}

#[test]
#[ignore = "node rung: needs root and a cluster"]
fn a_paused_profile_lifts_its_faults_and_one_that_expired_stays_for_its_report() {
    let story = Story::begin();
    let profile = |paused: bool| {
        json!({
            "apiVersion": "edge-operator.dev/v1alpha1",
            "kind": "FaultProfile",
            "metadata": {"name": "short"},
            "spec": {
                "targets": {"cidrs": ["10.20.0.0/24"]},
                "match": {"ports": ["9"]},
                "faults": {"partition": {}},
                "duration": "8s",
                "paused": paused,
            },
        })
    };
    story.apply(&profile(false));
    story.wait_for("Installed", &["fault/short"]);
    let deadline = story.profile("short").status.unwrap().expires_at;
    let rules = |node| story.agent(node).count("edge_agent_rules", &[]);
    assert!([1, 2].map(rules).iter().all(|count| *count > 0), "no rules: {:?}", [1, 2].map(rules));
    story.apply(&profile(true));
    story.wait_for("jsonpath={.status.phase}=Paused", &["fault/short"]);
    wait::until("no rules", PATIENCE, SOON, || Ok(([1, 2].map(rules) == [0, 0]).then_some(()))).unwrap();
    story.wait_for("jsonpath={.status.phase}=Expired", &["fault/short"]);
    assert_eq!(story.profile("short").status.unwrap().expires_at, deadline, "pausing stopped the clock");
}
