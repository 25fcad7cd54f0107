//! turmoil's network as the operator, the devices and the API server use it.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use edge_operator::client::Counted;
use edge_operator::metrics::Calls;
use edge_protocol::network::{Later, Network, Port};
use http::uri::{Authority, Scheme};
use http::{HeaderValue, Request, Uri, header};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kube::Client;
use kube::client::Body;
use tower::service_fn;
use turmoil::net::{TcpListener, TcpStream, UdpSocket};

use crate::clock;
use crate::exchanges::Exchanges;
use crate::retries::Retries;
use crate::weather::Weather;

/// The second byte of a datagram that refuses an older epoch or generation: 4.12 (RFC 7252 §3 and §5.9.2.8).
const PRECONDITION_FAILED: u8 = (4 << 5) | 12;
/// The second bytes of datagrams that tell a device to do something: POST and PUT (RFC 7252 §12.1.1).
const COMMANDS: [u8; 2] = [2, 3];
/// The API server's port.
pub const API_PORT: u16 = 6443;
/// The API server's name.
pub const API: &str = "api";

/// UDP in turmoil, with the weather's losses and duplicates.
#[derive(Clone)]
pub struct Turmoil {
    /// What goes wrong.
    pub weather: Arc<Weather>,
    /// What is under way.
    pub exchanges: Exchanges,
    /// What is told again.
    pub retries: Retries,
    /// Whose ports these are.
    pub host: String,
}

impl fmt::Debug for Turmoil {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("turmoil")
    }
}

#[derive(Debug)]
struct Udp {
    socket: UdpSocket,
    network: Turmoil,
}

impl Network for Turmoil {
    fn bind(&self, address: SocketAddr) -> Later<'_, Box<dyn Port>> {
        Box::pin(async move {
            if address.is_ipv6() {
                return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, "this world has IPv4 alone"));
            }
            let socket = UdpSocket::bind(address).await?;
            Ok(Box::new(Udp { socket, network: self.clone() }) as Box<dyn Port>)
        })
    }
}

impl Port for Udp {
    fn send_to<'a>(&'a self, bytes: &'a [u8], peer: SocketAddr) -> Later<'a, usize> {
        Box::pin(async move {
            if bytes.get(1) == Some(&PRECONDITION_FAILED) {
                self.network.weather.refuses(&self.network.host, peer);
            }
            if bytes.get(1).is_some_and(|code| COMMANDS.contains(code)) {
                self.network.weather.effort();
            }
            self.network.exchanges.sent(&self.network.host, bytes, clock::elapsed());
            self.network.retries.sent(&self.network.host, bytes, clock::elapsed());
            for _ in 0..self.network.weather.copies(&self.network.host) {
                self.socket.send_to(bytes, peer).await?;
            }
            Ok(bytes.len())
        })
    }

    fn recv_from<'a>(&'a self, buffer: &'a mut [u8]) -> Later<'a, (usize, SocketAddr)> {
        Box::pin(self.socket.recv_from(buffer))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

/// A client of the API server, on connections of its own. `who` is its `User-Agent`.
pub fn client(who: &str, calls: Calls) -> Client {
    let connector = service_fn(|_: Uri| {
        Box::pin(async {
            let stream = TcpStream::connect((API, API_PORT)).await?;
            Ok::<_, io::Error>(Wire(TokioIo::new(stream)))
        })
    });
    let client: legacy::Client<_, Body> = legacy::Client::builder(TokioExecutor::new()).build(connector);
    let agent = HeaderValue::from_str(who).unwrap_or(HeaderValue::from_static("somebody"));
    let service = service_fn(move |mut request: Request<Body>| {
        let mut parts = request.uri().clone().into_parts();
        parts.scheme = Some(Scheme::HTTP);
        parts.authority = Some(Authority::from_static("api:6443"));
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
        request.headers_mut().insert(header::USER_AGENT, agent.clone());
        client.request(request)
    });
    // As the operator's own client, but for the way to the server.
    Client::new(Counted::new(service, calls, format!("{API}:{API_PORT}")), "default")
}

/// A connection, as hyper wants one.
struct Wire(TokioIo<TcpStream>);

impl Connection for Wire {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl hyper::rt::Read for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl hyper::rt::Write for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

/// Where the API server listens.
pub struct Listener(TcpListener);

impl Listener {
    /// Takes its port.
    ///
    /// # Errors
    /// When it is taken.
    pub async fn bind() -> io::Result<Self> {
        Ok(Self(TcpListener::bind(("0.0.0.0", API_PORT)).await?))
    }
}

impl axum::serve::Listener for Listener {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            if let Ok(accepted) = self.0.accept().await {
                return accepted;
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}
