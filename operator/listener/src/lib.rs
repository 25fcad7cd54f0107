//! A TCP listener with a limit, for the pages that operator, agent and simulator serve: above it, connections wait in the
//! kernel's queue until one ends. None takes its place for ever: one on which nothing is answered for [`PATIENCE`] ends.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};

/// So long a connection is kept on which no byte of an answer is sent: one that nobody asks anything on, one whose request does not
/// end, and one whose answer nobody takes. Longer than Prometheus waits for an answer (10 s), and short beside the minute of failures
/// after which a kubelet ends a container that does not say that it lives.
pub const PATIENCE: Duration = Duration::from_secs(15);

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
    patience: Duration,
}

impl Bounded {
    /// Limits `listener`.
    #[must_use]
    pub fn new(listener: TcpListener, room: Room) -> Self {
        Self { listener, room, patience: PATIENCE }
    }
}

impl Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        // The semaphore is never closed; were it, the connection would merely not be counted in.
        let permit = Arc::clone(&self.room.permits).acquire_owned().await.ok();
        let (stream, address) = Listener::accept(&mut self.listener).await;
        let ends = Box::pin(sleep(self.patience));
        (Connection { stream, ends, patience: self.patience, _permit: permit }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// An open connection; makes room for another when it is dropped.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    /// When it has been without an answer for too long.
    ends: Pin<Box<Sleep>>,
    patience: Duration,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Connection {
    /// What came of the stream; an error when it is waited for in vain.
    fn in_time<T>(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_pending() {
            ready!(self.ends.as_mut().poll(cx));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        outcome
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.in_time(cx, read)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if let Poll::Ready(Ok(1..)) = written {
            let ends = Instant::now() + self.patience;
            self.ends.as_mut().reset(ends);
        }
        self.in_time(cx, written)
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
    use axum::Router;
    use axum::routing::get;
    use futures::FutureExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::task::JoinSet;
    use tokio::time::timeout;

    use super::*;

    /// Longer than any answer takes here.
    const FOR_EVER: Duration = Duration::from_secs(60);
    const LARGE: usize = 64 << 20;

    /// Pages with room for so many connections, and so much patience with each.
    async fn pages(room: usize, patience: Duration) -> (SocketAddr, JoinSet<io::Result<()>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let bounded = Bounded { patience, ..Bounded::new(listener, Room::new(room)) };
        let router = Router::new()
            .route("/healthz", get(async || "ok\n"))
            .route("/large", get(async || "x".repeat(LARGE)));
        let mut server = JoinSet::new();
        server.spawn(axum::serve(bounded, router).into_future());
        (address, server)
    }

    /// Sends this, and does nothing more.
    async fn says(address: SocketAddr, words: &str) -> TcpStream {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(words.as_bytes()).await.unwrap();
        client
    }

    async fn is_alive(address: SocketAddr) -> bool {
        let request = "GET /healthz HTTP/1.1\r\nhost: pages\r\nconnection: close\r\n\r\n";
        let mut answer = String::new();
        let asks = async { says(address, request).await.read_to_string(&mut answer).await };
        timeout(FOR_EVER, asks).await.is_ok_and(|read| read.is_ok()) && answer.ends_with("ok\n")
    }

    #[tokio::test]
    async fn connections_that_nobody_asks_anything_on_or_takes_an_answer_from_keep_no_others_out() {
        let (address, _server) = pages(4, Duration::from_secs(1)).await;
        let _held = [
            says(address, "").await,
            says(address, "GET /healthz HT").await,
            says(address, "GET /large HTTP/1.1\r\nhost: pages\r\n\r\n").await,
            says(address, "GET /healthz HTTP/1.1\r\nhost: pages\r\n\r\n").await,
        ];
        assert!(is_alive(address).await, "four connections that do nothing keep it out");
    }

    #[tokio::test]
    async fn a_connection_whose_request_never_ends_is_ended() {
        let (address, _server) = pages(1, Duration::from_secs(1)).await;
        let mut slow = says(address, "GET /healthz HTTP/1.1\r\n").await;
        let trickles = async {
            while slow.write_all(b"x: y\r\n").await.is_ok() {
                sleep(Duration::from_millis(100)).await;
            }
        };
        let (ended, alive) = tokio::join!(timeout(FOR_EVER, trickles), is_alive(address));
        assert!(ended.is_ok() && alive, "it ended: {ended:?}");
    }

    #[tokio::test]
    async fn an_answer_that_is_taken_slowly_is_taken_whole() {
        let (address, _server) = pages(1, Duration::from_secs(2)).await;
        let mut client =
            says(address, "GET /large HTTP/1.1\r\nhost: pages\r\nconnection: close\r\n\r\n").await;
        let (began, mut taken, mut portion) = (Instant::now(), 0, vec![0; LARGE / 20]);
        loop {
            match timeout(FOR_EVER, client.read(&mut portion)).await.unwrap().unwrap() {
                0 => break,
                read => taken += read,
            }
            if taken < LARGE && began.elapsed() < Duration::from_secs(4) {
                sleep(Duration::from_millis(200)).await;
            }
        }
        assert!(taken > LARGE, "{taken} bytes");
    }

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
