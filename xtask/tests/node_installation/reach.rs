//! What lies inside the cluster is out of reach, and the refusal says so.

use serde_json::json;
use xtask::wait;

use super::world::{PATIENCE, SOON, Story, fault};

#[test]
#[ignore = "node rung: needs root and a cluster"]
fn a_profile_that_names_a_network_of_the_cluster_is_rejected_with_a_sentence() {
    let story = Story::begin();
    for (name, cidr) in [
        ("pods", "10.244.0.0/16"),
        ("services", "10.0.0.0/24"),
        ("node", "10.240.0.11/32"),
        ("all", "0.0.0.0/0"),
    ] {
        story.apply(&fault(name, &json!({"cidrs": [cidr]}), &json!({"partition": {}}), "1m"));
        story.wait_for("jsonpath={.status.phase}=Rejected", &[&format!("fault/{name}")]);
        let status = story.profile(name).status.unwrap();
        let accepted = status.conditions.iter().find(|it| it.type_ == "Accepted").unwrap();
        println!("{cidr}: {}: {}", accepted.reason, accepted.message);
        assert_eq!(accepted.status, "False");
        assert!(
            accepted.message.contains(cidr) && accepted.message.contains("--allow-cidrs"),
            "{accepted:?}"
        );
        assert!(status.started_at.is_none());
    }
    for node in [1, 2] {
        assert_eq!(
            story.agent(node).count("edge_agent_usage", &[("name", "rules")]),
            0,
            "node{node} enforces what was rejected"
        );
    }
}

#[test]
#[ignore = "node rung: needs root and a cluster"]
fn a_device_inside_the_cluster_that_is_no_pod_of_its_namespace_is_never_sent_to() {
    let story = Story::begin();
    let operator = story.operator_pod();
    for (name, host) in
        [("at-a-node", "10.240.0.12".to_owned()), ("at-anothers-pod", operator.ip.to_string())]
    {
        story.apply(&json!({
            "apiVersion": "edge-operator.dev/v1alpha1",
            "kind": "Device",
            "metadata": {"name": name},
            "spec": {"endpoint": {"host": host, "port": 5683}},
        }));
        let ready = wait::until("a word on the device", PATIENCE, SOON, || {
            let device = story.devices().into_iter().find(|it| it.metadata.name.as_deref() == Some(name));
            let status = device.and_then(|device| device.status);
            Ok(status.and_then(|status| status.conditions.into_iter().find(|it| it.type_ == "Ready")))
        });
        story.kubectl(&["-n", "edge-demo", "delete", "device", name]);
        let ready = ready.unwrap();
        println!("{host}: {}: {}", ready.reason, ready.message);
        assert_eq!(
            (ready.status.as_str(), ready.reason.as_str()),
            ("False", "EndpointNotAllowed"),
            "{ready:?}"
        );
    }
}
