//! The table of what is remembered, at its ends.

use std::io;

use clap::CommandFactory as _;
use kube::Client;
use kube::client::Body;
use serde_json::json;

use super::*;
use crate::args::Args;
use crate::fault::tests::shared_with;

fn key(name: &str) -> Key {
    Key { namespace: "demo".into(), name: name.into() }
}

/// With an API server that never answers.
async fn controls() -> Controls {
    let nobody = tower::service_fn(|_: http::Request<Body>| {
        std::future::pending::<Result<http::Response<Body>, io::Error>>()
    });
    let shared = shared_with(Client::new(nobody, "default"), &mut JoinSet::new());
    let ((outcomes, _triggers), (news, _notifications)) = (mpsc::channel(1), mpsc::channel(1));
    Controls::new(shared, outcomes, news).await.unwrap()
}

/// Limits that are shown elsewhere: by the caches, the pages and the fleet controller.
const ELSEWHERE: [&str; 6] =
    ["max_objects", "change_ring", "move_ring", "max_connections", "max_fleet_devices", "fleet_writers"];
/// What else is to be set there: how long something takes.
const TIMES: [&str; 3] = ["backoff_base", "backoff_cap", "progress_after"];

/// Under which name a flag's bound is shown.
fn shown(flag: &str) -> &str {
    match flag {
        "max_devices" => "devices",
        "max_in_flight" => "in_flight_exchanges",
        "max_observations" => "observations",
        "max_lookups" => "lookups",
        "outcome_queue" => "outcomes",
        "notification_queue" => "notifications",
        "event_queue" => "events",
        "device_retry_burst" => "device_retries_at_once",
        "device_retry_rate" => "device_retries_per_second",
        "retry_burst" => "retries_at_once",
        "retry_rate" => "retries_per_second",
        "progress_burst" => "progress_at_once",
        "progress_rate" => "progress_per_second",
        "notification_burst" => "device_notifications_at_once",
        "notification_rate" => "device_notifications_per_second",
        "device_status_burst" => "device_statuses_at_once",
        "device_status_rate" => "device_statuses_per_second",
        "event_burst" => "events_at_once",
        "event_rate" => "events_per_second",
        flag => flag,
    }
}

#[tokio::test]
async fn each_flag_that_bounds_something_shows_as_a_limit() {
    let controls = controls().await;
    let text = String::from_utf8(controls.shared.metrics.render().unwrap()).unwrap();
    let command = Args::command();
    let bounds = command
        .get_arguments()
        .filter(|flag| ["Work", "Retries", "Bounds"].map(Some).contains(&flag.get_help_heading()));
    let mut seen = 0;
    for flag in bounds.map(|flag| flag.get_id().as_str()) {
        if !ELSEWHERE.contains(&flag) && !TIMES.contains(&flag) {
            let limit = format!("edge_limit{{name=\"{}\"}} ", shown(flag));
            assert!(text.contains(&limit), "{limit} of {flag} is missing in\n{text}");
            seen += 1;
        }
    }
    assert!(seen > 20, "only {seen} flags");
}

#[tokio::test]
async fn a_device_that_was_gone_before_it_was_remembered_leaves_nothing_behind() {
    let controls = controls().await;
    let device: Device = serde_json::from_value(json!({
        "apiVersion": "edge-operator.dev/v1alpha1", "kind": "Device",
        "metadata": {"name": "pump", "namespace": "demo", "uid": "u"},
        "spec": {"endpoint": {"host": "10.20.0.17"}},
    }))
    .unwrap();
    // The cache has let it go, and has told so, while a reconcile of it was on its way.
    controls.forget(&key("pump"));
    assert!(!controls.admits(&key("pump"), &device));
    assert!(controls.with_memory(&key("pump"), &device, |_, _| ()).is_none());
    assert!(controls.devices_at(None).is_empty());
}

#[test]
fn devices_that_are_released_beyond_the_bound_show_in_a_gauge_of_their_own_and_no_usage_exceeds_its_limit() {
    let metrics = Metrics::new().unwrap();
    let table = Arc::new(Mutex::new(Table::new(2)));
    show_table(&metrics, 2, &table);
    for number in 0..10 {
        lock(&table).insert(&key(&number.to_string()), true, || ());
    }
    let text = String::from_utf8(metrics.render().unwrap()).unwrap();
    for (name, most) in [("devices", 2), ("leaving_devices", 1)] {
        for metric in ["edge_limit", "edge_usage"] {
            let line = format!("{metric}{{name=\"{name}\"}} {most}");
            assert!(text.lines().any(|one| one == line), "{line} is missing in\n{text}");
        }
    }
}
