//! A TCP listener with a limit: above it, connections wait in the kernel's queue until one ends.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::metrics::Metrics;

/// Connections to the pages that are open at once.
pub const CONNECTIONS: usize = 64;

/// Accepts at most [`CONNECTIONS`] at a time.
#[derive(Debug)]
pub struct Bounded {
    listener: TcpListener,
    permits: Arc<Semaphore>,
    usage: prometheus::IntGauge,
}

impl Bounded {
    /// Limits this listener.
    #[must_use]
    pub fn new(listener: TcpListener, metrics: &Metrics) -> Self {
        let limit = i64::try_from(CONNECTIONS).unwrap_or(i64::MAX);
        metrics.limit.with_label_values(&["connections"]).set(limit);
        let usage = metrics.usage.with_label_values(&["connections"]);
        Self { listener, permits: Arc::new(Semaphore::new(CONNECTIONS)), usage }
    }
}

impl Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        // The semaphore is never closed; were it, the connection would merely not be counted in.
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok();
        let (stream, address) = Listener::accept(&mut self.listener).await;
        self.usage.inc();
        (Connection { stream, usage: self.usage.clone(), _permit: permit }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// An open connection; makes room for another when it is dropped.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    usage: prometheus::IntGauge,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.usage.dec();
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn connections_above_the_limit_wait_until_others_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut bounded = Bounded::new(listener, &Metrics::new().unwrap());
        let (mut clients, mut accepted) = (Vec::new(), Vec::new());
        for _ in 0..CONNECTIONS {
            clients.push(TcpStream::connect(address).await.unwrap());
            accepted.push(bounded.accept().await);
        }
        clients.push(TcpStream::connect(address).await.unwrap());
        assert_eq!(bounded.permits.available_permits(), 0);
        assert!(bounded.accept().now_or_never().is_none());
        accepted.pop();
        bounded.accept().await;
    }
}
