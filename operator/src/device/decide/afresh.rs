//! Questions that are given up in time, so that they are asked afresh before their device is suspected. Told as stories, and counted on a
//! line that loses much.

use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;

use edge_api::DevicePhase::{InSync, Syncing};
use edge_api::quantity::DurationString;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use prometheus::{Histogram, HistogramOpts, IntCounterVec, Opts};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::mpsc;
use tokio::time::sleep_until;

use super::super::absorb::Note;
use super::super::answer::Answer;
use super::story::{Asked, Story, desired, wall};
use super::*;
use crate::link::socket::Datagrams;
use crate::link::{Counters, End, Link, Method, Request, Timing};

const IDLE: Install = Install::Idle;

const fn seconds(seconds: u64) -> Option<Duration> {
    Some(Duration::from_secs(seconds))
}

#[test]
fn a_probe_without_an_answer_is_asked_afresh_three_transmissions_before_the_device_is_suspected() {
    let mut story = Story::in_sync();
    let writes = story.writes;
    story.pass(10);
    assert_eq!((story.decide(), story.given_up_after), (Asked::Report, seconds(10)));
    story.pass(10);
    assert_eq!((story.hears(Answer::Abandoned), story.given_up_after), (Asked::Report, None));
    assert!(!story.memory.doubtful, "nothing was learnt of it");
    assert_eq!(story.wake, Duration::from_secs(10), "it is suspected no later for it");
    story.pass(9);
    story.reports("2.0.0", 1, 1, IDLE);
    assert_eq!((story.phase(), story.writes), (InSync, writes));
}

#[test]
fn that_is_once_in_a_silence_and_again_in_the_next_one() {
    let mut story = Story::in_sync();
    story.pass(10);
    story.decide();
    story.pass(10);
    story.hears(Answer::Abandoned);
    story.pass(10);
    story.decide();
    assert_eq!(story.condition("Reachable"), "Unknown/Silent");
    for answer in [Answer::Abandoned, Answer::Silence] {
        story.hears(answer);
        story.pass(10);
        story.decide();
        assert_eq!(story.given_up_after, None);
    }
    story.reports("2.0.0", 1, 1, IDLE);
    story.pass(10);
    assert_eq!((story.decide(), story.given_up_after), (Asked::Report, seconds(10)));
}

#[test]
fn where_there_is_no_time_for_it_the_question_goes_on() {
    for (suspect, expected) in [("11s", None), ("29s", None), ("30s", seconds(10)), ("1m", seconds(40))] {
        let mut story = Story::in_sync();
        story.edit(|spec| spec.liveness.suspect_after = DurationString::new(suspect));
        story.pass(10);
        assert_eq!((story.decide(), story.given_up_after), (Asked::Report, expected), "{suspect}");
    }
}

#[test]
fn the_time_for_which_a_question_waits_here_is_none_in_which_it_was_not_answered() {
    let mut story = Story::in_sync();
    story.queues = true;
    story.pass(10);
    story.decide();
    story.pass(300);
    // It never began, and the next one has as long.
    let number = story.memory.busy.as_ref().unwrap().number;
    story.memory.leaves_queue(number, story.now);
    assert_eq!((story.hears(Answer::Abandoned), story.given_up_after), (Asked::Report, seconds(10)));
}

#[test]
fn a_command_is_given_up_for_the_same_one_and_a_token_and_without_one_for_a_report() {
    let mut story = Story::of(desired("2.0.0"));
    story.decide();
    let first = story.reports("1.0.0", 0, 0, IDLE).command();
    assert_eq!(story.given_up_after, seconds(20), "it was heard just now");
    story.pass(20);
    assert_eq!(story.hears(Answer::Abandoned).command(), first, "a device that has stored it does nothing");
    assert_eq!((story.memory.failures, story.given_up_after), (0, None));
    assert_eq!(story.notes.iter().filter(|note| **note == Note::Retry).count(), 1);
    story.hears(Answer::Stored);
    story.reports("2.0.0", 1, 1, IDLE);
    assert_eq!(story.phase(), InSync);

    story.edit(|spec| spec.desired = desired("3.0.0"));
    story.decide().command();
    while story.memory.bucket.take(story.now).is_ok() {}
    story.pass(20);
    while story.memory.bucket.take(story.now).is_ok() {}
    assert_eq!(story.hears(Answer::Abandoned), Asked::Report, "it says whether it has the command");
    assert_eq!(story.phase(), Syncing);
}

