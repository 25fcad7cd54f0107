//! The controller's start, against an API server that answers when it is told to.

use clap::Parser as _;
use futures::FutureExt as _;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower::service_fn;

use super::*;
use crate::args::Args;
use crate::clock::ServerClock;
use crate::leader::guard::Leadership;
use crate::metrics::Metrics;
use crate::record::Events;
use crate::resolve::Reach;
use crate::retry::Retries;
use crate::shared::Watches;

/// An API server without objects. The list of FaultProfiles takes a permit of `lists`; each one asked for adds one to `asked`.
fn server(asked: Arc<Semaphore>, lists: Arc<Semaphore>) -> Client {
    let service = service_fn(move |request: http::Request<Body>| {
        let (asked, lists) = (asked.clone(), lists.clone());
        async move {
            let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
            if query.contains("watch=true") {
                std::future::pending::<()>().await;
            }
            let is_profiles = path.ends_with("/faultprofiles");
            if is_profiles {
                asked.add_permits(1);
                lists.acquire().await.unwrap().forget();
            }
            let kind = if is_profiles { "FaultProfileList" } else { "FaultNodeList" };
            let list = json!({"apiVersion": "edge-operator.dev/v1alpha1", "kind": kind,
                "metadata": {"resourceVersion": "1"}, "items": Value::Array(Vec::new())});
            Ok::<_, std::io::Error>(http::Response::new(Body::from(list.to_string().into_bytes())))
        }
    });
    Client::new(service, "default")
}

/// What controllers share, with an API server of one's own; its caches are filled by `tasks`.
pub(crate) fn shared_with(client: Client, tasks: &mut JoinSet<Result<()>>) -> Arc<Shared> {
    shared_as(&[], client, tasks)
}

/// As [`shared_with`], with these flags.
pub(crate) fn shared_as(flags: &[&str], client: Client, tasks: &mut JoinSet<Result<()>>) -> Arc<Shared> {
    let shutdown = CancellationToken::new();
    let args = Args::parse_from(["edge-operator"].iter().chain(flags));
    let metrics = Metrics::new().unwrap();
    let (events, _) = Events::new(&metrics, &args.bounds).unwrap();
    let watches = Watches { args: &args, metrics: &metrics, shutdown: &shutdown };
    let devices = watches.watch(Api::all(client.clone()), tasks, |_| {});
    let pods = watches.watch(Api::all(client.clone()), tasks, |_| {});
    Arc::new(Shared {
        devices,
        pods,
        profiles: std::sync::OnceLock::new(),
        client,
        clock: ServerClock::default(),
        network: Arc::new(edge_protocol::network::System),
        retries: Retries::new(&args.retry),
        args,
        leadership: Leadership::none(),
        reach: Arc::new(Reach::new(None, 64)),
        events,
        metrics,
        shutdown,
    })
}

#[tokio::test]
async fn it_is_not_ready_before_it_has_all_profiles() {
    let (asked, lists) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let client = server(asked.clone(), lists.clone());
    let mut tasks = JoinSet::new();
    let shared = shared_with(client, &mut tasks);
    let mut filling = Box::pin(fill(shared, &mut tasks));
    tokio::select! {
        _ = &mut filling => panic!("it did not wait for its caches"),
        permit = asked.acquire() => permit.unwrap().forget(),
    }
    assert!(filling.as_mut().now_or_never().is_none(), "the list was not answered yet");
    lists.add_permits(1);
    filling.await;
}

#[tokio::test]
async fn who_does_not_lead_writes_no_status_and_asks_the_api_server_for_nothing() {
    let asked = Arc::new(Semaphore::new(0));
    let asks = asked.clone();
    let refusing = service_fn(move |request: http::Request<Body>| {
        if request.method() != http::Method::GET {
            asks.add_permits(1);
        }
        std::future::ready(Err::<http::Response<Body>, _>(std::io::Error::other("out of reach")))
    });
    let shared = shared_with(Client::new(refusing, "default"), &mut JoinSet::new());
    let profile = profile();
    let write = async || apply_status(&shared, &profile, Some("1"), &json!({})).await.unwrap_err();
    assert_eq!((write().await.category(), asked.available_permits()), ("not_leading", 0));
    shared.leadership.grant(7, Instant::now() + Duration::from_secs(60));
    assert_eq!((write().await.category(), asked.available_permits()), ("transport", 1));
    shared.leadership.end();
    assert_eq!((write().await.category(), asked.available_permits()), ("not_leading", 1));
}

fn profile() -> FaultProfile {
    serde_json::from_value(json!({
        "apiVersion": "edge-operator.dev/v1alpha1", "kind": "FaultProfile",
        "metadata": {"name": "loss", "namespace": "demo"},
        "spec": {"targets": {}, "faults": {}, "duration": "1m"},
    }))
    .unwrap()
}
