//! How soon and how often a failed thing is tried again: backoff with full jitter, and token buckets. Pure: the
//! clock and the draw are arguments.

use std::time::Duration;

use tokio::time::Instant;

/// Exponential backoff with full jitter: the ceiling doubles with each failure, and the delay is drawn from
/// zero up to it, so that clients that failed together do not return together.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// Ceiling after the first failure.
    pub base: Duration,
    /// Highest ceiling.
    pub cap: Duration,
}

impl Backoff {
    /// The delay after the `failures`-th failure in a row (from 1), for a draw in `0.0..1.0`.
    pub fn delay(self, failures: u32, draw: f64) -> Duration {
        let doublings = failures.saturating_sub(1).min(32);
        let ceiling = self.base.saturating_mul(2_u32.saturating_pow(doublings)).min(self.cap);
        ceiling.mul_f64(draw.clamp(0.0, 1.0))
    }
}

/// A token bucket: `burst` at once, `rate` a second in the long run.
#[derive(Clone, Debug)]
pub struct Bucket {
    burst: f64,
    rate: f64,
    tokens: f64,
    filled: Option<Instant>,
}

impl Bucket {
    /// A full bucket; `rate` in tokens a second, above zero.
    pub fn new(burst: u32, rate: f64) -> Self {
        let burst = f64::from(burst.max(1));
        Self { burst, rate, tokens: burst, filled: None }
    }

    /// Takes a token, or says how long until there is one.
    ///
    /// # Errors
    /// The wait, when there is none now.
    pub fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let wait = self.wait(now);
        if !wait.is_zero() {
            return Err(wait);
        }
        self.tokens -= 1.0;
        Ok(())
    }

    /// How long until there is a token; zero when there is one, which stays.
    pub fn wait(&mut self, now: Instant) -> Duration {
        let elapsed = self.filled.map_or(Duration::ZERO, |filled| now.saturating_duration_since(filled));
        self.tokens = (self.tokens + elapsed.as_secs_f64() * self.rate).min(self.burst);
        self.filled = Some(now);
        let missing = (1.0 - self.tokens).max(0.0);
        Duration::try_from_secs_f64(missing / self.rate).unwrap_or(Duration::MAX)
    }

    /// Takes the next token that nobody else waits for, and says how long until there is that one; `longest` and none, when it would be
    /// longer. Who comes by [`Self::take`] meanwhile waits, too.
    pub fn reserve(&mut self, now: Instant, longest: Duration) -> Duration {
        let wait = self.wait(now);
        if wait >= longest {
            return longest;
        }
        self.tokens -= 1.0;
        wait
    }

    /// Gives back a token that was not used.
    pub fn give_back(&mut self) {
        self.tokens = (self.tokens + 1.0).min(self.burst);
    }
}

/// What all devices of a process share.
#[derive(Clone, Debug)]
pub struct Budgets {
    /// Retries of commands.
    pub retries: Bucket,
    /// Statuses of phases that lead somewhere.
    pub progress: Bucket,
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff { base: Duration::from_secs(1), cap: Duration::from_secs(60) };

    #[test]
    fn the_ceiling_of_a_delay_doubles_up_to_the_cap() {
        let ceilings: Vec<u64> = (1..=8).map(|failures| BACKOFF.delay(failures, 1.0).as_secs()).collect();
        assert_eq!(ceilings, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(BACKOFF.delay(u32::MAX, 1.0), BACKOFF.cap);
    }

    #[test]
    fn a_delay_is_drawn_from_the_whole_range_below_its_ceiling() {
        assert_eq!(BACKOFF.delay(3, 0.0), Duration::ZERO);
        assert_eq!(BACKOFF.delay(3, 0.25), Duration::from_secs(1));
    }

    #[test]
    fn a_bucket_allows_a_burst_and_then_its_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(3, 2.0);
        let taken = (0..10).filter(|_| bucket.take(start).is_ok()).count();
        assert_eq!(taken, 3);
        assert_eq!(bucket.take(start), Err(Duration::from_millis(500)));
        let later = start + Duration::from_secs(1);
        let taken = (0..10).filter(|_| bucket.take(later).is_ok()).count();
        assert_eq!(taken, 2);
    }

    #[test]
    fn who_reserves_waits_behind_those_that_did_before() {
        let start = Instant::now();
        let (mut bucket, longest) = (Bucket::new(2, 2.0), Duration::from_secs(2));
        let waits: Vec<u128> = (0..8).map(|_| bucket.reserve(start, longest).as_millis()).collect();
        assert_eq!(waits, [0, 0, 500, 1000, 1500, 2000, 2000, 2000]);
        assert_eq!(bucket.take(start + Duration::from_secs(1)), Err(Duration::from_secs(1)));
        assert!(bucket.take(start + Duration::from_secs(2)).is_ok());
    }

    #[test]
    fn a_bucket_never_holds_more_than_its_burst() {
        let start = Instant::now();
        let mut bucket = Bucket::new(2, 100.0);
        assert!(bucket.take(start).is_ok());
        let much_later = start + Duration::from_secs(3600);
        assert_eq!((0..10).filter(|_| bucket.take(much_later).is_ok()).count(), 2);
    }
}
