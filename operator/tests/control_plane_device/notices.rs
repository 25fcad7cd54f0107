//! Devices that tell of their changes (RFC 7641), and notifications that are late, reordered, repeated or lost.

use std::time::Duration;

use control_plane::wait::condition;
use device_sim::Behaviour;
use device_sim::behaviour::{Span, share};
use device_sim::history::What;
use edge_api::DevicePhase;
use serde_json::json;
use tokio::time::Instant;

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
async fn a_device_that_tells_without_end_costs_few_writes_and_others_news_still_arrive() {
    let stage = Stage::set_with("flood", 2, &["--poll-interval=10s", "--notification-queue=2"]).await;
    for number in 0..2 {
        stage.declare(number, Some("2.0.0")).await;
    }
    for number in 0..2 {
        stage.until_phase(&format!("device-{number}"), DevicePhase::InSync).await;
    }
    stage.edit("device-1", seldom()).await;
    stage.device(1).set_behaviour(slow_installs());
    stage.until("device-1", "asked seldom", |status| status.observed_generation == Some(2)).await;
    let patches = || stage.operator.metric(r#"rest_client_requests_total{code="200",host="127.0.0.1:"#);
    let (before, since) = (patches(), Instant::now());

    stage
        .device(0)
        .set_behaviour(Behaviour { flood: Some(Duration::from_millis(2)), ..Behaviour::default() });
    let unheeded = r#"edge_link_datagrams_total{result="unheeded"}"#;
    stage.operator.until_metric(unheeded, |unheeded| unheeded > 300.0).await;
    for (generation, firmware) in [(3, "3.0.0"), (4, "4.0.0")] {
        stage.edit("device-1", json!({"desired": {"firmware": firmware}})).await;
        let runs = |status: &edge_api::DeviceStatus| {
            status.phase == DevicePhase::InSync && status.observed_generation == Some(generation)
        };
        stage.until("device-1", firmware, runs).await;
    }
    let so_far = stage.operator.metric(unheeded);
    stage.operator.until_metric(unheeded, |unheeded| unheeded > so_far + 1_000.0).await;
    let (writes, seconds) = (patches() - before, since.elapsed().as_secs_f64());
    // The burst and its rate; of the other device a change of its liveness, and two of its firmware, with Syncing and InSync each.
    let most = 10.0 + 0.2 * seconds + 6.0;
    assert!(writes <= most, "{writes} writes in {seconds:.1} s\n{}", stage.operator.scrape());
    let overrun = stage.operator.metric(r#"edge_link_datagrams_total{result="overrun"}"#);
    assert!(overrun < 0.5, "the one that floods took the room of the other one's news");

    stage.device(0).set_behaviour(Behaviour::default());
    let ready =
        |status: &edge_api::DeviceStatus| condition(&status.conditions, "Ready") == "Ready=True/Ready";
    stage.until("device-0", "as it shall be again", ready).await;
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
