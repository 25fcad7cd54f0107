//! The sockets, and the driver of one exchange. Everything that decides is in the modules beside this one.

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use edge_protocol::network::{Network, Port, System};
use futures::StreamExt as _;
use futures::channel::mpsc as channel;
use prometheus::{Histogram, IntCounterVec, IntGauge};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::EXCHANGES;
use super::exchange::{End, Exchange, Step, Timing};
use super::observe::{Heed, Notification, Observations, Sight, Subject};
use super::window::{Route, Window};
use super::wire::{self, Kind, MAX_DATAGRAM, Message, Method, Token};
use crate::lock::lock;

/// Messages that wait for the driver of one exchange, if nothing else is said; what comes faster is dropped, as the
/// network might.
const MAILBOX: usize = 4;

/// Where its messages go. Not tokio's: that takes room for 32 at once, which weighs as much as the rest of an exchange.
type Mailbox = channel::Sender<Message>;

/// A way to send datagrams: sockets, or a scripted network in tests.
pub trait Datagrams: Send + Sync + 'static {
    /// Sends one datagram.
    fn send(&self, peer: SocketAddr, bytes: &[u8]) -> impl Future<Output = io::Result<()>> + Send;
}

/// One socket for each family.
pub struct Sockets {
    v4: Box<dyn Port>,
    v6: Option<Box<dyn Port>>,
}

impl Sockets {
    /// Takes a free port of each family on this machine, which has IPv4 alone where it has no IPv6.
    ///
    /// # Errors
    /// When there is no IPv4 either.
    pub async fn bind() -> io::Result<Self> {
        Self::bind_in(&System).await
    }

    /// As [`Sockets::bind`], in another network.
    ///
    /// # Errors
    /// When there is no IPv4.
    pub async fn bind_in(network: &dyn Network) -> io::Result<Self> {
        let v4 = network.bind((Ipv4Addr::UNSPECIFIED, 0).into()).await?;
        let v6 = match network.bind((Ipv6Addr::UNSPECIFIED, 0).into()).await {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::info!(%error, "no IPv6 here: devices with IPv6 addresses cannot be reached");
                None
            }
        };
        Ok(Self { v4, v6 })
    }

    fn of(&self, peer: SocketAddr) -> io::Result<&dyn Port> {
        let socket = if peer.is_ipv4() { Some(&self.v4) } else { self.v6.as_ref() };
        socket
            .map(AsRef::as_ref)
            .ok_or_else(|| io::Error::new(io::ErrorKind::AddrNotAvailable, "this machine has no IPv6"))
    }
}

impl Datagrams for Arc<Sockets> {
    async fn send(&self, peer: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        self.of(peer)?.send_to(bytes, peer).await.map(|_| ())
    }
}

/// The transmissions to one device; they are counted while an exchange is under way, not at its end.
#[derive(Debug, Default)]
pub struct Transmissions {
    answered: AtomicU64,
    unanswered: AtomicU64,
    again: AtomicU64,
}

impl Transmissions {
    /// Those that were answered before the next one was due, those that were not, and those after the first of an exchange.
    pub fn all(&self) -> [u64; 3] {
        [&self.answered, &self.unanswered, &self.again].map(|count| count.load(Ordering::Relaxed))
    }
}

/// What is counted of an exchange.
#[derive(Clone)]
pub struct Counters {
    /// Of its device.
    pub transmissions: Arc<Transmissions>,
    /// Seconds from the first transmission to the response.
    pub round_trip: Histogram,
}

/// One request to one device.
#[derive(Clone, Debug)]
pub struct Request {
    /// Where to.
    pub peer: SocketAddr,
    /// What is asked.
    pub method: Method,
    /// Of which resource.
    pub path: &'static str,
    /// CBOR; empty for a GET.
    pub payload: Vec<u8>,
    /// Message id; not used again towards this peer within 247 s (EXCHANGE_LIFETIME).
    pub id: u16,
    /// Whose changes are to be told from then on, if any; for a GET.
    pub observe: Option<Subject>,
    /// After so long without any answer it is given up; none: after the last transmission.
    pub given_up_after: Option<Duration>,
}

/// Where notifications go, and how many devices are observed at most.
struct Observing {
    observations: Mutex<Observations>,
    news: mpsc::Sender<Notification>,
    usage: IntGauge,
}

/// All exchanges of this process.
pub struct Link<D> {
    datagrams: D,
    window: Mutex<Window<Mailbox>>,
    timing: Timing,
    datagrams_total: IntCounterVec,
    observing: Option<Observing>,
    mailbox: usize,
}

