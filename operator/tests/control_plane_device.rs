//! The device controller against a real API server and simulated devices that speak CoAP over the loopback.

#[path = "control_plane_device/adopting.rs"]
mod adopting;
#[path = "control_plane_device/measured.rs"]
mod measured;
#[path = "control_plane_device/notices.rs"]
mod notices;
#[path = "control_plane_device/owners.rs"]
mod owners;
#[path = "control_plane_device/room.rs"]
mod room;
#[path = "control_plane_device/rough.rs"]
mod rough;
#[path = "control_plane_device/scripted.rs"]
mod scripted;
#[path = "control_plane_device/stage.rs"]
mod stage;

mod in_process;
#[path = "in_process/measures.rs"]
mod measures;
mod rights;

use std::time::Duration;

use control_plane::wait::condition;
use device_sim::behaviour::{Span, share};
use device_sim::history::What;
use device_sim::{Behaviour, DeviceHandle, Sim, SimConfig};
use edge_api::DevicePhase;
use edge_protocol::Install;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use scripted::Scripted;
use serde_json::json;
use stage::Stage;

/// How often something happened to a device, by its own account.
fn happened(device: &DeviceHandle, what: What) -> usize {
    device.history().entries.iter().filter(|entry| entry.what == what).count()
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn a_declared_device_gets_in_sync_and_stays_so_without_further_writes() {
    let mut stage = Stage::set("in sync", 1).await;
    stage.declare(0, Some("2.0.0")).await;
    let status = stage.until_phase("device-0", DevicePhase::InSync).await;
    for (type_, reason) in
        [("Ready", "Ready"), ("Reachable", "Answering"), ("Synced", "InSync"), ("Consistent", "Consistent")]
    {
        assert_eq!(condition(&status.conditions, type_), format!("{type_}=True/{reason}"));
    }
    assert_eq!(status.reported.as_ref().unwrap().firmware.as_deref(), Some("2.0.0"));
    assert_eq!(status.observed_generation, Some(1));
    assert_eq!(status.addresses[0].ip, "127.0.0.1");
    assert_eq!(stage.device(0).view().durable.running.firmware, "2.0.0");

    let settled = stage.get("device-0").await.metadata.resource_version;
    let reports = "edge_device_reports_total";
    let heard = stage.operator.metric(reports);
    stage.operator.until_metric(reports, |now| now >= heard + 10.0).await;
    assert_eq!(stage.get("device-0").await.metadata.resource_version, settled);
    stage.operator.ends().await;
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn devices_that_lose_requests_and_answers_are_retried_and_carry_out_each_command_once() {
    let stage = Stage::set("lossy", 8).await;
    for number in 0..8 {
        let behaviour = Behaviour {
            drop: share("30%").unwrap(),
            lose_answers: share("30%").unwrap(),
            ..Behaviour::default()
        };
        stage.device(number).set_behaviour(behaviour);
        stage.declare(number, Some("2.0.0")).await;
    }
    for number in 0..8 {
        stage.until_phase(&format!("device-{number}"), DevicePhase::InSync).await;
        assert_eq!(happened(stage.device(number), What::Applied), 1);
    }
    assert!(stage.operator.metric("edge_device_retransmissions_total") > 0.5);
    for outcome in ["answered", "unanswered"] {
        let sent = stage.operator.metric(&format!("edge_device_sends_total{{outcome=\"{outcome}\"}}"));
        assert!(sent > 7.5, "{sent} of eight and more were {outcome}\n{}", stage.operator.scrape());
    }
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn an_operator_that_is_killed_leaves_no_exchange_under_way() {
    let mut stage = Stage::set_with("killed", 1, &["--ack-timeout=1h"]).await;
    stage.device(0).set_behaviour(Behaviour { drop: share("100%").unwrap(), ..Behaviour::default() });
    stage.declare(0, Some("2.0.0")).await;
    stage.operator.until_metric("edge_inflight_exchanges", |exchanges| exchanges > 0.5).await;
    stage.operator.is_killed().await;
    stage.operator.until_metric("edge_inflight_exchanges", |exchanges| exchanges < 0.5).await;
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn a_reboot_is_noticed_counted_and_shown() {
    let stage = Stage::set("reboot", 1).await;
    stage.declare(0, Some("2.0.0")).await;
    let before = stage.until_phase("device-0", DevicePhase::InSync).await.reported.unwrap();
    assert!(stage.device(0).power_cycle().await);
    let boot = before.boot_id.clone();
    let rebooted = move |status: &edge_api::DeviceStatus| {
        status.reported.as_ref().is_some_and(|reported| reported.boot_id != boot)
    };
    let status = stage.until("device-0", "seen to have rebooted", rebooted).await;
    assert_eq!(status.phase, DevicePhase::InSync);
    assert!((stage.operator.metric("edge_device_reboots_total") - 1.0).abs() < 0.5);
    assert_eq!(happened(stage.device(0), What::Applied), 1);
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn a_refused_desired_state_fails_and_is_left_when_desired_changes_and_not_before() {
    let mut stage = Stage::set("refused", 1).await;
    stage
        .device(0)
        .set_behaviour(Behaviour { refuse_firmware: Some("6.6.6".into()), ..Behaviour::default() });
    stage.declare(0, Some("6.6.6")).await;
    let status = stage.until_phase("device-0", DevicePhase::Failed).await;
    assert_eq!(condition(&status.conditions, "Synced"), "Synced=False/Refused");
    assert_eq!(condition(&status.conditions, "Reachable"), "Reachable=True/Answering");
    let event = stage.space.until_event("device-0", "Failed").await.unwrap();
    assert!(event.note.unwrap_or_default().contains("4.22"));

    stage.edit("device-0", json!({"liveness": {"lostAfter": "40s"}})).await;
    let status =
        stage.until("device-0", "at generation 2", |status| status.observed_generation == Some(2)).await;
    assert_eq!(status.phase, DevicePhase::Failed);
    stage.operator.is_killed().await;
    stage.operator.starts();
    stage.operator.until_metric("edge_device_reports_total", |reports| reports > 3.0).await;
    assert_eq!(stage.get("device-0").await.status.unwrap().phase, DevicePhase::Failed);
    assert_eq!(happened(stage.device(0), What::Stored), 0);

    stage.edit("device-0", json!({"desired": {"firmware": "2.0.0"}})).await;
    stage.until_phase("device-0", DevicePhase::InSync).await;
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn an_install_that_fails_is_tried_three_times_and_then_given_up() {
    let stage = Stage::set("install fails", 1).await;
    stage.device(0).set_behaviour(Behaviour { install_fail: share("100%").unwrap(), ..Behaviour::default() });
    stage.declare(0, Some("2.0.0")).await;
    let status = stage.until_phase("device-0", DevicePhase::Failed).await;
    assert_eq!(condition(&status.conditions, "Synced"), "Synced=False/InstallFailed");
    let heard = stage.operator.metric("edge_device_reports_total");
    stage.operator.until_metric("edge_device_reports_total", |reports| reports > heard + 5.0).await;
    assert_eq!(happened(stage.device(0), What::InstallFailed), 3);
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn a_silent_device_becomes_unknown_then_unreachable_and_comes_back_by_itself() {
    let stage = Stage::set("silence", 1).await;
    stage.declare(0, Some("2.0.0")).await;
    stage.until_phase("device-0", DevicePhase::InSync).await;
    stage.device(0).set_behaviour(Behaviour { drop: share("100%").unwrap(), ..Behaviour::default() });
    stage.edit("device-0", json!({"liveness": {"suspectAfter": "3s", "lostAfter": "10s"}})).await;
    let status = stage
        .until("device-0", "suspected", |status| {
            condition(&status.conditions, "Reachable") == "Reachable=Unknown/Silent"
        })
        .await;
    assert_eq!(condition(&status.conditions, "Ready"), "Ready=Unknown/Silent");
    let status = stage.until_phase("device-0", DevicePhase::Unreachable).await;
    assert_eq!(condition(&status.conditions, "Reachable"), "Reachable=False/Lost");
    assert_eq!(condition(&status.conditions, "Synced"), "Synced=True/InSync");
    stage.space.until_event("device-0", "Unreachable").await.unwrap();

    stage.edit("device-0", json!({"desired": {"firmware": "3.0.0"}})).await;
    stage.operator.until_metric("edge_device_unconverged_seconds", |age| age > 0.5).await;
    stage.device(0).set_behaviour(Behaviour::default());
    let status = stage.until_phase("device-0", DevicePhase::InSync).await;
    assert_eq!(status.reported.unwrap().firmware.as_deref(), Some("3.0.0"));
    stage.operator.until_metric("edge_device_unconverged_seconds", |age| age < 0.001).await;
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn an_operator_killed_in_the_middle_of_an_install_commands_nothing_twice() {
    let mut stage = Stage::set("killed", 1).await;
    let slow = Span::exactly(Duration::from_secs(6));
    stage.device(0).set_behaviour(Behaviour { install_time: slow, ..Behaviour::default() });
    stage.declare(0, Some("2.0.0")).await;
    stage.device(0).wait_for(|view| view.installing).await.unwrap();
    stage.until_phase("device-0", DevicePhase::Syncing).await;
    let epoch = stage.device(0).view().durable.held.as_ref().unwrap().epoch;
    stage.operator.is_killed().await;
    stage.operator.starts();
    stage.until_phase("device-0", DevicePhase::InSync).await;
    assert_eq!(happened(stage.device(0), What::Stored), 1);
    assert_eq!(happened(stage.device(0), What::Applied), 1);

    stage.edit("device-0", json!({"desired": {"firmware": "2.0.0", "config": {"interval": "9s"}}})).await;
    let device = stage.device(0);
    device.wait_for(|view| view.durable.running.generation == 2).await.unwrap();
    assert!(device.view().durable.held.as_ref().unwrap().epoch > epoch, "a later start has a later epoch");
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn another_name_at_the_address_is_a_conflict_and_not_commanded() {
    let stage = Stage::set("foreign", 1).await;
    stage.declare_as("impostor", 0, Some("2.0.0")).await;
    let status = stage.until_phase("impostor", DevicePhase::Conflicted).await;
    assert_eq!(condition(&status.conditions, "Consistent"), "Consistent=False/ForeignName");
    assert_eq!(happened(stage.device(0), What::Stored), 0);
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn what_is_no_change_of_desired_state_sends_nothing() {
    let stage = Stage::set("no command", 1).await;
    stage.declare(0, None).await;
    let status = stage
        .until("device-0", "ready", |status| condition(&status.conditions, "Ready") == "Ready=True/Ready")
        .await;
    assert_eq!(condition(&status.conditions, "Synced"), "Synced=True/NothingDesired");
    stage.edit("device-0", json!({"desired": {"firmware": "2.0.0"}})).await;
    let in_sync = |status: &edge_api::DeviceStatus| {
        status.phase == DevicePhase::InSync && status.observed_generation == Some(2)
    };
    stage.until("device-0", "in sync", in_sync).await;
    stage.edit("device-0", json!({"paused": true})).await;
    let status = stage.until_phase("device-0", DevicePhase::Paused).await;
    assert_eq!(condition(&status.conditions, "Reachable"), "Reachable=Unknown/Paused");
    stage.edit("device-0", json!({"liveness": {"lostAfter": "40s"}})).await;
    stage.edit("device-0", json!({"paused": false})).await;
    let status = stage.until_phase("device-0", DevicePhase::InSync).await;
    assert_eq!(status.observed_generation, Some(5));
    assert_eq!(happened(stage.device(0), What::Stored), 1);
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn an_endpoint_out_of_reach_is_pending_with_the_sentence_and_gets_no_packet() {
    let stage = Stage::set("reach", 1).await;
    stage.declare(0, Some("2.0.0")).await;
    stage.until_phase("device-0", DevicePhase::InSync).await;
    // It could be reached, and may not.
    let states = tempfile::tempdir().unwrap();
    let outside = SimConfig {
        namespace: stage.space.namespace.clone(),
        listen: vec!["127.0.0.2:0".parse().unwrap()],
        ..SimConfig::on_loopback(1, states.path().to_owned())
    };
    let outside = Sim::start(outside).await.unwrap();
    let port = outside.devices()[0].address().port();
    stage.edit("device-0", json!({"endpoint": {"host": "127.0.0.2", "port": port}})).await;
    let status = stage
        .until("device-0", "not allowed", |status| {
            condition(&status.conditions, "Ready") == "Ready=False/EndpointNotAllowed"
        })
        .await;
    assert_eq!(status.phase, DevicePhase::Pending);
    assert!(status.addresses.is_empty());
    let event = stage.space.until_event("device-0", "EndpointNotAllowed").await.unwrap();
    assert!(event.note.unwrap_or_default().contains("--allow-cidrs"));
    let counted = outside.metrics().text().unwrap();
    let mut datagrams = counted.lines().filter(|line| line.starts_with("device_sim_datagrams_total"));
    assert!(datagrams.all(|line| line.ends_with(" 0")), "{counted}");
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn an_endpoint_may_be_a_dns_name() {
    let stage = Stage::set_with("dns", 1, &["--allow-cidrs=127.0.0.1/32,::1/128"]).await;
    stage.declare(0, Some("2.0.0")).await;
    stage.edit("device-0", json!({"endpoint": {"host": "localhost"}})).await;
    let by_name = |status: &edge_api::DeviceStatus| {
        status.phase == DevicePhase::InSync && status.observed_generation == Some(2)
    };
    let status = stage.until("device-0", "in sync by name", by_name).await;
    assert!(status.addresses.iter().any(|address| address.ip == "127.0.0.1"), "{:?}", status.addresses);
    stage.edit("device-0", json!({"endpoint": {"host": "no-such-name.invalid"}})).await;
    let unknown =
        |status: &edge_api::DeviceStatus| condition(&status.conditions, "Ready") == "Ready=False/NotResolved";
    stage.until("device-0", "of no known address", unknown).await;
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn a_device_in_a_pod_is_shown_with_the_pods_node() {
    let stage = Stage::set("pods", 1).await;
    stage.declare(0, Some("2.0.0")).await;
    stage.until_phase("device-0", DevicePhase::InSync).await;
    let pods = stage.space.api::<Pod>();
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "sim-0"},
        "spec": {"nodeName": "node1", "containers": [{"name": "c", "image": "localhost/none:dev"}]},
    }))
    .unwrap();
    pods.create(&PostParams::default(), &pod).await.unwrap();
    let status =
        json!({"status": {"phase": "Running", "podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]}});
    pods.patch_status("sim-0", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    let on_node = |status: &edge_api::DeviceStatus| {
        status.addresses.iter().any(|address| address.node.as_deref() == Some("node1"))
    };
    stage.until("device-0", "on node1", on_node).await;
    pods.delete("sim-0", &DeleteParams::default().grace_period(0)).await.unwrap();
    let off_node =
        |status: &edge_api::DeviceStatus| status.addresses.iter().all(|address| address.node.is_none());
    stage.until("device-0", "on no node", off_node).await;
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn a_device_that_contradicts_its_acknowledgement_is_conflicted_and_commanded_again() {
    let stage = Stage::set("contradiction", 1).await;
    let liar = Scripted::start(&stage.space.namespace, "device-0").await;
    stage.declare(0, Some("2.0.0")).await;
    stage.edit("device-0", json!({"endpoint": {"port": liar.address.port()}})).await;
    let status = stage.until_phase("device-0", DevicePhase::Conflicted).await;
    assert_eq!(condition(&status.conditions, "Consistent"), "Consistent=False/LostCommand");
    stage
        .operator
        .until_metric("edge_device_reports_total", |_| liar.commands.lock().unwrap().len() > 2)
        .await;
    let ids: std::collections::BTreeSet<_> =
        liar.commands.lock().unwrap().iter().map(|command| command.command_id).collect();
    assert!(ids.len() > 1, "a new attempt has a new id");
    liar.obeys();
    let status = stage.until_phase("device-0", DevicePhase::InSync).await;
    assert_eq!(condition(&status.conditions, "Consistent"), "Consistent=True/Consistent");

    liar.says(|report| report.held_generation += 10);
    stage.until_phase("device-0", DevicePhase::Conflicted).await;
    liar.says(|report| {
        report.held_generation -= 10;
        report.install = Install::Idle;
    });
    stage.until_phase("device-0", DevicePhase::InSync).await;
}
