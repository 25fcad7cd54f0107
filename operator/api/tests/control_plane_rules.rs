//! What the API server refuses, with which sentence, and what it accepts and fills in: bad and good objects sent
//! to a real one.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on says so")]

#[path = "control_plane_rules/cases.rs"]
mod cases;
#[path = "control_plane_rules/once_written.rs"]
mod once_written;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cases::timelines::timeline;
use cases::{Case, device, profile, with};
use control_plane::{Space, space};
use edge_api::{Device, DeviceFleet, DeviceSpec, FaultProfile};
use edge_protocol::{MAX_CONFIG, config_encoded_len};
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::{Api, Resource as _};
use serde_json::{Value, json};

fn api(space: &Space, object: &Value) -> Api<DynamicObject> {
    let resource = match object["kind"].as_str() {
        Some("Device") => ApiResource::erase::<Device>(&()),
        Some("DeviceFleet") => ApiResource::erase::<DeviceFleet>(&()),
        Some("FaultProfile") => ApiResource::erase::<FaultProfile>(&()),
        other => panic!("no such kind: {other:?}"),
    };
    Api::namespaced_with(space.client.clone(), &space.namespace, &resource)
}

async fn create(space: &Space, object: &Value) -> Result<DynamicObject, kube::Error> {
    let object_of_any_kind: DynamicObject = serde_json::from_value(object.clone()).unwrap();
    api(space, object).create(&PostParams::default(), &object_of_any_kind).await
}

