//! What is installed on a world: deploy/demo with the number of devices filled in, and the Devices outside the cluster. What is
//! applied is pure data; then comes the waiting until all of it is ready.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use edge_api::{Device, FaultNode};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde::Deserialize;
use serde_json::{Value, json};

use super::layout::Layout;
use super::prometheus::Prometheus;
use super::room;
use super::world::{OUTSIDE_ADDRESS, World};
use crate::progress::Step;
use crate::{paths, wait};

/// Where operator, agents and Prometheus are.
pub const SYSTEM: &str = "edge-system";
/// Where devices and fault profiles are.
pub const DEVICES: &str = "edge-demo";
/// Objects written at the same time.
const AT_ONCE: usize = 16;
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// Liveness that shows within a phase.
const LIVENESS: (&str, &str, &str) = ("2s", "6s", "15s");

/// Writes what is to be applied into `dir` and returns where.
///
/// # Errors
/// When deploy/demo cannot be rendered or is not as expected.
pub fn manifest(world: &World, layout: &Layout, seed: u64, dir: &Path) -> Result<PathBuf> {
    let rendered = world.kubectl()?.arg("kustomize").arg(paths::root().join("deploy/demo")).read()?;
    let mut documents = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_str(&rendered) {
        documents.push(Value::deserialize(document).context("reading what deploy/demo renders to")?);
    }
    let documents = adjusted(documents, layout, seed)?;
    let list = json!({"apiVersion": "v1", "kind": "List", "items": documents});
    let path = dir.join("demo.json");
    std::fs::write(&path, serde_json::to_vec_pretty(&list)?)
        .with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}

/// Fills in how many devices a pod has and the seed, adds what stands outside for Prometheus.
fn adjusted(mut documents: Vec<Value>, layout: &Layout, seed: u64) -> Result<Vec<Value>> {
    let mut settings = 0;
    for document in &mut documents {
        if document["kind"] == "ConfigMap" && document["metadata"]["name"] == "device-sim" {
            document["data"]["DEVICES"] = json!(layout.per_pod.max(1).to_string());
            document["data"]["SEED"] = json!(seed.to_string());
            settings += 1;
        }
        if document["kind"] == "StatefulSet" && layout.per_pod == 0 {
            document["spec"]["replicas"] = json!(0);
        }
    }
    if settings != 1 {
        bail!("deploy/demo has {settings} ConfigMaps device-sim instead of one");
    }
    if layout.outside > 0 {
        documents.extend(outside_for_prometheus());
    }
    room::mark(&mut documents);
    Ok(documents)
}

/// A Service without a selector and its addresses, by which Prometheus finds the devices outside.
fn outside_for_prometheus() -> [Value; 2] {
    let metadata = |labels: Value| json!({"name": "outside", "namespace": DEVICES, "labels": labels});
    let port = json!({"name": "metrics", "port": 8081, "protocol": "TCP"});
    [
        json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata(json!({})),
            "spec": {"clusterIP": "None", "ports": [port]}}),
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": metadata(json!({"kubernetes.io/service-name": "outside", "edge-operator.dev/scrape": "outside"})),
            "ports": [port], "endpoints": [{"addresses": [OUTSIDE_ADDRESS], "conditions": {"ready": true}}]}),
    ]
}

/// Applies a manifest.
///
/// # Errors
/// When the API server refuses something.
pub fn apply(world: &World, manifest: &Path) -> Result<()> {
    let apply =
        world.kubectl()?.args(["apply", "--server-side", "--force-conflicts", "--filename"]).arg(manifest);
    apply.step("installing operator, agents, devices and Prometheus").run()
}

/// Makes the Devices outside the cluster.
///
/// # Errors
/// When the API server refuses one.
pub async fn enrol_outside(client: &Client, layout: &Layout) -> Result<()> {
    let api = Api::<Device>::namespaced(client.clone(), DEVICES);
    let (probe, suspect, lost) = LIVENESS;
    let enrol = |number: u32| {
        let (api, name) = (api.clone(), format!("outside-{number}"));
        let device = json!({
            "apiVersion": "edge-operator.dev/v1alpha1",
            "kind": "Device",
            "metadata": {"name": name, "labels": {"site": "outside", "model": "px4"}},
            "spec": {
                "endpoint": {"host": OUTSIDE_ADDRESS, "port": 5683 + number},
                "liveness": {"probeInterval": probe, "suspectAfter": suspect, "lostAfter": lost},
            },
        });
        async move {
            let done =
                api.patch(&name, &PatchParams::apply("demo-outside").force(), &Patch::Apply(&device)).await;
            done.map(drop).with_context(|| format!("making the Device {name}"))
        }
    };
    stream::iter((0..layout.outside).map(enrol)).buffer_unordered(AT_ONCE).try_collect().await
}

