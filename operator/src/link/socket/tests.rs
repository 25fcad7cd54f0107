//! Exchanges over a network of which each datagram's fate is scripted, in tokio's paused time.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use coap_lite::{MessageClass, MessageType, Packet};
use prometheus::{HistogramOpts, Opts};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::super::wire::Code;
use super::*;

mod news;

const TIMING: Timing = Timing { ack_timeout: Duration::from_secs(2), max_retransmit: 4 };

/// What a device does with the requests that reach it, one after the other; the last one goes on for ever.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// The request is lost, or its answer.
    Lost,
    /// Answered in the acknowledgement, after so long.
    Answered(Duration),
    /// Answered twice.
    Twice,
    /// Acknowledged, and answered by a message of its own after so long; the acknowledgement may come after it.
    Separate {
        acknowledged: Duration,
        answered: Duration,
    },
    /// Acknowledged, and never answered.
    Acknowledged,
    /// Answered from somebody else's address.
    Forged,
    Reset,
}

/// One device behind a scripted network.
struct Net {
    script: Mutex<VecDeque<Fate>>,
    sent: Mutex<Vec<Packet>>,
    deliveries: mpsc::Sender<(Duration, SocketAddr, Vec<u8>)>,
}

impl Datagrams for Arc<Net> {
    async fn send(&self, peer: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        let packet = Packet::from_bytes(bytes).unwrap();
        let is_request = matches!(packet.header.code, MessageClass::Request(_));
        self.sent.lock().unwrap().push(packet.clone());
        if !is_request {
            return Ok(());
        }
        let fate = {
            let mut script = self.script.lock().unwrap();
            if script.len() > 1 { script.pop_front() } else { script.front().copied() }
        };
        for (after, from, answer) in answers(fate.unwrap(), peer, &packet) {
            self.deliveries.send((after, from, answer)).await.unwrap();
        }
        Ok(())
    }
}

fn answers(fate: Fate, peer: SocketAddr, request: &Packet) -> Vec<(Duration, SocketAddr, Vec<u8>)> {
    let id = request.header.message_id;
    let response = |kind, id| {
        let mut packet = Packet::new();
        packet.header.set_type(kind);
        packet.header.message_id = id;
        packet.header.code = MessageClass::from(0x45);
        packet.set_token(request.get_token().to_vec());
        packet.payload = vec![7];
        packet.to_bytes().unwrap()
    };
    let piggybacked = response(MessageType::Acknowledgement, id);
    let separate = response(MessageType::Confirmable, 9000);
    let empty = |kind| wire::empty(kind, id).to_vec();
    let soon = Duration::from_millis(10);
    match fate {
        Fate::Lost => vec![],
        Fate::Answered(after) => vec![(after, peer, piggybacked)],
        Fate::Twice => vec![(soon, peer, piggybacked.clone()), (2 * soon, peer, piggybacked)],
        Fate::Separate { acknowledged, answered } => {
            vec![(acknowledged, peer, empty(Kind::Acknowledgement)), (answered, peer, separate)]
        }
        Fate::Acknowledged => vec![(soon, peer, empty(Kind::Acknowledgement))],
        Fate::Forged => vec![(soon, SocketAddr::from(([10, 20, 0, 99], 5683)), piggybacked)],
        Fate::Reset => vec![(soon, peer, empty(Kind::Reset))],
    }
}

fn counters() -> Counters {
    Counters {
        transmissions: Arc::default(),
        round_trip: Histogram::with_opts(HistogramOpts::new("round_trip", "seconds")).unwrap(),
    }
}

struct Played {
    end: End,
    took: Duration,
    requests: usize,
    replies: Vec<Packet>,
    counters: Counters,
    datagrams: IntCounterVec,
    link: Arc<Link<Arc<Net>>>,
    network: JoinSet<()>,
}

static TOKENS: AtomicU64 = AtomicU64::new(1);

async fn play(script: &[Fate]) -> Played {
    play_for(script, None).await
}

