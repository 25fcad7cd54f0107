//! The HTTP server: `/metrics`, `/healthz`, `/readyz`. Says nothing that is secret and takes no input. Connections and
//! scrapes are limited: it is open to the node's network.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use bounded_listener::Bounded;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::shared::Shared;

/// An enforcer that has not come around for so long is stuck: it does every ten seconds.
const STUCK_AFTER: Duration = Duration::from_secs(60);

#[derive(Clone)]
struct Served {
    metrics: Arc<Metrics>,
    shared: Arc<Shared>,
    /// One at a time: each reads all counters on a thread of its own.
    scrapes: Arc<Semaphore>,
}

/// Takes the address.
///
/// # Errors
/// When it is taken by somebody else.
pub async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("--listen {address}: is another agent on this node (host network)? Choose another port")
    })
}

/// Serves until `shutdown`.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: TcpListener,
    metrics: Arc<Metrics>,
    shared: Arc<Shared>,
    shutdown: CancellationToken,
) -> Result<()> {
    let listener = Bounded::new(listener, shared.connections.clone());
    let scrapes = Arc::new(Semaphore::new(1));
    let router = Router::new()
        .route("/metrics", get(render))
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
        .with_state(Served { metrics, shared, scrapes });
    axum::serve(listener, router)
        .with_graceful_shutdown(shutdown.cancelled_owned())
        .await
        .context("HTTP server")
}

async fn render(State(served): State<Served>) -> Response {
    // Reading many counters takes a while: not on a thread that others wait for.
    // The semaphore is never closed.
    let permit = Arc::clone(&served.scrapes).acquire_owned().await.ok();
    let render = move || {
        let _permit = permit;
        served.metrics.render()
    };
    let rendered = tokio::task::spawn_blocking(render).await;
    match rendered {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Ok(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n")).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn alive(State(served): State<Served>) -> (StatusCode, String) {
    let since = served.shared.since_last_round();
    if since < STUCK_AFTER {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("the enforcer has been stuck for {}s\n", since.as_secs()))
    }
}

async fn ready(State(served): State<Served>) -> (StatusCode, String) {
    if served.shared.is_enforcing() {
        return (StatusCode::OK, "ok\n".to_owned());
    }
    let missing = served.shared.index().missing();
    let text = format!("not enforcing yet; still waiting for these lists of the API server: {missing:?}\n");
    (StatusCode::SERVICE_UNAVAILABLE, text)
}
