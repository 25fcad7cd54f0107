//! How many objects of a kind a cache holds at most. What finds no room is left out, counted and told; as soon as a tenth of the
//! room is free a new list brings what was left out. It also comes, once in a while, when anything was deleted: that may have
//! been what was left out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher::Event;
use prometheus::IntCounter;
use tokio::time::Instant;

use super::Cached;

/// The pause between a list that left something out and the next one that is asked for because something was deleted, unless
/// a tenth is free: a list of all objects is the dearest call of all, and while there are too many each deletion would ask for one.
const LIST_PAUSE: Duration = Duration::from_secs(60);

/// What a cache may hold.
#[derive(Clone, Debug)]
pub struct Bound {
    /// Objects.
    pub objects: usize,
    /// Counts those that were left out, each time that they come.
    pub refused: IntCounter,
}

/// The room of a cache.
#[derive(Debug)]
pub(super) struct Room {
    bound: Bound,
    /// Objects of the list that is under way.
    listed: usize,
    /// It had more.
    list_is_longer: bool,
    /// When the last one ended.
    listed_at: Option<Instant>,
    /// Was anything deleted since, while something was left out? Perhaps just that.
    deleted: bool,
    leaves_out: Arc<AtomicBool>,
}

impl Room {
    /// An empty one; `leaves_out` says from now on whether the cache lacks objects that exist.
    pub(super) fn new(bound: Bound, leaves_out: Arc<AtomicBool>) -> Self {
        Self { bound, listed: 0, list_is_longer: false, listed_at: None, deleted: false, leaves_out }
    }

    /// Is this event, which comes `now`, to be passed over, since its object finds no room in `store`?
    pub(super) fn refuses<K: Cached>(&mut self, event: &Event<K>, store: &Store<K>, now: Instant) -> bool {
        match event {
            Event::Init => (self.listed, self.list_is_longer) = (0, false),
            Event::InitApply(_) if self.listed < self.bound.objects => self.listed += 1,
            Event::InitApply(_) => {
                self.list_is_longer = true;
                self.bound.refused.inc();
                return true;
            }
            Event::InitDone => {
                (self.listed_at, self.deleted) = (Some(now), false);
                if self.list_is_longer {
                    self.set::<K>(true);
                }
            }
            Event::Apply(object) => {
                let new = store.get(&ObjectRef::from_obj(object)).is_none();
                if new && store.len() >= self.bound.objects {
                    self.set::<K>(true);
                    self.bound.refused.inc();
                    return true;
                }
            }
            Event::Delete(_) => self.deleted |= self.leaves_out.load(Ordering::Relaxed),
        }
        false
    }

    /// The store has taken this event: whoever is told that nothing is left out finds everything there.
    pub(super) fn has_taken<K: Cached>(&self, event: &Event<K>) {
        if matches!(event, Event::InitDone) && !self.list_is_longer {
            self.set::<K>(false);
        }
    }

    /// From when on a new list is worth its price, as it may bring what was left out, or show that nothing is any more; now that
    /// so many objects are held. None: nothing is left out, or nothing was deleted since the last list.
    pub(super) fn wants_a_list(&self, held: usize, now: Instant) -> Option<Instant> {
        if !self.deleted || !self.leaves_out.load(Ordering::Relaxed) {
            return None;
        }
        let free = self.bound.objects.saturating_sub(held);
        if free >= self.bound.objects.div_ceil(10) {
            return Some(now);
        }
        Some(self.listed_at.map_or(now, |at| (at + LIST_PAUSE).max(now)))
    }

