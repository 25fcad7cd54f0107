//! Whether the machine ran us while a test program ran. On a shared one all programs may stand still for a while, or those of one CPU, whose
//! host runs another machine's: packets are late then that nobody made late, and a story that fails by that says nothing of what it is about.

use std::fmt;
use std::fs;
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sched::CpuSet;

use crate::cpus;

/// How often it looks whether it is run …
const BEAT: Duration = Duration::from_millis(10);
/// … and how late a look is at least that counts. The kernel gives each of a few busy programs some milliseconds in turn; the shortest
/// time after which a story's engine counts as stalled is five times as long.
const LATE: Duration = Duration::from_millis(100);

/// Watches each CPU from a thread that stays there, until it is asked or forgotten: a thread that may move would be run by another CPU, and
/// see nothing of one that stands still.
pub(super) struct Watch {
    looks: Vec<(SyncSender<()>, JoinHandle<Stalls>)>,
    before: Option<Times>,
}

/// What it saw.
#[derive(Clone, Debug, Default)]
pub(super) struct Stalls {
    /// When a CPU stood still: from the last look to the one that was late.
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
        // Where the kernel tells of none, nothing is seen, and nothing runs again.
        Self { looks: cpus::allowed().unwrap_or_default().into_iter().map(look).collect(), before: times() }
    }

    /// What it saw until now.
    pub(super) fn end(self) -> Stalls {
        let mut seen = Stalls::default();
        for (stop, looks) in self.looks {
            drop(stop);
            seen.times.extend(looks.join().unwrap_or_default().times);
        }
        seen.stolen = self.before.zip(times()).map(|(before, after)| share(before, after));
        seen
    }
}

/// Looks from this CPU; were it gone meanwhile, from any other.
fn look(cpu: CpuSet) -> (SyncSender<()>, JoinHandle<Stalls>) {
    let (stop, stopped) = mpsc::sync_channel(1);
    let mut last = Instant::now();
    let looks = thread::spawn(move || {
        let _ = cpus::stay_on(&cpu);
        let mut seen = Stalls::default();
        loop {
            let waited = stopped.recv_timeout(BEAT);
            let now = Instant::now();
            seen.look(last, now);
            last = now;
            if waited != Err(RecvTimeoutError::Timeout) {
                return seen;
            }
        }
    });
    (stop, looks)
}

impl Stalls {
    fn look(&mut self, last: Instant, now: Instant) {
        if now - last >= BEAT + LATE {
            self.times.push((last, now));
        }
    }

    /// Did one stand still between these?
    pub(super) fn any(&self, from: Instant, to: Instant) -> bool {
        self.times.iter().any(|(begin, end)| *begin < to && *end > from)
    }
}

impl fmt::Display for Stalls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let longest = self.times.iter().map(|(begin, end)| *end - *begin).max().unwrap_or_default();
        write!(f, "a CPU stood still {} times", self.times.len())?;
        if !self.times.is_empty() {
            write!(f, ", for up to {} ms", longest.as_millis())?;
        }
        self.stolen.map_or(Ok(()), |stolen| write!(f, ", and the host gave {stolen} % of the time to others"))
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
    fn a_look_that_is_much_too_late_is_a_cpu_that_stood_still() {
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
        let said = "a CPU stood still 2 times, for up to 410 ms, and the host gave 7 % of the time to others";
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
        let watch = Watch::start();
        assert!(!watch.looks.is_empty());
        let seen = watch.end();
        assert!(seen.stolen.is_some_and(|stolen| stolen <= 100), "{seen:?}");
    }
}
