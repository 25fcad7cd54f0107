//! The device controller against a real API server and simulated devices that speak CoAP over the loopback.

#[path = "control_plane_device/stage.rs"]
mod stage;

mod rights;

use edge_api::DevicePhase;
use stage::{Stage, condition};

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn a_declared_device_gets_in_sync_and_stays_so_without_further_writes() {
    let mut stage = Stage::set("in sync", 1).await;
    stage.declare(0, Some("2.0.0")).await;
    let status = stage.until_phase("device-0", DevicePhase::InSync).await;
    for (type_, reason) in
        [("Ready", "Ready"), ("Reachable", "Answering"), ("Synced", "InSync"), ("Consistent", "Consistent")]
    {
        assert_eq!(condition(&status, type_), format!("{type_}=True/{reason}"));
    }
    assert_eq!(status.reported.as_ref().unwrap().firmware.as_deref(), Some("2.0.0"));
    assert_eq!(status.observed_generation, Some(1));
    assert_eq!(status.addresses[0].ip, "127.0.0.1");
    assert_eq!(stage.device(0).view().durable.running.firmware, "2.0.0");

    let settled = stage.get("device-0").await.metadata.resource_version;
    let reports = "edge_device_reports_total";
    let heard = stage.metric(reports);
    stage.until_metric(reports, |now| now >= heard + 10.0).await;
    assert_eq!(stage.get("device-0").await.metadata.resource_version, settled);
    stage.operator_ends().await;
}
