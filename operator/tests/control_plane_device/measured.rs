//! What a scrape of a running operator shows, under the names that dashboards know.

use edge_api::DevicePhase;

use super::stage::Stage;

/// Names, labels and, where it is known, values of what is there once a device is in sync. The names are those of
/// controller-runtime 0.24, of client-go's work queues, its requests and its election, and the project's own.
const SERIES: &[(&str, &[&str])] = &[
    ("workqueue_depth", &[r#"name="device""#]),
    ("workqueue_adds_total", &[r#"name="device""#]),
    ("workqueue_queue_duration_seconds_bucket", &[r#"name="device""#]),
    ("workqueue_work_duration_seconds_bucket", &[r#"name="device""#]),
    ("workqueue_retries_total", &[r#"name="device""#]),
    ("workqueue_unfinished_work_seconds", &[r#"name="device""#]),
    ("workqueue_longest_running_processor_seconds", &[r#"name="device""#]),
    ("controller_runtime_reconcile_total", &[r#"controller="device""#, r#"result="requeue_after""#]),
    ("controller_runtime_reconcile_errors_total", &[r#"controller="device""#]),
    ("controller_runtime_reconcile_time_seconds_bucket", &[r#"controller="device""#]),
    ("controller_runtime_active_workers", &[r#"controller="device""#]),
    ("controller_runtime_max_concurrent_reconciles", &[r#"controller="device""#]),
    ("rest_client_requests_total", &[r#"code="200""#, r#"method="PATCH""#, r#"host="127.0.0.1:"#]),
    ("rest_client_request_duration_seconds_bucket", &[r#"verb="GET""#, r#"host="127.0.0.1:"#]),
    ("leader_election_master_status", &[r#"name="edge-operator""#]),
    ("edge_leader_epoch", &[]),
    ("edge_devices", &[r#"phase="InSync""#]),
    ("edge_device_liveness", &[r#"state="answering""#]),
    ("edge_device_silence_seconds", &[]),
    ("edge_device_unconverged_seconds", &[]),
    ("edge_device_generations_behind", &[]),
    ("edge_device_transitions_total", &[r#"from="Syncing""#, r#"to="InSync""#]),
    ("edge_device_exchanges_total", &[r#"outcome="report""#]),
    ("edge_device_exchanges_total", &[r#"outcome="stored""#]),
    ("edge_device_sends_total", &[r#"outcome="answered""#]),
    ("edge_device_retransmissions_total", &[]),
    ("edge_device_round_trip_seconds_bucket", &[]),
    ("edge_device_reports_total", &[r#"disposition="accepted""#]),
    ("edge_device_reports_total", &[r#"disposition="stale""#]),
    ("edge_device_reports_total", &[r#"disposition="contradictory""#]),
    ("edge_device_reports_total", &[r#"disposition="foreign""#]),
    ("edge_device_reports_total", &[r#"disposition="malformed""#]),
    ("edge_device_reboots_total", &[]),
    ("edge_device_command_retries_total", &[]),
    ("edge_device_budget_exhausted_total", &[r#"budget="device""#]),
    ("edge_device_budget_exhausted_total", &[r#"budget="process""#]),
    ("edge_link_datagrams_total", &[r#"result="delivered""#]),
    ("edge_observed_devices", &[]),
    ("edge_inflight_exchanges", &[]),
    ("edge_waiting_exchanges", &[]),
    ("edge_limit", &[r#"name="in_flight_exchanges""#]),
    ("edge_usage", &[r#"name="in_flight_exchanges""#]),
    ("edge_events_dropped_total", &[]),
];

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn a_scrape_of_a_running_operator_has_each_series_that_dashboards_ask_for() {
    let stage = Stage::set("measured", 1).await;
    stage.declare(0, Some("2.0.0")).await;
    stage.until_phase("device-0", DevicePhase::InSync).await;
    stage.until_metric(r#"edge_devices{namespace"#, |devices| devices > 0.5).await;
    let in_sync = format!(r#"edge_devices{{namespace="{}",phase="InSync"}}"#, stage.space.namespace);
    stage.until_metric(&in_sync, |devices| devices > 0.5).await;
    let text = stage.scrape();
    for (name, labels) in SERIES {
        let is_it = |line: &&str| {
            let name_ends = line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
            name_ends && labels.iter().all(|label| line.contains(label))
        };
        assert!(text.lines().any(|line| is_it(&line)), "{name}{labels:?} is missing in\n{text}");
    }
    assert!((stage.metric("leader_election_master_status") - 1.0).abs() < 0.5);
    let named = text.lines().filter(|line| line.starts_with("# TYPE ")).count();
    assert!(named > 40, "{named} metrics");
}
