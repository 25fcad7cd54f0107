//! When a confirmable request is sent again and when it is given up (RFC 7252 §4.2, §5.2.2). Pure: the clock and
//! the draw are arguments.

use std::time::Duration;

use tokio::time::Instant;

use super::wire::{Code, Kind, Message, Response};

/// ACK_RANDOM_FACTOR (RFC 7252 §4.8).
const ACK_RANDOM_FACTOR: f64 = 1.5;

/// The transmission parameters that may be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// ACK_TIMEOUT.
    pub ack_timeout: Duration,
    /// MAX_RETRANSMIT.
    pub max_retransmit: u32,
}

impl Timing {
    /// The first wait, for a draw in `0.0..1.0`.
    fn first(self, draw: f64) -> Duration {
        self.ack_timeout.mul_f64(1.0 + (ACK_RANDOM_FACTOR - 1.0) * draw.clamp(0.0, 1.0))
    }

    /// MAX_TRANSMIT_SPAN: the longest time from a first transmission to its last retransmission. Also how long
    /// a separate response is waited for once its request was acknowledged: the device may be sending it for
    /// as long, by the same rules.
    pub fn span(self) -> Duration {
        let doubled = 2_u32.saturating_pow(self.max_retransmit) - 1;
        self.ack_timeout.saturating_mul(doubled).mul_f64(ACK_RANDOM_FACTOR).max(self.ack_timeout)
    }

    /// The longest time from a first transmission to the third one, and half an ACK_TIMEOUT in which that may be answered.
    pub fn opening(self) -> Duration {
        self.ack_timeout.mul_f64((1.0 + 2.0) * ACK_RANDOM_FACTOR + 0.5)
    }

    /// MAX_TRANSMIT_WAIT: the longest time from a first transmission until it is given up.
    pub fn wait(self) -> Duration {
        let doubled = 2_u32.saturating_pow(self.max_retransmit + 1) - 1;
        self.ack_timeout.saturating_mul(doubled).mul_f64(ACK_RANDOM_FACTOR)
    }
}

/// How an exchange ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// With a response.
    Response(Code, Vec<u8>),
    /// With a report that the device may have sent before the request reached it.
    Notified(Vec<u8>),
    /// The device answered with a reset: it lost its context, or does not speak this.
    Reset,
    /// No transmission was acknowledged.
    NoAnswer,
    /// None was acknowledged for as long as it was to go on.
    GivenUp,
    /// Acknowledged, and no response came.
    NoResponse,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send the request (again), then wait.
    Transmit,
    /// Wait.
    Wait,
    /// It is over.
    Done(End),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Unacknowledged { timeout: Duration, transmissions: u32 },
    Acknowledged,
}

/// One exchange.
#[derive(Clone, Debug)]
pub struct Exchange {
    timing: Timing,
    state: State,
    deadline: Instant,
    given_up_at: Option<Instant>,
}

impl Exchange {
    /// An exchange whose request is sent now. `draw` in `0.0..1.0`.
    pub fn start(timing: Timing, now: Instant, draw: f64) -> Self {
        let timeout = timing.first(draw);
        let state = State::Unacknowledged { timeout, transmissions: 1 };
        Self { timing, state, deadline: now + timeout, given_up_at: None }
    }

    /// Given up then unless a transmission was acknowledged, also before the last one (RFC 7252 §4.2 allows it).
    #[must_use]
    pub fn given_up_at(self, given_up_at: Option<Instant>) -> Self {
        Self { given_up_at, ..self }
    }

    /// When [`Self::on_deadline`] is due.
    pub fn deadline(&self) -> Instant {
        self.given_up_at.map_or(self.deadline, |given_up_at| given_up_at.min(self.deadline))
    }

    /// Is the last transmission still without any answer?
    pub fn is_unanswered(&self) -> bool {
        matches!(self.state, State::Unacknowledged { .. })
    }

    /// The deadline came.
    pub fn on_deadline(&mut self, now: Instant) -> Step {
        if now < self.deadline() {
            return Step::Wait;
        }
        if self.given_up_at.is_some_and(|given_up_at| now >= given_up_at) {
            return Step::Done(End::GivenUp);
        }
        match &mut self.state {
            State::Acknowledged => Step::Done(End::NoResponse),
            State::Unacknowledged { transmissions, .. } if *transmissions > self.timing.max_retransmit => {
                Step::Done(End::NoAnswer)
            }
            State::Unacknowledged { timeout, transmissions } => {
                *timeout *= 2;
                *transmissions += 1;
                self.deadline = now + *timeout;
                Step::Transmit
            }
        }
    }

