//! The API server's time. Profiles start and end by it on every node, and deletions have it, so an operator whose own clock is wrong
//! must not write its own: the offset is read off the `Date` of an answer (RFC 9110 §6.6.1).

use std::pin::pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::{Request, header};
use jiff::{SignedDuration, Timestamp};
use kube::Client;
use kube::client::Body;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::error::{ApiError, call};
use crate::shared::wall_clock;

/// How often the offset is measured.
const MEASURE_EVERY: Duration = Duration::from_secs(60);
/// A smaller offset is not corrected: `Date` has whole seconds, and clocks that are kept do better than that.
const TOLERATED: SignedDuration = SignedDuration::from_secs(2);

/// The server's time, as it was measured last. From then on it is counted on CLOCK_MONOTONIC: a jump of this machine's clock
/// must not give a profile an end an hour late.
#[derive(Debug, Default)]
pub(crate) struct ServerClock {
    /// The server's time minus ours, in milliseconds; 0 while tolerable.
    offset: AtomicI64,
    /// The server's time, and when it was that; none: never measured.
    measured: Mutex<Option<(Timestamp, Instant)>>,
}

impl ServerClock {
    /// The server's time now, as far as it is known.
    pub(crate) fn now(&self) -> Timestamp {
        match *self.measured.lock().unwrap_or_else(PoisonError::into_inner) {
            Some((time, at)) => time.saturating_add(at.elapsed()).unwrap_or(Timestamp::MAX),
            None => wall_clock(),
        }
    }

    /// Measures the offset every minute until `shutdown`. A standby's clock is as right as a leader's.
    pub(crate) async fn keep(&self, client: &Client, shutdown: &CancellationToken) {
        let mut tick = interval(MEASURE_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ended = pin!(shutdown.cancelled());
        // What `interval` gives at once was measured before.
        tick.tick().await;
        loop {
            tokio::select! {
                () = &mut ended => return,
                _ = tick.tick() => self.try_to_measure(client).await,
            }
        }
    }

    /// Measures the offset, or goes on with the one that is known.
    pub(crate) async fn try_to_measure(&self, client: &Client) {
        if let Err(error) = self.measure(client).await {
            tracing::warn!(%error, "the API server's time was not measured: going on with what is known of it");
        }
    }

    /// Measures the offset.
    ///
    /// # Errors
    /// When the server does not answer.
    async fn measure(&self, client: &Client) -> Result<(), ApiError> {
        let what = || "get /version, for its Date".to_owned();
        let request = Request::get("/version").body(Body::empty());
        let sent = (wall_clock(), Instant::now());
        let answer =
            call(what, async { client.send(request.map_err(kube::Error::HttpError)?).await }).await?;
        let middle = sent.0.saturating_add(sent.1.elapsed() / 2).unwrap_or(sent.0);
        let date = answer.headers().get(header::DATE).and_then(|date| date.to_str().ok()).and_then(parse);
        match date {
            Some(date) => self.set(correction(date, middle)),
            None => tracing::warn!("the API server's answer has no Date: using this machine's clock"),
        }
        Ok(())
    }

    fn set(&self, offset: SignedDuration) {
        let time = wall_clock().saturating_add(offset).unwrap_or(Timestamp::MAX);
        *self.measured.lock().unwrap_or_else(PoisonError::into_inner) = Some((time, Instant::now()));
        let offset = i64::try_from(offset.as_millis()).unwrap_or(0);
        if self.offset.swap(offset, Ordering::Relaxed) == 0 && offset != 0 {
            tracing::warn!(
                offset_milliseconds = offset,
                "this machine's clock differs from the API server's; profiles start and end by the server's: check NTP"
            );
        }
    }
}

/// What to add to our time, for an answer of `date` (cut to whole seconds) that was written at about `middle`.
fn correction(date: Timestamp, middle: Timestamp) -> SignedDuration {
    let offset = date.duration_since(middle) + SignedDuration::from_millis(500);
    if offset.abs() > TOLERATED { offset } else { SignedDuration::ZERO }
}

fn parse(date: &str) -> Option<Timestamp> {
    jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(date).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_of_an_answer_is_read() {
        let date = parse("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        assert_eq!(date.to_string(), "1994-11-06T08:49:37Z");
        assert_eq!(parse("yesterday"), None);
    }

    #[tokio::test]
    async fn what_was_measured_is_added_to_this_machines_time() {
        let ahead = SignedDuration::from_hours(3);
        let server = tower::service_fn(move |_: Request<Body>| async move {
            let date = jiff::fmt::rfc2822::DateTimePrinter::new()
                .timestamp_to_rfc9110_string(&(wall_clock() + ahead));
            let answer = http::Response::builder().header(header::DATE, date.unwrap_or_default());
            answer.body(Body::from(b"{}".to_vec()))
        });
        let clock = ServerClock::default();
        assert!(clock.now().duration_since(wall_clock()).abs() < TOLERATED);
        clock.try_to_measure(&Client::new(server, "default")).await;
        let off = clock.now().duration_since(wall_clock()) - ahead;
        assert!(off.abs() < TOLERATED, "off by {off:#}");
        let dead = tower::service_fn(|_: Request<Body>| async { Err::<http::Response<Body>, _>("nobody") });
        clock.try_to_measure(&Client::new(dead, "default")).await;
        assert!(
            clock.now().duration_since(wall_clock()) > SignedDuration::from_hours(2),
            "it goes on with that"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn between_measurements_it_goes_by_no_clock_that_can_jump() {
        let clock = ServerClock::default();
        clock.set(SignedDuration::from_hours(3));
        let before = clock.now();
        // This machine's clock has not moved by that.
        tokio::time::advance(Duration::from_secs(100)).await;
        assert_eq!(clock.now().duration_since(before), SignedDuration::from_secs(100));
    }

    #[test]
    fn only_an_offset_above_two_seconds_is_corrected() {
        let date = parse("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        for (ours_is_ahead, corrected) in
            [(0, 0), (1_500, 0), (-1_500, 0), (3_600_500, -3_600_000), (-9_500, 10_000)]
        {
            let middle = date + SignedDuration::from_millis(ours_is_ahead);
            assert_eq!(correction(date, middle), SignedDuration::from_millis(corrected), "{ours_is_ahead}");
        }
    }
}
