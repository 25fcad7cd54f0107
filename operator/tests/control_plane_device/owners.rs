//! Whom a device obeys: a Device deleted and made again, a device that another one owns, a restored cluster.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a hand that slips ends the story"
)]

use std::net::SocketAddr;

use control_plane::wait::{WITHIN, condition};
use device_sim::Behaviour;
use device_sim::behaviour::share;
use device_sim::history::What;
use edge_api::device::FINALIZER;
use edge_api::{Device, DevicePhase};
use edge_operator::link::{Method, wire};
use edge_protocol::{CommandId, DesiredCommand};
use kube::ResourceExt as _;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::runtime::wait::{await_condition, conditions};
use serde_json::json;
use tokio::net::UdpSocket;

use super::happened;
use super::stage::Stage;

impl Stage {
    /// Deletes a Device and waits until it is gone.
    async fn delete(&self, name: &str) {
        let device = self.get(name).await;
        self.space.api::<Device>().delete(name, &DeleteParams::default()).await.unwrap();
        self.until_gone(&device).await;
    }

    async fn until_gone(&self, device: &Device) {
        let (name, uid) = (device.name_any(), device.uid().unwrap());
        let gone = await_condition(self.space.api::<Device>(), &name, conditions::is_deleted(&uid));
        match tokio::time::timeout(WITHIN, gone).await {
            Ok(gone) => drop(gone.unwrap()),
            Err(_) => panic!("{:#?} is still there\n{}", self.get(&name).await, self.operator.scrape()),
        }
    }
}

