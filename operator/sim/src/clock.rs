//! The simulated time, for whoever asks outside of tokio's clock: the program's `clock_gettime` and the timeline.
//! One simulation is one process, so it is global.

use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use jiff::Timestamp;

use crate::plan::REPLICAS;
use crate::world::{DEVICES, operator};

/// 2026-01-01T00:00:00Z: where every simulation begins.
const BEGINNING: i64 = 1_767_225_600;
/// The machine of the devices; those of the operators come before it.
const OF_DEVICES: usize = REPLICAS;
/// Machines whose clocks can be wrong.
const MACHINES: usize = REPLICAS + 1;
/// Neither of them: the API server's, whose clock is right, and the world's.
const ELSEWHERE: usize = MACHINES;

static ELAPSED: AtomicU64 = AtomicU64::new(0);
static WRONG_BY: [AtomicI64; MACHINES] = [const { AtomicI64::new(0) }; MACHINES];
static RUNNING: AtomicUsize = AtomicUsize::new(ELSEWHERE);

/// By how many seconds the clocks on the walls are wrong. The API server's never is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wrong {
    /// Of each operator's machine.
    pub operators: [i64; REPLICAS],
    /// Of the devices'.
    pub devices: i64,
}

/// Simulated time since the beginning.
pub fn elapsed() -> Duration {
    Duration::from_nanos(ELAPSED.load(Ordering::Relaxed))
}

/// It is so late now.
pub fn set(elapsed: Duration) {
    ELAPSED.store(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
}

/// From now on the clocks on the walls are wrong so.
pub fn jump(wrong: Wrong) {
    for (clock, seconds) in WRONG_BY.iter().zip(wrong.operators.into_iter().chain([wrong.devices])) {
        clock.store(seconds, Ordering::Relaxed);
    }
}

/// One of the machines, or none of them.
#[derive(Clone, Copy, Debug)]
pub struct Machine(usize);

impl Machine {
    /// That of a host.
    pub fn of(host: &str) -> Self {
        let replica = (0..REPLICAS).find(|replica| operator(*replica) == host);
        Self(replica.or((host == DEVICES).then_some(OF_DEVICES)).unwrap_or(ELSEWHERE))
    }

    /// From now on it runs, until another one does. A simulation has one thread, and lets one host run at a time.
    pub fn runs(self) {
        RUNNING.store(self.0, Ordering::Relaxed);
    }

    /// No machine runs now, but the world.
    pub fn stops() {
        RUNNING.store(ELSEWHERE, Ordering::Relaxed);
    }
}

/// The true time of day.
pub fn true_time() -> Timestamp {
    let start = Timestamp::from_second(BEGINNING).unwrap_or(Timestamp::UNIX_EPOCH);
    start.saturating_add(elapsed()).unwrap_or(Timestamp::MAX)
}

/// What the clock on the wall of the machine that runs shows: seconds and nanoseconds since 1970.
pub fn wall() -> (i64, i64) {
    let now = elapsed();
    let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX / 2);
    let wrong = WRONG_BY.get(RUNNING.load(Ordering::Relaxed)).map_or(0, |by| by.load(Ordering::Relaxed));
    (BEGINNING + seconds + wrong, i64::from(now.subsec_nanos()))
}

/// What a clock shows that only goes forward, in seconds and nanoseconds. It begins late enough to be counted back from.
pub fn monotonic() -> (i64, i64) {
    let now = elapsed();
    let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX / 2);
    (1_000_000 + seconds, i64::from(now.subsec_nanos()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_machine_has_a_clock_of_its_own_and_the_api_server_has_the_true_time() {
        let shows = |host| {
            Machine::of(host).runs();
            wall().0 - BEGINNING
        };
        jump(Wrong { operators: [-7, 30], devices: 3600 });
        let hosts = ["operator-0", "operator-1", "devices", "api"];
        assert_eq!(hosts.map(shows), [-7, 30, 3600, 0]);
        Machine::of("devices").runs();
        Machine::stops();
        assert_eq!(wall().0, BEGINNING);
        jump(Wrong::default());
        assert_eq!(hosts.map(shows), [0; 4]);
    }
}
