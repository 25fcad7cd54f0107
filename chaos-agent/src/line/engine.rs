//! The thread that keeps the line moving: reads what came, writes what is due, and sleeps until the next of either.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use edge_api::fault_node::Scheduling;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::prctl::set_timerslack;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{self, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use thiserror::Error;

use super::audit::Audit;
use super::pool::{Limits, TooMuch};
use super::relay::{Queue, Relay};
use super::schedule;
use super::stats::Stats;
use super::tap::Tap;
use crate::clock::boot_ns;

/// The thread's name.
const NAME: &str = "delay-line";
/// How often the heartbeat is renewed, in nanoseconds.
const BEAT_NS: u64 = 100_000_000;
/// Packets that come while the next one leaves so soon, in nanoseconds, are read when it does: one time less to wake up.
/// Those with a delay shorter than this may leave so much late.
const SOON_NS: u64 = 150_000;
/// What leaves so soon, in nanoseconds, is not slept for: going to sleep and waking up take longer.
const AT_ONCE_NS: u64 = 10_000;

/// Is told the time, CLOCK_BOOTTIME in nanoseconds, at the start and every 100 ms or so from then on.
pub type Heartbeat = Box<dyn FnMut(u64) + Send>;

/// Why the engine did not start, or has ended.
#[derive(Debug, Error)]
pub enum EngineError {
    /// It is to hold more than there is.
    #[error(transparent)]
    TooMuch(#[from] TooMuch),
    /// A call that the thread needs failed.
    #[error("the delay line's thread: {what}: {source}")]
    Call {
        /// Which.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A defect.
    #[error("the delay line's thread has panicked")]
    Panicked,
}

fn failed<E: Into<io::Error>>(what: &'static str) -> impl Fn(E) -> EngineError {
    move |source| EngineError::Call { what, source: source.into() }
}

/// What the engine is to do.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The magic in the tickets of this load.
    pub magic: u64,
    /// How much it holds; frames beyond that wait in the TAP's queue. The same limits as those by which the hooks admit
    /// packets, or higher ones.
    pub limits: Limits,
    /// The best that the thread shall have of the machine's CPUs; [`Stats::scheduling`] says what it got. As an ordinary one it
    /// adds milliseconds to delays on a node whose CPUs are all taken (`cargo xtask bench --line --busy 2`). What hooks admit
    /// bounds its work, and the kernel leaves others a twentieth of each CPU (`sched_rt_runtime_us`).
    pub scheduling: Scheduling,
}

/// The running thread. Dropping it is like [`Engine::stop`].
#[derive(Debug)]
pub struct Engine {
    thread: Option<JoinHandle<Result<(), EngineError>>>,
    stop: Arc<Stop>,
    stats: Arc<Stats>,
    tap: Arc<Tap>,
}

/// The wish that the thread ends, and what wakes it.
#[derive(Debug)]
struct Stop {
    is_wanted: AtomicBool,
    bell: EventFd,
}

impl Engine {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the limits are beyond any sense, or the kernel refuses a descriptor or the thread.
    pub fn start(
        tap: Tap,
        options: &Options,
        heartbeat: Heartbeat,
        audit: Audit,
    ) -> Result<Self, EngineError> {
        let (tap, stats) = (Arc::new(tap), Arc::new(Stats::default()));
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let bell = EventFd::from_flags(flags).map_err(failed("an eventfd"))?;
        let stop = Arc::new(Stop { is_wanted: AtomicBool::new(false), bell });
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let timer = TimerFd::new(timerfd::ClockId::CLOCK_BOOTTIME, flags).map_err(failed("a timerfd"))?;
        let worker = Worker {
            relay: Relay::new(options.magic, options.limits, Arc::clone(&stats))?,
            tap: Arc::clone(&tap),
            stop: Arc::clone(&stop),
            timer,
            armed_ns: 0,
            heartbeat,
            next_beat_ns: 0,
            audit,
            drain: tap.queue().saturating_add(options.limits.packets),
            scheduling: options.scheduling,
        };
        let thread = thread::Builder::new().name(NAME.to_owned()).spawn(|| worker.run());
        let thread = thread.map_err(failed("starting it"))?;
        Ok(Self { thread: Some(thread), stop, stats, tap })
    }

    /// What it counts.
    #[must_use]
    pub const fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    /// Its device.
    #[must_use]
    pub fn tap(&self) -> &Tap {
        &self.tap
    }

    /// Whether the thread runs; when it does not although nobody has stopped it, [`Engine::stop`] says why.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Ends the thread. What is in the line, and what waits in the TAP's queue, leaves at once, in the order of its times
    /// of release: early, but nothing is lost. The hooks must have ceased to put packets in; what they put in later
    /// goes with the TAP. Only then is the TAP removed.
    ///
    /// # Errors
    /// When the thread has ended before, with the reason.
    pub fn stop(mut self) -> Result<(), EngineError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), EngineError> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        self.stop.is_wanted.store(true, Ordering::Release);
        // Fails only when the counter is near 2^64: then it is ringing already.
        let _ = self.stop.bell.write(1);
        thread.join().map_err(|_| EngineError::Panicked)?
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::warn!(%error, "the delay line has ended before");
        }
    }
}

