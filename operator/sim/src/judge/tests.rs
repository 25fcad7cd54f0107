use serde_json::{Value, json};

use super::*;
use crate::person;
use crate::plan::Plan;
use crate::timeline::Timeline;
use crate::weather::Weather;

/// Five devices, of which one may be under way or unavailable, and a fleet in the middle of a rollout.
fn judge() -> Judge {
    judge_of(100)
}

/// The same, of which so many percent may fail.
fn judge_of(failures: u64) -> Judge {
    let plan = FleetPlan {
        name: "fleet-0".to_owned(),
        batches: json!(["100%"]),
        max_in_flight: 1,
        max_unavailable: 1,
        failures,
        pauses: false,
        members: (0..5).collect(),
    };
    let weather = Arc::new(Weather::new(&Plan::sweep(None), Timeline::default()));
    let judge = Judge::new(vec![plan], Memory::new(weather, None));
    for number in 0..5 {
        device(&judge, number, None, "InSync");
    }
    judge
}

fn saw(judge: &Judge, resource: &str, name: &str, object: Value) {
    let place = (resource.to_owned(), NAMESPACE.to_owned(), name.to_owned());
    judge.saw(&Change { version: 0, place, before: None, after: Some(Arc::new(object)) });
}

fn device(judge: &Judge, number: usize, firmware: Option<&str>, phase: &str) {
    let name = person::name(number);
    let desired = firmware.map(|firmware| json!({"firmware": firmware}));
    let object = json!({
        "apiVersion": "edge-operator.dev/v1alpha1", "kind": "Device",
        "metadata": {"name": name, "namespace": NAMESPACE, "generation": 1, "labels": {"fleet-0": "yes"}},
        "spec": {"endpoint": {"host": "10.20.0.17"}, "desired": desired},
        "status": {"observedGeneration": 1, "phase": phase},
    });
    saw(judge, "devices", &name, object);
}

/// The fleet reserves a device and changes it, which then runs that.
fn is_told(judge: &Judge, number: usize) {
    let name = person::name(number);
    let object = json!({
        "apiVersion": "edge-operator.dev/v1alpha1", "kind": "DeviceFleet",
        "metadata": {"name": "fleet-0", "namespace": NAMESPACE},
        "spec": {"selector": {}, "template": {"firmware": "2.0"}},
        "status": {"revision": 2, "batch": 1, "reserved": [name]},
    });
    saw(judge, "edge-operator.dev/devicefleets", "fleet-0", object);
    device(judge, number, Some("2.0"), "Syncing");
    lock(judge).told.get_mut(&name).unwrap().ended = true;
    device(judge, number, Some("2.0"), "InSync");
}

/// The fleet is complete, reserves a device and changes it, which then fails.
fn catches_up_and_fails(judge: &Judge, number: usize) {
    let name = person::name(number);
    let complete = json!({"type": "Complete", "status": "True", "reason": "Complete", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let object = json!({
        "apiVersion": "edge-operator.dev/v1alpha1", "kind": "DeviceFleet",
        "metadata": {"name": "fleet-0", "namespace": NAMESPACE},
        "spec": {"selector": {}, "template": {"firmware": "2.0"}},
        "status": {"revision": 2, "batch": 1, "reserved": [name], "conditions": [complete]},
    });
    saw(judge, "edge-operator.dev/devicefleets", "fleet-0", object);
    device(judge, number, Some("2.0"), "Syncing");
    device(judge, number, Some("2.0"), "Failed");
}

fn lock(judge: &Judge) -> std::sync::MutexGuard<'_, Book> {
    judge.0.lock().unwrap()
}

#[test]
fn a_fleet_that_goes_on_while_those_before_get_lost_breaks_its_budget() {
    let judge = judge();
    is_told(&judge, 0);
    device(&judge, 0, Some("2.0"), "Unreachable");
    is_told(&judge, 1);
    assert_eq!(judge.broken(), [], "that one was reserved by then");
    is_told(&judge, 2);
    let broken = judge.broken();
    assert_eq!(broken.iter().map(|one| one.rule).collect::<Vec<_>>(), [Rule::Unavailable], "{broken:?}");
    assert!(broken[0].sentence.contains("after 1 got lost that had run it"), "{broken:?}");
}

#[test]
fn a_batch_that_is_left_behind_while_somebody_is_under_way_is_found() {
    let judge = judge();
    let batch = |number: u32| {
        let object = json!({
            "apiVersion": "edge-operator.dev/v1alpha1", "kind": "DeviceFleet",
            "metadata": {"name": "fleet-0", "namespace": NAMESPACE},
            "spec": {"selector": {}, "template": {"firmware": "2.0"}},
            "status": {"revision": 2, "batch": number, "reserved": ["device-0"]},
        });
        saw(&judge, "edge-operator.dev/devicefleets", "fleet-0", object);
        judge.broken().iter().map(|one| one.rule).collect::<Vec<_>>()
    };
    assert_eq!(batch(1), []);
    device(&judge, 0, Some("2.0"), "Syncing");
    assert_eq!(batch(2), [Rule::Batches]);
    lock(&judge).told.get_mut("device-0").unwrap().ended = true;
    assert_eq!(batch(3), []);
}

#[test]
fn a_complete_fleet_may_go_on_past_those_that_failed_within_its_failure_budget_and_past_no_more() {
    let broken = |failures| {
        let judge = judge_of(failures);
        for number in 0..5 {
            catches_up_and_fails(&judge, number);
        }
        judge.broken().iter().map(|one| one.rule).collect::<Vec<_>>()
    };
    assert_eq!(broken(100), []);
    assert!(broken(20).contains(&Rule::Failures), "{:?}", broken(20));
}

#[test]
fn who_is_back_holds_nobody_up_and_neither_does_who_was_never_told() {
    let judge = judge();
    device(&judge, 4, None, "Unreachable");
    is_told(&judge, 0);
    device(&judge, 0, Some("2.0"), "Unreachable");
    device(&judge, 0, Some("2.0"), "InSync");
    for number in 1..4 {
        is_told(&judge, number);
    }
    assert_eq!(judge.broken(), []);
}

#[test]
fn a_status_that_goes_back_to_an_earlier_leader_or_to_none_is_found() {
    let judge = judge();
    let now =
        |epoch: Value| Some(Arc::new(json!({"metadata": {"name": "loss"}, "status": {"epoch": epoch}})));
    let becomes = |before, after| {
        let place = ("edge-operator.dev/faultprofiles".to_owned(), NAMESPACE.to_owned(), "loss".to_owned());
        judge.saw(&Change { version: 0, place, before, after });
        judge.broken().iter().map(|one| one.rule).collect::<Vec<_>>()
    };
    let right = [(None, now(json!(7))), (now(Value::Null), now(json!(7))), (now(json!(7)), now(json!(8)))];
    for (before, after) in right.into_iter().chain([(now(json!(8)), now(json!(8))), (now(json!(8)), None)]) {
        assert_eq!(becomes(before, after), []);
    }
    for after in [json!(7), Value::Null] {
        assert_eq!(becomes(now(json!(8)), now(after)), [Rule::EpochsRise]);
    }
}
