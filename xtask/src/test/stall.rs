//! Whether the machine ran us while a test program ran. On a shared one all programs may stand still for a while: packets are late then that
//! nobody made late, and a story that fails by that says nothing of what it is about.

use std::fmt;
use std::fs;
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How often it looks whether it is run …
const BEAT: Duration = Duration::from_millis(10);
/// … and how late a look is at least that counts. The kernel gives each of a few busy programs some milliseconds in turn; the shortest
/// time after which a story's engine counts as stalled is five times as long.
const LATE: Duration = Duration::from_millis(100);

/// Watches, until it is asked or forgotten.
pub(super) struct Watch {
    stop: SyncSender<()>,
    looks: JoinHandle<Stalls>,
    before: Option<Times>,
}

/// What it saw.
#[derive(Clone, Debug, Default)]
pub(super) struct Stalls {
    /// When the machine stood still: from the last look to the one that was late.
    times: Vec<(Instant, Instant)>,
    /// Processor time that its host gave to others, in percent; none where it does not say.
    stolen: Option<u64>,
}

/// Processor time since the machine's start, in ticks (proc_stat(5)).
#[derive(Clone, Copy)]
struct Times {
    all: u64,
    stolen: u64,
}

impl Watch {
    /// From now on.
    pub(super) fn start() -> Self {
        let (stop, stopped) = mpsc::sync_channel(1);
        let looks = thread::spawn(move || {
            let (mut seen, mut last) = (Stalls::default(), Instant::now());
            while stopped.recv_timeout(BEAT) == Err(RecvTimeoutError::Timeout) {
                let now = Instant::now();
                seen.look(last, now);
                last = now;
            }
            seen
        });
        Self { stop, looks, before: times() }
    }

    /// What it saw until now.
    pub(super) fn end(self) -> Stalls {
        drop(self.stop);
        let mut seen = self.looks.join().unwrap_or_default();
        seen.stolen = self.before.zip(times()).map(|(before, after)| share(before, after));
        seen
    }
}

impl Stalls {
    fn look(&mut self, last: Instant, now: Instant) {
        if now - last >= BEAT + LATE {
            self.times.push((last, now));
        }
    }

    /// Did it stand still between these?
    pub(super) fn any(&self, from: Instant, to: Instant) -> bool {
        self.times.iter().any(|(begin, end)| *begin < to && *end > from)
    }
}

impl fmt::Display for Stalls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let longest = self.times.iter().map(|(begin, end)| *end - *begin).max().unwrap_or_default();
        write!(f, "the machine stood still {} times", self.times.len())?;
        if !self.times.is_empty() {
            write!(f, ", for up to {} ms", longest.as_millis())?;
        }
        self.stolen.map_or(Ok(()), |stolen| write!(f, ", and its host gave {stolen} % of its time to others"))
    }
}

fn share(before: Times, after: Times) -> u64 {
    let all = after.all.saturating_sub(before.all).max(1);
    100 * after.stolen.saturating_sub(before.stolen) / all
}

fn times() -> Option<Times> {
    read(&fs::read_to_string("/proc/stat").ok()?)
}

/// The first line: user, nice, system, idle, iowait, irq, softirq, steal; what follows is part of user and nice.
fn read(stat: &str) -> Option<Times> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = line.split_whitespace().take(8).filter_map(|field| field.parse().ok()).collect();
    let stolen = *ticks.get(7)?;
    Some(Times { all: ticks.iter().sum(), stolen })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_that_is_much_too_late_is_a_machine_that_stood_still() {
        let (begin, mut seen) = (Instant::now(), Stalls::default());
        let at = |ms| begin + Duration::from_millis(ms);
        let mut last = 0;
        for took in [10, 15, 60, 109, 410, 10, 110] {
            seen.look(at(last), at(last + took));
            last += took;
        }
        // From 194 to 604 ms, and from 614 to 724.
        let stalls = [(0, 194), (0, 195), (603, 614), (604, 614), (700, 800), (724, 800)];
        assert_eq!(
            stalls.map(|(from, to)| seen.any(at(from), at(to))),
            [false, true, true, false, true, false]
        );
        seen.stolen = Some(7);
        let said =
            "the machine stood still 2 times, for up to 410 ms, and its host gave 7 % of its time to others";
        assert_eq!(seen.to_string(), said);
    }

    #[test]
    fn time_that_is_stolen_is_a_share_of_all_time() {
        let stat = |steal| format!("cpu  10 0 10 60 0 0 0 {steal} 5 0\ncpu0 1 2 3 4 5 6 7 8 9 0\n");
        let (before, after) = (read(&stat(0)).unwrap(), read(&stat(20)).unwrap());
        assert_eq!(share(before, after), 100);
        assert_eq!(share(before, Times { all: before.all + 80, stolen: 20 }), 25);
        assert!(read("cpu 1 2 3\n").is_none());
    }

    #[test]
    fn a_watch_ends_when_it_is_asked() {
        let seen = Watch::start().end();
        assert!(seen.stolen.is_some_and(|stolen| stolen <= 100), "{seen:?}");
    }
}