async fn play_for(script: &[Fate], given_up_after: Option<Duration>) -> Played {
    let (deliveries, mut queue) = mpsc::channel(64);
    let net = Arc::new(Net {
        script: Mutex::new(script.iter().copied().collect()),
        sent: Mutex::default(),
        deliveries,
    });
    let datagrams = IntCounterVec::new(Opts::new("datagrams", "in"), &["result"]).unwrap();
    let link = Arc::new(Link::new(net.clone(), TIMING, 4, datagrams.clone()));
    let mut network = JoinSet::new();
    let receiving = link.clone();
    network.spawn(async move {
        let mut flying = JoinSet::new();
        while let Some((after, from, bytes)) = queue.recv().await {
            let link = receiving.clone();
            flying.spawn(async move {
                sleep(after).await;
                if let Some(reply) = link.received(from, &bytes) {
                    link.transmit(from, &reply).await;
                }
            });
        }
    });
    let counters = counters();
    let request = Request {
        peer: SocketAddr::from(([10, 20, 0, 17], 5683)),
        method: Method::Get,
        path: "state",
        payload: Vec::new(),
        id: 42,
        observe: None,
        given_up_after,
    };
    let token = TOKENS.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let started = Instant::now();
    let end = link.exchange(request, token, 0.0, &counters).await;
    let took = started.elapsed();
    let sent = net.sent.lock().unwrap().clone();
    let (requests, replies): (Vec<_>, Vec<_>) =
        sent.into_iter().partition(|packet| matches!(packet.header.code, MessageClass::Request(_)));
    assert!(requests.windows(2).all(|pair| pair[0] == pair[1]), "a retransmission is the same message");
    Played { end, took, requests: requests.len(), replies, counters, datagrams, link, network }
}

impl Played {
    fn sends(&self) -> (u64, u64) {
        let [answered, unanswered, _] = self.counters.transmissions.all();
        (answered, unanswered)
    }

    fn came(&self, result: &str) -> u64 {
        self.datagrams.with_label_values(&[result]).get()
    }

    /// Lets everything that still flies arrive.
    async fn later(&self) {
        sleep(Duration::from_secs(300)).await;
        assert_eq!(self.link.in_flight(), 0);
    }
}

fn content() -> End {
    End::Response(Code::CONTENT, vec![7])
}

const SOON: Duration = Duration::from_millis(10);

#[tokio::test(start_paused = true)]
async fn an_answer_ends_the_exchange_at_once() {
    let played = play(&[Fate::Answered(SOON)]).await;
    assert_eq!((played.end.clone(), played.took, played.requests), (content(), SOON, 1));
    assert_eq!(played.sends(), (1, 0));
    assert_eq!(played.counters.round_trip.get_sample_count(), 1);
}

#[tokio::test(start_paused = true)]
async fn lost_requests_are_sent_again_and_counted_as_unanswered() {
    let played = play(&[Fate::Lost, Fate::Lost, Fate::Answered(SOON)]).await;
    assert_eq!((played.end.clone(), played.requests), (content(), 3));
    assert_eq!(played.took, Duration::from_secs(6) + SOON);
    assert_eq!((played.sends(), played.counters.transmissions.all()[2]), ((1, 2), 2));
}

#[tokio::test(start_paused = true)]
async fn without_any_answer_it_is_given_up_after_five_transmissions() {
    let played = play(&[Fate::Lost]).await;
    assert_eq!((played.end.clone(), played.requests), (End::NoAnswer, 5));
    assert_eq!(played.took, Duration::from_secs(62));
    assert_eq!(played.sends(), (0, 5));
}

