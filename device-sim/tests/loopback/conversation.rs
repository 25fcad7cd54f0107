//! Whole conversations over loopback CoAP with devices that work, and with devices that do not.

use std::time::Duration;

use device_sim::behaviour::{Behaviour, Span, share};
use device_sim::history::What;
use device_sim::{Sim, SimConfig};
use edge_protocol::{
    BootId, CommandId, DesiredCommand, Install, Refusal, RefusalReason, config_digest, decode,
};

use crate::client::{self, Client, command, report};

/// Far longer than anything here takes; a test that waits for it fails.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct World {
    pub(crate) sim: Sim,
    pub(crate) client: Client,
    _folder: tempfile::TempDir,
}

pub(crate) async fn world(behaviour: Behaviour) -> World {
    let folder = tempfile::tempdir().unwrap();
    let config = SimConfig { behaviour, ..SimConfig::on_loopback(1, folder.path().into()) };
    let sim = Sim::start(config).await.unwrap();
    let device = sim.devices()[0].clone();
    tokio::time::timeout(PATIENCE, device.wait_for(|view| view.up)).await.unwrap().unwrap();
    World { client: Client::of(device.address()).await, sim, _folder: folder }
}

impl World {
    pub(crate) async fn until(&self, condition: impl FnMut(&device_sim::View) -> bool) -> device_sim::View {
        let waiting = self.sim.devices()[0].wait_for(condition);
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(view) => view.expect("the device was stopped"),
            Err(_) => panic!("never came: {:#?}", self.sim.devices()[0].view()),
        }
    }
}

#[tokio::test]
async fn a_new_device_reports_the_factory_firmware_and_no_command() {
    let mut world = world(Behaviour::default()).await;
    let report = report(&world.client.get_state().await);
    assert_eq!((report.namespace.as_str(), report.name.as_str()), ("default", "device-0"));
    assert_eq!((report.firmware.as_str(), report.uid), ("1.0.0", None));
    assert_eq!((report.held_generation, report.applied_generation, report.sequence), (0, 0, 1));
}

#[tokio::test]
async fn a_command_is_stored_installed_and_reported() {
    let span = "200ms".parse().unwrap();
    let mut world = world(Behaviour { install_time: span, ..Behaviour::default() }).await;
    let asked = command(3, 10, 1, "2.0.0");
    assert_eq!(world.client.put(&asked).await.code, "2.04");
    let meanwhile = report(&world.client.get_state().await);
    assert_eq!((meanwhile.held_generation, meanwhile.applied_generation), (3, 0));
    assert!(matches!(meanwhile.install, Install::Running { .. }), "{meanwhile:?}");

    world.until(|view| view.durable.running.generation == 3).await;
    let after = report(&world.client.get_state().await);
    assert_eq!((after.firmware.as_str(), after.applied_generation), ("2.0.0", 3));
    assert_eq!(after.config_digest, config_digest(&asked.config));
    assert_eq!((after.install, after.command_id), (Install::Idle, Some(CommandId(1))));
    assert!(after.sequence > meanwhile.sequence);
}

#[tokio::test]
async fn a_retransmitted_request_gets_the_same_answer_and_has_one_effect() {
    let mut world = world(Behaviour::default()).await;
    let request = world.client.put_request(&command(1, 1, 1, "2.0.0"));
    let first = world.client.exchange(&request).await;
    let again = world.client.exchange(&request).await;
    assert_eq!(first.bytes, again.bytes);
    let history = world.until(|view| view.durable.running.generation == 1).await.durable.history.clone();
    assert_eq!(history.of(What::Stored).count(), 1);

    let read = world.client.get_request();
    let (one, two) = (world.client.exchange(&read).await, world.client.exchange(&read).await);
    assert_eq!(report(&one).sequence, report(&two).sequence, "the answer is repeated, not made anew");
}

#[tokio::test]
async fn a_command_with_the_same_id_in_a_new_message_has_one_effect() {
    let mut world = world(Behaviour::default()).await;
    for _ in 0..3 {
        assert_eq!(world.client.put(&command(1, 1, 1, "2.0.0")).await.code, "2.04");
    }
    let history = world.sim.devices()[0].history();
    assert_eq!(history.of(What::Stored).count(), 1);
}

