//! When a reconcile that failed is tried again, of whichever controller. What fails once is tried again soon; what fails again and again
//! waits longer each time, for a draw of its own, and for a token of those that all objects of the process share, so that an API
//! server in need is not asked more often the more of it fails. [`wait`] decides that, purely; [`Retries`] has the clock and the dice.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use crate::args::RetryArgs;
use crate::budget::{Backoff, Bucket};
use crate::lock::lock;
use crate::metrics::ControllerMetrics;
use crate::shared::draw;

/// Delay after the first failure of one that was decided on what is not the latest: the news is under way.
const CATCH_UP: Duration = Duration::from_millis(200);
/// While a cache does not show our own last write of an object: the news is under way, and this is in case it is lost. That nothing is
/// decided meanwhile is no failure.
pub(crate) const IN_CASE_NEWS_IS_LOST: Duration = Duration::from_secs(1);
/// Whatever changes around a fleet or a profile that failed, it is not looked at for so long; for no longer, since what has changed
/// may be what it waits for, and since only one of its devices may be refused.
const REST: Duration = Duration::from_secs(1);
/// Nobody waits longer for a token than until it would be looked at anyway.
const LONGEST: Duration = Duration::from_secs(300);

/// Why a reconcile failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The object has changed since it was read, or is known to be a later one than the cache has.
    Outdated,
    /// The API server refused for another reason, could not be reached, or did not answer in time.
    Broken,
}

/// What all reconciles of the process share that failed.
#[derive(Debug)]
pub(crate) struct Retries {
    backoff: Backoff,
    tokens: Mutex<Bucket>,
}

impl Retries {
    /// As the flags say.
    pub(crate) fn new(args: &RetryArgs) -> Self {
        let tokens = Mutex::new(Bucket::new(args.retry_burst, args.retry_rate));
        Self { backoff: args.backoff(), tokens }
    }

    /// Until when one that is tried again after `delay` rests, unless it changes itself.
    pub(crate) fn rests_until(delay: Duration) -> Instant {
        Instant::now() + delay.min(REST)
    }

    /// Counts a reconcile of a controller, whose object failed for the `failures`-th time in a row (from 1); gives how long until it is
    /// tried again.
    pub(crate) fn blame(&self, controller: &ControllerMetrics, failures: u32, failure: Failure) -> Duration {
        controller.retries.inc();
        let tokens = &mut lock(&self.tokens);
        let (delay, for_token) = wait((failures, failure), self.backoff, tokens, Instant::now(), draw());
        if for_token {
            controller.put_off.inc();
        }
        delay
    }
}

