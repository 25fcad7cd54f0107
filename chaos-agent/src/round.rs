//! The enforcer's thread: a round for each change, at once; in between hooks one by one, spare counters by the dozen, and what
//! nothing refers to any more in portions, so that a rule never waits for more than one interface.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use fault_abi::line::Held;

use crate::clock;
use crate::enforce::{Enforcer, Outcome};
use crate::kernel::{Ahead, Kernel, Swept};
use crate::shared::{Shared, Stats, Wake};

/// Without any change the enforcer comes around so often: to correct deadlines by a clock that was set, to try
/// refused hooks again, to look at the ends of line and splitter, to forget flows.
const BEAT: Duration = Duration::from_secs(10);
/// What the kernel refused is tried again after so long.
const RETRY: Duration = Duration::from_secs(1);
/// Where somebody else removes our programs at the ends of line and splitter again and again, they are attached again no sooner than so
/// long after the last time.
const MEND_PAUSE: Duration = Duration::from_secs(1);
/// The kernel's memory for counters is looked for again after so long: a worker of its fills it up, by the portion.
const REFILL: Duration = Duration::from_millis(2);

/// What has been in quarantine for so much longer than it need be, in nanoseconds, is cleared even when each turn is a round: where the
/// world changes all the time.
const OVERDUE_NS: u64 = 2_000_000_000;

/// Runs until it is stopped. Blocking: it has a thread of its own.
///
/// # Errors
/// When a clock cannot be read.
pub fn run<K: Kernel>(enforcer: Enforcer<K>, shared: &Arc<Shared>) -> Result<()> {
    let mut turns = Turns::new(enforcer);
    loop {
        let wake = shared.wait(turns.pause()?);
        if wake.stop {
            let qdiscs = turns.enforcer.added_qdiscs();
            drop(turns);
            shared.leave(qdiscs);
            return Ok(());
        }
        turns.turn(wake, shared)?;
    }
}

/// When what the kernel did not take is tried again. One does not wait for the other: a refusal may last, and what is cleared may
/// be what it lacks room for.
#[derive(Default)]
struct Again {
    /// A round.
    round: Option<Instant>,
    /// Clearing what was in quarantine.
    clear: Option<Instant>,
}

impl Again {
    fn is_round_due(&self, now: Instant) -> bool {
        self.round.is_some_and(|at| at <= now)
    }

    fn may_clear(&self, now: Instant) -> bool {
        self.clear.is_none_or(|at| at <= now)
    }
}

/// What the enforcer's thread knows from one turn to the next.
struct Turns<K> {
    enforcer: Enforcer<K>,
    last_beat: Instant,
    again: Again,
    /// Somebody else may have removed programs at the ends of line and splitter.
    are_ends_in_doubt: bool,
    /// When they may be attached again.
    may_mend_at: Option<Instant>,
    /// Interfaces may lack hooks that they are to get.
    is_unhooked: bool,
    /// All rules were in the kernel once.
    is_held: bool,
    /// When there is work ahead to be done.
    ahead_at: Option<Instant>,
    sweep: Sweep,
    /// A rule that found no slot may find one now.
    has_made_room: bool,
    /// The picture is not of what there is.
    has_changed: bool,
}

impl<K: Kernel> Turns<K> {
    fn new(enforcer: Enforcer<K>) -> Self {
        let now = Instant::now();
        Self {
            enforcer,
            last_beat: now,
            again: Again::default(),
            are_ends_in_doubt: false,
            may_mend_at: None,
            is_unhooked: true,
            is_held: false,
            ahead_at: Some(now),
            sweep: Sweep::default(),
            has_made_room: false,
            has_changed: false,
        }
    }

