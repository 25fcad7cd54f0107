//! How many devices fleets write at once.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use kube::Client;
use kube::client::Body;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tower::service_fn;

use super::*;
use crate::fault::tests::shared_as;
use crate::fleet::fill;

const WRITERS: usize = 3;

/// An API server without objects, which takes a permit for each write that it answers.
#[derive(Clone)]
struct Server {
    answers: Arc<Semaphore>,
    under_way: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Server {
    fn client(&self) -> Client {
        let server = self.clone();
        let service = service_fn(move |request: http::Request<Body>| {
            let server = server.clone();
            async move {
                if request.uri().query().unwrap_or_default().contains("watch=true") {
                    std::future::pending::<()>().await;
                }
                let answer = if request.method() == http::Method::PATCH {
                    server.writes().await
                } else {
                    json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": "1"}, "items": []})
                };
                Ok::<_, io::Error>(http::Response::new(Body::from(answer.to_string().into_bytes())))
            }
        });
        Client::new(service, "default")
    }

    async fn writes(&self) -> Value {
        let now = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        self.answers.acquire().await.unwrap().forget();
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        json!({
            "apiVersion": "edge-operator.dev/v1alpha1", "kind": "Device",
            "metadata": {"name": "pump", "namespace": "demo"}, "spec": {"endpoint": {"host": "10.20.0.17"}},
        })
    }
}

fn fleet(name: &str) -> DeviceFleet {
    serde_json::from_value(json!({
        "apiVersion": "edge-operator.dev/v1alpha1", "kind": "DeviceFleet",
        "metadata": {"name": name, "namespace": "demo", "uid": name},
        "spec": {"selector": {}, "template": {"firmware": "2.0.0"}},
    }))
    .unwrap()
}

fn changes(of: &str) -> Vec<Action> {
    let desired = Arc::new(Desired { firmware: "2.0.0".into(), config: Default::default() });
    let change = |number| Change {
        name: format!("{of}-{number}"),
        uid: format!("u{number}"),
        version: Some("1".into()),
        desired: desired.clone(),
        reserved: true,
    };
    (0..5).map(|number| Action::Change(change(number))).collect()
}

#[tokio::test]
async fn all_fleets_together_write_no_more_devices_at_once_than_they_may() {
    let answers = Arc::new(Semaphore::new(0));
    let server = Server { answers, under_way: Arc::default(), most: Arc::default() };
    let mut tasks = JoinSet::new();
    let shared = shared_as(&["--fleet-writers=3"], server.client(), &mut tasks);
    shared.leadership.grant_for_ever(7);
    let controls = Controls::new(fill(shared, &mut tasks).await).unwrap();
    let (one, other) = (fleet("one"), fleet("other"));
    let mut writing = std::pin::pin!(async {
        tokio::join!(perform(&controls, &one, changes("one")), perform(&controls, &other, changes("other")))
    });
    let page = || String::from_utf8(controls.shared.metrics.render().unwrap()).unwrap();
    // Whoever may begin has begun when nothing happens any more.
    for _ in 0..100 {
        tokio::select! {
            biased;
            _ = &mut writing => panic!("nobody was answered"),
            () = tokio::task::yield_now() => {}
        }
    }
    assert_eq!(server.under_way.load(Ordering::SeqCst), WRITERS);
    assert!(page().contains("edge_usage{name=\"fleet_writers\"} 3\n"), "{}", page());
    assert!(page().contains("edge_limit{name=\"fleet_writers\"} 3\n"), "{}", page());
    server.answers.add_permits(10);
    let (one, other) = writing.await;
    one.and(other).unwrap();
    assert_eq!(server.most.load(Ordering::SeqCst), WRITERS);
    assert!(page().contains("edge_fleet_changes_total{result=\"set\"} 10\n"), "{}", page());
    assert!(page().contains("edge_usage{name=\"fleet_writers\"} 0\n"), "{}", page());
}