/// A leader that is not of this cluster's present commands a device.
async fn commands(address: SocketAddr, command: &DesiredCommand) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let payload = edge_protocol::encode(command).unwrap();
    let bytes = wire::request(Method::Put, edge_protocol::PATH_DESIRED, 7, *b"restored", payload).unwrap();
    socket.send_to(&bytes, address).await.unwrap();
    let mut buffer = [0; 2048];
    let received = tokio::time::timeout(WITHIN, socket.recv(&mut buffer)).await;
    let length = received.expect("the device answers").unwrap();
    let response = wire::parse(&buffer[..length]).unwrap().response.unwrap();
    assert_eq!(response.code, edge_operator::link::Code::CHANGED);
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn a_device_that_is_deleted_and_made_again_just_works() {
    let mut stage = Stage::set("again", 1).await;
    stage.declare(0, Some("2.0.0")).await;
    stage.until_phase("device-0", DevicePhase::InSync).await;
    assert_eq!(stage.get("device-0").await.finalizers(), [FINALIZER]);
    stage.delete("device-0").await;
    assert_eq!(happened(stage.device(0), What::Released), 1);
    assert_eq!(stage.device(0).view().durable.running.firmware, "2.0.0", "it runs on");

    stage.declare(0, Some("3.0.0")).await;
    let status = stage.until_phase("device-0", DevicePhase::InSync).await;
    assert_eq!(status.reported.unwrap().firmware.as_deref(), Some("3.0.0"));

    // The next deletion happens while nobody is there to release.
    stage.operator.is_killed().await;
    let device = stage.get("device-0").await;
    stage.space.api::<Device>().delete("device-0", &DeleteParams::default()).await.unwrap();
    assert!(stage.get("device-0").await.metadata.deletion_timestamp.is_some());
    stage.operator.starts();
    stage.until_gone(&device).await;
    assert_eq!(happened(stage.device(0), What::Released), 2);
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn a_device_for_which_there_is_no_room_is_released_and_goes_when_it_is_deleted() {
    let stage = Stage::set_with("no room", 2, &["--max-devices=1"]).await;
    stage.declare(0, Some("2.0.0")).await;
    stage.until_phase("device-0", DevicePhase::InSync).await;
    // An operator with more room has had this one.
    stage.declare(1, Some("2.0.0")).await;
    stage.operator.until_metric("edge_devices_refused_total", |refused| refused > 0.5).await;
    let held = Patch::Merge(json!({"metadata": {"finalizers": [FINALIZER]}}));
    stage.space.api::<Device>().patch("device-1", &PatchParams::default(), &held).await.unwrap();
    stage.delete("device-1").await;
    assert_eq!(stage.get("device-0").await.status.unwrap().phase, DevicePhase::InSync);
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn a_device_that_was_never_commanded_is_held_by_nothing() {
    let stage = Stage::set("watched", 1).await;
    stage.declare(0, None).await;
    stage
        .until("device-0", "ready", |status| condition(&status.conditions, "Ready") == "Ready=True/Ready")
        .await;
    assert!(stage.get("device-0").await.finalizers().is_empty());
    stage.delete("device-0").await;
    assert_eq!(happened(stage.device(0), What::Released), 0);
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn a_silent_device_is_given_up_and_its_next_object_adopts_it_when_a_person_says_so() {
    let stage = Stage::set_with("given up", 1, &["--release-deadline=1s"]).await;
    stage.declare(0, Some("2.0.0")).await;
    stage.until_phase("device-0", DevicePhase::InSync).await;
    stage.device(0).set_behaviour(Behaviour { drop: share("100%").unwrap(), ..Behaviour::default() });
    stage.delete("device-0").await;
    stage.space.until_event("device-0", "NotReleased").await.unwrap();
    assert_eq!(stage.operator.metric(r#"edge_device_releases_total{end="gave_up""#).round(), 1.0);

    stage.device(0).set_behaviour(Behaviour::default());
    stage.declare(0, Some("3.0.0")).await;
    let status = stage.until_phase("device-0", DevicePhase::Conflicted).await;
    assert_eq!(condition(&status.conditions, "Consistent"), "Consistent=False/ForeignOwner");
    assert_eq!(stage.device(0).view().durable.running.firmware, "2.0.0");
    stage.space.until_event("device-0", "ForeignOwner").await.unwrap();

    stage.adopt("device-0", &status).await;
    let status = stage.until_phase("device-0", DevicePhase::InSync).await;
    assert_eq!(condition(&status.conditions, "Consistent"), "Consistent=True/Consistent");
    assert_eq!(stage.device(0).view().durable.running.firmware, "3.0.0");
    stage.until_unannotated("device-0").await;
    assert_eq!(happened(stage.device(0), What::Adopted), 1);
    stage.delete("device-0").await;
    assert_eq!(happened(stage.device(0), What::Released), 1);
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn in_a_restored_cluster_a_device_of_a_later_epoch_is_conflicted_until_it_is_adopted() {
    let mut stage = Stage::set("restored", 1).await;
    stage.operator.is_killed().await;
    let device = stage.declare(0, Some("2.0.0")).await;
    // What the cluster had done before it was restored from a backup: later generations under later epochs.
    let later = DesiredCommand {
        namespace: stage.space.namespace.clone(),
        name: "device-0".into(),
        uid: device.uid().unwrap(),
        generation: 40,
        epoch: 1 << 40,
        command_id: CommandId(1),
        firmware: "9.0.0".into(),
        config: Default::default(),
    };
    commands(stage.device(0).address(), &later).await;
    stage.operator.starts();
    let status = stage.until_phase("device-0", DevicePhase::Conflicted).await;
    assert_eq!(condition(&status.conditions, "Consistent"), "Consistent=False/EpochAhead");
    assert_eq!(stage.device(0).view().durable.running.firmware, "9.0.0", "nothing was forced on it");

    stage.adopt("device-0", &status).await;
    stage.until_phase("device-0", DevicePhase::InSync).await;
    let held = stage.device(0).view().durable.held.clone().unwrap();
    assert_eq!((held.firmware.as_str(), held.generation), ("2.0.0", 1));
    assert!(held.epoch < 1 << 40);
    stage.until_unannotated("device-0").await;
}