impl<D: Datagrams> Link<D> {
    /// At most `limit` exchanges at once. `datagrams_total` counts by one label what came in.
    pub fn new(datagrams: D, timing: Timing, limit: usize, datagrams_total: IntCounterVec) -> Self {
        let window = Mutex::new(Window::new(limit));
        Self { datagrams, window, timing, datagrams_total, observing: None, mailbox: MAILBOX }
    }

    /// Remembers so many ended exchanges, and lets so many messages wait for one that is open; one at least.
    #[must_use]
    pub fn bounded(mut self, remembered: usize, mailbox: usize) -> Self {
        let window = self.window.into_inner().unwrap_or_else(PoisonError::into_inner);
        self.window = Mutex::new(window.remembering(remembered));
        self.mailbox = mailbox.max(1);
        self
    }

    /// Ended exchanges that are remembered.
    pub fn remembered(&self) -> usize {
        self.window().remembered()
    }

    /// Devices that are observed.
    pub fn observed_devices(&self) -> usize {
        self.observations(|observations| observations.len()).unwrap_or(0)
    }

    /// Observes at most `limit` devices, and heeds so much of what each tells. Notifications go to `news`; what comes while that
    /// is full, and what is not heeded, is dropped and counted, and the next probe finds it. `usage` shows how many are observed.
    #[must_use]
    pub fn observing(
        mut self,
        (limit, heed): (usize, Heed),
        news: mpsc::Sender<Notification>,
        usage: IntGauge,
    ) -> Self {
        let observations = Mutex::new(Observations::new(limit, heed));
        self.observing = Some(Observing { observations, news, usage });
        self
    }

    /// A device is observed no longer.
    pub fn forget(&self, subject: &Subject) {
        self.observations(|observations| observations.forget(subject));
    }

    fn observations<T>(&self, act: impl FnOnce(&mut Observations) -> T) -> Option<T> {
        let observing = self.observing.as_ref()?;
        let mut observations = lock(&observing.observations);
        let done = act(&mut observations);
        observing.usage.set(i64::try_from(observations.len()).unwrap_or(i64::MAX));
        Some(done)
    }

    /// Exchanges under way.
    pub fn in_flight(&self) -> usize {
        self.window().len()
    }