/// Declares a firmware for all devices, sixteen at a time, and returns how many there are.
///
/// # Errors
/// When the API server refuses it.
pub async fn declare(client: &Client, firmware: &str) -> Result<usize> {
    let desired = json!({"firmware": firmware, "config": {"sampling-interval": "5s"}});
    let what = format!("declaring the firmware {firmware}");
    apply_to_all(client, &json!({"desired": desired}), &what).await
}

/// Declares nothing any more, so that a fleet can. What devices run stays.
///
/// # Errors
/// When the API server refuses it.
pub async fn undeclare(client: &Client) -> Result<usize> {
    apply_to_all(client, &json!({}), "leaving the desired state to fleets").await
}

/// Makes this all that the demo has to say of each Device's `spec`.
async fn apply_to_all(client: &Client, spec: &Value, what: &str) -> Result<usize> {
    let api = Api::<Device>::namespaced(client.clone(), DEVICES);
    let devices = api.list(&ListParams::default()).await.context("listing the Devices")?;
    let applied = json!({"apiVersion": "edge-operator.dev/v1alpha1", "kind": "Device", "spec": spec});
    let apply = |device: Device| {
        let (api, applied, name) = (api.clone(), &applied, device.name_any());
        async move {
            let done = api.patch(&name, &PatchParams::apply("demo").force(), &Patch::Apply(applied)).await;
            done.map(drop).with_context(|| format!("{what} of {name}"))
        }
    };
    let count = devices.items.len();
    stream::iter(devices.items.into_iter().map(apply)).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    Ok(count)
}

/// Waits until every workload is ready and every Device is there, and returns the number of pods.
///
/// # Errors
/// When that takes longer than `limit`; says what is not ready.
pub async fn ready(client: &Client, layout: &Layout, limit: Duration) -> Result<u32> {
    let mut step = Step::start("waiting for operator, agents, devices and Prometheus");
    let mut last = String::new();
    let ready = wait::until_async("everything to be ready", limit, LOOK_EVERY, async || {
        let (pods, mut missing) = workloads(client).await?;
        let devices =
            Api::<Device>::namespaced(client.clone(), DEVICES).list_metadata(&ListParams::default()).await;
        let devices = devices.map_or(0, |list| list.items.len());
        if devices < layout.total() as usize {
            missing.push(format!("{devices} of {} Devices", layout.total()));
        }
        if missing.is_empty() {
            return Ok(Some((pods, devices)));
        }
        last = missing.join(", ");
        step.note(&last);
        refuse_missing_images(client).await?;
        Ok(None)
    });
    let ready = ready.await;
    let (pods, devices) = ready.with_context(|| format!("not ready: {last}"))?;
    step.done(&format!("{pods} pods, {devices} devices"));
    Ok(pods)
}

/// How many pods are wanted, and each workload that is not ready.
async fn workloads(client: &Client) -> Result<(u32, Vec<String>)> {
    let mut found = Vec::new();
    for namespace in [SYSTEM, DEVICES] {
        let all = ListParams::default();
        let deployments = Api::<Deployment>::namespaced(client.clone(), namespace).list(&all).await?;
        found.extend(deployments.items.iter().map(|item| {
            let status = item.status.clone().unwrap_or_default();
            let wanted = item.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
            (item.name_any(), wanted, status.ready_replicas.unwrap_or(0), status.observed_generation)
        }));
        let sets = Api::<StatefulSet>::namespaced(client.clone(), namespace).list(&all).await?;
        found.extend(sets.items.iter().map(|item| {
            let status = item.status.clone().unwrap_or_default();
            let wanted = item.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
            (item.name_any(), wanted, status.ready_replicas.unwrap_or(0), status.observed_generation)
        }));
        let daemons = Api::<DaemonSet>::namespaced(client.clone(), namespace).list(&all).await?;
        found.extend(daemons.items.iter().map(|item| {
            let status = item.status.clone().unwrap_or_default();
            (
                item.name_any(),
                status.desired_number_scheduled,
                status.number_ready,
                status.observed_generation,
            )
        }));
    }
    // Two Deployments, two DaemonSets and a StatefulSet: fewer are not all of them.
    let mut missing =
        if found.len() < 5 { vec![format!("{} of 5 workloads", found.len())] } else { Vec::new() };
    for (name, wanted, ready, seen) in &found {
        if ready < wanted || seen.is_none() {
            missing.push(format!("{name} {ready}/{wanted}"));
        }
    }
    let pods = found.iter().map(|(_, wanted, ..)| u32::try_from(*wanted).unwrap_or(0)).sum();
    Ok((pods, missing))
}

