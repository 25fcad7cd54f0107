//! The fault controller against a real API server. The tests play agents, kubelet and device controller by writing
//! what these would write.

#[path = "control_plane_fault/stage.rs"]
mod stage;

mod in_process;
mod rights;

use std::process::Command;
use std::time::Duration;

use control_plane::wait::{condition, message};
use edge_api::{FaultPhase, FaultProfile, FaultProfileStatus, choose};
use futures::{StreamExt as _, pin_mut};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use serde_json::json;

use stage::{Stage, now, partition_of_pods, refused, transition};

const FRESH: Duration = Duration::ZERO;

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn a_profile_lives_from_pending_to_expired_and_says_so() {
    let stage = Stage::set("life of a profile").await;
    stage.profile("cut", partition_of_pods("20s")).await;
    let status = stage.until_phase("cut", FaultPhase::Pending).await;
    assert_eq!(condition(&status.conditions, "Accepted"), "Accepted=True/Accepted");
    assert_eq!(condition(&status.conditions, "Installed"), "Installed=False/NoTargets");
    assert!(status.epoch.is_some_and(|epoch| epoch > 0));

    stage.agent("n1", FRESH, &[]).await;
    stage.pod("a", "n1", "10.244.1.2").await;
    let status = stage.until("cut", "started", |status| status.started_at.is_some()).await;
    let (start, end) = (status.started_at.unwrap().0, status.expires_at.unwrap().0);
    assert_eq!(end.duration_since(start), jiff::SignedDuration::from_secs(20));
    assert_eq!((status.targets.selected, status.targets.enforced), (1, 0));

    let holds = json!({"targets": 1, "enforced": 1, "installed": true});
    stage.agent("n1", FRESH, &[("cut", holds)]).await;
    let status = stage.until_phase("cut", FaultPhase::Active).await;
    assert_eq!(condition(&status.conditions, "Effective"), "Effective=False/NoPacketYet");
    let full =
        json!({"targets": 1, "enforced": 1, "installed": true, "reason": "LineFull", "message": "no room"});
    stage.agent("n1", FRESH, &[("cut", full)]).await;
    let status = stage.until_phase("cut", FaultPhase::Degraded).await;
    assert_eq!(condition(&status.conditions, "Installed"), "Installed=True/LineFull");
    assert_eq!((status.targets.enforced, status.nodes[0].state.as_str()), (1, "LineFull"));
    let acts = json!({"targets": 1, "enforced": 1, "installed": true, "effective": true});
    stage.agent("n1", FRESH, &[("cut", acts)]).await;
    stage.until_phase("cut", FaultPhase::Active).await;
    let effective = |status: &FaultProfileStatus| {
        condition(&status.conditions, "Effective").starts_with("Effective=True")
    };
    stage.until("cut", "effective", effective).await;

    let status = stage.until_phase("cut", FaultPhase::Expired).await;
    let expired = transition(&status, "Installed");
    // Conditions have whole seconds, cut off.
    assert!(expired.as_second() >= end.as_second(), "it expired at {expired}, before {end}");
    assert_eq!(condition(&status.conditions, "Installed"), "Installed=False/Expired");
    assert_eq!(condition(&status.conditions, "Effective"), "Effective=True/Expired");
    assert_eq!(
        stage.events_up_to("cut", "Expired").await,
        ["Accepted", "Started", "Degraded", "Recovered", "Expired"]
    );
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn kubectl_waits_for_effective_by_short_name() {
    let stage = Stage::set("kubectl wait").await;
    let kubectl = stage.space.server.kubectl().expect("KUBEBUILDER_ASSETS has a kubectl for this test");
    stage.pod("a", "n1", "10.244.1.2").await;
    stage.profile("cut", partition_of_pods("10m")).await;
    stage.until("cut", "started", |status| status.started_at.is_some()).await;
    let namespace = format!("--namespace={}", stage.space.namespace);
    let waiting = tokio::task::spawn_blocking(move || {
        let wait = ["wait", "--for=condition=Effective", "fault/cut", "--timeout=60s"];
        Command::new(&kubectl[0]).args(&kubectl[1..]).arg(namespace).args(wait).output()
    });
    let acts = json!({"targets": 1, "enforced": 1, "installed": true, "effective": true});
    stage.agent("n1", FRESH, &[("cut", acts)]).await;
    let output = waiting.await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("condition met"), "{said}");
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn networks_of_the_cluster_are_rejected_with_the_sentence_until_the_profile_is_mended() {
    let stage = Stage::set("reach").await;
    let services =
        json!({"targets": {"cidrs": ["10.0.0.0/25"]}, "faults": {"partition": {}}, "duration": "10m"});
    stage.profile("greedy", services).await;
    let status = stage.until_phase("greedy", FaultPhase::Rejected).await;
    assert_eq!(condition(&status.conditions, "Accepted"), "Accepted=False/CidrNotAllowed");
    let sentence = message(&status.conditions, "Accepted");
    assert!(sentence.contains("10.0.0.0/25") && sentence.contains("--allow-cidrs"), "{sentence}");
    assert!(status.started_at.is_none() && status.cutoff.is_none());

    let node = stage.node("n1");
    stage.edit("greedy", json!({"targets": {"cidrs": ["192.168.50.0/24"]}})).await.unwrap();
    stage.until("greedy", "started", |status| status.started_at.is_some()).await;
    let reaches = json!({"externalTargets": 1, "externalEnforced": 1, "installed": true});
    stage.agent("n1", FRESH, &[("greedy", reaches)]).await;
    let status = stage.until_phase("greedy", FaultPhase::Active).await;
    assert_eq!((status.targets.selected, status.targets.enforced), (1, 1));
    assert!(!status.nodes.iter().any(|problem| problem.name == node));
    let events = stage.events_up_to("greedy", "Started").await;
    assert_eq!(events[..2], ["Rejected", "Accepted"]);
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn devices_are_hit_where_their_addresses_are_and_one_out_of_reach_rejects() {
    let stage = Stage::set("devices").await;
    stage.device("inside", json!({"addresses": [{"ip": "10.244.1.2", "node": stage.node("n1")}]})).await;
    stage.device("outside", json!({"addresses": [{"ip": "192.168.77.1"}]})).await;
    let not_allowed = json!({"type": "Ready", "status": "False", "reason": "EndpointNotAllowed", "message": "no",
        "lastTransitionTime": "2026-01-01T00:00:00Z"});
    stage.device("forbidden", json!({"conditions": [not_allowed]})).await;
    let devices = json!({"devices": {"selector": {"matchLabels": {"app": "x"}}}});
    stage
        .profile(
            "loss",
            json!({"targets": devices, "faults": {"loss": {"percent": "20%"}}, "duration": "10m"}),
        )
        .await;
    let status = stage.until_phase("loss", FaultPhase::Rejected).await;
    assert_eq!(condition(&status.conditions, "Accepted"), "Accepted=False/EndpointNotAllowed");
    assert!(message(&status.conditions, "Accepted").contains("forbidden"));

    stage.device_status("forbidden", json!({"conditions": []})).await;
    stage.until("loss", "started", |status| status.started_at.is_some()).await;
    let entry =
        json!({"targets": 1, "enforced": 1, "externalTargets": 1, "externalEnforced": 1, "installed": true});
    stage.agent("n1", FRESH, &[("loss", entry)]).await;
    let status = stage.until_phase("loss", FaultPhase::Active).await;
    assert_eq!((status.targets.selected, status.targets.enforced), (2, 2), "the third has no address");
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn the_cutoff_follows_the_targets_at_most_once_a_second() {
    let stage = Stage::set("cutoff").await;
    let namespace = stage.space.namespace.clone();
    for number in 0..5 {
        stage.pod(&format!("p{number}"), "n1", &format!("10.244.1.{}", number + 2)).await;
    }
    let mut spec = partition_of_pods("10m");
    spec["targets"]["choose"] = json!({"count": 2});
    spec["seed"] = json!(7);
    let began = tokio::time::Instant::now();
    stage.profile("some", spec).await;
    let status = stage.until("some", "started", |status| status.started_at.is_some()).await;
    let ranked = |names: &[&str]| {
        let mut ranks: Vec<(u64, String)> =
            names.iter().map(|name| (choose::rank(7, &namespace, name), (*name).to_owned())).collect();
        ranks.sort();
        ranks
    };
    let ranks = ranked(&["p0", "p1", "p2", "p3", "p4"]);
    assert_eq!((status.cutoff, status.targets.selected), (Some(ranks[1].0), 2));

    // One chosen target after the other goes; each time the next one takes its place, and nobody else changes.
    for gone in 0..3 {
        stage.pod_goes(&ranks[gone].1).await;
        let next = Some(ranks[gone + 2].0);
        let settled = |status: &FaultProfileStatus| status.cutoff == next && status.targets.selected == 2;
        stage.until("some", "settled", settled).await;
    }
    let elapsed = began.elapsed();
    assert!(elapsed >= Duration::from_secs(3), "three moves after the start's within {elapsed:?}");
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn an_agent_that_dies_makes_it_degraded_and_its_return_mends_it() {
    let stage = Stage::set("agent lost").await;
    stage.pod("a", "n1", "10.244.1.2").await;
    stage.pod("b", "n2", "10.244.2.2").await;
    stage.profile("cut", partition_of_pods("10m")).await;
    let status = stage.until_phase("cut", FaultPhase::Degraded).await;
    assert_eq!(status.nodes.len(), 2, "no agent is there at all");
    let entry = || json!({"targets": 1, "enforced": 1, "installed": true});
    stage.agent("n1", FRESH, &[("cut", entry())]).await;
    // This one's last heartbeat is half too old already, and no other follows.
    stage.agent("n2", Duration::from_secs(20), &[("cut", entry())]).await;
    stage.until_phase("cut", FaultPhase::Active).await;
    let status = stage.until_phase("cut", FaultPhase::Degraded).await;
    assert_eq!((status.targets.selected, status.targets.enforced), (2, 1));
    let problems: Vec<_> = status.nodes.iter().map(|node| (node.name.clone(), node.state.as_str())).collect();
    assert_eq!(problems, [(stage.node("n2"), "AgentLost")]);
    assert_eq!(condition(&status.conditions, "Installed"), "Installed=Unknown/AgentLost");
    stage.agent("n2", FRESH, &[("cut", entry())]).await;
    stage.until_phase("cut", FaultPhase::Active).await;
    let events = stage.events_up_to("cut", "Recovered").await;
    assert_eq!(events[..2], ["Accepted", "Started"]);
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn once_started_only_paused_can_change_and_the_clock_goes_on() {
    let stage = Stage::set("paused").await;
    stage.pod("a", "n1", "10.244.1.2").await;
    stage.profile("cut", partition_of_pods("10m")).await;
    let started = stage.until("cut", "started", |status| status.started_at.is_some()).await;
    let sentence = refused(stage.edit("cut", json!({"duration": "20m"})).await);
    assert!(sentence.contains("only paused can change"), "{sentence}");
    let status = stage.space.api::<FaultProfile>().get("cut").await.unwrap().status.unwrap();
    assert_eq!(status.expires_at, started.expires_at);

    let held = json!({"targets": 1, "enforced": 1, "installed": true});
    stage.agent("n1", FRESH, &[("cut", held.clone())]).await;
    stage.until_phase("cut", FaultPhase::Active).await;
    stage.edit("cut", json!({"paused": true})).await.unwrap();
    let paused = stage.until_phase("cut", FaultPhase::Paused).await;
    assert_eq!(condition(&paused.conditions, "Accepted"), "Accepted=True/Accepted");
    assert_eq!(paused.observed_generation, Some(2), "agents act on an accepted generation only");
    stage.edit("cut", json!({"paused": false})).await.unwrap();
    stage.until("cut", "accepted again", |status| status.observed_generation == Some(3)).await;
    stage.agent("n1", FRESH, &[("cut", held)]).await;
    let status = stage.until_phase("cut", FaultPhase::Active).await;
    assert_eq!(status.expires_at, started.expires_at);
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn when_nothing_changes_nothing_is_written() {
    let stage = Stage::set("quiet").await;
    let address = json!([{"ip": "10.244.1.2", "node": stage.node("n1")}]);
    stage.device("pump", json!({"phase": "InSync", "addresses": address})).await;
    let devices = json!({"devices": {"selector": {"matchLabels": {"app": "x"}}}});
    stage
        .profile(
            "loss",
            json!({"targets": devices, "faults": {"loss": {"percent": "20%"}}, "duration": "10m"}),
        )
        .await;
    stage.until("loss", "started", |status| status.started_at.is_some()).await;
    let holds = json!({"targets": 1, "enforced": 1, "installed": true});
    stage.agent("n1", FRESH, &[("loss", holds.clone())]).await;
    stage.until_phase("loss", FaultPhase::Active).await;

    let profiles = stage.space.api::<FaultProfile>();
    let version = profiles.get("loss").await.unwrap().metadata.resource_version.unwrap();
    for phase in ["Unreachable", "Syncing", "InSync", "Failed"] {
        stage.agent("n1", FRESH, &[("loss", holds.clone())]).await;
        stage.device_status("pump", json!({"phase": phase})).await;
    }
    // A change that matters, to mark the end: it must be the first and only write since.
    let acts = json!({"targets": 1, "enforced": 1, "installed": true, "effective": true});
    stage.agent("n1", FRESH, &[("loss", acts)]).await;
    let events =
        profiles.watch(&WatchParams::default().fields("metadata.name=loss"), &version).await.unwrap();
    pin_mut!(events);
    let first =
        tokio::time::timeout(Duration::from_secs(60), events.next()).await.expect("the mark is written");
    let Some(Ok(WatchEvent::Modified(profile))) = first else { panic!("{first:?}") };
    assert_eq!(condition(&profile.status.unwrap().conditions, "Effective"), "Effective=True/ActedOnPackets");
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn a_killed_operator_is_followed_by_one_that_goes_on_with_the_same_end() {
    let mut stage = Stage::set("restart").await;
    stage.pod("a", "n1", "10.244.1.2").await;
    stage.profile("cut", partition_of_pods("10m")).await;
    stage.profile("short", partition_of_pods("2s")).await;
    let short = stage.until("short", "started", |status| status.started_at.is_some()).await;
    let before = stage.until("cut", "started", |status| status.started_at.is_some()).await;
    stage.operator.is_killed().await;
    // Its end passes while nobody is there.
    let left = short.expires_at.unwrap().0.duration_since(now());
    tokio::time::sleep(Duration::try_from(left).unwrap_or_default()).await;
    stage.operator.starts();
    let after = stage.until("cut", "of a new epoch", |status| status.epoch > before.epoch).await;
    assert_eq!((&after.started_at, &after.expires_at), (&before.started_at, &before.expires_at));
    assert_eq!(after.cutoff, before.cutoff);
    stage.until_phase("short", FaultPhase::Expired).await;
    let lower = json!({"status": {"epoch": before.epoch}});
    let api: Api<FaultProfile> = stage.space.api();
    let sentence = refused(api.patch_status("cut", &PatchParams::default(), &Patch::Merge(lower)).await);
    assert!(sentence.contains("epoch never falls"), "{sentence}");
    stage.operator.ends().await;
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn a_hundred_profiles_are_all_started_and_none_is_starved() {
    let stage = Stage::set("many").await;
    stage.pod("a", "n1", "10.244.1.2").await;
    let profiles = stage.space.api::<FaultProfile>();
    for number in 0..100 {
        let object: FaultProfile = serde_json::from_value(json!({
            "apiVersion": "edge-operator.dev/v1alpha1", "kind": "FaultProfile",
            "metadata": {"name": format!("p{number}")}, "spec": partition_of_pods("10m"),
        }))
        .unwrap();
        profiles.create(&PostParams::default(), &object).await.unwrap();
    }
    for number in 0..100 {
        stage.until(&format!("p{number}"), "started", |status| status.started_at.is_some()).await;
    }
}
