//! Devices that tell of their changes (RFC 7641), and notifications that are late, reordered, repeated or lost.

use std::time::Duration;

use control_plane::wait::condition;
use device_sim::Behaviour;
use device_sim::behaviour::{Span, share};
use device_sim::history::What;
use edge_api::DevicePhase;
use serde_json::json;

use super::happened;
use super::stage::Stage;

/// A device is asked again only after this long, by which time a story of news is over.
const SELDOM: &str = "--poll-interval=10m";

fn seldom() -> serde_json::Value {
    json!({"liveness": {"probeInterval": "10m", "suspectAfter": "20m", "lostAfter": "30m"}})
}

fn slow_installs() -> Behaviour {
    Behaviour { install_time: Span::exactly(Duration::from_millis(500)), ..Behaviour::default() }
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn a_change_is_told_long_before_the_next_probe() {
    let stage = Stage::set_with("told", 1, &[SELDOM]).await;
    stage.declare(0, Some("2.0.0")).await;
    stage.until_phase("device-0", DevicePhase::InSync).await;
    stage.edit("device-0", seldom()).await;
    // The probe that was due before sees the new interval; from here on only news come.
    let heard = stage.operator.metric("edge_device_exchanges_total{");
    stage.operator.until_metric("edge_device_exchanges_total{", |exchanges| exchanges > heard).await;
    stage.device(0).set_behaviour(slow_installs());
    stage.edit("device-0", json!({"desired": {"firmware": "3.0.0"}})).await;
    let status = stage
        .until("device-0", "running what it shall", |status| {
            status.reported.as_ref().is_some_and(|reported| reported.firmware.as_deref() == Some("3.0.0"))
        })
        .await;
    assert_eq!(
        (status.phase, condition(&status.conditions, "Ready")),
        (DevicePhase::InSync, "Ready=True/Ready".to_owned())
    );
    assert!(stage.operator.metric(r#"edge_link_datagrams_total{result="notified"}"#) >= 1.0);
    assert!(stage.operator.metric("edge_observed_devices") >= 1.0);
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn news_that_are_late_reordered_repeated_or_lost_accuse_nobody_and_probes_find_what_they_miss() {
    let stage = Stage::set("late news", 4).await;
    let rough = Behaviour {
        lose_answers: share("20%").unwrap(),
        late: "30%:10ms..300ms".parse().unwrap(),
        duplicate: "20%:50ms".parse().unwrap(),
        reorder: "20%:300ms".parse().unwrap(),
        repeat: share("20%").unwrap(),
        install_time: "50ms..300ms".parse().unwrap(),
        ..Behaviour::default()
    };
    for number in 0..4 {
        stage.device(number).set_behaviour(rough.clone());
        stage.declare(number, Some("2.0.0")).await;
    }
    for firmware in ["3.0.0", "4.0.0", "5.0.0"] {
        for number in 0..4 {
            stage.edit(&format!("device-{number}"), json!({"desired": {"firmware": firmware}})).await;
        }
        for number in 0..4 {
            let runs = |status: &edge_api::DeviceStatus| {
                let reported = status.reported.as_ref().and_then(|reported| reported.firmware.as_deref());
                status.phase == DevicePhase::InSync && reported == Some(firmware)
            };
            stage.until(&format!("device-{number}"), firmware, runs).await;
        }
    }
    let contradictory =
        stage.operator.metric(r#"edge_device_transitions_total{from="Syncing",to="Conflicted"}"#);
    assert!(contradictory < 0.5, "a late word made a device a liar\n{}", stage.operator.scrape());
    for number in 0..4 {
        let history = stage.device(number).history();
        let generations: Vec<u64> = history.of(What::Applied).map(|entry| entry.generation).collect();
        assert!(generations.is_sorted(), "{generations:?}");
        assert!(happened(stage.device(number), What::Applied) >= 1);
    }
}
