//! A profile's life as a person sees it: `kubectl wait`, `kubectl describe`, and the loss that the kernel counted.

use std::net::{IpAddr, SocketAddrV4};

use edge_api::Device;
use serde_json::json;
use xtask::demo::install::DEVICES;
use xtask::demo::stats::{self, Share};
use xtask::wait;

use super::traffic::ping;
use super::world::{LAYOUT, PATIENCE, SOON, Story};

/// Questions to each device: a loss of 15 or of 25 % would be seen.
const ROUNDS: u16 = 80;

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

    // Beside the operator's own exchanges; both cross the same hooks.
    let devices: Vec<_> = story.devices().iter().filter_map(endpoint).collect();
    assert_eq!(devices.len(), LAYOUT.total() as usize);
    let asked = devices.len() * usize::from(ROUNDS);
    let answered = ping(&story.in_pod(&story.operator_pod(), 0), &devices, ROUNDS).unwrap();
    let nodes = [story.counted(1, "lossy"), story.counted(2, "lossy")];
    for direction in ["ToDevice", "FromDevice"] {
        let sum = |verdict: &str| nodes.iter().map(|node| node[&(direction, verdict)]).sum::<usize>();
        let (lost, of) = (sum("loss"), sum("loss") + sum("pass"));
        assert!(of > asked / 2, "{direction}: {of} packets were seen of {asked} questions and more");
        judge(direction, lost, of, 0.2);
    }
    judge("unanswered", asked - answered, asked, stats::unanswered(0.2, 0.2));
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
    let rules = |node| story.agent(node).count("edge_agent_usage", &[("name", "rules")]);
    assert!([1, 2].map(rules).iter().all(|count| *count > 0), "no rules: {:?}", [1, 2].map(rules));
    story.apply(&profile(true));
    story.wait_for("jsonpath={.status.phase}=Paused", &["fault/short"]);
    wait::until("no rules", PATIENCE, SOON, || Ok(([1, 2].map(rules) == [0, 0]).then_some(()))).unwrap();
    story.wait_for("jsonpath={.status.phase}=Expired", &["fault/short"]);
    assert_eq!(story.profile("short").status.unwrap().expires_at, deadline, "pausing stopped the clock");
}

fn judge(what: &str, hits: usize, of: usize, asked: f64) {
    let share = Share::counted(hits as u64, of as u64);
    println!("{what}: {hits} of {of}, {:.1} % to {:.1} %", share.low * 100.0, share.high * 100.0);
    assert!(share.admits(asked), "{what}: {share:?} does not admit {asked}");
}

/// Where a device is, as the operator resolved it.
fn endpoint(device: &Device) -> Option<SocketAddrV4> {
    match device.status.as_ref()?.addresses.first()?.ip.parse().ok()? {
        IpAddr::V4(ip) => Some(SocketAddrV4::new(ip, device.spec.endpoint.port)),
        IpAddr::V6(_) => None,
    }
}
