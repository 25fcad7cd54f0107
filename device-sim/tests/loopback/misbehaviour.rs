//! Each way in which a device misbehaves on the wire, over loopback, and how that is switched on and off.

use device_sim::behaviour::{Behaviour, share};
use edge_protocol::Install;

use crate::client::{command, report, until};
use crate::conversation::world;

fn all() -> edge_api::quantity::Share {
    share("100%").unwrap()
}

#[tokio::test]
async fn an_answer_that_is_held_back_arrives_behind_the_one_to_a_later_request() {
    let mut world = world(Behaviour { reorder: "100%:1h".parse().unwrap(), ..Behaviour::default() }).await;
    let device = world.sim.devices()[0].clone();
    let held = world.sim.metrics().answers.with_label_values(&["held"]);
    let first = world.client.get_request();
    world.client.send(&first).await;
    until("the first answer is held", || held.get() == 1).await;
    device.set_behaviour(Behaviour::default());
    let sequences =
        [report(&world.client.get_state().await).sequence, report(&world.client.receive().await).sequence];
    assert_eq!(sequences, [2, 1]);
    let usage = world.sim.metrics().usage.with_label_values(&["delayed_answers"]);
    assert_eq!(usage.get(), 0);
}

#[tokio::test]
async fn an_answer_that_nothing_overtakes_arrives_at_its_time() {
    let mut world = world(Behaviour { reorder: "100%:50ms".parse().unwrap(), ..Behaviour::default() }).await;
    assert_eq!(report(&world.client.get_state().await).sequence, 1);
}

#[tokio::test]
async fn an_old_answer_comes_again_behind_a_new_one_byte_by_byte() {
    let mut world = world(Behaviour { repeat: all(), ..Behaviour::default() }).await;
    let first = world.client.get_state().await;
    let second = world.client.get_state().await;
    assert_ne!(first.bytes, second.bytes);
    assert_eq!(world.client.receive().await.bytes, first.bytes);
}

#[tokio::test]
async fn who_forgets_whom_it_answered_handles_a_repeated_message_anew() {
    let mut world = world(Behaviour::default()).await;
    let request = world.client.get_request();
    let first = report(&world.client.exchange(&request).await);
    world.sim.devices()[0].set_behaviour(Behaviour { forget: all(), ..Behaviour::default() });
    let again = report(&world.client.exchange(&request).await);
    assert_eq!((again.boot_id, again.sequence), (first.boot_id, first.sequence + 1));
    assert_eq!(world.sim.metrics().forgotten.get(), 1);
}

#[tokio::test]
async fn stale_and_contradictory_reports_are_counted() {
    let mut world = world(Behaviour::default()).await;
    let first = report(&world.client.get_state().await);
    let device = world.sim.devices()[0].clone();
    device.set_behaviour(Behaviour { stale: all(), ..Behaviour::default() });
    assert_eq!(report(&world.client.get_state().await), first);
    device.set_behaviour(Behaviour { contradict: all(), ..Behaviour::default() });
    let told = report(&world.client.get_state().await);
    assert_ne!(
        (told.held_generation, told.applied_generation, told.config_digest),
        (0, 0, first.config_digest)
    );
    let lies = &world.sim.metrics().lies;
    assert_eq!(["stale", "contradiction"].map(|kind| lies.with_label_values(&[kind]).get()), [1, 1]);
}

#[tokio::test]
async fn a_device_reboots_in_the_middle_of_an_install_and_ends_it_once_it_behaves() {
    let cut = Behaviour {
        reboot_in_install: all(),
        install_time: "200ms".parse().unwrap(),
        ..Behaviour::default()
    };
    let mut world = world(cut).await;
    assert_eq!(world.client.put(&command(1, 1, 1, "2.0.0")).await.code, "2.04");
    let before = world.until(|view| view.durable.boots >= 4).await;
    assert_eq!(before.durable.running.generation, 0);
    world.sim.devices()[0].set_behaviour(Behaviour::default());
    world.until(|view| view.up && view.durable.running.generation == 1).await;
    assert_eq!(report(&world.client.get_state().await).install, Install::Idle);
}

#[tokio::test]
async fn a_change_of_behaviour_is_heeded_without_any_request() {
    let world = world(Behaviour::default()).await;
    let reboots =
        Behaviour { reboot_every: Some(std::time::Duration::from_millis(50)), ..Behaviour::default() };
    world.sim.devices()[0].set_behaviour(reboots);
    world.until(|view| view.durable.boots >= 4).await;
}
