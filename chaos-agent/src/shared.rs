//! What the agent's parts share: the index that watches fill, the enforcer's wake-up, the picture that status and
//! metrics show. Changes are coalesced by flags: whatever comes while the enforcer works is seen by its next
//! round, which starts at once.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bounded_listener::Room;
use edge_api::fault_node::EnforcementGap;
use jiff::Timestamp;
use tokio::sync::{Notify, watch};

use crate::behind::LineView;
use crate::clock::Offset;
use crate::index::{Change, Index};
use crate::kernel::Counters;
use crate::locate::Topology;
use crate::peers::Source;
use crate::splitter::Splitter;
use crate::status::gap::Predecessor;
use crate::view::View;

/// How much of what has no room in the kernel's tables there may be.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Namespaces in which peers are looked up.
    pub peer_namespaces: usize,
    /// Connections to the pages that are open at once; more wait in the kernel's queue.
    pub connections: usize,
}

impl Default for Bounds {
    /// As the flags have them.
    fn default() -> Self {
        Self { peer_namespaces: 64, connections: 64 }
    }
}

/// What wakes the enforcer.
#[derive(Debug, Default)]
pub struct Wake {
    /// The world has changed.
    pub world: bool,
    /// Interfaces, addresses or routes have.
    pub topology: Option<Topology>,
    /// Interfaces that were gone meanwhile, whatever the topology says.
    pub gone: BTreeSet<u32>,
    /// Interfaces at which qdiscs or filters have changed.
    pub doubted: BTreeSet<u32>,
    /// The splitter was made anew.
    pub splitter: Option<Splitter>,
    /// It is to end.
    pub stop: bool,
}

impl Wake {
    fn is_any(&self) -> bool {
        let is_changed = self.world || self.topology.is_some() || self.splitter.is_some();
        is_changed || !self.doubted.is_empty() || self.stop
    }
}

/// Shared by all parts, behind an `Arc`.
pub struct Shared {
    index: Mutex<Index>,
    wake: Mutex<Wake>,
    woken: Condvar,
    view: RwLock<Arc<View>>,
    /// The watches that profiles' peers need, for `watch` to follow.
    wanted: watch::Sender<BTreeSet<Source>>,
    peer_namespaces: usize,
    /// Told after each new picture.
    pub shown: Notify,
    /// Room for connections to the pages.
    pub connections: Room,
    /// Counters, read without a lock.
    pub counters: Arc<dyn Counters>,
    /// The delay line, looked at without a lock.
    pub line: Arc<LineView>,
    offset: Mutex<Offset>,
    /// The offset was measured once, or could not be.
    clock_compared: AtomicBool,
    /// When hooks and rules were first all in the kernel, in the API server's time.
    installed_at: OnceLock<Timestamp>,
    /// The agent before this one, once the API server was asked.
    predecessor: OnceLock<Option<Predecessor>>,
    /// Interfaces that the ended enforcer has left a qdisc on.
    left: Mutex<BTreeSet<u32>>,
    /// Rules have been brought in once.
    enforcing: AtomicBool,
    /// The enforcer's last round, in milliseconds since `started`.
    last_round: AtomicU64,
    started: Instant,
    /// Numbers for `/metrics`.
    pub stats: Stats,
}

/// What the agent counts of itself.
#[derive(Debug, Default)]
pub struct Stats {
    /// Rounds of compile, diff and operations.
    pub rounds: AtomicU64,
    /// Nanoseconds spent in them.
    pub round_ns: AtomicU64,
    /// Rounds in which the kernel refused something.
    pub refused: AtomicU64,
    /// Flows that were forgotten since their profile has ended, or has left their target.
    pub flows_ended: AtomicU64,
    /// Flows that were forgotten to make room for new ones.
    pub flows_made_room: AtomicU64,
    /// Status writes that succeeded.
    pub status_written: AtomicU64,
    /// Status writes that failed.
    pub status_failed: AtomicU64,
}

impl Shared {
    /// Nothing known yet.
    #[must_use]
    pub fn new(
        index: Index,
        counters: Arc<dyn Counters>,
        line: Arc<LineView>,
        Bounds { peer_namespaces, connections }: Bounds,
    ) -> Arc<Self> {
        Arc::new(Self {
            index: Mutex::new(index),
            wake: Mutex::default(),
            woken: Condvar::new(),
            view: RwLock::default(),
            wanted: watch::Sender::default(),
            peer_namespaces,
            shown: Notify::new(),
            connections: Room::new(connections),
            counters,
            line,
            offset: Mutex::default(),
            clock_compared: AtomicBool::new(false),
            installed_at: OnceLock::new(),
            predecessor: OnceLock::new(),
            left: Mutex::default(),
            enforcing: AtomicBool::new(false),
            last_round: AtomicU64::new(0),
            started: Instant::now(),
            stats: Stats::default(),
        })
    }

    /// Takes in a watch's event.
    pub fn take(&self, change: Change) {
        let concerns_peers = matches!(change, Change::Profile(_));
        let mut index = self.index();
        if !index.apply(change) {
            return;
        }
        if concerns_peers {
            let wanted = index.wanted(self.peer_namespaces);
            self.wanted.send_if_modified(|old| std::mem::replace(old, wanted.clone()) != wanted);
        }
        drop(index);
        self.wake(|wake| wake.world = true);
    }

