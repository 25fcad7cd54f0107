//! A leader of former times that goes on: nobody tells it that another one leads, and what it has written of fleets and profiles is
//! still under way.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a hand that slips ends the story")]

use std::sync::{Arc, Mutex};

use clap::Parser as _;
use control_plane::wait::WITHIN;
use edge_api::{DeviceFleet, FaultProfile};
use edge_operator::args::Args;
use edge_operator::metrics::Metrics;
use edge_operator::runtime;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Patch, PatchParams};
use kube::client::Body;
use kube::{Client, Error, ResourceExt as _};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tower::service_fn;

use crate::rights;
use crate::stage::{DURATION, NAME, Stage, epoch_of};

/// The two kinds whose status keeps the epoch of its writer, and the objects of the stage.
const FENCED: [(&str, &str); 2] = [("devicefleets", "nobodys"), ("faultprofiles", "cut")];

/// A way to the API server on which writes of fenced statuses are held up.
#[derive(Clone, Default)]
struct Way {
    /// None while it is open.
    held: Arc<Mutex<Option<Vec<Held>>>>,
}

/// A write on its way.
struct Held {
    head: http::request::Parts,
    body: Value,
    answer: oneshot::Sender<http::Response<Body>>,
}

impl Way {
    fn is_shut(&self) {
        *self.held.lock().unwrap() = Some(Vec::new());
    }

    /// From now on everything goes through; gives what was held.
    fn is_open(&self) -> Vec<Held> {
        self.held.lock().unwrap().take().unwrap()
    }

    fn holds(&self, what: (&str, &str)) -> bool {
        self.held.lock().unwrap().iter().flatten().any(|held| held.is_of(what))
    }

    /// A client whose calls go this way, and then by `beyond`.
    fn client(&self, beyond: Client) -> Client {
        let way = self.clone();
        let service = service_fn(move |request: http::Request<Body>| {
            let (way, beyond) = (way.clone(), beyond.clone());
            async move {
                let (head, body) = request.into_parts();
                let is_fenced = FENCED.iter().any(|what| is_status_of(head.uri.path(), *what));
                if head.method != http::Method::PATCH || !is_fenced || way.held.lock().unwrap().is_none() {
                    return beyond.send(http::Request::from_parts(head, body)).await;
                }
                let body = serde_json::from_slice(&body.collect_bytes().await?).unwrap();
                let (answer, answered) = oneshot::channel();
                way.held.lock().unwrap().as_mut().expect("shut").push(Held { head, body, answer });
                answered.await.map_err(|gone| Error::Service(gone.into()))
            }
        });
        Client::new(service, "default")
    }
}

fn is_status_of(path: &str, (plural, name): (&str, &str)) -> bool {
    path.ends_with(&format!("/{plural}/{name}/status"))
}

impl Held {
    fn is_of(&self, what: (&str, &str)) -> bool {
        is_status_of(self.head.uri.path(), what)
    }

    /// Arrives; gives what the API server says to it.
    async fn arrives(&self, body: &Value, client: &Client) -> (http::StatusCode, Vec<u8>) {
        let request = http::Request::from_parts(self.head.clone(), serde_json::to_vec(body).unwrap().into());
        let (head, body) = client.send(request).await.unwrap().into_parts();
        (head.status, body.collect_bytes().await.unwrap().to_vec())
    }

    /// Arrives as it would if it had been decided on what is there by now.
    async fn arrives_on(&self, version: Option<String>, client: &Client) -> String {
        let mut body = self.body.clone();
        body["metadata"]["resourceVersion"] = json!(version.unwrap());
        let (code, said) = self.arrives(&body, client).await;
        assert_eq!(code, http::StatusCode::UNPROCESSABLE_ENTITY);
        String::from_utf8(said).unwrap()
    }

    /// Arrives as it was written, and its writer is answered.
    async fn arrives_late(self, client: &Client) -> String {
        let (code, said) = self.arrives(&self.body, client).await;
        assert_eq!(code, http::StatusCode::CONFLICT);
        let answer = http::Response::builder().status(code).body(said.clone().into()).unwrap();
        // Whoever no longer waits has given up by itself.
        drop(self.answer.send(answer));
        String::from_utf8(said).unwrap()
    }
}

