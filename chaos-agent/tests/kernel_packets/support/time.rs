//! The kernel's clock, a steady beat, and waiting for conditions.

use std::time::{Duration, SystemTime};

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_gettime, clock_nanosleep};

/// CLOCK_BOOTTIME in nanoseconds, by which rules end.
pub(crate) fn boot_ns() -> u64 {
    fault_rig::now_ns().unwrap()
}

/// The clock of the wall, by which the kernel stamps what arrives.
#[expect(clippy::disallowed_methods, reason = "it is compared with what the kernel says")]
pub(crate) fn wall() -> SystemTime {
    SystemTime::now()
}

/// Milliseconds in nanoseconds.
pub(crate) const fn ms(milliseconds: u64) -> u64 {
    milliseconds * 1_000_000
}

/// Whether times say nothing about a real machine.
pub(crate) fn is_emulated() -> bool {
    fault_rig::slower() > 1
}

/// How long a story waits for anything, in nanoseconds.
pub(crate) fn patience() -> u64 {
    ms_here(30_000)
}

/// Milliseconds of a real machine in nanoseconds of this one.
pub(crate) fn ms_here(milliseconds: u64) -> u64 {
    ms(milliseconds) * fault_rig::slower()
}

/// A steady beat, so that a sender does not run faster than receivers are scheduled.
pub(crate) struct Beat {
    every_ns: u64,
    next_ns: u64,
}

impl Beat {
    pub(crate) fn new(every: Duration) -> Self {
        let every_ns = u64::try_from(every.as_nanos()).unwrap();
        Self { every_ns, next_ns: monotonic_ns() + every_ns }
    }

    /// Waits for the next beat; one that was missed is not made up for.
    pub(crate) fn wait(&mut self) {
        let at = TimeSpec::from_duration(Duration::from_nanos(self.next_ns));
        // A signal only makes a beat come early.
        let _ = clock_nanosleep(ClockId::CLOCK_MONOTONIC, ClockNanosleepFlags::TIMER_ABSTIME, &at);
        self.next_ns = (self.next_ns + self.every_ns).max(monotonic_ns());
    }
}

/// Waits until `condition` gives something, looking every millisecond, thirty seconds on a real machine; then panics with `state`.
pub(crate) fn eventually<T>(mut condition: impl FnMut() -> Option<T>, state: impl FnOnce() -> String) -> T {
    let end = monotonic_ns() + patience();
    let mut beat = Beat::new(Duration::from_millis(1));
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(monotonic_ns() < end, "not in time: {}", state());
        beat.wait();
    }
}

fn monotonic_ns() -> u64 {
    nanoseconds(clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap())
}

fn nanoseconds(time: TimeSpec) -> u64 {
    u64::try_from(Duration::from(time).as_nanos()).unwrap()
}
