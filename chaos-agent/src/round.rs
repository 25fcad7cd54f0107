//! The enforcer's thread: a round for each change, at once; in between hooks one by one, spare counters by the dozen, and what
//! nothing refers to any more in portions, so that a rule never waits for more than one interface.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::clock;
use crate::enforce::{Enforcer, Outcome};
use crate::kernel::{Ahead, Kernel};
use crate::shared::Shared;

/// Without any change the enforcer comes around so often: to correct deadlines by a clock that was set, to try
/// refused hooks again, to forget flows.
const BEAT: Duration = Duration::from_secs(10);
/// What the kernel refused is tried again after so long.
const RETRY: Duration = Duration::from_secs(1);
/// The kernel's memory for counters is looked for again after so long: a worker of its fills it up, by the portion.
const REFILL: Duration = Duration::from_millis(2);

/// Runs until it is stopped. Blocking: it has a thread of its own.
///
/// # Errors
/// When a clock cannot be read.
pub fn run<K: Kernel>(mut enforcer: Enforcer<K>, shared: &Arc<Shared>) -> Result<()> {
    let mut last_beat = Instant::now();
    let mut retry_at: Option<Instant> = None;
    let (mut is_unhooked, mut is_held) = (true, false);
    // When there is work ahead to be done.
    let mut ahead_at = Some(Instant::now());
    let mut sweep = Sweep::default();
    let (mut has_made_room, mut has_changed) = (false, false);
    loop {
        let wait = if is_unhooked || has_made_room {
            Duration::ZERO
        } else {
            pause(&enforcer, last_beat, retry_at)?
        };
        let wait = ahead_at.map_or(wait, |at| wait.min(at.saturating_duration_since(Instant::now())));
        let wake = shared.wait(wait);
        if wake.stop {
            let qdiscs = enforcer.added_qdiscs();
            drop(enforcer);
            shared.leave(qdiscs);
            return Ok(());
        }
        let now = clock::read().context("CLOCK_BOOTTIME")?;
        let has_topology = wake.topology.is_some();
        if let Some(topology) = wake.topology {
            enforcer.set_topology(topology);
        }
        let is_beat = last_beat.elapsed() >= BEAT;
        if is_beat {
            last_beat = Instant::now();
            enforcer.retry_hooks();
            sweep.go_on(&mut enforcer);
        }
        let is_retry = retry_at.is_some_and(|at| at <= Instant::now());
        let is_due = retry_at.is_none() && is_over(enforcer.next_due(), now);
        let is_ready = || shared.is_clock_compared() && shared.index().missing().is_empty();
        let is_waited_for = std::mem::take(&mut has_made_room);
        let is_round = (wake.world || is_beat || is_retry || is_due || is_waited_for) && is_ready();
        let is_release = !is_round && retry_at.is_none() && is_over(enforcer.next_release(), now);
        if is_round {
            let outcome = round(&mut enforcer, shared, now);
            retry_at = next_try(outcome);
            is_held |= outcome == Outcome::Done;
        } else if is_release {
            // A rule may have found no slot.
            has_made_room = enforcer.is_full();
            retry_at = next_try(enforcer.release(now.boot_ns));
        }
        let was_unhooked = is_unhooked;
        is_unhooked = enforcer.attach_next();
        if is_held && !is_unhooked && shared.installed_at().is_none() {
            let wall = clock::read().context("CLOCK_BOOTTIME")?.wall;
            let at = shared.offset().server_time(wall);
            shared.installed(at);
        }
        let is_releasing = is_release && retry_at.is_none() && is_over(enforcer.next_release(), now);
        // What a round has used up is made anew when nothing else is to be done.
        if is_round {
            ahead_at = Some(Instant::now());
        }
        if ahead_at.is_some_and(|at| at <= Instant::now()) && !is_unhooked && !is_releasing {
            ahead_at = next_ahead(enforcer.prepare());
        }
        // What is half done is shown when it is done: the picture of many targets takes longer than a hook.
        has_changed |= has_topology || was_unhooked || is_release;
        if is_round || (has_changed && !is_unhooked && !is_releasing) {
            has_changed = false;
            shared.show(enforcer.view());
        }
        shared.beat(is_round);
    }
}

/// Whether a moment of CLOCK_BOOTTIME has come.
fn is_over(moment: Option<u64>, now: clock::Now) -> bool {
    moment.is_some_and(|at| at <= now.boot_ns)
}

