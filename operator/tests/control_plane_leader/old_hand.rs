//! What a leader of former times would do, had nobody told it: with its epoch, and without its guard.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a hand that slips ends the story"
)]

use std::sync::Arc;
use std::time::Duration;

use edge_api::Device;
use edge_operator::link::socket::{Sockets, receive};
use edge_operator::link::{Code, End, Link, Method, Request, Timing};
use edge_protocol::{CommandId, DesiredCommand, Refusal};
use k8s_openapi::NamespaceResourceScope;
use kube::api::{Patch, PatchParams};
use kube::{Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::rights;
use crate::stage::Stage;

/// Writes the status of a profile or a fleet, as the operator does. Gives the sentence of the refusal.
pub(crate) async fn writes<K>(stage: &Stage, object: &K, epoch: u64, version: Option<&str>) -> String
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned
        + Serialize,
{
    let client = stage.space.server.client_as(&rights::operator()).unwrap();
    let objects = kube::Api::<K>::namespaced(client, &stage.space.namespace);
    let mut status = serde_json::to_value(object).unwrap()["status"].clone();
    status["epoch"] = json!(epoch);
    let patch = json!({
        "apiVersion": K::api_version(&()), "kind": K::kind(&()),
        "metadata": {"name": object.name_any(), "resourceVersion": version},
        "status": status,
    });
    let params = PatchParams::apply("edge-operator").force();
    let refused = objects.patch_status(&object.name_any(), &params, &Patch::Apply(&patch)).await;
    refused.expect_err("a former leader's write was taken").to_string()
}

/// Commands the device to run something. Gives its refusal.
pub(crate) async fn commands(stage: &Stage, epoch: u64, firmware: &str) -> Refusal {
    let device = stage.space.api::<Device>().get("device-0").await.unwrap();
    let command = DesiredCommand {
        namespace: stage.space.namespace.clone(),
        name: device.name_any(),
        uid: device.uid().unwrap(),
        generation: u64::try_from(device.metadata.generation.unwrap()).unwrap() + 1,
        epoch,
        command_id: CommandId(7),
        firmware: firmware.into(),
        config: std::collections::BTreeMap::new(),
    };
    let request = Request {
        peer: stage.device().address(),
        method: Method::Put,
        path: edge_protocol::PATH_DESIRED,
        payload: edge_protocol::encode(&command).unwrap(),
        id: 7,
        observe: None,
        given_up_after: None,
    };
    match exchange(request).await {
        End::Response(code, payload) => {
            assert_eq!(code, Code(4, 12));
            edge_protocol::decode(&payload).unwrap()
        }
        end => panic!("no answer: {end:?}"),
    }
}

async fn exchange(request: Request) -> End {
    use prometheus::{Histogram, HistogramOpts, IntCounterVec, Opts};

    let counters = edge_operator::link::Counters {
        transmissions: Arc::default(),
        round_trip: Histogram::with_opts(HistogramOpts::new("seconds", "of this test")).unwrap(),
    };
    let datagrams = IntCounterVec::new(Opts::new("all", "of this test"), &["result"]).unwrap();
    let sockets = Arc::new(Sockets::bind().await.unwrap());
    let timing = Timing { ack_timeout: Duration::from_millis(200), max_retransmit: 4 };
    let link = Arc::new(Link::new(sockets.clone(), timing, 1, datagrams));
    let mut receiving = JoinSet::new();
    receiving.spawn(receive(link.clone(), sockets, CancellationToken::new()));
    link.exchange(request, rand::random(), 0.5, &counters).await
}
