//! The agent against a real API server, with the rights of its manifest; the kernel is the one in memory. The
//! tests write what the operator would.

#[path = "control_plane_agent/stage.rs"]
mod stage;

use std::time::{Duration, Instant};

use edge_api::FaultProfile;
use edge_api::fault_node::GapBound;
use fault_abi::key::Direction;
use fault_abi::verdict::Verdict;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::{DeleteParams, PostParams};
use serde_json::json;

use stage::{PATIENCE, Stage};

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn a_profile_is_held_told_and_lifted() {
    let stage = Stage::set("node-a").await;
    stage.device("local", "10.244.1.2", Some(&stage.node)).await;
    stage.device("outside", "10.20.0.1", None).await;
    stage.device("elsewhere", "10.244.2.2", Some("another")).await;
    stage.profile("cut").await;
    // Devices and profiles come by watches of their own, in any order.
    let entry = stage.until_entry("cut", |entry| entry.enforced + entry.external_enforced == 2).await;
    assert!(entry.installed);
    assert_eq!((entry.targets, entry.external_targets), (1, 1));
    assert!(!entry.effective && entry.reason.is_none(), "{entry:?}");

    let state = stage.shared.view().states[0].state;
    let lose = |counter: &mut fault_abi::counter::Counter| counter.packets[Verdict::Loss as usize] += 1;
    stage.packets.count(state, Direction::ToDevice, lose);
    stage.until_entry("cut", |entry| entry.effective).await;

    stage.packets.count(state, Direction::ToDevice, |counter| counter.untracked += 1);
    let entry = stage.until_entry("cut", |entry| entry.reason.is_some()).await;
    assert_eq!(entry.reason.as_deref(), Some("FlowsUntracked"));
    assert!(entry.installed && entry.enforced + entry.external_enforced == 2, "{entry:?}");

    stage.pause("cut", true).await;
    let entry = stage.until_entry("cut", |entry| !entry.installed).await;
    assert_eq!((entry.targets, entry.enforced), (1, 0), "paused: {entry:?}");
    assert!(entry.effective, "what the kernel did stays told");

    stage.space.api::<FaultProfile>().delete("cut", &DeleteParams::default()).await.unwrap();
    stage.until_gone("cut").await;
    stage.end().await;
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn the_fault_node_belongs_to_its_node_and_keeps_beating() {
    let stage = Stage::set("node-b").await;
    let first = stage.until_fault_node(|_| true).await;
    let owner = first.metadata.owner_references.as_ref().unwrap()[0].clone();
    assert_eq!((owner.kind.as_str(), owner.name.as_str()), ("Node", stage.node.as_str()));
    let status = first.status.unwrap();
    assert!(status.hooks.iter().any(|hook| hook.attached == 2), "{status:?}");
    assert!(status.limits.iter().any(|limit| limit.name == "targets" && limit.limit == 256));
    let began = status.renewed_at.unwrap().0;
    stage.until_fault_node(|status| status.renewed_at.as_ref().is_some_and(|at| at.0 > began)).await;
    stage.end().await;
    let last = stage.until_fault_node(|status| status.hooks.is_empty()).await;
    let profiles = last.status.unwrap().profiles;
    assert!(profiles.iter().all(|one| !one.installed), "an agent that ends says that nothing holds");
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn the_next_agent_tells_how_long_its_node_was_without_faults() {
    let mut stage = Stage::set("node-f").await;
    let first = stage.until_fault_node(|status| status.installed_at.is_some()).await.status.unwrap();
    assert_eq!((first.gap, first.stopped_at), (None, None), "the first one of its node");
    assert_eq!(stage.shared.gap(), None);

    stage.end().await;
    let stopped = stage.until_fault_node(|status| status.stopped_at.is_some()).await.status.unwrap();
    let stopped_at = stopped.stopped_at.unwrap();
    assert!(stopped_at.0 >= first.installed_at.unwrap().0);
    stage.next();
    let second = stage.until_fault_node(|status| status.gap.is_some()).await.status.unwrap();
    let gap = second.gap.unwrap();
    assert_eq!((&gap.since, gap.bound), (&stopped_at, GapBound::Exact));
    assert_eq!((Some(&gap.until), second.stopped_at), (second.installed_at.as_ref(), None));
    assert!((0.0..PATIENCE.as_secs_f64()).contains(&gap.seconds()), "{gap:?}");
    let shown = stage.metrics();
    assert!(shown.contains("edge_agent_enforcement_gap_seconds{bound=\"Exact\"}"), "{shown}");

    // Killed, it says nothing more: its last heartbeat is all that is known.
    stage.kill().await;
    let last = stage.until_fault_node(|_| true).await.status.unwrap().renewed_at.unwrap();
    stage.next();
    let third = stage.until_fault_node(|status| status.gap.as_ref() != Some(&gap)).await.status.unwrap();
    let third = third.gap.unwrap();
    assert_eq!((third.since, third.bound), (last, GapBound::AtMost));
    stage.end().await;
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn a_pod_is_a_target_as_long_as_it_runs_and_a_missing_route_is_told() {
    let stage = Stage::set("node-c").await;
    stage.pod("web", "10.244.1.7").await;
    stage.pods_profile("web").await;
    stage.until_entry("web", |entry| entry.enforced == 1).await;
    stage.without_routes();
    let entry = stage.until_entry("web", |entry| entry.reason.is_some()).await;
    assert_eq!(entry.reason.as_deref(), Some("NoRoute"));
    assert!(entry.message.unwrap().contains("web (10.244.1.7/32)"));
    let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    stage.space.api::<Pod>().delete("web", &now).await.unwrap();
    stage.until_gone("web").await;
    stage.end().await;
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn each_word_of_the_operator_reaches_the_kernel_before_the_next_beat() {
    const ROUNDS: usize = 20;
    let stage = Stage::set("node-d").await;
    stage.device("local", "10.244.1.2", Some(&stage.node)).await;
    stage.profile("cut").await;
    stage.until_entry("cut", |entry| entry.installed).await;
    // The enforcer comes around every ten seconds by itself.
    for round in 0..ROUNDS {
        let paused = round % 2 == 0;
        let began = Instant::now();
        stage.pause("cut", paused).await;
        while stage.is_held("cut") == paused {
            assert!(began.elapsed() < Duration::from_secs(5), "{}", stage.space.dump());
            // Who looks all the time keeps the agent waiting.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    stage.end().await;
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn peers_are_found_by_their_service_and_on_other_nodes_and_without_any_nothing_happens() {
    let stage = Stage::set("node-e").await;
    stage.pod("web", "10.244.1.7").await;
    let peers = json!([{"service": "broker"}, {"pods": {"matchLabels": {"app": "broker"}}}]);
    let web = json!({"pods": {"selector": {"matchLabels": {"app": "web"}}}});
    stage.start("web", json!({"targets": web, "match": {"peers": peers}})).await;
    let entry = stage.until_entry("web", |entry| entry.reason.is_some()).await;
    assert_eq!(entry.reason.as_deref(), Some("PeersUnknown"));
    assert_eq!((entry.targets, entry.enforced, entry.installed), (1, 0, false), "nobody, not everybody");

    stage.pod_on("another", "broker", "10.244.2.9").await;
    stage.until_entry("web", |entry| entry.installed && entry.reason.is_none()).await;
    stage.until_peers(1).await;
    let service: Service = serde_json::from_value(json!({
        "metadata": {"name": "broker"}, "spec": {"ports": [{"port": 1883}], "selector": {"app": "broker"}},
    }))
    .unwrap();
    stage.space.api::<Service>().create(&PostParams::default(), &service).await.unwrap();
    stage.until_peers(2).await;

    // With the last profile that names some nobody looks for them any more.
    stage.space.api::<FaultProfile>().delete("web", &DeleteParams::default()).await.unwrap();
    stage.until_gone("web").await;
    stage.until_limit("peerNamespaces", 0).await;
    stage.end().await;
}
