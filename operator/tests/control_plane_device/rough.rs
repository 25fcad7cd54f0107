//! Devices that misbehave in every way at once, and what is left of it when they stop.

#![expect(clippy::unwrap_used, reason = "a hand that slips ends the story")]

use std::time::Duration;

use device_sim::Behaviour;
use device_sim::behaviour::share;
use device_sim::history::What;
use edge_api::{DevicePhase, DeviceStatus};
use serde_json::json;

use super::stage::Stage;

const DEVICES: usize = 6;

fn rough() -> Behaviour {
    Behaviour {
        drop: share("10%").unwrap(),
        lose_answers: share("10%").unwrap(),
        late: "20%:5ms..200ms".parse().unwrap(),
        duplicate: "20%:20ms".parse().unwrap(),
        reorder: "10%:200ms".parse().unwrap(),
        repeat: share("10%").unwrap(),
        stale: share("10%").unwrap(),
        contradict: share("10%").unwrap(),
        forget: share("10%").unwrap(),
        reboot_every: Some(Duration::from_secs(2)),
        reboot_in_install: share("20%").unwrap(),
        boot_time: "0s..50ms".parse().unwrap(),
        install_time: "20ms..200ms".parse().unwrap(),
        install_fail: share("5%").unwrap(),
        clock_skew: share("20%").unwrap(),
        flood: Some(Duration::from_millis(500)),
        refuse_firmware: None,
    }
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn when_devices_stop_to_misbehave_in_every_way_all_agree_with_their_history_and_nothing_more_is_written()
 {
    let stage = Stage::set("rough", DEVICES).await;
    for number in 0..DEVICES {
        stage.device(number).set_behaviour(rough());
        stage.declare(number, Some("2.0.0")).await;
    }
    for firmware in ["3.0.0", "4.0.0", "5.0.0"] {
        let reports = stage.operator.metric("edge_device_reports_total{");
        stage.operator.until_metric("edge_device_reports_total{", |now| now > reports + 120.0).await;
        for number in 0..DEVICES {
            stage.edit(&format!("device-{number}"), json!({"desired": {"firmware": firmware}})).await;
        }
    }
    // What three failed installs made Failed is left when `desired` changes.
    for number in 0..DEVICES {
        stage.device(number).set_behaviour(Behaviour::default());
        stage.edit(&format!("device-{number}"), json!({"desired": {"firmware": "6.0.0"}})).await;
    }
    let runs = |status: &DeviceStatus| {
        let reported = status.reported.as_ref().and_then(|reported| reported.firmware.as_deref());
        status.phase == DevicePhase::InSync && reported == Some("6.0.0")
    };
    for number in 0..DEVICES {
        stage.until(&format!("device-{number}"), "in sync with 6.0.0", runs).await;
    }
    let quiet = settled(&stage).await;
    let reports = r#"edge_device_reports_total{disposition="accepted""#;
    let heard = stage.operator.metric(reports);
    stage.operator.until_metric(reports, |now| now >= heard + 60.0).await;
    assert_eq!(settled(&stage).await, quiet, "something was written in calm\n{}", stage.operator.scrape());

    for disposition in ["stale", "contradictory", "unconfirmed"] {
        let series = format!(r#"edge_device_reports_total{{disposition="{disposition}""#);
        assert!(stage.operator.metric(&series) > 0.5, "no report was {disposition}: that is no misbehaviour");
    }
    for number in 0..DEVICES {
        let (device, status) =
            (stage.device(number), stage.get(&format!("device-{number}")).await.status.unwrap());
        let (view, reported) = (device.view(), status.reported.unwrap());
        assert_eq!(reported.firmware.as_deref(), Some(view.durable.running.firmware.as_str()));
        assert_eq!(reported.config_digest, Some(view.durable.running.digest().to_string()));
        assert_eq!(reported.boot_id, view.boot_id.to_string());
        let history = device.history();
        assert!(history.is_whole(), "{} entries, and what came first is forgotten", history.recorded);
        let orders = |what| history.of(what).map(|entry| (entry.epoch, entry.generation)).collect::<Vec<_>>();
        for what in [What::Stored, What::Applied] {
            assert!(orders(what).is_sorted(), "an old command won: {:?}", orders(what));
        }
    }
}

/// The versions of all Devices once two looks at them agree.
async fn settled(stage: &Stage) -> Vec<Option<String>> {
    let mut before = Vec::new();
    loop {
        let mut now = Vec::new();
        for number in 0..DEVICES {
            now.push(stage.get(&format!("device-{number}")).await.metadata.resource_version);
        }
        if now == before {
            return now;
        }
        before = now;
        let heard = stage.operator.metric("edge_device_reports_total{");
        stage.operator.until_metric("edge_device_reports_total{", |reports| reports >= heard + 20.0).await;
    }
}