    fn window(&self) -> MutexGuard<'_, Window<Mailbox>> {
        lock(&self.window)
    }

    /// Sends a request until it is answered or given up. `token` names the exchange and is random; `draw` in
    /// `0.0..1.0` spreads the retransmissions.
    pub async fn exchange(&self, request: Request, token: Token, draw: f64, counters: &Counters) -> End {
        let Request { peer, method, path, payload, id, observe, given_up_after } = request;
        let observed = observe.and_then(|subject| self.observations(|all| all.token(&subject, peer, token)));
        let observed = observed.flatten();
        let token = observed.unwrap_or(token);
        let bytes = match observed {
            Some(token) => wire::observe(path, id, token),
            None => wire::request(method, path, id, token, payload),
        };
        let Ok(bytes) = bytes else {
            // What is sent was encoded within the protocol's limits; a longer one cannot be sent at all.
            return End::NoAnswer;
        };
        let (sender, mut mailbox) = channel::channel(self.mailbox - 1);
        if let Err(full) = self.window().open(token, peer, id, sender) {
            tracing::error!(%full, "an exchange was started without a free slot");
            return End::NoAnswer;
        }
        let mut closing = Closing { link: self, token, peer, id, answered: false };
        let started = Instant::now();
        let given_up_at = given_up_after.map(|long| started + long);
        let mut exchange = Exchange::start(self.timing, started, draw).given_up_at(given_up_at);
        self.transmit(peer, &bytes).await;
        loop {
            let was_unanswered = exchange.is_unanswered();
            let step = tokio::select! {
                biased;
                Some(message) = mailbox.next() => {
                    self.acknowledge(peer, &message).await;
                    let step = exchange.on_message(message, Instant::now());
                    if was_unanswered && (step != Step::Wait || !exchange.is_unanswered()) {
                        counters.transmissions.answered.fetch_add(1, Ordering::Relaxed);
                    }
                    step
                }
                () = tokio::time::sleep_until(exchange.deadline()) => {
                    let step = exchange.on_deadline(Instant::now());
                    if was_unanswered && step != Step::Wait {
                        counters.transmissions.unanswered.fetch_add(1, Ordering::Relaxed);
                    }
                    step
                }
            };
            match step {
                Step::Wait => {}
                Step::Transmit => {
                    counters.transmissions.again.fetch_add(1, Ordering::Relaxed);
                    self.transmit(peer, &bytes).await;
                }
                Step::Done(end) => {
                    closing.answered = matches!(end, End::Response(..) | End::Notified(_));
                    if closing.answered {
                        counters.round_trip.observe(started.elapsed().as_secs_f64());
                    }
                    return end;
                }
            }
        }
    }

    async fn transmit(&self, peer: SocketAddr, bytes: &[u8]) {
        if let Err(error) = self.datagrams.send(peer, bytes).await {
            // To the protocol a datagram that could not be sent is a lost one: it is sent again.
            self.count("unsent");
            tracing::debug!(%peer, %error, "datagram not sent");
        }
    }

    async fn acknowledge(&self, peer: SocketAddr, message: &Message) {
        if message.kind == Kind::Confirmable && message.response.is_some() {
            self.transmit(peer, &wire::empty(Kind::Acknowledgement, message.id)).await;
        }
    }

    /// A datagram came. Gives what to send back at once, if anything.
    pub fn received(&self, peer: SocketAddr, bytes: &[u8]) -> Option<[u8; 4]> {
        let message = match wire::parse(bytes) {
            Ok(message) => message,
            Err(error) => {
                self.count("malformed");
                tracing::debug!(%peer, %error, "datagram ignored");
                return None;
            }
        };
        let id = message.id;
        if let Some(ended) = self.observed(peer, &message) {
            let (result, reply) = ended;
            self.count(result);
            return reply.map(|kind| wire::empty(kind, id));
        }
        let (result, reply) = match self.window().route(peer, &message) {
            Route::Deliver(mailbox) => match mailbox.try_send(message) {
                Ok(()) => ("delivered", None),
                Err(_full_or_ended) => ("overrun", None),
            },
            Route::Late(reply) => ("late", reply),
            Route::Noise => ("noise", None),
        };
        self.count(result);
        reply.map(|kind| wire::empty(kind, id))
    }

    /// Deals with what concerns observations. Something: that is the end of the message, with what to send back.
    fn observed(&self, peer: SocketAddr, message: &Message) -> Option<(&'static str, Option<Kind>)> {
        let response = message.response.as_ref()?;
        let (sequence, token, now) = (response.observe?, response.token, Instant::now());
        if matches!(self.window().route(peer, message), Route::Deliver(_)) {
            // The question under way is answered by it, whatever its number: a device that was started again counts anew. What
            // was overtaken on the way all the same, its report says itself.
            self.observations(|observations| observations.begin(token, sequence, now));
            return None;
        }
        if message.kind == Kind::Acknowledgement {
            // A late one says nothing of the present.
            return None;
        }
        let acknowledge = (message.kind == Kind::Confirmable).then_some(Kind::Acknowledgement);
        let sight =
            self.observations(|observations| match observations.notified(peer, token, sequence, now) {
                Sight::Newer(subject) => Ok(subject.clone()),
                Sight::Older => Err(("reordered", acknowledge)),
                // It is acknowledged, or it would come again.
                Sight::TooMuch => Err(("unheeded", acknowledge)),
                Sight::Unasked => Err(("noise", Some(Kind::Reset))),
            })?;
        match sight {
            Err(ended) => Some(ended),
            Ok(subject) => {
                let news = Notification { subject, payload: response.payload.clone() };
                let told = self.observing.as_ref().is_some_and(|it| it.news.try_send(news).is_ok());
                Some((if told { "notified" } else { "overrun" }, acknowledge))
            }
        }
    }

    fn count(&self, result: &str) {
        self.datagrams_total.with_label_values(&[result]).inc();
    }
}

/// Ends the exchange in the window, also when its driver is dropped in the middle.
struct Closing<'a, D: Datagrams> {
    link: &'a Link<D>,
    token: Token,
    peer: SocketAddr,
    id: u16,
    answered: bool,
}

impl<D: Datagrams> Drop for Closing<'_, D> {
    fn drop(&mut self) {
        tracing::trace!(target: EXCHANGES, token = u64::from_be_bytes(self.token), "ends");
        self.link.window().close(self.token, self.peer, self.id, self.answered);
    }
}

/// Reads both sockets until `shutdown`.
pub async fn receive<D: Datagrams>(link: Arc<Link<D>>, sockets: Arc<Sockets>, shutdown: CancellationToken) {
    let v6 = async {
        match &sockets.v6 {
            Some(socket) => read(&link, socket.as_ref()).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = read(&link, sockets.v4.as_ref()) => {}
        () = v6 => {}
    }
}

async fn read<D: Datagrams>(link: &Link<D>, socket: &dyn Port) {
    // One byte more than is looked at, so that a longer datagram is seen to be too long.
    let mut buffer = [0; MAX_DATAGRAM + 1];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((length, peer)) => {
                if let Some(reply) = link.received(peer, &buffer[..length]) {
                    link.transmit(peer, &reply).await;
                }
            }
            // An ICMP error about something sent earlier; the exchange concerned times out by itself.
            Err(error) => {
                tracing::debug!(%error, "socket");
                tokio::task::yield_now().await;
            }
        }
    }
}

#[cfg(test)]
mod tests;
