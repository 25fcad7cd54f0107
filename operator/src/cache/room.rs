//! How many objects of a kind a cache holds at most. What finds no room is left out, counted and told; as soon as a tenth of the
//! room is free a new list brings what was left out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher::Event;
use prometheus::IntCounter;

use super::Cached;

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
    leaves_out: Arc<AtomicBool>,
}

impl Room {
    /// An empty one; `leaves_out` says from now on whether the cache lacks objects that exist.
    pub(super) fn new(bound: Bound, leaves_out: Arc<AtomicBool>) -> Self {
        Self { bound, listed: 0, list_is_longer: false, leaves_out }
    }

    /// Is this event to be passed over, since its object finds no room in `store`?
    pub(super) fn refuses<K: Cached>(&mut self, event: &Event<K>, store: &Store<K>) -> bool {
        match event {
            Event::Init => (self.listed, self.list_is_longer) = (0, false),
            Event::InitApply(_) if self.listed < self.bound.objects => self.listed += 1,
            Event::InitApply(_) => {
                self.list_is_longer = true;
                self.bound.refused.inc();
                return true;
            }
            Event::InitDone => self.set::<K>(self.list_is_longer),
            Event::Apply(object) => {
                let new = store.get(&ObjectRef::from_obj(object)).is_none();
                if new && store.len() >= self.bound.objects {
                    self.set::<K>(true);
                    self.bound.refused.inc();
                    return true;
                }
            }
            Event::Delete(_) => {}
        }
        false
    }

    /// Would a new list bring what was left out, now that so many objects are held?
    pub(super) fn asks_for_a_list(&self, held: usize) -> bool {
        let free = self.bound.objects.saturating_sub(held);
        self.leaves_out.load(Ordering::Relaxed) && free >= self.bound.objects.div_ceil(10)
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

    /// A cache of two: what of these events it takes.
    struct Two(Room, Store<Pod>, Writer<Pod>);

    impl Two {
        fn new() -> Self {
            let (store, writer) = reflector::store();
            let refused = IntCounter::new("refused", "those").unwrap();
            let room = Room::new(Bound { objects: 2, refused }, Arc::default());
            Self(room, store, writer)
        }

        fn sees(&mut self, events: impl IntoIterator<Item = Event<Pod>>) -> (Vec<String>, bool, u64) {
            for event in events {
                if !self.0.refuses(&event, &self.1) {
                    self.2.apply_watcher_event(&event);
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

    #[test]
    fn what_finds_no_room_is_left_out_and_counted_until_a_list_in_which_all_find_some() {
        let mut two = Two::new();
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(two.sees(list(&["a"])), (names(&["a"]), false, 0));
        assert_eq!(two.sees([Event::Apply(pod("b"))]), (names(&["a", "b"]), false, 0));
        assert_eq!(two.sees([Event::Apply(pod("b"))]), (names(&["a", "b"]), false, 0), "it has its place");
        assert_eq!(two.sees([Event::Apply(pod("c"))]), (names(&["a", "b"]), true, 1));
        assert!(!two.0.asks_for_a_list(two.1.len()), "there is no room yet");
        assert_eq!(two.sees([Event::Delete(pod("a"))]), (names(&["b"]), true, 1), "c is still left out");
        assert!(two.0.asks_for_a_list(two.1.len()));
        assert_eq!(two.sees(list(&["b", "c", "d"])), (names(&["b", "c"]), true, 2));
        assert_eq!(two.sees(list(&["c", "d"])), (names(&["c", "d"]), false, 2));
        assert!(!two.0.asks_for_a_list(0), "nobody is left out");
    }
}