/// What lives on the thread.
struct Worker {
    relay: Relay,
    tap: Arc<Tap>,
    stop: Arc<Stop>,
    timer: TimerFd,
    /// What the timer is set to; 0: it is not.
    armed_ns: u64,
    heartbeat: Heartbeat,
    next_beat_ns: u64,
    audit: Audit,
    /// How many frames are read when all has to go: what was in the queue, and not what somebody sends without an end.
    drain: u32,
    scheduling: Scheduling,
}

impl Worker {
    fn run(mut self) -> Result<(), EngineError> {
        // Timers of this thread are on time, not 50 µs late so that others may be waited for.
        set_timerslack(1).map_err(failed("its timer slack"))?;
        // Nobody has set it before.
        let _ = self.relay.stats().scheduling.set(schedule::take(self.scheduling));
        while !self.stop.is_wanted.load(Ordering::Acquire) {
            self.turn()?;
        }
        self.flush()
    }

    /// Writes what is due, reads what came, and sleeps if there was nothing.
    fn turn(&mut self) -> Result<(), EngineError> {
        let now_ns = boot_ns().map_err(failed("the clock"))?;
        let is_beat = now_ns >= self.next_beat_ns;
        if is_beat {
            (self.heartbeat)(now_ns);
            self.next_beat_ns = now_ns.saturating_add(BEAT_NS);
        }
        let now_ns = self.relay.give_out(&*self.tap, now_ns, boot_ns).map_err(failed("the clock"))?;
        if is_beat {
            self.audit.look();
        }
        let queue = self.relay.take_in(&*self.tap, now_ns).map_err(failed("reading the TAP"))?;
        if is_beat && queue == Queue::Empty {
            self.settle();
        }
        let next_ns = self.relay.next_deadline();
        let is_at_once = next_ns.is_some_and(|at| at <= now_ns.saturating_add(AT_ONCE_NS));
        if queue == Queue::Open || is_at_once { Ok(()) } else { self.wait(now_ns, next_ns, queue) }
    }

    /// Has counted out what was lost; what the TAP does not take now is found again by the next looks.
    fn settle(&mut self) {
        for (state, surplus) in self.audit.judge(self.relay.total(), self.relay.held()) {
            if let Err(error) = self.relay.settle(&*self.tap, state, surplus) {
                tracing::debug!(%error, state, ?surplus, "packets that were lost in the line stay counted until the next look");
            }
        }
    }

    /// Sleeps until a frame comes (if there is room for one), a packet is due, or it is time for a heartbeat or to end.
    fn wait(&mut self, now_ns: u64, next_ns: Option<u64>, queue: Queue) -> Result<(), EngineError> {
        let at = next_ns.unwrap_or(0);
        if at != self.armed_ns {
            // A timerfd, since a timeout of ppoll(2) may be late by a thousandth of it, whatever the timer slack
            // (`select_estimate_accuracy` of fs/select.c).
            let expiration = Expiration::OneShot(TimeSpec::from_duration(Duration::from_nanos(at)));
            self.timer.set(expiration, TimerSetTimeFlags::TFD_TIMER_ABSTIME).map_err(failed("its timer"))?;
            self.armed_ns = at;
        }
        let timeout = Duration::from_nanos(self.next_beat_ns.saturating_sub(now_ns));
        let is_soon = next_ns.is_some_and(|at| at <= now_ns.saturating_add(SOON_NS));
        let wanted = if is_soon || queue == Queue::Blocked { PollFlags::empty() } else { PollFlags::POLLIN };
        let mut files = [
            PollFd::new(self.tap.as_fd(), wanted),
            PollFd::new(self.timer.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.stop.bell.as_fd(), PollFlags::POLLIN),
        ];
        match ppoll(&mut files, Some(TimeSpec::from_duration(timeout)), None) {
            Ok(_) if files[0].revents().is_some_and(|seen| seen.contains(PollFlags::POLLERR)) => {
                Err(failed("the TAP was removed")(Errno::ENODEV))
            }
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(failed("waiting")(error)),
        }
    }

    fn flush(&mut self) -> Result<(), EngineError> {
        let read = |stats: &Stats| stats.in_packets.get() + stats.malformed.get();
        let already = read(self.relay.stats());
        loop {
            let now_ns = boot_ns().map_err(failed("the clock"))?;
            let queue = self.relay.take_in(&*self.tap, now_ns).map_err(failed("reading the TAP"))?;
            while !self.relay.is_empty() {
                self.relay.give_out(&*self.tap, u64::MAX, boot_ns).map_err(failed("the clock"))?;
            }
            let is_enough = read(self.relay.stats()) - already >= u64::from(self.drain);
            if queue == Queue::Empty || is_enough {
                return Ok(());
            }
        }
    }
}