    /// A message of this exchange came.
    pub fn on_message(&mut self, message: Message, now: Instant) -> Step {
        match (message.kind, message.response) {
            (kind, Some(Response { code: Code::CONTENT, observe: Some(_), payload, .. }))
                if kind != Kind::Acknowledgement =>
            {
                Step::Done(End::Notified(payload))
            }
            (_, Some(response)) => Step::Done(End::Response(response.code, response.payload)),
            (Kind::Reset, None) => Step::Done(End::Reset),
            (Kind::Acknowledgement, None) => {
                if self.is_unanswered() {
                    self.state = State::Acknowledged;
                    self.deadline = now + self.timing.span();
                    self.given_up_at = None;
                }
                Step::Wait
            }
            (Kind::Confirmable | Kind::NonConfirmable, None) => Step::Wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMING: Timing = Timing { ack_timeout: Duration::from_secs(2), max_retransmit: 4 };

    fn answer(kind: Kind) -> Message {
        let response = Response { token: [0; 8], code: Code::CONTENT, payload: vec![1], observe: None };
        Message { kind, id: 1, response: Some(response) }
    }

    fn empty(kind: Kind) -> Message {
        Message { kind, id: 1, response: None }
    }

    #[test]
    fn the_derived_times_are_those_of_the_rfc() {
        assert_eq!(TIMING.span(), Duration::from_secs(45));
        assert_eq!(TIMING.wait(), Duration::from_secs(93));
        assert_eq!(TIMING.opening(), Duration::from_secs(10));
    }

    #[test]
    fn it_is_given_up_before_the_last_transmission_where_that_was_said_unless_it_was_acknowledged() {
        let start = Instant::now();
        let at = start + TIMING.opening();
        let mut exchange = Exchange::start(TIMING, start, 1.0).given_up_at(Some(at));
        for seconds in [3, 9] {
            assert_eq!(exchange.deadline(), start + Duration::from_secs(seconds));
            assert_eq!(exchange.on_deadline(exchange.deadline()), Step::Transmit);
        }
        let mut acknowledged = exchange.clone();
        assert_eq!((exchange.deadline(), exchange.on_deadline(at)), (at, Step::Done(End::GivenUp)));
        acknowledged.on_message(empty(Kind::Acknowledgement), start);
        assert_eq!(
            (acknowledged.deadline(), acknowledged.on_deadline(at)),
            (start + TIMING.span(), Step::Wait)
        );
    }

    #[test]
    fn without_an_answer_it_is_sent_five_times_with_doubled_waits_and_given_up_after_93_seconds() {
        let start = Instant::now();
        let mut exchange = Exchange::start(TIMING, start, 1.0);
        let mut sent_at = vec![0];
        let end = loop {
            let now = exchange.deadline();
            match exchange.on_deadline(now) {
                Step::Transmit => sent_at.push((now - start).as_secs()),
                Step::Wait => panic!("at its deadline something is due"),
                Step::Done(end) => break (end, (now - start).as_secs()),
            }
        };
        assert_eq!(sent_at, [0, 3, 9, 21, 45]);
        assert_eq!(end, (End::NoAnswer, 93));
    }

    #[test]
    fn an_empty_acknowledgement_stops_retransmission_and_the_separate_response_ends_it() {
        let start = Instant::now();
        let mut exchange = Exchange::start(TIMING, start, 0.0);
        assert_eq!(exchange.on_message(empty(Kind::Acknowledgement), start), Step::Wait);
        assert!(!exchange.is_unanswered());
        assert_eq!(exchange.deadline(), start + TIMING.span());
        let end = exchange.on_message(answer(Kind::Confirmable), start);
        assert_eq!(end, Step::Done(End::Response(Code::CONTENT, vec![1])));
    }

    #[test]
    fn repeated_acknowledgements_do_not_prolong_the_wait_for_a_response() {
        let start = Instant::now();
        let mut exchange = Exchange::start(TIMING, start, 0.0);
        exchange.on_message(empty(Kind::Acknowledgement), start);
        exchange.on_message(empty(Kind::Acknowledgement), start + Duration::from_secs(40));
        assert_eq!(exchange.on_deadline(start + TIMING.span()), Step::Done(End::NoResponse));
    }

    #[test]
    fn a_response_without_the_acknowledgement_before_it_ends_the_exchange_too() {
        let start = Instant::now();
        for kind in [Kind::NonConfirmable, Kind::Confirmable, Kind::Acknowledgement] {
            let mut exchange = Exchange::start(TIMING, start, 0.5);
            assert!(matches!(exchange.on_message(answer(kind), start), Step::Done(End::Response(..))));
        }
    }

    #[test]
    fn a_notification_ends_it_and_is_told_from_its_answer() {
        let start = Instant::now();
        for (kind, expected) in [
            (Kind::Acknowledgement, End::Response(Code::CONTENT, vec![1])),
            (Kind::NonConfirmable, End::Notified(vec![1])),
            (Kind::Confirmable, End::Notified(vec![1])),
        ] {
            let mut message = answer(kind);
            message.response.as_mut().unwrap().observe = Some(3);
            let mut exchange = Exchange::start(TIMING, start, 0.5);
            assert_eq!(exchange.on_message(message, start), Step::Done(expected));
        }
    }

    #[test]
    fn a_reset_ends_it_and_a_ping_does_not() {
        let start = Instant::now();
        let mut exchange = Exchange::start(TIMING, start, 0.5);
        assert_eq!(exchange.on_message(empty(Kind::Confirmable), start), Step::Wait);
        assert_eq!(exchange.on_message(empty(Kind::Reset), start), Step::Done(End::Reset));
    }
}
