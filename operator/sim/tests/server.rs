//! The API server in memory keeps what a client may rely on. The same stories run against the real one in
//! `control_plane_conformance.rs`.

#![expect(clippy::unwrap_used, reason = "a hand that slips ends the story")]

mod conformance;

use std::pin::pin;
use std::sync::Arc;

use conformance::Ground;
use edge_api::Device;
use edge_sim::server::request::Call;
use edge_sim::server::store::Store;
use edge_sim::server::{Circumstances, Server};
use futures::StreamExt as _;
use http::{Request, Response};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, ListParams, ObjectMeta, PostParams, WatchEvent, WatchParams};
use kube::{Client, ResourceExt};
use serde::Deserialize as _;
use serde_json::Value;
use tower::ServiceExt as _;

struct Calm;

impl Circumstances for Calm {
    #[expect(clippy::disallowed_methods, reason = "this server lives in real time")]
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::now()
    }
}

fn client(server: Server) -> Client {
    let router = server.router();
    let service = tower::service_fn(move |request: Request<kube::client::Body>| {
        let router = router.clone();
        async move {
            let answer: Response<axum::body::Body> =
                router.oneshot(request.map(axum::body::Body::new)).await?;
            Ok::<_, tower::BoxError>(answer)
        }
    });
    Client::new(service, "default")
}

async fn in_memory(_story: &str) -> Ground {
    on(Server::new(Arc::new(Store::default()), Arc::new(Calm)).unwrap()).await
}

async fn on(server: Server) -> Ground {
    let store = server.store.clone();
    let client = client(server);
    let namespace = "story".to_owned();
    let object = Namespace {
        metadata: ObjectMeta { name: Some(namespace.clone()), ..ObjectMeta::default() },
        ..Namespace::default()
    };
    Api::all(client.clone()).create(&PostParams::default(), &object).await.unwrap();
    let compact = Box::new(move || store.compact());
    Ground { client, namespace, compact }
}

conformance::all_stories!(in_memory in_memory ());

/// A server whose lists are behind by one change.
struct Behind;

impl Circumstances for Behind {
    fn now(&self) -> jiff::Timestamp {
        Calm.now()
    }

    fn behind(&self, _call: &Call) -> usize {
        1
    }
}

#[tokio::test]
async fn a_list_that_is_behind_is_followed_by_what_it_lacks() {
    let store = Arc::new(Store::default());
    let ground = on(Server::new(store.clone(), Arc::new(Behind)).unwrap()).await;
    let devices = ground.api::<Device>();
    for name in ["pump-0", "pump-1"] {
        ground.device(name).await;
    }
    let list = devices.list(&ListParams::default()).await.unwrap();
    assert_eq!(list.items.iter().map(ResourceExt::name_any).collect::<Vec<_>>(), ["pump-0"]);
    let version = list.metadata.resource_version.unwrap();
    let mut events = pin!(devices.watch(&WatchParams::default(), &version).await.unwrap());
    let next = events.next().await.unwrap().unwrap();
    assert!(matches!(&next, WatchEvent::Added(device) if device.name_any() == "pump-1"), "{next:?}");
    // Who is behind what watches may still be told of, is told so.
    ground.device("pump-2").await;
    store.compact();
    let list = devices.list(&ListParams::default()).await.unwrap();
    let version = list.metadata.resource_version.unwrap();
    let mut events = pin!(devices.watch(&WatchParams::default(), &version).await.unwrap());
    let next = events.next().await.unwrap().unwrap();
    assert!(matches!(&next, WatchEvent::Error(status) if status.code == 410), "{next:?}");
}

#[test]
fn every_resource_of_the_operators_rights_is_served() {
    let server = Server::new(Arc::new(Store::default()), Arc::new(Calm)).unwrap();
    let mut seen = 0;
    for document in serde_yaml_ng::Deserializer::from_str(include_str!("../../../deploy/operator/rbac.yaml"))
    {
        let object = Value::deserialize(document).unwrap();
        let rules = object["rules"].as_array().cloned().unwrap_or_default();
        for resource in
            rules.iter().flat_map(|rule| rule["resources"].as_array().cloned().unwrap_or_default())
        {
            let resource = resource.as_str().unwrap().to_owned();
            let (plural, sub) = resource.split_once('/').unwrap_or((&resource, ""));
            let kind = server.kind(plural).unwrap_or_else(|| panic!("{plural} is not served"));
            assert!(sub.is_empty() || (sub == "status" && kind.status), "{resource}");
            seen += 1;
        }
    }
    assert!(seen > 8, "{seen}");
}