/// How long until the reconcile that failed for the `failures`-th time in a row (from 1) is tried again, and whether it is for want of a
/// token that it takes so long. `draw` is in `0.0..1.0`.
fn wait(
    (failures, failure): (u32, Failure),
    backoff: Backoff,
    tokens: &mut Bucket,
    now: Instant,
    draw: f64,
) -> (Duration, bool) {
    // That the object has changed once is nobody's failure.
    let counted = match failure {
        Failure::Outdated => failures.saturating_sub(1),
        Failure::Broken => failures,
    };
    if counted == 0 {
        return (CATCH_UP, false);
    }
    let delay = backoff.delay(counted, draw).max(CATCH_UP);
    if failures < 2 {
        return (delay, false);
    }
    let token = tokens.reserve(now, LONGEST);
    // Those that find the longest wait do not come back together either.
    let token = if token == LONGEST { token.mul_f64(0.75 + 0.25 * draw.clamp(0.0, 1.0)) } else { token };
    (delay.max(token), token > delay)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::Failure::{Broken, Outdated};
    use super::*;
    use crate::args::Args;
    use crate::metrics::Metrics;

    const BACKOFF: Backoff = Backoff { base: Duration::from_secs(1), cap: Duration::from_secs(60) };

    fn delays(failure: Failure, draw: f64) -> Vec<f64> {
        let (mut tokens, now) = (Bucket::new(200, 50.0), Instant::now());
        let delay = |failures| wait((failures, failure), BACKOFF, &mut tokens, now, draw).0.as_secs_f64();
        (1..=9).map(delay).collect()
    }

    #[test]
    fn conflicts_wait_for_the_news_once_and_then_longer_each_time_by_a_draw() {
        assert_eq!(delays(Outdated, 1.0), [0.2, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]);
        assert_eq!(delays(Broken, 1.0), [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]);
        assert_eq!(delays(Outdated, 0.25)[4], 2.0, "of the whole range below the ceiling");
        assert!(delays(Broken, 0.0).iter().all(|delay| *delay == 0.2), "never at once");
    }

    #[test]
    fn however_many_fail_again_and_again_they_come_back_as_often_as_the_process_may_retry() {
        let (mut tokens, start) = (Bucket::new(200, 50.0), Instant::now());
        // Ten thousand devices, an API server that refuses all for a minute; who is due is refused once more.
        let mut due: Vec<(Duration, u32)> = vec![(Duration::ZERO, 1); 10_000];
        let (mut retries, mut draws) = (0_u32, (1_u32..).map(|n| f64::from(n * 37 % 100) / 100.0));
        for seconds in 0..60 {
            let now = Duration::from_secs(seconds);
            for (at, failures) in due.iter_mut().filter(|(at, _)| *at <= now) {
                retries += u32::from(*failures > 2);
                let draw = draws.next().unwrap();
                let (delay, _) = wait((*failures, Broken), BACKOFF, &mut tokens, start + now, draw);
                (*at, *failures) = (now + delay, *failures + 1);
            }
        }
        assert!(retries <= 200 + 50 * 60, "{retries} retries of such as failed twice");
        assert!(retries > 2_000, "{retries} retries: the budget is there to be used");
    }

    #[test]
    fn one_that_fails_alone_takes_no_longer_for_the_budget() {
        let (mut tokens, now) = (Bucket::new(200, 50.0), Instant::now());
        let waits = (1..=20).map(|failures| wait((failures, Broken), BACKOFF, &mut tokens, now, 0.5));
        assert!(waits.into_iter().all(|(delay, for_token)| !for_token && delay <= Duration::from_secs(30)));
    }

    #[test]
    fn nobody_waits_for_a_token_longer_than_until_it_would_be_looked_at_anyway() {
        let (mut tokens, now) = (Bucket::new(1, 0.01), Instant::now());
        let mut wait = |draw| wait((2, Outdated), BACKOFF, &mut tokens, now, draw).0;
        for _ in 0..50 {
            assert!(wait(1.0) <= LONGEST);
        }
        assert_eq!(wait(0.0), LONGEST.mul_f64(0.75));
    }

    #[tokio::test(start_paused = true)]
    async fn controllers_share_the_tokens_and_each_counts_what_waits_for_one() {
        let metrics = Metrics::new().unwrap();
        let flags = ["edge-operator", "--retry-burst=3", "--retry-rate=0.1", "--backoff-cap=1s"];
        let retries = Retries::new(&Args::parse_from(flags).retry);
        let (fleet, fault) = (metrics.controller("fleet"), metrics.controller("fault"));
        for _ in 0..3 {
            assert!(retries.blame(&fleet, 2, Broken) <= Duration::from_secs(1));
        }
        let waits = [(); 2].map(|()| retries.blame(&fault, 2, Outdated).as_secs());
        assert_eq!(waits, [10, 20], "behind the fleets, and behind each other");
        let rests = |seconds| Retries::rests_until(Duration::from_secs(seconds)) - Instant::now();
        assert_eq!(rests(20), REST, "what changes meanwhile is looked at before that");
        assert!(retries.blame(&fault, 1, Outdated) < Duration::from_secs(1), "who fails once needs none");
        assert_eq!((fleet.retries.get(), fleet.put_off.get()), (3, 0));
        assert_eq!((fault.retries.get(), fault.put_off.get()), (3, 2));
    }
}