/// A leader without an election, for ever: it took the Lease once and never looks at it again.
fn leads_for_ever(stage: &Stage, client: Client) -> JoinSet<anyhow::Result<()>> {
    let namespace = &stage.space.namespace;
    let args = Args::parse_from([
        "edge-operator",
        "--leader-elect=false",
        "--controllers=fleet,fault",
        "--listen=127.0.0.1:0",
        &format!("--leader-elect-lease-duration={}s", DURATION.as_secs()),
        "--leader-elect-renew-deadline=4s",
        "--leader-elect-retry-period=1s",
        "--backoff-base=100ms",
        "--backoff-cap=1s",
        &format!("--namespace={namespace}"),
        &format!("--watch-namespace={namespace}"),
        "--identity=former",
    ]);
    let mut task = JoinSet::new();
    task.spawn(runtime::run_with_metrics(client, args, Metrics::new().unwrap(), CancellationToken::new()));
    task
}

impl Stage {
    /// A person pauses what is fenced, or lets it go on.
    async fn pauses(&self, paused: bool) {
        let (params, patch) = (PatchParams::default(), Patch::Merge(json!({"spec": {"paused": paused}})));
        self.space.api::<DeviceFleet>().patch("nobodys", &params, &patch).await.unwrap();
        self.space.api::<FaultProfile>().patch("cut", &params, &patch).await.unwrap();
    }

    /// Waits until both statuses are of the present specs and of a later epoch.
    async fn until_both_follow(&self, epoch: u64) -> (DeviceFleet, FaultProfile) {
        let fleet = |fleet: &DeviceFleet| {
            fleet.status.as_ref().is_some_and(|status| {
                status.epoch.unwrap_or_default() > epoch
                    && status.observed_generation == fleet.metadata.generation
            })
        };
        let profile = |profile: &FaultProfile| {
            epoch_of(profile.status.as_ref()) > epoch
                && profile.status.as_ref().and_then(|status| status.observed_generation)
                    == profile.metadata.generation
        };
        let fleet = self.until("nobodys", "of a later epoch", fleet).await;
        (fleet, self.until("cut", "of a later epoch", profile).await)
    }
}

#[tokio::test]
#[ignore = "control-plane rung: needs etcd and kube-apiserver"]
async fn what_a_former_leader_has_on_its_way_to_a_fleet_and_a_profile_is_refused_when_it_arrives() {
    let stage = Stage::set("late writes").await;
    let direct = stage.space.server.client_as(&rights::operator()).unwrap();
    let way = Way::default();
    let mut former = leads_for_ever(&stage, way.client(direct.clone()));
    let (fleet, _) = stage.until_both_follow(0).await;
    let before = fleet.status.unwrap().epoch.unwrap();
    let second = stage.operator("second");
    second.until_ready().await;

    way.is_shut();
    stage.pauses(true).await;
    let deadline = Instant::now() + WITHIN;
    while !FENCED.iter().all(|what| way.holds(*what)) {
        assert!(Instant::now() < deadline, "the former leader does not write");
        sleep(std::time::Duration::from_millis(20)).await;
    }
    // A person takes it for dead.
    let empty = Patch::Merge(json!({"spec": {"holderIdentity": ""}}));
    stage.space.api::<Lease>().patch(NAME, &PatchParams::default(), &empty).await.unwrap();
    stage.until_held_by(&second).await;
    let (fleet, profile) = stage.until_both_follow(before).await;

    let held = way.is_open();
    for write in &held {
        assert_eq!(write.body["status"]["epoch"], json!(before), "{}", write.body);
        let is_fleets = write.is_of(FENCED[0]);
        let version = if is_fleets { fleet.resource_version() } else { profile.resource_version() };
        let sentence = write.arrives_on(version, &direct).await;
        assert!(sentence.contains("epoch never falls"), "{sentence}");
    }
    for write in held {
        let sentence = write.arrives_late(&direct).await;
        assert!(sentence.contains("modified"), "{sentence}");
    }
    let there = stage.space.api::<DeviceFleet>().get("nobodys").await.unwrap();
    assert_eq!(
        (there.status, there.metadata.resource_version),
        (fleet.status, fleet.metadata.resource_version)
    );
    let there = stage.space.api::<FaultProfile>().get("cut").await.unwrap();
    assert_eq!(
        (there.status, there.metadata.resource_version),
        (profile.status, profile.metadata.resource_version)
    );

    // Nothing is held up any more, and there is work for both: the former one leaves it alone.
    stage.pauses(false).await;
    let (fleet, profile) = stage.until_both_follow(before).await;
    let after = fleet.status.unwrap().epoch;
    assert_eq!(
        (after, after.unwrap()),
        (profile.status.as_ref().unwrap().epoch, epoch_of(profile.status.as_ref()))
    );
    assert!(former.try_join_next().is_none(), "it ended, and so proved nothing");
}
