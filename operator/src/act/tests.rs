//! What becomes of exchanges whose outcomes nobody has time to look at.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tower::service_fn;

use super::*;
use crate::device::memory::Busy;
use crate::fault::tests::shared_as;

/// Longer than any of this takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const DEVICES: usize = 5;

fn device(number: usize) -> Device {
    serde_json::from_value(json!({
        "apiVersion": "edge-operator.dev/v1alpha1", "kind": "Device",
        "metadata": {
            "name": format!("pump-{number}"), "namespace": "demo", "uid": format!("u{number}"),
            "generation": 1, "resourceVersion": "1",
        },
        "spec": {"endpoint": {"host": "127.0.0.1"}},
    }))
    .unwrap()
}

/// An API server that has these devices.
fn server() -> Client {
    let service = service_fn(|request: http::Request<Body>| async move {
        if request.uri().query().unwrap_or_default().contains("watch=true") {
            std::future::pending::<()>().await;
        }
        let (version, kind, items) = match request.uri().path().ends_with("/devices") {
            true => ("edge-operator.dev/v1alpha1", "DeviceList", (0..DEVICES).map(device).collect()),
            false => ("v1", "PodList", Vec::new()),
        };
        let list = json!({"apiVersion": version, "kind": kind, "metadata": {"resourceVersion": "1"}, "items": items});
        Ok::<_, io::Error>(http::Response::new(Body::from(list.to_string().into_bytes())))
    });
    Client::new(service, "default")
}

/// Devices that reset whatever they are asked (RFC 7252 §4.2), for ever.
async fn reset_all(socket: UdpSocket) -> Result<(), anyhow::Error> {
    let mut buffer = [0; 1500];
    loop {
        let (_, peer) = socket.recv_from(&mut buffer).await?;
        let reset = [0x70, 0, buffer[2], buffer[3]];
        socket.send_to(&reset, peer).await?;
    }
}

/// Begins to ask a device for its report.
fn is_asked(controls: &Arc<Controls>, number: usize, peer: std::net::SocketAddr) {
    let device = device(number);
    let key = Key { namespace: "demo".into(), name: device.name_any().into() };
    assert!(controls.admits(&key, &device));
    let busy = Busy { number: 0, asked: Instant::now(), sent: false, guard: None };
    controls.with_memory(&key, &device, |memory, _| memory.busy = Some(busy)).unwrap();
    let ask = Ask {
        number: 0,
        peer,
        doubtful: false,
        cause: Cause::Routine,
        message_id: u16::try_from(number).unwrap(),
        given_up_after: None,
        question: Question::Report,
    };
    assert!(begin(controls, &key, &device, vec![Action::Exchange(ask)]).is_empty());
}

fn has_ended(controls: &Controls, number: usize) -> bool {
    let key = Key { namespace: "demo".into(), name: format!("pump-{number}").into() };
    controls.if_known(&key, &format!("u{number}"), |memory| memory.inbox.is_some()).unwrap()
}

/// The value of a bounded thing in a scrape.
fn shown(controls: &Controls, metric: &str) -> Value {
    let text = String::from_utf8(controls.shared.metrics.render().unwrap()).unwrap();
    let head = format!("{metric}{{name=\"outcomes\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&head)).unwrap_or_else(|| panic!("{text}"));
    line.parse().unwrap()
}

#[tokio::test]
async fn outcomes_that_find_the_queue_full_wait_without_a_slot_and_none_is_lost() {
    let mut tasks = JoinSet::new();
    let shared = shared_as(&["--outcome-queue=2", "--max-in-flight=1"], server(), &mut tasks);
    shared.leadership.grant_for_ever(7);
    shared.devices.ready().await;
    let ((outcomes, mut triggers), (news, _notifications)) = (mpsc::channel(2), mpsc::channel(1));
    let controls = Arc::new(Controls::new(shared, outcomes, news).await.unwrap());
    let receiving = controls.clone();
    tasks.spawn(async move {
        receiving.receive().await;
        Ok(())
    });
    let socket = UdpSocket::bind(("127.0.0.1", 0)).await.unwrap();
    let peer = socket.local_addr().unwrap();
    tasks.spawn(reset_all(socket));

    for number in 0..DEVICES {
        is_asked(&controls, number, peer);
    }
    // One exchange at a time, and all of them end although nobody takes an outcome: who waits to hand it over lets the next one begin.
    let all_end = async {
        while !(0..DEVICES).all(|number| has_ended(&controls, number)) {
            sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, all_end).await.expect("all exchanges end");
    assert_eq!((shown(&controls, "edge_usage"), shown(&controls, "edge_limit")), (json!(2), json!(2)));
    let mut told = BTreeSet::new();
    while told.len() < DEVICES {
        let name = tokio::time::timeout(PATIENCE, triggers.recv()).await.expect("one waits").unwrap().name;
        assert!(told.insert(name.clone()), "{name} came twice");
        assert!(shown(&controls, "edge_usage").as_u64().unwrap() <= 2);
    }
    assert!(triggers.try_recv().is_err(), "each comes once");
    assert_eq!(shown(&controls, "edge_usage"), json!(0));
}
