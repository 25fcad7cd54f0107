//! What a scrape of a running operator shows, under the names that dashboards know.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a hand that slips ends the story")]

use std::collections::BTreeMap;
use std::time::Duration;

use control_plane::wait::WITHIN;
use device_sim::Behaviour;
use device_sim::behaviour::share;
use edge_api::{Device, DeviceFleet, DevicePhase, FaultProfile};
use kube::ResourceExt as _;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::time::Instant;

use super::stage::Stage;

/// Names, labels and, where it is known, values of what is there once a device is in sync. The names are those of
/// controller-runtime, of client-go's work queues, its requests and its election, and the project's own.
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
    ("leader_election_slowpath_total", &[r#"name="edge-operator""#]),
    ("edge_leader_epoch", &[]),
    ("edge_devices", &[r#"phase="InSync""#]),
    ("edge_device_liveness", &[r#"state="answering""#]),
    ("edge_device_silence_seconds", &[]),
    ("edge_device_unconverged_seconds", &[]),
    ("edge_device_generations_behind", &[]),
    ("edge_device_transitions_total", &[r#"from="Syncing""#, r#"to="InSync""#, r#"namespace=""#]),
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
    ("edge_usage", &[r#"name="devices""#]),
    ("edge_usage", &[r#"name="cached_devices""#]),
    ("edge_usage", &[r#"name="cached_pods""#]),
    ("edge_usage", &[r#"name="changes_devices""#]),
    ("edge_usage", &[r#"name="pod_moves""#]),
    ("edge_usage", &[r#"name="outcomes""#]),
    ("edge_usage", &[r#"name="notifications""#]),
    ("edge_usage", &[r#"name="observations""#]),
    ("edge_usage", &[r#"name="remembered_exchanges""#]),
    ("edge_usage", &[r#"name="lookups""#]),
    ("edge_usage", &[r#"name="events""#]),
    ("edge_usage", &[r#"name="connections""#]),
    ("edge_devices_refused_total", &[]),
    ("edge_events_dropped_total", &[]),
];

fn is_shown(text: &str, (name, labels): &(&str, &[&str])) -> bool {
    text.lines().any(|line| {
        let name_ends = line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
        name_ends && labels.iter().all(|label| line.contains(label))
    })
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn a_scrape_of_a_running_operator_has_each_series_that_dashboards_ask_for() {
    let stage = Stage::set("measured", 1).await;
    stage.declare(0, Some("2.0.0")).await;
    stage.until_phase("device-0", DevicePhase::InSync).await;
    // What is counted of the write that made it so comes a moment after the write.
    let deadline = Instant::now() + WITHIN;
    while let Some((name, labels)) = SERIES.iter().find(|series| !is_shown(&stage.operator.scrape(), series))
    {
        assert!(Instant::now() < deadline, "{name}{labels:?} is missing in\n{}", stage.operator.scrape());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let text = stage.operator.scrape();
    assert!((stage.operator.metric("leader_election_master_status") - 1.0).abs() < 0.5);
    // Where it is, the finalizer, that it is commanded, that it runs what it shall; and nothing in vain.
    let patches = r#"rest_client_requests_total{code="200",host="127.0.0.1:"#;
    let patched = text.lines().filter(|line| line.starts_with(patches) && line.contains("PATCH"));
    assert!(
        patched.filter_map(|line| line.rsplit(' ').next()?.parse::<u32>().ok()).all(|writes| writes <= 4),
        "{text}"
    );
    assert!(
        !text.contains(r#"rest_client_requests_total{code="409""#),
        "a write was decided on what was old\n{text}"
    );
    let named = text.lines().filter(|line| line.starts_with("# TYPE ")).count();
    assert!(named > 40, "{named} metrics");
}

/// What is shown of each controller: by the label `name`, and by the label `controller`.
const BY_NAME: [&str; 7] = [
    "workqueue_depth",
    "workqueue_adds_total",
    "workqueue_retries_total",
    "workqueue_queue_duration_seconds_count",
    "workqueue_work_duration_seconds_count",
    "workqueue_unfinished_work_seconds",
    "workqueue_longest_running_processor_seconds",
];
const BY_CONTROLLER: [&str; 6] = [
    "controller_runtime_reconcile_total",
    "controller_runtime_reconcile_errors_total",
    "controller_runtime_reconcile_time_seconds_count",
    "controller_runtime_active_workers",
    "controller_runtime_max_concurrent_reconciles",
    "edge_retries_put_off_total",
];

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn a_scrape_tells_the_queue_and_the_work_of_each_controller_from_those_of_the_others() {
    let stage = Stage::set_with("controllers", 1, &["--controllers=device,fleet,fault", "--workers=3"]).await;
    stage.declare(0, Some("2.0.0")).await;
    stage.fleet_of("px4", "9.0.0").await;
    let profile: FaultProfile = serde_json::from_value(json!({
        "apiVersion": "edge-operator.dev/v1alpha1", "kind": "FaultProfile", "metadata": {"name": "loss"},
        "spec": {"targets": {"pods": {"selector": {"matchLabels": {"app": "none"}}}}, "faults": {"loss": {"percent": "10%"}}, "duration": "10m"},
    }))
    .unwrap();
    stage.space.api::<FaultProfile>().create(&PostParams::default(), &profile).await.unwrap();
    for controller in ["device", "fleet", "fault"] {
        let of = |metric: &str| {
            let label = if BY_NAME.contains(&metric) { "name" } else { "controller" };
            format!("{metric}{{{label}=\"{controller}\"}}")
        };
        let looks =
            stage.operator.until_metric(&of("controller_runtime_reconcile_total"), |it| it > 0.5).await;
        // The metrics of one scrape are of one moment each, and these only rise.
        for metric in [
            "workqueue_adds_total",
            "workqueue_queue_duration_seconds_count",
            "workqueue_work_duration_seconds_count",
            "controller_runtime_reconcile_time_seconds_count",
        ] {
            let counted = stage.operator.metric(&of(metric));
            assert!(counted >= looks, "{metric} is {counted} for {looks} looks of {controller}");
        }
        assert!(
            (stage.operator.metric(&of("controller_runtime_max_concurrent_reconciles")) - 3.0).abs() < 0.5
        );
        let text = stage.operator.scrape();
        for (metrics, label) in [(&BY_NAME[..], "name"), (&BY_CONTROLLER[..], "controller")] {
            let label = format!("{label}=\"{controller}\"");
            let missing = metrics.iter().find(|metric| !is_shown(&text, &(metric, &[label.as_str()])));
            assert_eq!(missing, None, "of {controller}, in\n{text}");
        }
    }
}

/// Everything that can be bounded, at its least with which the story still ends.
const LEAST: [&str; 28] = [
    "--controllers=device,fleet",
    "--workers=1",
    "--device-writers=1",
    "--max-in-flight=1",
    "--max-lookups=1",
    "--max-observations=1",
    "--max-devices=4",
    "--remembered-exchanges=1",
    "--exchange-mailbox=1",
    "--outcome-queue=1",
    "--notification-queue=1",
    "--event-queue=1",
    "--max-connections=1",
    "--max-fleet-devices=1",
    "--fleet-writers=1",
    "--progress-burst=1",
    "--notification-burst=1",
    "--device-status-burst=1",
    "--change-ring=1",
    "--move-ring=1",
    // As many as the story declares: which ones fit would be chance, and a fleet must know all.
    "--max-objects=5",
    "--per-device-series=1",
    "--retry-burst=1",
    "--retry-rate=1",
    "--device-retry-burst=1",
    "--device-retry-rate=1",
    "--event-burst=1",
    "--event-rate=1",
];

impl Stage {
    /// A fleet that brings some firmware to devices that are labelled so.
    pub(crate) async fn fleet_of(&self, model: &str, firmware: &str) {
        let fleet: DeviceFleet = serde_json::from_value(json!({
            "apiVersion": "edge-operator.dev/v1alpha1", "kind": "DeviceFleet", "metadata": {"name": model},
            "spec": {"selector": {"matchLabels": {"model": model}}, "template": {"firmware": firmware}},
        }))
        .unwrap();
        self.space.api::<DeviceFleet>().create(&PostParams::default(), &fleet).await.unwrap();
    }

    /// The values of a metric with a label `name`, by that.
    fn by_name(&self, metric: &str) -> BTreeMap<String, f64> {
        let text = self.operator.scrape();
        let head = format!("{metric}{{name=\"");
        let series = text.lines().filter_map(|line| line.strip_prefix(&head)?.split_once("\"} "));
        series.map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect()
    }

    /// Nothing is fuller than it may be; `fullest` keeps how full each was.
    fn holds(&self, fullest: &mut BTreeMap<String, f64>) {
        let (limits, usages) = (self.by_name("edge_limit"), self.by_name("edge_usage"));
        for (name, usage) in usages {
            let limit = limits.get(&name).unwrap_or_else(|| panic!("{name} has no limit"));
            assert!(usage <= *limit, "{usage} of {name}, the limit is {limit}\n{}", self.operator.scrape());
            let most = fullest.entry(name).or_default();
            *most = most.max(usage);
        }
        assert!(self.operator.metric("edge_inflight_exchanges") < 1.5);
        for waiting in ["edge_waiting_exchanges", "edge_waiting_writes", "edge_waiting_lookups"] {
            let most = limits["devices"];
            assert!(self.operator.metric(waiting) <= most, "{waiting}\n{}", self.operator.scrape());
        }
        assert!(self.operator.metric("controller_runtime_active_workers") < 1.5);
    }

    /// The devices that are in sync.
    pub(crate) async fn in_sync(&self) -> Vec<String> {
        let all = self.space.api::<Device>().list(&ListParams::default()).await.unwrap();
        let synced =
            |it: &Device| it.status.as_ref().is_some_and(|status| status.phase == DevicePhase::InSync);
        all.items.iter().filter(|device| synced(device)).map(|device| device.name_any()).collect()
    }
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn with_every_bound_at_its_least_nothing_grows_beyond_it_and_all_that_fits_gets_in_sync() {
    let stage = Stage::set_with("least", 5, &LEAST).await;
    let rough = Behaviour {
        lose_answers: share("10%").unwrap(),
        // Long enough under way to be seen by who looks now and then.
        late: "50%:20ms..60ms".parse().unwrap(),
        duplicate: "50%:10ms".parse().unwrap(),
        install_time: "10ms..200ms".parse().unwrap(),
        ..Behaviour::default()
    };
    for number in 0..5 {
        stage.device(number).set_behaviour(rough.clone());
        stage.declare(number, Some("2.0.0")).await;
    }
    // A fleet of one, which is left alone, since its desired state is somebody else's.
    let labels = Patch::Merge(json!({"metadata": {"labels": {"model": "px4"}}}));
    stage.space.api::<Device>().patch("device-0", &PatchParams::default(), &labels).await.unwrap();
    stage.fleet_of("px4", "9.0.0").await;
    stage.operator.until_metric(r#"edge_usage{name="fleet_devices""#, |devices| devices > 0.5).await;
    let (mut fullest, deadline) = (BTreeMap::new(), Instant::now() + WITHIN);
    let mut synced = Vec::new();
    while synced.len() < 4 {
        assert!(Instant::now() < deadline, "only {synced:?} in sync\n{}", stage.operator.scrape());
        for _ in 0..20 {
            stage.holds(&mut fullest);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        synced = stage.in_sync().await;
    }
    let names = [
        "devices",
        "device_writers",
        "in_flight_exchanges",
        "remembered_exchanges",
        "observations",
        "fleet_devices",
    ];
    for name in names {
        let limit = stage.by_name("edge_limit")[name];
        assert!((fullest[name] - limit).abs() < 0.5, "{name} was {} at most, and never full", fullest[name]);
    }
    stage.operator.until_metric("edge_devices_refused_total", |refused| refused > 0.5).await;

    // Where one goes there is room for another.
    let goes = synced[0].clone();
    stage.space.api::<Device>().delete(&goes, &DeleteParams::default()).await.unwrap();
    let left = (0..5).map(|number| format!("device-{number}")).find(|name| !synced.contains(name)).unwrap();
    stage.space.until_event(&left, "TooManyDevices").await.unwrap();
    stage.until_phase(&left, DevicePhase::InSync).await;
    stage.holds(&mut fullest);
}