#[test]
fn a_release_has_a_deadline_of_its_own() {
    let mut story = Story::in_sync();
    story.device.metadata.deletion_timestamp = Some(Time(wall()));
    assert!(matches!(story.decide(), Asked::Own(_)));
    assert_eq!(story.given_up_after, None);
}

const TIMING: Timing = Timing { ack_timeout: Duration::from_secs(2), max_retransmit: 4 };
const ANSWERS: usize = 5_000;

/// A line that loses a fifth of the datagrams each way.
struct Lossy {
    dice: Mutex<StdRng>,
    arrived: mpsc::Sender<Vec<u8>>,
}

impl Datagrams for Lossy {
    async fn send(&self, _peer: SocketAddr, request: &[u8]) -> io::Result<()> {
        let is_lost = [(); 2].map(|()| self.dice.lock().unwrap().random_bool(0.2));
        if is_lost == [false; 2] {
            self.arrived.send(request.to_vec()).await.map_err(io::Error::other)?;
        }
        Ok(())
    }
}

/// An acknowledgement with a response, of the request's id and token of eight bytes.
fn answer(request: &[u8]) -> Vec<u8> {
    [&[0x68, 0x45][..], &request[2..12], &[0xff, 7]].concat()
}

/// How many of so many answers came after the device would be suspected, and how often it was sent something for them.
async fn count(is_asked_afresh: bool) -> (usize, u64) {
    let (arrived, mut requests) = mpsc::channel(1);
    let line = Lossy { dice: Mutex::new(StdRng::seed_from_u64(1)), arrived };
    let link = Link::new(line, TIMING, 1, IntCounterVec::new(Opts::new("all", "in"), &["result"]).unwrap());
    let round_trip = Histogram::with_opts(HistogramOpts::new("round_trip", "seconds")).unwrap();
    let counters = Counters { transmissions: Default::default(), round_trip };
    let peer = SocketAddr::from(([10, 20, 0, 17], 5683));
    let mut draws = StdRng::seed_from_u64(2);
    let mut story = Story::in_sync();
    story.policy.opening = TIMING.opening();
    let (mut answers, mut too_late, mut exchanges) = (0, 0, 0_u16);
    let mut asked = Asked::Nothing;
    while answers < ANSWERS {
        story.draw = draws.random();
        while asked == Asked::Nothing {
            sleep_until(story.memory.next_probe).await;
            story.now = Instant::now();
            asked = story.decide();
        }
        exchanges = exchanges.wrapping_add(1);
        let given_up_after = story.given_up_after.filter(|_| is_asked_afresh);
        let request = Request {
            peer,
            method: Method::Get,
            path: "state",
            payload: Vec::new(),
            id: exchanges,
            observe: None,
            given_up_after,
        };
        let device = async {
            while let Some(request) = requests.recv().await {
                link.received(peer, &answer(&request));
            }
            End::NoAnswer
        };
        let end = tokio::select! {
            end = link.exchange(request, [7; 8], draws.random(), &counters) => end,
            end = device => end,
        };
        story.now = Instant::now();
        asked = match Answer::to_report(end) {
            answer @ (Answer::Silence | Answer::Abandoned) => story.hears(answer),
            _ => {
                answers += 1;
                too_late += usize::from(story.memory.silence(story.now) > Duration::from_secs(30));
                story.reports("2.0.0", 1, 1, IDLE)
            }
        };
    }
    let [answered, unanswered, _] = counters.transmissions.all();
    (too_late, answered + unanswered)
}

#[tokio::test(start_paused = true)]
async fn on_a_line_that_loses_a_fifth_each_way_a_device_is_suspected_a_fourth_as_often_for_as_many_datagrams()
{
    let (as_the_rfc, sent) = count(false).await;
    let (afresh, sent_afresh) = count(true).await;
    let told = format!("of {ANSWERS}: {as_the_rfc} with {sent} transmissions, {afresh} with {sent_afresh}");
    assert!((70..=100).contains(&as_the_rfc), "one in sixty, {told}");
    assert!(afresh > 0 && 4 * afresh <= as_the_rfc, "{told}");
    assert_eq!(sent_afresh, sent, "they only come sooner, {told}");
}
