//! A TCP listener with a limit, for the pages that operator, agent and simulator serve: above it, connections wait in the
//! kernel's queue until one ends.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Room for connections. Clones share it.
#[derive(Clone, Debug)]
pub struct Room {
    permits: Arc<Semaphore>,
    limit: usize,
}

impl Room {
    /// Room for so many at once.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(limit)), limit }
    }

    /// How many there may be at once.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// How much is taken: open connections, and the one that the listener waits for.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.limit.saturating_sub(self.permits.available_permits())
    }
}

/// Accepts as many at a time as there is room for.
#[derive(Debug)]
pub struct Bounded {
    listener: TcpListener,
    room: Room,
}

impl Bounded {
    /// Limits `listener`.
    #[must_use]
    pub fn new(listener: TcpListener, room: Room) -> Self {
        Self { listener, room }
    }
}

impl Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        // The semaphore is never closed; were it, the connection would merely not be counted in.
        let permit = Arc::clone(&self.room.permits).acquire_owned().await.ok();
        let (stream, address) = Listener::accept(&mut self.listener).await;
        (Connection { stream, _permit: permit }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// An open connection; makes room for another when it is dropped.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    _permit: Option<OwnedSemaphorePermit>,
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
    async fn one_more_connection_than_there_is_room_for_waits_until_another_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let room = Room::new(2);
        let mut bounded = Bounded::new(listener, room.clone());
        let (mut clients, mut accepted) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            clients.push(TcpStream::connect(address).await.unwrap());
            accepted.push(bounded.accept().await);
        }
        clients.push(TcpStream::connect(address).await.unwrap());
        assert_eq!(room.taken(), 2);
        assert!(bounded.accept().now_or_never().is_none());
        accepted.pop();
        bounded.accept().await;
    }
}