/// Sends all, and returns the sentences of the CEL rules that answered.
async fn all_are_refused(space: &Space, cases: Vec<Case>) -> BTreeSet<String> {
    let mut sentences = BTreeSet::new();
    let mut wrong = Vec::new();
    for Case { story, object, answer } in cases {
        match create(space, &object).await {
            Err(kube::Error::Api(status)) if status.code == 422 && status.message.contains(answer) => {
                assert!(!status.message.contains("rule evaluation error"), "{story}: {}", status.message);
                sentences.insert(status.message);
            }
            other => wrong.push(format!("{story}: expected {answer:?}, got {other:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    sentences
}

/// Every sentence that a schema can answer with.
fn sentences_in(schema: &Value, found: &mut BTreeSet<String>) {
    match schema {
        Value::Object(object) => {
            for rule in object.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten()
            {
                found.insert(rule["message"].as_str().unwrap().to_owned());
            }
            object.values().for_each(|value| sentences_in(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| sentences_in(value, found)),
        _ => {}
    }
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn every_bad_object_is_refused_with_its_sentence_and_every_sentence_is_heard() {
    let space = space("bad objects").await.unwrap();
    let (devices, profiles) = (cases::devices(), cases::profiles());
    assert!(devices.len() + profiles.len() >= 80, "{} + {}", devices.len(), profiles.len());
    let mut heard = all_are_refused(&space, devices).await;
    heard.extend(all_are_refused(&space, profiles).await);
    heard.extend(all_are_refused(&space, cases::fleets::bad_ones()).await);

    let mut written = BTreeSet::new();
    for crd in edge_api::schema::crds().unwrap() {
        sentences_in(&serde_json::to_value(crd).unwrap(), &mut written);
    }
    // Those of the root compare with what was before; the tests below hear them.
    written.retain(|sentence| !sentence.starts_with("spec: ") && !sentence.starts_with("status: "));
    assert!(written.len() > 20, "{written:?}");
    for sentence in written {
        assert!(heard.iter().any(|answer| answer.contains(&sentence)), "no bad object hears: {sentence}");
    }
}

/// Every fault at once.
fn all_faults() -> Value {
    json!({
        "partition": {"mode": "Reject"}, "loss": {"percent": "20%"}, "corrupt": {"percent": "0.1%"},
        "duplicate": {"percent": "1%"},
        "delay": {"time": "80ms", "jitter": "20ms", "distribution": "Pareto", "correlation": "25%", "scope": "Flow"},
        "reorder": {"percent": "5%", "by": "30ms"},
        "rate": {"bitsPerSecond": "256k", "burst": "16Ki", "queue": "1s"},
    })
}

/// Faults at the ends of their ranges.
fn good_faults() -> impl Iterator<Item = Value> {
    let delays = [
        json!({"time": "0.5ms"}),
        json!({"time": "1us"}),
        json!({"time": "60s"}),
        json!({"time": "0s", "jitter": "1us"}),
        json!({"time": "0.0ms", "jitter": "60s", "distribution": "Normal"}),
        json!({"time": "20ms", "jitter": "20ms", "distribution": "Uniform"}),
        json!({"time": "30s", "jitter": "20s", "correlation": "100%"}),
    ];
    let rates = [
        json!({"bitsPerSecond": "1k", "burst": "1600", "queue": "0s"}),
        json!({"bitsPerSecond": "100G", "burst": "16Mi", "queue": "60s"}),
        json!({"bitsPerSecond": 256_000, "burst": 1_600}),
        json!({"bitsPerSecond": 100_000_000_000_u64}),
        json!({"bitsPerSecond": "0.001M", "burst": "16777216"}),
    ];
    let late =
        json!({"delay": {"time": "30s", "jitter": "20s"}, "reorder": {"percent": "100%", "by": "10s"}});
    let delays = delays.into_iter().map(|delay| json!({"delay": delay}));
    let rates = rates.into_iter().map(|rate| json!({"rate": rate}));
    delays.chain(rates).chain([all_faults(), late, json!({"reorder": {"percent": "5%", "by": "1us"}})])
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn good_objects_are_accepted() {
    let space = space("good objects").await.unwrap();
    let endpoint = |host: &str| with(device(), "/spec/endpoint/host", Some(json!(host)));
    let firmware = |version: &str| with(device(), "/spec/desired/firmware", Some(json!(version)));
    let targets = |targets: Value| with(profile(), "/spec/targets", Some(targets));
    let every_device =
        json!({"devices": {"selector": {"matchExpressions": [{"key": "none", "operator": "DoesNotExist"}]}}});
    let good = [
        device(),
        endpoint("2001:db8::17"),
        endpoint("127.0.0.1"),
        endpoint("pump-17.site-3.example.com"),
        endpoint("pump17"),
        firmware("2.4.1-rc.1+build_7"),
        with(device(), "/spec/desired", None),
        with(device(), "/spec/liveness", Some(json!({"probeInterval": "1.5s", "lostAfter": "1h30m"}))),
        profile(),
        targets(every_device),
        targets(json!({"pods": {"selector": {"matchLabels": {"app.kubernetes.io/name": "x", "empty": ""}}}})),
        targets(json!({"cidrs": ["192.168.50.0/24", "2001:db8::/64", "192.168.51.7/32"]})),
        with(profile(), "/spec/targets/choose", Some(json!({"count": 3}))),
        with(profile(), "/spec/faults", Some(json!({"partition": {}}))),
        with(profile(), "/spec/faults/loss/percent", Some(json!("0.0001%"))),
        with(profile(), "/spec/faults/loss/percent", Some(json!("100.0000%"))),
        with(profile(), "/spec/match/ports", Some(json!(["1", "65535", "1-65535", "80-80"]))),
        with(profile(), "/spec/faults/loss", Some(json!({"every": 10, "scope": "Flow"}))),
        with(
            profile(),
            "/spec/faults/loss",
            Some(json!({"gilbertElliott": {"enterBurst": "1%", "leaveBurst": "25%", "lossOutside": "0.5%"}})),
        ),
        timeline(),
        with(
            timeline(),
            "/spec/timeline",
            Some(json!(vec![json!({"for": "11h15m", "faults": {"loss": {"percent": "0%"}}}); 64])),
        ),
        with(
            timeline(),
            "/spec/timeline",
            Some(json!(vec![json!({"for": "11h15m", "faults": all_faults()}); 64])),
        ),
        with(with(profile(), "/spec/match/ports", None), "/spec/match/protocol", Some(json!("ICMP"))),
        with(
            profile(),
            "/spec/match/peers",
            Some(
                json!([{"service": "broker"}, {"pods": {"matchLabels": {"app": "broker"}}}, {"cidr": "::/0"}]),
            ),
        ),
    ];
    let good =
        good.into_iter().chain(good_faults().map(|faults| with(profile(), "/spec/faults", Some(faults))));
    let good = good.chain(cases::fleets::good());
    for (number, mut object) in good.enumerate() {
        object["metadata"]["name"] = json!(format!("good-{number}"));
        if let Err(error) = create(&space, &object).await {
            panic!("refused: {object}\n{error}");
        }
    }
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn the_api_server_counts_a_configurations_bytes_as_the_protocol_does() {
    let space = space("config bytes").await.unwrap();
    let config = |last_key: &str, last: usize| -> BTreeMap<String, String> {
        // Bytes and not letters count: 12 of these take 24 bytes.
        let mut config: BTreeMap<_, _> = (0..29).map(|n| (format!("k{n:02}"), "é".repeat(12))).collect();
        config.insert(last_key.to_owned(), "x".repeat(last));
        config
    };
    for (config, length) in [(config("k29", 23), 900), (config("k029", 23), 901), (config("k29", 24), 902)] {
        assert_eq!(config_encoded_len(&config), length);
        let answer = create(&space, &with(device(), "/spec/desired/config", Some(json!(config)))).await;
        match answer {
            Ok(_) => assert!(length <= MAX_CONFIG, "{length} bytes were accepted"),
            Err(error) => {
                assert!(length > MAX_CONFIG && error.to_string().contains("900 bytes"), "{length}: {error}");
            }
        }
    }
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn what_is_left_out_is_filled_in_and_what_is_misspelt_is_pruned() {
    let space = space("defaults").await.unwrap();
    let shortest = json!({
        "apiVersion": "edge-operator.dev/v1alpha1", "kind": "Device", "metadata": {"name": "shortest"},
        "spec": {"endpoint": {"host": "10.20.0.17"}, "pausd": true, "desired": null},
    });
    let made: Device = create(&space, &shortest).await.unwrap().try_parse().unwrap();
    let spec: DeviceSpec = serde_json::from_value(json!({
        "endpoint": {"host": "10.20.0.17", "port": 5683},
        "liveness": {"probeInterval": "10s", "suspectAfter": "30s", "lostAfter": "2m"},
        "paused": false,
    }))
    .unwrap();
    assert_eq!(made.spec, spec);

    let shortest = json!({
        "apiVersion": "edge-operator.dev/v1alpha1", "kind": "FaultProfile", "metadata": {"name": "shortest"},
        "spec": {"targets": {"cidrs": ["192.168.50.0/24"]}, "faults": {"partition": {}}, "duration": "1m"},
    });
    let made: FaultProfile = create(&space, &shortest).await.unwrap().try_parse().unwrap();
    let made = serde_json::to_value(made.spec).unwrap();
    assert_eq!(
        made,
        json!({
            "targets": {"cidrs": ["192.168.50.0/24"]}, "direction": "Both",
            "faults": {"partition": {"mode": "Drop"}}, "seed": 0, "duration": "1m", "paused": false,
        })
    );

    // What an agent reads is what was written, and a bare number is a rate.
    let rate = json!({"rate": {"bitsPerSecond": 256_000}, "delay": {"time": "0.5ms", "jitter": "20us"}});
    let made = with(with(shortest, "/spec/faults", Some(rate)), "/metadata/name", Some(json!("rate")));
    let made: FaultProfile = create(&space, &made).await.unwrap().try_parse().unwrap();
    let faults = made.spec.faults.unwrap();
    let (rate, delay) = (faults.rate.unwrap(), faults.delay.unwrap());
    assert_eq!(rate.bits_per_second.parse(), Ok(256_000));
    assert_eq!((rate.burst.parse(), rate.queue.as_str()), (Ok(16_384), "1s"));
    assert_eq!(delay.time.parse(), Ok(Duration::from_micros(500)));
    assert_eq!((delay.distribution, delay.correlation, delay.scope), (None, None, None));
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn a_fleet_that_says_little_gets_a_careful_rollout() {
    let space = space("fleet defaults").await.unwrap();
    let shortest = with(cases::fleets::fleet(), "/spec/rollout", None);
    let made: DeviceFleet = create(&space, &shortest).await.unwrap().try_parse().unwrap();
    let made = serde_json::to_value(made.spec.rollout).unwrap();
    assert_eq!(made, cases::fleets::fleet()["spec"]["rollout"]);
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn desired_state_has_one_owner() {
    let space = space("one owner").await.unwrap();
    create(&space, &with(device(), "/spec/desired", None)).await.unwrap();
    let devices: Api<Device> = space.api();
    let desired = |firmware: &str, config: Value| {
        Patch::Apply(json!({
            "apiVersion": Device::api_version(&()), "kind": Device::kind(&()),
            "spec": {"desired": {"firmware": firmware, "config": config}},
        }))
    };
    devices
        .patch("pump-0017", &PatchParams::apply("one"), &desired("1.0.0", json!({"a": "b"})))
        .await
        .unwrap();
    let other =
        devices.patch("pump-0017", &PatchParams::apply("other"), &desired("1.0.0", json!({"c": "d"}))).await;
    match other {
        Err(kube::Error::Api(status)) => {
            assert_eq!(status.code, 409, "{status:?}");
            assert!(status.message.contains("spec.desired"), "{}", status.message);
            // By this the fleet controller tells it from an object that has changed.
            let causes = status.details.unwrap().causes;
            assert!(causes.iter().any(|cause| cause.reason == "FieldManagerConflict"), "{causes:?}");
        }
        other => panic!("two owners of one desired state: {other:?}"),
    }
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn a_misspelt_field_is_refused_when_the_client_asks_for_strictness() {
    let space = space("strict").await.unwrap();
    let params = PatchParams {
        field_validation: Some(kube::api::ValidationDirective::Strict),
        ..PatchParams::apply("test")
    };
    let misspelt = with(device(), "/spec/pausd", Some(json!(true)));
    match api(&space, &misspelt).patch("pump-0017", &params, &Patch::Apply(&misspelt)).await {
        Err(kube::Error::Api(status)) => {
            assert!(
                status.message.contains("spec.pausd: field not declared in schema"),
                "{}",
                status.message
            );
        }
        other => panic!("a misspelt field was taken: {other:?}"),
    }
}
