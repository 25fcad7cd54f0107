//! What others may see over HTTP: `/metrics`, `/healthz`, `/readyz` and the true history of every device. And what
//! they may change: `PUT /behaviour` makes all devices behave so, `PUT /behaviour/NAME` one of them.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bounded_listener::{Bounded, Room};
use serde::Serialize;
use tokio::net::TcpListener;

use crate::behaviour::Behaviour;
use crate::metrics::Metrics;
use crate::sim::{DeviceHandle, Sim};

/// The longest body of a request, in bytes; a behaviour takes some hundred.
const MAX_BODY: usize = 16 * 1024;
/// Connections to the pages that are open at once.
const CONNECTIONS: usize = 64;

/// What the pages are made of.
#[derive(Debug, Clone)]
pub struct Pages {
    devices: Arc<[DeviceHandle]>,
    metrics: Metrics,
    ready: Arc<AtomicBool>,
    room: Room,
}

impl Pages {
    /// Pages about these devices, not ready yet.
    #[must_use]
    pub fn of(sim: &Sim) -> Self {
        Self {
            devices: sim.devices().into(),
            metrics: sim.metrics().clone(),
            ready: Arc::default(),
            room: Room::new(CONNECTIONS),
        }
    }

    fn find(&self, name: &str) -> Result<&DeviceHandle, (StatusCode, String)> {
        let absent = || (StatusCode::NOT_FOUND, format!("there is no device {name}\n"));
        self.devices.iter().find(|device| device.name() == name).ok_or_else(absent)
    }

    /// From now on `/readyz` says yes.
    pub fn set_ready(&self) {
        self.ready.store(true, Ordering::Relaxed);
    }
}

/// Serves the pages until `stop`.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: TcpListener,
    pages: Pages,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let listener = Bounded::new(listener, pages.room.clone());
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/history", get(history))
        .route("/history/{device}", get(history_of_one))
        .route("/behaviour", get(behaviour).put(set_behaviour))
        .route("/behaviour/{device}", get(behaviour_of_one).put(set_behaviour_of_one))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(pages);
    axum::serve(listener, router).with_graceful_shutdown(stop).await
}

async fn metrics(State(pages): State<Pages>) -> Response {
    pages.metrics.of_connections(&pages.room);
    pages.metrics.of_history(pages.devices.iter().map(DeviceHandle::history_len).sum());
    match pages.metrics.text() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn ready(State(pages): State<Pages>) -> Response {
    if pages.ready.load(Ordering::Relaxed) {
        "ok\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the devices are being enrolled\n").into_response()
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct DevicePage {
    name: String,
    address: SocketAddr,
    up: bool,
    boot_id: String,
    boots: u64,
    installing: bool,
    running: crate::durable::Running,
    config_digest: edge_protocol::ConfigDigest,
    held_generation: u64,
    history: crate::history::History,
}

impl From<&DeviceHandle> for DevicePage {
    fn from(device: &DeviceHandle) -> Self {
        let view = device.view();
        let durable = &view.durable;
        Self {
            name: device.name().into(),
            address: device.address(),
            up: view.up,
            boot_id: view.boot_id.to_string(),
            boots: durable.boots,
            installing: view.installing,
            running: durable.running.clone(),
            config_digest: durable.running.digest(),
            held_generation: durable.held.as_ref().map_or(0, |held| held.generation),
            history: durable.history.clone(),
        }
    }
}

#[derive(Debug, Serialize)]
struct HistoryPage {
    devices: Vec<DevicePage>,
}

async fn history(State(pages): State<Pages>) -> Response {
    json(&HistoryPage { devices: pages.devices.iter().map(DevicePage::from).collect() })
}

async fn history_of_one(State(pages): State<Pages>, Path(name): Path<String>) -> Response {
    match pages.find(&name) {
        Ok(device) => json(&DevicePage::from(device)),
        Err(absent) => absent.into_response(),
    }
}

async fn behaviour(State(pages): State<Pages>) -> Response {
    let all: BTreeMap<&str, Behaviour> =
        pages.devices.iter().map(|device| (device.name(), device.behaviour())).collect();
    json(&all)
}

async fn behaviour_of_one(State(pages): State<Pages>, Path(name): Path<String>) -> Response {
    match pages.find(&name) {
        Ok(device) => json(&device.behaviour()),
        Err(absent) => absent.into_response(),
    }
}

async fn set_behaviour(State(pages): State<Pages>, body: Bytes) -> Response {
    change(pages.devices.iter(), &body)
}

async fn set_behaviour_of_one(State(pages): State<Pages>, Path(name): Path<String>, body: Bytes) -> Response {
    match pages.find(&name) {
        Ok(device) => change(std::iter::once(device), &body),
        Err(absent) => absent.into_response(),
    }
}

/// A behaviour is replaced as a whole: what the body leaves out works from now on.
fn change<'a>(devices: impl Iterator<Item = &'a DeviceHandle>, body: &[u8]) -> Response {
    match serde_json::from_slice::<Behaviour>(body) {
        Ok(behaviour) => {
            devices.for_each(|device| device.set_behaviour(behaviour.clone()));
            json(&behaviour)
        }
        Err(error) => {
            let example = r#"write JSON such as {"drop": "5%", "late": "10%:800ms", "stale": "1%"}"#;
            (StatusCode::BAD_REQUEST, format!("no behaviour: {error}; {example}\n")).into_response()
        }
    }
}

fn json(page: &impl Serialize) -> Response {
    match serde_json::to_vec(page) {
        Ok(bytes) => ([(header::CONTENT_TYPE, "application/json")], bytes).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}
