//! What others may see over HTTP: `/metrics`, `/healthz`, `/readyz` and the true history of every device.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Serialize;
use tokio::net::TcpListener;

use crate::listener::Bounded;
use crate::metrics::Metrics;
use crate::sim::{DeviceHandle, Sim};

/// What the pages are made of.
#[derive(Debug, Clone)]
pub struct Pages {
    devices: Arc<[DeviceHandle]>,
    metrics: Metrics,
    ready: Arc<AtomicBool>,
}

impl Pages {
    /// Pages about these devices, not ready yet.
    #[must_use]
    pub fn of(sim: &Sim) -> Self {
        Self { devices: sim.devices().into(), metrics: sim.metrics().clone(), ready: Arc::default() }
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
    let listener = Bounded::new(listener, &pages.metrics);
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/history", get(history))
        .route("/history/{device}", get(history_of_one))
        .with_state(pages);
    axum::serve(listener, router).with_graceful_shutdown(stop).await
}

async fn metrics(State(pages): State<Pages>) -> Response {
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
    match pages.devices.iter().find(|device| device.name() == name) {
        Some(device) => json(&DevicePage::from(device)),
        None => (StatusCode::NOT_FOUND, format!("there is no device {name}\n")).into_response(),
    }
}

fn json(page: &impl Serialize) -> Response {
    match serde_json::to_vec(page) {
        Ok(bytes) => ([(header::CONTENT_TYPE, "application/json")], bytes).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}