#[tokio::test]
async fn an_old_or_foreign_command_is_refused_with_what_the_device_holds() {
    let mut world = world(Behaviour::default()).await;
    let held = command(5, 100, 1, "2.0.0");
    assert_eq!(world.client.put(&held).await.code, "2.04");
    let cases = [
        (
            "4.12",
            RefusalReason::LowerGeneration,
            DesiredCommand { generation: 4, epoch: 101, ..held.clone() },
        ),
        ("4.12", RefusalReason::LowerEpoch, DesiredCommand { generation: 6, epoch: 99, ..held.clone() }),
        ("4.03", RefusalReason::WrongName, DesiredCommand { name: "other".into(), ..held.clone() }),
        ("4.03", RefusalReason::WrongName, DesiredCommand { namespace: "other".into(), ..held.clone() }),
        ("4.03", RefusalReason::ForeignUid, DesiredCommand { uid: "another".into(), ..held.clone() }),
    ];
    for (code, reason, asked) in cases {
        let answer = world.client.put(&asked).await;
        let refusal: Refusal = decode(&answer.payload).unwrap();
        assert_eq!((answer.code.as_str(), refusal.reason), (code, reason));
        assert_eq!((refusal.held_generation, refusal.epoch), (5, 100), "{reason:?}");
        assert_eq!(refusal.uid.as_deref(), Some(held.uid.as_str()));
    }
    assert_eq!(world.sim.devices()[0].history().of(What::Stored).count(), 1);
}

#[tokio::test]
async fn a_firmware_that_is_not_for_this_device_is_refused() {
    let behaviour = Behaviour { refuse_firmware: Some("9.9.9".into()), ..Behaviour::default() };
    let mut world = world(behaviour).await;
    let answer = world.client.put(&command(1, 1, 1, "9.9.9")).await;
    let refusal: Refusal = decode(&answer.payload).unwrap();
    assert_eq!((answer.code.as_str(), refusal.reason), ("4.22", RefusalReason::Unsupported));
    assert_eq!(refusal.held_generation, 0, "a refused command is not held");
    let history = world.sim.devices()[0].history();
    let refused: Vec<&str> = history.of(What::Refused).map(|entry| entry.firmware.as_str()).collect();
    assert_eq!((refused, history.of(What::Stored).count()), (vec!["9.9.9"], 0), "and its history has it");
}

#[tokio::test]
async fn a_failed_install_is_reported_and_tried_again_only_on_a_new_command_id() {
    let fails = Behaviour { install_fail: share("100%").unwrap(), ..Behaviour::default() };
    let mut world = world(fails).await;
    for attempt in 1..=3 {
        let asked = command(1, 1, u64::from(attempt), "2.0.0");
        assert_eq!(world.client.put(&asked).await.code, "2.04");
        world.until(|view| view.durable.progress.failures == attempt).await;
        assert_eq!(world.client.put(&asked).await.code, "2.04");
        let report = report(&world.client.get_state().await);
        assert_eq!(report.install, Install::Failed { attempts: attempt });
        assert_eq!(report.last_error.as_deref(), Some("firmware 2.0.0 did not install"));
        assert_eq!(report.firmware, "1.0.0");
    }
    world.sim.devices()[0].set_behaviour(Behaviour::default());
    assert_eq!(world.client.put(&command(1, 1, 4, "2.0.0")).await.code, "2.04");
    world.until(|view| view.durable.running.firmware == "2.0.0").await;
    let report = report(&world.client.get_state().await);
    assert_eq!((report.install, report.last_error), (Install::Idle, None));
}

#[tokio::test]
async fn a_power_cycle_in_the_middle_of_an_install_starts_it_again_under_a_new_boot_id() {
    let slow = Behaviour { install_time: "1h".parse().unwrap(), ..Behaviour::default() };
    let mut world = world(slow).await;
    assert_eq!(world.client.put(&command(1, 1, 1, "2.0.0")).await.code, "2.04");
    let before = report(&world.client.get_state().await);
    world.sim.devices()[0].set_behaviour(Behaviour::default());
    assert!(world.sim.devices()[0].power_cycle().await);
    world.until(|view| view.up && view.durable.running.generation == 1).await;
    let after = report(&world.client.get_state().await);
    assert_ne!(after.boot_id, before.boot_id);
    assert_eq!(after.sequence, 1, "the sequence restarts with the boot");
    assert_eq!(after.firmware, "2.0.0");
}

#[tokio::test]
async fn a_device_hears_nothing_while_it_boots() {
    let mut world = world(Behaviour::default()).await;
    let boots = Behaviour { boot_time: Span::exactly(Duration::from_secs(3600)), ..Behaviour::default() };
    world.sim.devices()[0].set_behaviour(boots);
    assert!(world.sim.devices()[0].power_cycle().await);
    let request = world.client.get_request();
    world.client.send(&request).await;
    let fate = world.sim.metrics().datagrams.with_label_values(&["while_down"]);
    client::until("the datagram is counted", || fate.get() == 1).await;
    assert_eq!(world.client.try_receive(), None);
}

