//! A cluster that is set back to a backup: a real etcd and a real API server, which belong to this story alone.

#![expect(clippy::unwrap_used, reason = "a hand that slips ends the story")]

#[path = "control_plane_device/adopting.rs"]
mod adopting;
mod in_process;
mod rights;
#[path = "control_plane_device/stage.rs"]
mod stage;

use control_plane::wait::condition;
use edge_api::{Device, DevicePhase, DeviceStatus};
use edge_protocol::DesiredCommand;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tokio::time::Instant;

use stage::Stage;

/// Writes after the backup: more than a cluster makes by itself until an operator of it has taken its Lease.
const LATER: usize = 300;

impl Stage {
    /// What the device of this number obeys.
    fn held(&self, number: usize) -> DesiredCommand {
        self.device(number).view().durable.held.clone().unwrap()
    }

    async fn until_runs(&self, name: &str, firmware: &str) -> DeviceStatus {
        let runs = |status: &DeviceStatus| {
            let reported = status.reported.as_ref().and_then(|it| it.firmware.as_deref());
            status.phase == DevicePhase::InSync && reported == Some(firmware)
        };
        self.until(name, firmware, runs).await
    }

    /// Others use the cluster, too.
    async fn others_write(&self) {
        let maps = self.space.api::<ConfigMap>();
        for number in 0..LATER {
            let map = json!({
                "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "others"}, "data": {"number": number.to_string()},
            });
            maps.patch("others", &PatchParams::apply("others"), &Patch::Apply(&map)).await.unwrap();
        }
    }

    /// The cluster dies and comes back as it was.
    async fn is_restored(&mut self, backup: control_plane::Backup) {
        self.operator.is_killed().await;
        let began = Instant::now();
        self.space.server.restore(backup).await.unwrap();
        eprintln!("measured: {:?} until the API server of a restored etcd serves", began.elapsed());
        self.space.client = self.space.server.client().unwrap();
        self.operator.starts();
    }

    /// A person is told why a device is not believed, and gives it to its object.
    async fn is_conflicted_and_adopted(&self, name: &str, reason: &str) {
        let status = self.until_phase(name, DevicePhase::Conflicted).await;
        assert_eq!(condition(&status.conditions, "Consistent"), format!("Consistent=False/{reason}"));
        self.space.until_event(name, reason).await.unwrap();
        self.adopt(name, &status).await;
        self.until_unannotated(name).await;
    }
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn after_etcd_was_set_back_devices_refuse_the_past_until_a_person_adopts_them() {
    let mut stage = Stage::set("restored", 3).await;
    for (number, name) in [(0, "device-0"), (2, "device-2")] {
        stage.declare(number, Some("2.0.0")).await;
        stage.until_runs(name, "2.0.0").await;
    }
    let untouched = stage.held(2);
    let backup = stage.space.server.back_up().unwrap();

    // Of what comes now nothing will be left but what devices know: a later leader, a later generation, another Device.
    stage.others_write().await;
    stage.operator.is_killed().await;
    stage.operator.starts();
    stage.edit("device-0", json!({"desired": {"firmware": "3.0.0"}})).await;
    stage.until_runs("device-0", "3.0.0").await;
    stage.declare(1, Some("3.0.0")).await;
    stage.until_runs("device-1", "3.0.0").await;
    let (ahead, orphaned) = (stage.held(0), stage.held(1));
    assert!(ahead.epoch > untouched.epoch && ahead.generation == 2, "{ahead:?} after {untouched:?}");

    stage.is_restored(backup).await;
    assert_eq!(stage.get("device-0").await.metadata.generation, Some(1));
    assert!(stage.space.api::<Device>().get_opt("device-1").await.unwrap().is_none());

    // Whom nobody told anything since obeys as before.
    stage.edit("device-2", json!({"desired": {"firmware": "4.0.0"}})).await;
    stage.until_runs("device-2", "4.0.0").await;
    let now = stage.held(2);
    assert!(untouched.epoch < now.epoch && now.epoch < ahead.epoch, "{untouched:?}, {now:?}, {ahead:?}");

    // One that knows a later leader is commanded nothing, until a person says so; then it is as its object wants it.
    stage.until_phase("device-0", DevicePhase::Conflicted).await;
    assert_eq!((stage.held(0), stage.device(0).view().durable.running.firmware.as_str()), (ahead, "3.0.0"));
    stage.is_conflicted_and_adopted("device-0", "EpochAhead").await;
    stage.until_runs("device-0", "2.0.0").await;
    let held = stage.held(0);
    assert_eq!((held.epoch, held.generation), (now.epoch, 1), "{held:?}");

    // One whose Device the backup does not have runs on, and is the next one's when a person says so.
    assert_eq!(stage.held(1), orphaned);
    stage.declare(1, Some("2.0.0")).await;
    stage.is_conflicted_and_adopted("device-1", "ForeignOwner").await;
    stage.until_runs("device-1", "2.0.0").await;
    assert_ne!(stage.held(1).uid, orphaned.uid);
    stage.operator.ends().await;
}