/// When to try again what is not done.
fn next_try(outcome: Outcome) -> Option<Instant> {
    match outcome {
        Outcome::Done => None,
        Outcome::Later => Some(Instant::now() + REFILL),
        Outcome::Refused => Some(Instant::now() + RETRY),
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

/// Forgetting flows, on a thread of its own: there can be millions.
#[derive(Default)]
struct Sweep {
    running: Option<JoinHandle<u64>>,
}

impl Sweep {
    /// Takes the last one's count and starts the next, unless the last one still goes on.
    fn go_on<K: Kernel>(&mut self, enforcer: &mut Enforcer<K>) {
        if self.running.as_ref().is_some_and(|running| !running.is_finished()) {
            return;
        }
        if let Some(Ok(left)) = self.running.take().map(JoinHandle::join) {
            enforcer.set_flows(left);
        }
        let (flows, kept) = enforcer.flows();
        self.running = Some(std::thread::spawn(move || flows.sweep(&kept)));
    }
}

fn round<K: Kernel>(enforcer: &mut Enforcer<K>, shared: &Shared, now: clock::Now) -> Outcome {
    let started = Instant::now();
    let server = shared.offset().server_time(now.wall);
    shared.index().with_world(|world| enforcer.plan(world, server, now.boot_ns));
    // The watches go on meanwhile: the kernel may make a round wait.
    let outcome = enforcer.carry_out();
    let spent = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
    shared.stats.rounds.fetch_add(1, Ordering::Relaxed);
    shared.stats.round_ns.fetch_add(spent, Ordering::Relaxed);
    shared.stats.refused.fetch_add(u64::from(outcome != Outcome::Done), Ordering::Relaxed);
    outcome
}

/// How long nothing is to be done.
fn pause<K: Kernel>(
    enforcer: &Enforcer<K>,
    last_beat: Instant,
    retry_at: Option<Instant>,
) -> Result<Duration> {
    let now = clock::read().context("CLOCK_BOOTTIME")?;
    let mut pause = BEAT.saturating_sub(last_beat.elapsed());
    let due = enforcer.next_due().into_iter().chain(enforcer.next_release()).min();
    let due = due.map(|due| Duration::from_nanos(due.saturating_sub(now.boot_ns)));
    let retry = retry_at.map(|at| at.saturating_duration_since(Instant::now()));
    // What was refused is due, too: it waits for the retry.
    if let Some(next) = retry.or(due) {
        pause = pause.min(next);
    }
    Ok(pause)
}

#[cfg(test)]
mod tests {
    use kube::runtime::watcher::Event;
    use serde_json::json;

    use super::*;
    use crate::enforce::Settings;
    use crate::index::{Change, Index};
    use crate::kernel::fake::FakeKernel;
    use crate::kernel::hooks::XdpMode;
    use crate::profile::tests::object;
    use crate::table::Capacity;

    /// Waits less than until the next beat.
    fn within_a_beat(kernel: FakeKernel, index: Index, is_so: impl Fn(&Shared) -> bool) -> Duration {
        let capacity = Capacity { targets: 8, rules: 8, flows: 8, peers: 8, protected: 8, node_addresses: 8 };
        let enforcer = Enforcer::new(kernel, Settings { capacity, xdp: XdpMode::Off, has_tcx: true });
        let shared = Shared::new(index, enforcer.counters(), Arc::default());
        shared.take_clock(false);
        let began = Instant::now();
        std::thread::scope(|scope| {
            let runner = scope.spawn(|| run(enforcer, &shared));
            while !is_so(&shared) && began.elapsed() < BEAT / 2 {
                std::thread::yield_now();
            }
            shared.stop();
            runner.join().unwrap().unwrap();
        });
        began.elapsed()
    }

    #[test]
    fn work_ahead_goes_on_soon_after_the_kernel_was_short_of_memory() {
        let kernel = FakeKernel::default();
        let ahead = kernel.ahead.clone();
        ahead.set([Ahead::More, Ahead::Later, Ahead::Later, Ahead::More, Ahead::Done]);
        within_a_beat(kernel, Index::default(), |_| ahead.left() == 0);
        assert_eq!(ahead.left(), 0, "before the next beat, {BEAT:?}");
    }

    /// An index that knows all, and of it a profile that never ends.
    fn complete() -> Index {
        let spec = json!({
            "targets": {"cidrs": ["10.20.0.1/32"]}, "faults": {"partition": {}}, "duration": "10m",
        });
        let mut profile = object("p", &spec);
        let end = "2900-01-01T00:00:00Z".parse().unwrap();
        profile.status.as_mut().unwrap().expires_at =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime(end));
        let mut index = Index::default();
        for change in [
            Change::Profile(Event::Init),
            Change::Profile(Event::InitApply(profile)),
            Change::Profile(Event::InitDone),
            Change::Device(Event::Init),
            Change::Device(Event::InitDone),
            Change::Pod(Event::Init),
            Change::Pod(Event::InitDone),
            Change::Node(Event::Init),
            Change::Node(Event::InitDone),
            Change::Slice(Event::Init),
            Change::Slice(Event::InitDone),
            Change::Service(Event::Init),
            Change::Service(Event::InitDone),
        ] {
            index.apply(change);
        }
        assert!(index.missing().is_empty());
        index
    }

    #[test]
    fn a_round_that_found_no_memory_goes_on_in_a_moment() {
        let kernel = FakeKernel::default();
        // If it waited as for a refusal each time, that would take longer than is waited here.
        kernel.short.store(6, Ordering::Relaxed);
        let is_there = |shared: &Shared| !shared.view().states.is_empty();
        let took = within_a_beat(kernel, complete(), is_there);
        assert!(took < RETRY * 5, "{took:?}");
    }
}