#[tokio::test]
async fn requests_and_answers_are_lost_late_and_repeated_as_asked() {
    let mut world = world(Behaviour { drop: share("100%").unwrap(), ..Behaviour::default() }).await;
    let device = world.sim.devices()[0].clone();
    let metrics = world.sim.metrics().clone();
    let request = world.client.get_request();
    world.client.send(&request).await;
    client::until("it is dropped", || metrics.datagrams.with_label_values(&["dropped"]).get() == 1).await;

    device.set_behaviour(Behaviour { lose_answers: share("100%").unwrap(), ..Behaviour::default() });
    world.client.send(&request).await;
    client::until("the answer is lost", || metrics.answers.with_label_values(&["lost"]).get() == 1).await;
    assert_eq!(world.client.try_receive(), None);

    device.set_behaviour(Behaviour { late: "100%:300ms".parse().unwrap(), ..Behaviour::default() });
    let sent = tokio::time::Instant::now();
    let answer = world.client.exchange(&request).await;
    assert!(sent.elapsed() >= Duration::from_millis(300));
    assert_eq!(report(&answer).sequence, 1, "it is the answer that was lost before");

    device.set_behaviour(Behaviour { duplicate: "100%:10ms".parse().unwrap(), ..Behaviour::default() });
    let first = world.client.exchange(&request).await;
    assert_eq!(world.client.receive().await.bytes, first.bytes);
}

#[tokio::test]
async fn devices_of_one_process_are_told_apart_and_stop_together() {
    let folder = tempfile::tempdir().unwrap();
    let sim = Sim::start(SimConfig::on_loopback(20, folder.path().into())).await.unwrap();
    let mut boots = std::collections::HashSet::<BootId>::new();
    for (number, device) in sim.devices().iter().enumerate() {
        device.wait_for(|view| view.up).await.unwrap();
        let report = report(&Client::of(device.address()).await.get_state().await);
        assert_eq!(report.name, format!("device-{number}"));
        assert!(boots.insert(report.boot_id));
    }
    let device = sim.devices()[0].clone();
    tokio::time::timeout(PATIENCE, sim.shutdown()).await.unwrap();
    assert!(!device.power_cycle().await, "it was stopped");
}

#[tokio::test]
async fn a_later_life_of_the_process_continues_each_state_under_new_boot_ids() {
    let folder = tempfile::tempdir().unwrap();
    let config = SimConfig::on_loopback(2, folder.path().into());
    let first = Sim::start(config.clone()).await.unwrap();
    let device = first.devices()[1].clone();
    device.wait_for(|view| view.up).await.unwrap();
    let mut client = Client::of(device.address()).await;
    let asked = DesiredCommand { name: "device-1".into(), ..command(4, 7, 1, "2.0.0") };
    assert_eq!(client.put(&asked).await.code, "2.04");
    let before = device.wait_for(|view| view.durable.running.generation == 4).await.unwrap();
    drop(first);

    let second = Sim::start(config).await.unwrap();
    let after = second.devices()[1].wait_for(|view| view.up).await.unwrap();
    assert_ne!(after.boot_id, before.boot_id);
    assert_eq!(after.durable.running, before.durable.running);
    assert_eq!(after.durable.held, before.durable.held);
    let stale = DesiredCommand { generation: 3, ..asked };
    assert_eq!(Client::of(second.devices()[1].address()).await.put(&stale).await.code, "4.12");
}

#[tokio::test]
async fn a_state_that_cannot_be_stored_is_not_acknowledged() {
    let mut world = world(Behaviour::default()).await;
    std::fs::remove_dir_all(world._folder.path()).unwrap();
    assert_eq!(world.client.put(&command(1, 1, 1, "2.0.0")).await.code, "5.00");
    let report = report(&world.client.get_state().await);
    assert_eq!(report.held_generation, 0);
}

#[tokio::test]
async fn an_address_that_is_taken_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let listen = vec![taken.local_addr().unwrap()];
    let config = SimConfig { listen, ..SimConfig::on_loopback(1, folder.path().into()) };
    let error = Sim::start(config).await.unwrap_err().to_string();
    assert!(error.contains("device-0") && error.contains("free port"), "{error}");
}
