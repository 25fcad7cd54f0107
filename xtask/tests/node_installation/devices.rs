//! Devices under loss: a new firmware converges, and once the loss is over nothing is written any more.

use std::collections::BTreeMap;
use std::time::Instant;

use kube::ResourceExt;
use serde_json::json;
use xtask::wait;

use super::world::{LAYOUT, PATIENCE, SOON, Story};

#[test]
#[ignore = "node rung: needs root and a cluster"]
fn a_firmware_declared_under_loss_converges_and_then_nothing_is_written() {
    let story = Story::begin();
    story.devices_are_ready();
    story.apply(&json!({
        "apiVersion": "edge-operator.dev/v1alpha1",
        "kind": "FaultProfile",
        "metadata": {"name": "rough"},
        "spec": {
            "targets": {"devices": {"selector": {"matchLabels": {"model": "px4"}}}},
            "faults": {"loss": {"percent": "20%"}},
            "seed": 5,
            "duration": "5m",
        },
    }));
    story.wait_for("Installed", &["fault/rough"]);
    let firmware = format!("3.{}.0", story.devices()[0].metadata.generation.unwrap());
    let retransmitted = || story.operator().count("edge_device_retransmissions_total", &[]);
    let (before, started) = (retransmitted(), Instant::now());
    story.declare(&firmware);
    story.wait_for(&format!("jsonpath={{.status.reported.firmware}}={firmware}"), &["device", "--all"]);
    story.devices_are_ready();
    println!("all devices run {firmware} after {} s", started.elapsed().as_secs());
    assert!(retransmitted() > before, "nothing was lost on the way");
    for (device, entries) in story.histories() {
        assert_eq!(entries.last().unwrap()["firmware"], firmware.as_str(), "{device}: {entries:#?}");
    }

    story.kubectl(&["-n", "edge-demo", "delete", "faultprofile", "rough"]);
    // Who was suspected under loss is believed again.
    story.wait_for("Reachable", &["device", "--all"]);
    story.devices_are_ready();
    let versions = || -> BTreeMap<_, _> {
        story.devices().iter().map(|it| (it.name_any(), it.resource_version())).collect()
    };
    let exchanges = || story.operator().count("edge_device_exchanges_total", &[]);
    println!("calm after {} s", started.elapsed().as_secs());
    let (written, probed) = (versions(), exchanges());
    wait::until("four probes of each device", PATIENCE, SOON, || {
        Ok((exchanges() >= probed + 4 * LAYOUT.total() as usize).then_some(()))
    })
    .unwrap();
    println!("probed after {} s", started.elapsed().as_secs());
    assert_eq!(written, versions(), "a status was written though nothing changed");
}