    fn set<K: Cached>(&self, leaves_out: bool) {
        let did = self.leaves_out.swap(leaves_out, Ordering::Relaxed);
        let (kind, most) = (K::kind(&()), self.bound.objects);
        match (did, leaves_out) {
            (false, true) => {
                tracing::error!(%kind, most, "there are more objects than --max-objects: some are left out");
            }
            (true, false) => tracing::info!(%kind, "no object is left out any more"),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use kube::api::ObjectMeta;
    use kube::runtime::reflector;
    use kube::runtime::reflector::store::Writer;

    use super::*;

    fn pod(name: &str) -> Pod {
        Pod { metadata: ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() }, ..Pod::default() }
    }

    /// A small cache, and the time: what of these events it takes.
    struct Small(Room, Store<Pod>, Writer<Pod>, Instant);

    impl Small {
        fn of(objects: usize) -> Self {
            let (store, writer) = reflector::store();
            let refused = IntCounter::new("refused", "those").unwrap();
            let room = Room::new(Bound { objects, refused }, Arc::default());
            Self(room, store, writer, Instant::now())
        }

        /// How long until it asks for a list.
        fn lists_in(&self) -> Option<Duration> {
            Some(self.0.wants_a_list(self.1.len(), self.3)?.duration_since(self.3))
        }

        fn sees(&mut self, events: impl IntoIterator<Item = Event<Pod>>) -> (Vec<String>, bool, u64) {
            for event in events {
                if !self.0.refuses(&event, &self.1, self.3) {
                    self.2.apply_watcher_event(&event);
                    self.0.has_taken(&event);
                }
            }
            let mut held: Vec<_> =
                self.1.state().iter().filter_map(|pod| pod.metadata.name.clone()).collect();
            held.sort();
            (held, self.0.leaves_out.load(Ordering::Relaxed), self.0.bound.refused.get())
        }
    }

    fn list(names: &[&str]) -> Vec<Event<Pod>> {
        let objects = names.iter().map(|name| Event::InitApply(pod(name)));
        [Event::Init].into_iter().chain(objects).chain([Event::InitDone]).collect()
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[tokio::test]
    async fn what_finds_no_room_is_left_out_and_counted_until_a_list_in_which_all_find_some() {
        let mut two = Small::of(2);
        assert_eq!(two.sees(list(&["a"])), (names(&["a"]), false, 0));
        assert_eq!(two.sees([Event::Apply(pod("b"))]), (names(&["a", "b"]), false, 0));
        assert_eq!(two.sees([Event::Apply(pod("b"))]), (names(&["a", "b"]), false, 0), "it has its place");
        assert_eq!(two.sees([Event::Apply(pod("c"))]), (names(&["a", "b"]), true, 1));
        assert_eq!(two.lists_in(), None, "there is no room yet");
        assert_eq!(two.sees([Event::Delete(pod("a"))]), (names(&["b"]), true, 1), "c is still left out");
        assert_eq!(two.lists_in(), Some(Duration::ZERO));
        assert_eq!(two.sees(list(&["b", "c", "d"])), (names(&["b", "c"]), true, 2));
        assert_eq!(two.lists_in(), None, "that was the list");
        assert_eq!(two.sees(list(&["c", "d"])), (names(&["c", "d"]), false, 2));
        two.sees([Event::Delete(pod("c"))]);
        assert_eq!(two.lists_in(), None, "nobody is left out");
    }

    #[tokio::test]
    async fn one_object_too_many_that_goes_is_noticed_within_a_minute_and_costs_one_list_a_minute_at_most() {
        // Of twenty-one a tenth is more than one: the departure of one alone makes no room that is worth a list at once.
        let all: Vec<String> = (0..22).map(|number| format!("{number:02}")).collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        for gone in ["21", "00"] {
            let mut small = Small::of(21);
            assert_eq!(small.sees(list(&all)), (names(&all[..21]), true, 1));
            small.3 += LIST_PAUSE / 4;
            assert_eq!(small.lists_in(), None, "nothing has changed");
            small.sees([Event::Delete(pod(gone))]);
            assert_eq!(small.lists_in(), Some(LIST_PAUSE * 3 / 4), "{gone} has gone");
            small.3 += LIST_PAUSE;
            assert_eq!(small.lists_in(), Some(Duration::ZERO), "and it is not forgotten");
            let left: Vec<&str> = all.iter().copied().filter(|name| *name != gone).collect();
            assert_eq!(small.sees(list(&left)), (names(&left), false, 1), "everything fits");
            assert_eq!(small.lists_in(), None);
        }
    }
}