#[tokio::test(start_paused = true)]
async fn what_is_to_be_given_up_sooner_is_and_counts_what_it_sent_as_unanswered() {
    let played = play_for(&[Fate::Lost], Some(TIMING.opening())).await;
    assert_eq!((played.end.clone(), played.requests), (End::GivenUp, 3));
    assert_eq!((played.took, played.sends()), (TIMING.opening(), (0, 3)));
    assert_eq!(played.link.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_late_ends_it_and_the_ones_after_it_are_told_from_noise() {
    let late = Duration::from_secs(7);
    let played = play(&[Fate::Answered(late), Fate::Answered(late), Fate::Answered(late), Fate::Lost]).await;
    assert_eq!((played.end.clone(), played.took, played.requests), (content(), late, 3));
    assert_eq!(played.sends(), (1, 2));
    played.later().await;
    assert_eq!((played.came("delivered"), played.came("late"), played.came("noise")), (1, 2, 0));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_twice_counts_once() {
    let played = play(&[Fate::Twice]).await;
    assert_eq!((played.end.clone(), played.sends()), (content(), (1, 0)));
    played.later().await;
    assert_eq!((played.came("delivered"), played.came("late")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_separate_response_is_acknowledged_whichever_comes_first() {
    for (acknowledged, answered) in [(1, 5), (5, 1)] {
        let fate = Fate::Separate {
            acknowledged: Duration::from_secs(acknowledged),
            answered: Duration::from_secs(answered),
        };
        let played = play(&[fate]).await;
        assert_eq!((played.end.clone(), played.sends()), (content(), (1, 0)));
        assert_eq!(played.took, Duration::from_secs(answered));
        let acknowledgement = wire::empty(Kind::Acknowledgement, 9000);
        assert_eq!(played.replies.len(), 1);
        assert_eq!(played.replies[0].to_bytes().unwrap(), acknowledgement);
    }
}

#[tokio::test(start_paused = true)]
async fn an_acknowledgement_without_a_response_is_waited_on_and_given_up() {
    let played = play(&[Fate::Acknowledged]).await;
    assert_eq!((played.end.clone(), played.requests), (End::NoResponse, 1));
    assert_eq!((played.took, played.sends()), (TIMING.span() + SOON, (1, 0)));
}

#[tokio::test(start_paused = true)]
async fn an_answer_from_elsewhere_is_noise() {
    let played = play(&[Fate::Forged, Fate::Answered(SOON)]).await;
    assert_eq!((played.end.clone(), played.requests, played.came("noise")), (content(), 2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_reset_ends_it() {
    let played = play(&[Fate::Reset]).await;
    assert_eq!((played.end.clone(), played.sends()), (End::Reset, (1, 0)));
}

#[tokio::test(start_paused = true)]
async fn an_exchange_that_is_dropped_leaves_nothing_open() {
    let played = play(&[Fate::Answered(SOON)]).await;
    let request = Request {
        peer: SocketAddr::from(([10, 20, 0, 18], 5683)),
        method: Method::Get,
        path: "state",
        payload: Vec::new(),
        id: 1,
        observe: None,
        given_up_after: None,
    };
    let exchange = played.link.exchange(request, [9; 8], 0.0, &played.counters);
    let dropped = tokio::time::timeout(Duration::from_millis(1), exchange).await;
    assert!(dropped.is_err() && played.network.len() == 1);
    assert_eq!(played.link.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn messages_that_an_exchange_does_not_take_in_time_are_dropped_and_counted() {
    let (link, _heard, _, datagrams) = observing();
    let link = link.bounded(4, 1);
    let (peer, token) = (SocketAddr::from(([10, 20, 0, 17], 5683)), [6; 8]);
    let request = Request {
        peer,
        method: Method::Get,
        path: "state",
        payload: Vec::new(),
        id: 1,
        observe: None,
        given_up_after: None,
    };
    let asked = wire::request(Method::Get, "state", 1, token, Vec::new()).unwrap();
    let (_, _, answer) = answers(Fate::Answered(SOON), peer, &Packet::from_bytes(&asked).unwrap()).remove(0);
    let counters = counters();
    let exchange = link.exchange(request, token, 0.0, &counters);
    let device = async {
        for _ in 0..3 {
            assert_eq!(link.received(peer, &answer), None);
        }
    };
    let (end, ()) = tokio::join!(exchange, device);
    assert_eq!(end, content());
    let count = |result: &str| datagrams.with_label_values(&[result]).get();
    assert_eq!((count("delivered"), count("overrun")), (1, 2));
}

fn subject() -> Subject {
    Subject { namespace: "edge-demo".into(), name: "pump-0".into(), uid: "u1".into() }
}

fn notification(token: Token, kind: MessageType, sequence: u32, payload: u8) -> Vec<u8> {
    let mut packet = Packet::new();
    packet.header.set_type(kind);
    packet.header.message_id = 77;
    packet.header.code = MessageClass::from(0x45);
    packet.set_token(token.to_vec());
    packet.set_observe_value(sequence);
    packet.payload = vec![payload];
    packet.to_bytes().unwrap()
}

const HEED: Heed = Heed { burst: 5, rate: 1.0 };

/// A link that observes two devices at most, and its news.
fn observing() -> (Link<Arc<Net>>, mpsc::Receiver<Notification>, IntGauge, IntCounterVec) {
    let (deliveries, _) = mpsc::channel(64);
    let net = Arc::new(Net { script: Mutex::new([Fate::Lost].into()), sent: Mutex::default(), deliveries });
    let datagrams = IntCounterVec::new(Opts::new("datagrams", "in"), &["result"]).unwrap();
    let (news, heard) = mpsc::channel(2);
    let usage = IntGauge::new("observed", "observed").unwrap();
    let link = Link::new(net, TIMING, 4, datagrams.clone()).observing((2, HEED), news, usage.clone());
    (link, heard, usage, datagrams)
}