    /// How long nothing is to be done.
    fn pause(&self) -> Result<Duration> {
        if self.is_unhooked || self.has_made_room || self.enforcer.is_in_doubt() {
            return Ok(Duration::ZERO);
        }
        let boot_ns = clock::read().context("CLOCK_BOOTTIME")?.boot_ns;
        let until = |moment: u64| Duration::from_nanos(moment.saturating_sub(boot_ns));
        let still = |at: Instant| at.saturating_duration_since(Instant::now());
        let beat = BEAT.saturating_sub(self.last_beat.elapsed());
        // What was refused waits for its next try, whatever is due.
        let round = self.again.round.map(still).or_else(|| self.enforcer.next_due().map(until));
        let clear = self.enforcer.next_release().map(until);
        let clear = clear.map(|due| due.max(self.again.clear.map_or(Duration::ZERO, still)));
        let ahead = self.ahead_at.map(still);
        let mend = self.may_mend_at.filter(|_| self.are_ends_in_doubt).map(still);
        Ok([round, clear, ahead, mend].into_iter().flatten().fold(beat, Duration::min))
    }

    /// Does what is to be done now: of rounds and hooks one, of the rest a portion.
    fn turn(&mut self, wake: Wake, shared: &Shared) -> Result<()> {
        let now = clock::read().context("CLOCK_BOOTTIME")?;
        self.has_changed |= wake.topology.is_some();
        // An end that was gone, to another namespace, comes back without programs.
        self.are_ends_in_doubt |= wake.topology.is_some();
        self.enforcer.forget(&wake.gone);
        if let Some(topology) = wake.topology {
            self.enforcer.set_topology(topology);
            self.enforcer.set_lacks(shared.line.lacks());
        }
        self.enforcer.doubt(&wake.doubted);
        if let Some(splitter) = &wake.splitter {
            self.enforcer.take_splitter(splitter, &shared.line);
            self.has_changed = true;
        }
        self.are_ends_in_doubt |= shared.line.has_end_among(&wake.doubted);
        let is_round = self.is_round(wake.world, now, &shared.stats) && is_ready(shared);
        self.mend_ends(shared);
        if is_round {
            let outcome = round(&mut self.enforcer, shared, now);
            self.again.round = next_try(outcome, Instant::now());
            self.is_held |= outcome == Outcome::Done;
        }
        let is_clearing = self.clear(is_round, now);
        self.has_changed |= self.is_unhooked | (self.enforcer.look_next() == Some(true));
        self.is_unhooked = self.enforcer.attach_next();
        if self.is_held && !self.is_unhooked && shared.installed_at().is_none() {
            let at = shared.offset().server_time(clock::read().context("CLOCK_BOOTTIME")?);
            shared.installed(at);
        }
        // What a round has used up is made anew when nothing else is to be done.
        if is_round {
            self.ahead_at = Some(Instant::now());
        }
        let is_calm = !self.is_unhooked && !is_clearing;
        if is_calm && self.ahead_at.is_some_and(|at| at <= Instant::now()) {
            self.ahead_at = next_ahead(self.enforcer.prepare());
        }
        // What is half done is shown when it is done: the picture of many targets takes longer than a hook.
        if is_round || (self.has_changed && is_calm) {
            self.has_changed = false;
            shared.show(self.enforcer.view());
        }
        shared.beat(is_round);
        Ok(())
    }

    /// Looks at the ends of line and splitter, if there is reason to and it is time.
    fn mend_ends(&mut self, shared: &Shared) {
        let now = Instant::now();
        if !self.are_ends_in_doubt || self.may_mend_at.is_some_and(|at| at > now) {
            return;
        }
        self.are_ends_in_doubt = false;
        let was_one_missing = self.enforcer.mend_ends(&shared.line);
        self.may_mend_at = was_one_missing.then(|| now + MEND_PAUSE);
        self.has_changed |= was_one_missing;
    }

    /// Whether there is reason for a round; takes that in.
    fn is_round(&mut self, is_new_world: bool, now: clock::Now, stats: &Stats) -> bool {
        let is_beat = self.last_beat.elapsed() >= BEAT;
        if is_beat {
            self.last_beat = Instant::now();
            self.enforcer.retry_hooks();
            self.are_ends_in_doubt = true;
            self.sweep.go_on(&mut self.enforcer, stats, now.boot_ns);
        }
        let is_retry = self.again.is_round_due(Instant::now());
        let is_due = self.again.round.is_none() && is_over(self.enforcer.next_due(), now.boot_ns);
        let is_waited_for = std::mem::take(&mut self.has_made_room);
        is_new_world || is_beat || is_retry || is_due || is_waited_for
    }

