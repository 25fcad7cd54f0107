//! Devices tell their observers of changes (RFC 7641), over loopback.

use coap_lite::MessageType;
use device_sim::behaviour::{Behaviour, share};
use edge_protocol::Install;

use crate::client::{command, report, until};
use crate::conversation::world;

#[tokio::test]
async fn an_observer_is_told_of_each_change_in_order_until_it_asks_for_no_more() {
    let mut world = world(Behaviour { install_time: "100ms".parse().unwrap(), ..Behaviour::default() }).await;
    let first = world.client.observe(0).await;
    assert_eq!((first.kind, first.observe.is_some()), (MessageType::Acknowledgement, true));
    assert_eq!(world.client.put(&command(1, 1, 1, "2.0.0")).await.code, "2.04");
    let told = [world.client.receive().await, world.client.receive().await];
    for told in &told {
        assert_eq!((told.kind, &told.token), (MessageType::NonConfirmable, &first.token));
    }
    let [begun, done] = told.each_ref().map(report);
    assert!(matches!(begun.install, Install::Running { .. }), "{begun:?}");
    assert_eq!((done.applied_generation, done.install.clone()), (1, Install::Idle));
    assert!(first.observe < told[0].observe && told[0].observe < told[1].observe);
    assert!(begun.sequence < done.sequence);

    assert_eq!(world.client.observe(1).await.observe, None);
    assert_eq!(world.client.put(&command(2, 1, 2, "2.0.0")).await.code, "2.04");
    world.until(|view| view.durable.running.generation == 2).await;
    assert_eq!(
        report(&world.client.get_state().await).applied_generation,
        2,
        "this is the answer, and no news"
    );
    assert_eq!(world.sim.metrics().usage.with_label_values(&["observers"]).get(), 0);
}

#[tokio::test]
async fn an_observer_that_resets_a_notification_is_told_no_more() {
    let mut world = world(Behaviour::default()).await;
    world.client.observe(0).await;
    world.client.put(&command(1, 1, 1, "2.0.0")).await;
    // The install that begins, and its end.
    world.client.receive().await;
    let [high, low] = world.client.receive().await.id.to_be_bytes();
    world.client.send(&[0x70, 0, high, low]).await;
    let observers = world.sim.metrics().usage.with_label_values(&["observers"]);
    until("it is forgotten", || observers.get() == 0).await;
}

#[tokio::test]
async fn a_reboot_forgets_who_observes_and_lost_notifications_are_lost() {
    let mut world = world(Behaviour::default()).await;
    world.client.observe(0).await;
    let device = world.sim.devices()[0].clone();
    device.set_behaviour(Behaviour { lose_answers: share("100%").unwrap(), ..Behaviour::default() });
    let put = world.client.put_request(&command(1, 1, 1, "2.0.0"));
    world.client.send(&put).await;
    let told = world.sim.metrics().notifications.clone();
    until("it is told", || told.get() > 0).await;
    assert_eq!(world.client.try_receive(), None);
    device.set_behaviour(Behaviour::default());
    assert!(device.power_cycle().await);
    let observers = world.sim.metrics().usage.with_label_values(&["observers"]);
    assert_eq!(observers.get(), 0);
}
