//! The simulated time, for whoever asks outside of tokio's clock: the program's `clock_gettime` and the timeline.
//! One simulation is one process, so it is global.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;

/// 2026-01-01T00:00:00Z: where every simulation begins.
const BEGINNING: i64 = 1_767_225_600;

static ELAPSED: AtomicU64 = AtomicU64::new(0);
static WRONG_BY: AtomicI64 = AtomicI64::new(0);

/// Simulated time since the beginning.
pub fn elapsed() -> Duration {
    Duration::from_nanos(ELAPSED.load(Ordering::Relaxed))
}

/// It is so late now.
pub fn set(elapsed: Duration) {
    ELAPSED.store(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
}

/// From now on the clocks on the walls of all machines but the API server's are wrong by so many seconds.
pub fn jump(seconds: i64) {
    WRONG_BY.store(seconds, Ordering::Relaxed);
}

/// The true time of day.
pub fn true_time() -> Timestamp {
    let start = Timestamp::from_second(BEGINNING).unwrap_or(Timestamp::UNIX_EPOCH);
    start.saturating_add(elapsed()).unwrap_or(Timestamp::MAX)
}

/// What the clock on the wall shows: seconds and nanoseconds since 1970.
pub fn wall() -> (i64, i64) {
    let now = elapsed();
    let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX / 2);
    (BEGINNING + seconds + WRONG_BY.load(Ordering::Relaxed), i64::from(now.subsec_nanos()))
}

/// What a clock shows that only goes forward, in seconds and nanoseconds. It begins late enough to be counted back from.
pub fn monotonic() -> (i64, i64) {
    let now = elapsed();
    let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX / 2);
    (1_000_000 + seconds, i64::from(now.subsec_nanos()))
}