    /// The watches that profiles' peers need, now and later.
    pub fn wanted(&self) -> watch::Receiver<BTreeSet<Source>> {
        self.wanted.subscribe()
    }

    /// A watch has ended that nobody wants.
    pub fn forget(&self, source: &Source) {
        self.index().forget(source);
    }

    /// Takes in interfaces, addresses and routes, and which interfaces were gone since the last time.
    pub fn take_topology(&self, topology: Topology, gone: &BTreeSet<u32>) {
        self.line.look(&topology);
        let addresses: BTreeSet<_> = topology.addresses.clone();
        let changed = self.index().set_own_addresses(addresses);
        self.wake(|wake| {
            wake.world |= changed;
            wake.topology = Some(topology);
            wake.gone.extend(gone);
        });
    }

    /// Qdiscs or filters of these interfaces have changed.
    pub fn doubt(&self, interfaces: &BTreeSet<u32>) {
        if !interfaces.is_empty() {
            self.wake(|wake| wake.doubted.extend(interfaces));
        }
    }

    /// Takes a splitter in the place of one that somebody has removed.
    pub fn take_splitter(&self, splitter: Splitter) {
        self.wake(|wake| wake.splitter = Some(splitter));
    }

    /// Whether deadlines can be told: no rule comes before that.
    #[must_use]
    pub fn is_clock_compared(&self) -> bool {
        self.clock_compared.load(Ordering::Acquire)
    }

    /// The API server's clock was compared with this node's, or could not be; `is_corrected`: deadlines have moved.
    pub fn take_clock(&self, is_corrected: bool) {
        let is_first = !self.clock_compared.swap(true, Ordering::AcqRel);
        if is_first || is_corrected {
            self.wake(|wake| wake.world = true);
        }
    }

    /// Ends the enforcer.
    pub fn stop(&self) {
        self.wake(|wake| wake.stop = true);
    }

    /// The enforcer has ended, and left qdiscs on these interfaces.
    pub fn leave(&self, interfaces: BTreeSet<u32>) {
        *lock(&self.left) = interfaces;
    }

    /// Where the ended enforcer has left qdiscs.
    pub fn left(&self) -> BTreeSet<u32> {
        lock(&self.left).clone()
    }

    fn wake(&self, change: impl FnOnce(&mut Wake)) {
        change(&mut lock(&self.wake));
        self.woken.notify_one();
    }

    /// Waits until there is something to do, or for so long; takes what there is.
    pub fn wait(&self, at_most: Duration) -> Wake {
        let wake = lock(&self.wake);
        let waited = self.woken.wait_timeout_while(wake, at_most, |wake| !wake.is_any());
        let (mut wake, _) = waited.unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut wake)
    }

    /// The index.
    pub fn index(&self) -> MutexGuard<'_, Index> {
        lock(&self.index)
    }

    /// The clock offset.
    pub fn offset(&self) -> MutexGuard<'_, Offset> {
        lock(&self.offset)
    }

    /// The picture.
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Shows a new picture.
    pub fn show(&self, view: View) {
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(view);
        self.shown.notify_one();
    }

    /// The enforcer has finished a round; `enforcing`: with all that the cluster says.
    pub fn beat(&self, enforcing: bool) {
        self.enforcing.fetch_or(enforcing, Ordering::Release);
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_round.store(now, Ordering::Release);
    }

    /// Hooks and rules are all in the kernel; the first time counts.
    pub fn installed(&self, at: Timestamp) {
        self.installed_at.get_or_init(|| at);
    }

    /// When they first were, in the API server's time.
    #[must_use]
    pub fn installed_at(&self) -> Option<Timestamp> {
        self.installed_at.get().copied()
    }

    /// What the agent before this one has said last; the first answer counts, since later ones are this one's own.
    pub fn meet(&self, predecessor: Option<Predecessor>) {
        self.predecessor.get_or_init(|| predecessor);
    }

    /// How long the node was without faults before this agent, once that is known.
    #[must_use]
    pub fn gap(&self) -> Option<EnforcementGap> {
        let predecessor = self.predecessor.get().copied().flatten()?;
        Some(predecessor.until(self.installed_at()?))
    }

    /// Whether the rules of this node are in the kernel.
    #[must_use]
    pub fn is_enforcing(&self) -> bool {
        self.enforcing.load(Ordering::Acquire)
    }

    /// How long ago the enforcer last came around.
    #[must_use]
    pub fn since_last_round(&self) -> Duration {
        let last = Duration::from_millis(self.last_round.load(Ordering::Acquire));
        self.started.elapsed().saturating_sub(last)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Kernel as _;
    use crate::kernel::fake::FakeKernel;

    #[test]
    fn the_enforcer_is_woken_by_the_first_look_at_the_clock_and_by_each_correction() {
        let shared = Shared::new(
            Index::default(),
            FakeKernel::default().counters(),
            Arc::default(),
            Bounds::default(),
        );
        assert!(!shared.is_clock_compared(), "no deadline can be told yet");
        let woken_by = |is_corrected| {
            shared.take_clock(is_corrected);
            shared.wait(Duration::ZERO).world
        };
        assert_eq!([false, false, true].map(woken_by), [true, false, true]);
        assert!(shared.is_clock_compared());
    }
}