/// An image that is not on a node never comes: nothing is pulled.
async fn refuse_missing_images(client: &Client) -> Result<()> {
    for namespace in [SYSTEM, DEVICES] {
        let pods = Api::<Pod>::namespaced(client.clone(), namespace).list(&ListParams::default()).await?;
        for pod in &pods.items {
            let containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
            for container in containers {
                let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
                let reason = waiting.and_then(|waiting| waiting.reason.as_deref()).unwrap_or_default();
                if ["ImagePullBackOff", "ErrImagePull", "ErrImageNeverPull"].contains(&reason) {
                    bail!(
                        "the image {} is not on the nodes. `cargo xtask images` writes archives; load them, on kind with `kind load \
                         image-archive target/images/NAME.tar` (`cargo xtask images --help` has other ways)",
                        container.image
                    );
                }
            }
        }
    }
    Ok(())
}

/// Waits until Prometheus scrapes so many targets.
///
/// # Errors
/// When it does not within half a minute; says which do not answer.
pub async fn scraped(client: &Client, targets: u32) -> Result<()> {
    let step = Step::start("waiting for Prometheus to see all of them");
    let prometheus = Prometheus::new(client.clone());
    let seen = wait::until_async("all targets", Duration::from_secs(30), LOOK_EVERY, async || {
        let up = match prometheus.now().await {
            Ok(now) => prometheus.at("up == 1", now).await?.len(),
            Err(_) => 0,
        };
        Ok((up >= targets as usize).then_some(up))
    });
    match seen.await {
        Ok(up) => step.done(&format!("{up} targets")),
        Err(error) => {
            let down = prometheus.at("up == 0", prometheus.now().await?).await?;
            let down: Vec<_> = down.iter().map(|curve| format!("{:?}", curve.labels)).collect();
            let said = format!(
                "Prometheus scrapes fewer than {targets} targets; these do not answer: {}",
                down.join(", ")
            );
            return Err(error.context(said));
        }
    }
    Ok(())
}

/// What the agents say of themselves.
///
/// # Errors
/// When the API server cannot be asked.
pub async fn nodes(client: &Client) -> Result<Vec<super::report::Node>> {
    let nodes = Api::<FaultNode>::all(client.clone())
        .list(&ListParams::default())
        .await
        .context("listing the FaultNodes")?;
    let told = |node: &FaultNode| {
        let status = node.status.clone().unwrap_or_default();
        let hooks = status.hooks.iter().filter(|hook| hook.attached > 0);
        super::report::Node {
            name: node.name_any(),
            kernel: status.kernel,
            hooks: hooks.map(|hook| format!("{} {}", hook.hook.as_str(), hook.attached)).collect(),
            engine: format!("{} {:?}", status.engine.kind.as_str(), status.engine.state),
            lateness: status
                .engine
                .lateness
                .map(|late| super::report::Lateness { p50: late.p50.to_string(), p99: late.p99.to_string() }),
        }
    };
    Ok(nodes.items.iter().map(told).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered() -> Vec<Value> {
        vec![
            json!({"kind": "Namespace", "metadata": {"name": SYSTEM, "labels": {"a": "b"}}}),
            json!({"kind": "ConfigMap", "metadata": {"name": "device-sim"}, "data": {"DEVICES": "1", "SEED": "1"}}),
            json!({"kind": "StatefulSet", "metadata": {"name": "device-sim"}, "spec": {"replicas": 2}}),
        ]
    }

    #[test]
    fn the_number_of_devices_reaches_the_pods_and_namespaces_are_marked() {
        let documents = adjusted(rendered(), &Layout { per_pod: 20, outside: 10 }, 7).unwrap();
        let labels = documents[0]["metadata"]["labels"].as_object().unwrap();
        assert!(labels["a"] == "b" && labels.len() == 2, "{labels:?}");
        assert_eq!(documents[1]["data"], json!({"DEVICES": "20", "SEED": "7"}));
        assert_eq!(documents[3]["kind"], "Service");
        assert_eq!(documents[4]["endpoints"][0]["addresses"], json!(["10.20.0.2"]));
    }

    #[test]
    fn without_devices_in_pods_there_are_no_pods_of_them_and_without_any_outside_no_slice() {
        let documents = adjusted(rendered(), &Layout { per_pod: 0, outside: 5 }, 7).unwrap();
        assert_eq!(documents[2]["spec"]["replicas"], 0);
        let documents = adjusted(rendered(), &Layout { per_pod: 3, outside: 0 }, 7).unwrap();
        assert_eq!(documents.len(), 3);
    }

    #[test]
    fn settings_that_are_not_there_are_an_error() {
        let refused = adjusted(Vec::new(), &Layout { per_pod: 1, outside: 0 }, 1).unwrap_err();
        assert!(refused.to_string().contains("0 ConfigMaps device-sim"), "{refused}");
    }
}