    /// Clears a portion of what was in quarantine, if this is the turn for it. Returns whether more is to be cleared at once.
    fn clear(&mut self, is_round: bool, now: clock::Now) -> bool {
        let is_full = self.enforcer.is_full();
        let is_turn = is_to_clear(self.enforcer.next_release(), now.boot_ns, is_round, is_full);
        if !is_turn || !self.again.may_clear(Instant::now()) {
            return false;
        }
        let outcome = self.enforcer.release(now.boot_ns);
        self.again.clear = next_try(outcome, Instant::now());
        self.has_made_room = is_full;
        self.has_changed = true;
        outcome == Outcome::Done && is_over(self.enforcer.next_release(), now.boot_ns)
    }
}

/// Whether rules may be told from what is known.
fn is_ready(shared: &Shared) -> bool {
    shared.is_clock_compared() && shared.index().missing().is_empty()
}

/// Whether a moment of CLOCK_BOOTTIME has come.
fn is_over(moment: Option<u64>, boot_ns: u64) -> bool {
    moment.is_some_and(|at| at <= boot_ns)
}

/// Whether this turn clears what was in quarantine, which is over at `due_ns` (both CLOCK_BOOTTIME): not in a turn that is a round, so that
/// the next one need not wait for it either, unless that lacks room or clearing is late.
fn is_to_clear(due_ns: Option<u64>, boot_ns: u64, is_round: bool, is_full: bool) -> bool {
    let late_ns = due_ns.and_then(|due_ns| boot_ns.checked_sub(due_ns));
    late_ns.is_some_and(|late_ns| !is_round || is_full || late_ns >= OVERDUE_NS)
}

/// When to try again what is not done.
fn next_try(outcome: Outcome, now: Instant) -> Option<Instant> {
    match outcome {
        Outcome::Done => None,
        Outcome::Later => Some(now + REFILL),
        Outcome::Refused => Some(now + RETRY),
    }
}

/// When to go on with the work ahead.
fn next_ahead(left: Ahead) -> Option<Instant> {
    match left {
        Ahead::Done => None,
        Ahead::More => Some(Instant::now()),
        Ahead::Later => Some(Instant::now() + REFILL),
    }
}

/// Forgetting flows and lost packets' tickets, on a thread of its own: there can be millions.
#[derive(Default)]
struct Sweep {
    running: Option<JoinHandle<(Swept, BTreeMap<u32, Held>)>>,
}

impl Sweep {
    /// Takes what the last one came to and starts the next, unless the last one still goes on.
    fn go_on<K: Kernel>(&mut self, enforcer: &mut Enforcer<K>, stats: &Stats, boot_ns: u64) {
        if self.running.as_ref().is_some_and(|running| !running.is_finished()) {
            return;
        }
        if let Some(Ok((swept, lost))) = self.running.take().map(JoinHandle::join) {
            enforcer.set_flows(swept.left);
            stats.flows_ended.fetch_add(swept.ended, Ordering::Relaxed);
            stats.flows_made_room.fetch_add(swept.made_room, Ordering::Relaxed);
            enforcer.settle(&lost);
        }
        let ((flows, kept), tickets) = (enforcer.flows(), enforcer.tickets());
        self.running = Some(std::thread::spawn(move || (flows.sweep(&kept), tickets.take_lost(boot_ns))));
    }
}

fn round<K: Kernel>(enforcer: &mut Enforcer<K>, shared: &Shared, now: clock::Now) -> Outcome {
    let started = Instant::now();
    let server = shared.offset().server_time(now);
    shared.index().with_world(|world| enforcer.plan(world, server, now.boot_ns));
    // The watches go on meanwhile: the kernel may make a round wait.
    let outcome = enforcer.carry_out(|| clock::read().map_or(now.boot_ns, |now| now.boot_ns));
    let spent = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
    shared.stats.rounds.fetch_add(1, Ordering::Relaxed);
    shared.stats.round_ns.fetch_add(spent, Ordering::Relaxed);
    shared.stats.refused.fetch_add(u64::from(outcome != Outcome::Done), Ordering::Relaxed);
    outcome
}

#[cfg(test)]
mod tests;
