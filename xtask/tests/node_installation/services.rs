//! A Service of kube-proxy: what is lost on the way to it is what was counted, and what goes past it is left alone.

use std::net::SocketAddrV4;

use serde_json::{Value, json};
use xtask::demo::install::DEVICES;
use xtask::wait;

use super::traffic::ping;
use super::world::{PATIENCE, PORTS, SOON, Story, fault, one_pod};

const ROUNDS: u16 = 150;
/// The first device's port in each pod (RFC 7252 §12.6).
const COAP: u16 = 5683;

#[test]
#[ignore = "node rung: needs root and a cluster"]
fn what_is_lost_on_the_way_to_a_service_is_counted_and_what_goes_past_it_is_left_alone() {
    let story = Story::begin();
    let (client, server) = (story.device_pod(2), story.device_pod(1));
    story.apply(&json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "first-device"},
        "spec": {
            "selector": {"statefulset.kubernetes.io/pod-name": server.name},
            "ports": [{"protocol": "UDP", "port": COAP}],
        },
    }));
    let service: Value = serde_json::from_str(&story.kubectl(&[
        "-n",
        DEVICES,
        "get",
        "service",
        "first-device",
        "-o",
        "json",
    ]))
    .unwrap();
    let address = |ip: &str| SocketAddrV4::new(ip.parse().unwrap(), COAP);
    let (by_service, past_it) =
        ([address(service["spec"]["clusterIP"].as_str().unwrap())], [address(&server.ip.to_string())]);
    let from = story.in_pod(&client, PORTS.0);
    wait::until("the Service's rules on the client's node", PATIENCE, SOON, || {
        Ok((ping(&from, &by_service, 1)? == 1).then_some(()))
    })
    .unwrap();
    assert_eq!(ping(&from, &by_service, 20).unwrap(), 20, "lost without a fault");

    let mut profile = fault("service", &one_pod(&client), &json!({"loss": {"percent": "30%"}}), "5m");
    profile["spec"]["match"]["peers"] = json!([{"service": "first-device"}]);
    story.apply(&profile);
    story.wait_for("Installed", &["fault/service"]);
    let answered = ping(&from, &by_service, ROUNDS).unwrap();
    let counted = story.counted(client.node, "service");
    println!("{answered} of {ROUNDS} answered: {counted:?}");
    let asked = usize::from(ROUNDS);
    assert_eq!(counted[&("FromDevice", "loss")] + counted[&("FromDevice", "pass")], asked);
    let returned = counted[&("ToDevice", "loss")] + counted[&("ToDevice", "pass")];
    assert_eq!(counted[&("FromDevice", "pass")], returned, "each question that passes is answered");
    assert_eq!(counted[&("ToDevice", "pass")], answered);
    assert!((1..asked).contains(&answered), "a loss of 30 % each way");

    assert_eq!(ping(&from, &past_it, 50).unwrap(), 50, "the pod itself is no such peer");
    assert_eq!(story.counted(client.node, "service"), counted);
    story.wait_for("Effective", &["fault/service"]);

    // The same pod as a peer by its labels: now it is what goes to the pod itself, and the Service's address is nobody's.
    let mut profile = fault("pods", &one_pod(&client), &json!({"loss": {"percent": "30%"}}), "5m");
    let labels = json!({"statefulset.kubernetes.io/pod-name": server.name});
    profile["spec"]["match"]["peers"] = json!([{"pods": {"matchLabels": labels}}]);
    story.kubectl(&["-n", DEVICES, "delete", "faultprofile/service"]);
    story.apply(&profile);
    story.wait_for("Installed", &["fault/pods"]);
    let answered = ping(&from, &past_it, ROUNDS).unwrap();
    let counted = story.counted(client.node, "pods");
    println!("{answered} of {ROUNDS} answered by a pod that is a peer: {counted:?}");
    assert_eq!(counted[&("FromDevice", "loss")] + counted[&("FromDevice", "pass")], asked);
    assert_eq!(counted[&("ToDevice", "pass")], answered);
    assert!((1..asked).contains(&answered), "a loss of 30 % each way");
    story.kubectl(&["-n", DEVICES, "delete", "service/first-device", "faultprofile/pods"]);
}
