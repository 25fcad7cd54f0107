//! The one wait: polls a condition until a deadline, and stops early on Ctrl-C.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::interrupt;

/// Polls `condition` every `interval` until it gives something.
///
/// # Errors
/// After `limit`, saying what was waited for; with the condition's own error; on Ctrl-C.
pub fn until<T>(
    what: &str,
    limit: Duration,
    interval: Duration,
    mut condition: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    until_done(what, limit, interval, || {
        interrupt::check()?;
        condition()
    })
}

/// As [`until`], but for cleaning up: goes on after Ctrl-C.
///
/// # Errors
/// After `limit`, saying what was waited for; with the condition's own error.
pub fn until_done<T>(
    what: &str,
    limit: Duration,
    interval: Duration,
    mut condition: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let started = Instant::now();
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        if started.elapsed() >= limit {
            bail!("{what}: not within {} s", limit.as_secs());
        }
        pause(interval);
    }
}

/// As [`until`], for a condition that waits itself.
///
/// # Errors
/// As [`until`].
pub async fn until_async<T>(
    what: &str,
    limit: Duration,
    interval: Duration,
    mut condition: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let started = Instant::now();
    loop {
        interrupt::check()?;
        if let Some(value) = condition().await? {
            return Ok(value);
        }
        if started.elapsed() >= limit {
            bail!("{what}: not within {} s", limit.as_secs());
        }
        tokio::time::sleep(interval).await;
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is the wait for a condition with a deadline that others use"
)]
fn pause(interval: Duration) {
    thread::sleep(interval);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wait_for_a_future_ends_likewise() {
        let mut left = 3;
        let counted = until_async("a countdown", Duration::from_secs(5), Duration::ZERO, async || {
            left -= 1;
            Ok((left == 0).then_some("done"))
        });
        assert_eq!(counted.await.unwrap(), "done");
        let never = until_async("the impossible", Duration::ZERO, Duration::ZERO, async || Ok(None::<()>));
        assert_eq!(never.await.unwrap_err().to_string(), "the impossible: not within 0 s");
    }

    #[test]
    fn a_wait_ends_with_the_condition_or_says_what_did_not_come() {
        let mut left = 3;
        let counted = until("a countdown", Duration::from_secs(5), Duration::ZERO, || {
            left -= 1;
            Ok((left == 0).then_some("done"))
        });
        assert_eq!(counted.unwrap(), "done");
        let never = until("the impossible", Duration::ZERO, Duration::ZERO, || Ok(None::<()>));
        assert_eq!(never.unwrap_err().to_string(), "the impossible: not within 0 s");
    }
}
