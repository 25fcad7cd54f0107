//! A fleet with real devices: batch by batch under real loss, and its leader killed in the middle.

use edge_api::DeviceFleet;
use edge_api::fleet::{DeviceFleetStatus, FleetPhase};
use kube::Api;
use serde_json::{Value, json};
use xtask::demo::install::{self, DEVICES};
use xtask::wait;

use super::super::world::{PATIENCE, SOON, World};
use super::{all, begin, new_firmware, rough, the_next_one_ends_it_well};

/// Devices that may be under way at a time.
const IN_FLIGHT: usize = 3;

#[test]
#[ignore = "node rung: needs root and a cluster"]
fn a_rollout_under_loss_goes_on_within_its_budget_when_its_leader_is_killed_and_no_device_is_commanded_twice()
{
    let story = begin();
    // What nobody else declares is a fleet's.
    story.run(install::undeclare(&story.client)).unwrap();
    story.apply(&rough(20));
    story.wait_for("Installed", &["fault/rough"]);
    let (before, firmware) = (story.truth(), new_firmware(&story, 12));
    let pair = story.both_operators();
    let process = story.process_of(&pair.leader, "edge-operator");

    story.apply(&fleet(&firmware));
    let half = wait::until("half of the rollout", PATIENCE, SOON, || {
        Ok(Some(status(&story)).filter(|status| status.counts.in_sync as usize >= all() / 2))
    });
    let half = half.unwrap();
    assert_eq!(half.phase, FleetPhase::Progressing, "too late to test anything: {half:?}");
    process.kill();
    let (_, next) = story.followed(&pair.term);
    assert!(next.is_of(&pair.standby), "{next:?} follows, and not the standby {:?}", pair.standby);
    story.wait_for("Complete", &["fleet/px4"]);
    story.kubectl(&["-n", DEVICES, "delete", "fault", "rough"]);
    the_next_one_ends_it_well(&story, &firmware, &before);
    let end = status(&story);
    assert_eq!((end.phase, end.counts.in_sync as usize, end.counts.failed), (FleetPhase::Complete, all(), 0));
    assert!(end.epoch > half.epoch, "the next leader's word is not in it: {end:?}");
    assert!(end.reserved.is_empty(), "{end:?}");
    let most = story.truth().since(&before).most_in_flight(&firmware);
    println!("at most {most} devices were under way");
    assert!((1..=IN_FLIGHT).contains(&most), "{most} devices were under way, {IN_FLIGHT} may be");
}

fn fleet(firmware: &str) -> Value {
    json!({
        "apiVersion": "edge-operator.dev/v1alpha1",
        "kind": "DeviceFleet",
        "metadata": {"name": "px4"},
        "spec": {
            "selector": {"matchLabels": {"model": "px4"}},
            "template": {"firmware": firmware, "config": {"sampling-interval": "5s"}},
            "rollout": {"batches": [1, "50%", "100%"], "maxInFlight": IN_FLIGHT, "maxUnavailable": IN_FLIGHT},
        },
    })
}

fn status(world: &World) -> DeviceFleetStatus {
    let api = Api::<DeviceFleet>::namespaced(world.client.clone(), DEVICES);
    world.run(api.get("px4")).unwrap().status.unwrap_or_default()
}
