//! The HTTP server: `/metrics`, `/healthz`, `/readyz`. Says nothing that is secret and takes no input.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bounded_listener::{Bounded, Room};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// True once every cache has its first list.
#[derive(Clone, Default)]
pub struct Readiness(Arc<AtomicBool>);

impl Readiness {
    /// From now on (not) ready.
    pub fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Release);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

#[derive(Clone)]
struct Served {
    metrics: Arc<Metrics>,
    readiness: Readiness,
}

/// Takes the address.
///
/// # Errors
/// When it is taken by somebody else.
pub async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("--listen {address}: is another process there? Choose another port"))
}

/// Serves until `shutdown`, so many connections at once; others wait in the kernel's queue.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: TcpListener,
    connections: u16,
    metrics: Arc<Metrics>,
    readiness: Readiness,
    shutdown: CancellationToken,
) -> Result<()> {
    let room = Room::new(usize::from(connections));
    let taken = room.clone();
    metrics.bound("connections", f64::from(connections), move || taken.taken());
    let router = router(Served { metrics, readiness });
    axum::serve(Bounded::new(listener, room), router)
        .with_graceful_shutdown(shutdown.cancelled_owned())
        .await
        .context("HTTP server")
}

fn router(served: Served) -> Router {
    Router::new()
        .route("/metrics", get(render))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .with_state(served)
}

async fn render(State(served): State<Served>) -> Response {
    match served.metrics.render() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn ready(State(served): State<Served>) -> (StatusCode, &'static str) {
    if served.readiness.get() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "caches are not filled yet\n")
    }
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use tower::ServiceExt;

    use super::*;

    async fn get_from(router: &Router, path: &str) -> (StatusCode, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let answer = router.clone().oneshot(request).await.unwrap();
        let status = answer.status();
        let body = to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn it_is_alive_at_once_and_ready_when_the_caches_are_filled() {
        let metrics = Metrics::new().unwrap();
        metrics.controller("device").depth.set(3);
        let readiness = Readiness::default();
        let router = router(Served { metrics, readiness: readiness.clone() });
        assert_eq!(get_from(&router, "/healthz").await.0, StatusCode::OK);
        assert_eq!(get_from(&router, "/readyz").await.0, StatusCode::SERVICE_UNAVAILABLE);
        readiness.set(true);
        assert_eq!(get_from(&router, "/readyz").await.0, StatusCode::OK);
        let (status, text) = get_from(&router, "/metrics").await;
        assert_eq!(status, StatusCode::OK);
        assert!(text.contains(r#"workqueue_depth{name="device"} 3"#), "{text}");
    }
}
