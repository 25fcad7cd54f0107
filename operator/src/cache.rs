//! One watch and one store per kind, shared by all controllers, and a bounded stream of what changed.
//!
//! kube's own shared streams are not used: a `ReflectHandle` whose object is gone by the time it is polled
//! returns `Pending` without a waker and sleeps for ever, and it says nothing of deletions.

use std::collections::HashSet;
use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::{Stream, StreamExt, stream};
use kube::Api;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{WatchStreamExt, watcher};
use serde::de::DeserializeOwned;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use watch_backoff::WatchBackoff;

pub use self::room::Bound;
use self::room::Room;

mod room;

/// Objects that a new subscriber is told of at once.
const BREATH: usize = 64;

/// What a cache needs of a kind.
pub trait Cached:
    kube::Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
}

impl<K> Cached for K where
    K: kube::Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
}

/// The objects of one kind, as of the last watch event.
#[derive(Clone)]
pub struct Cache<K>
where
    K: Cached,
{
    store: Store<K>,
    changes: broadcast::Sender<ObjectRef<K>>,
    leaves_out: Arc<AtomicBool>,
}

impl<K> Cache<K>
where
    K: Cached,
{
    /// A cache, and the future that fills it until `shutdown`. `prune` removes from each object, before it is
    /// stored, what nobody here reads; without that, managed fields are most of it. A slow subscriber is told of the last
    /// `changes`; one that falls further behind is given every object of the store again, and those that it knows and that are gone.
    pub fn new<F>(
        api: Api<K>,
        (bound, changes): (Bound, usize),
        shutdown: CancellationToken,
        prune: F,
    ) -> (Self, impl Future<Output = ()> + Send)
    where
        F: Fn(&mut K) + Send + Sync + 'static,
    {
        let (store, writer) = reflector::store();
        let (changes, _) = broadcast::channel(changes);
        let cache = Self { store, changes, leaves_out: Arc::default() };
        let mut filling = Filling {
            room: Room::new(bound, cache.leaves_out.clone()),
            writer,
            cache: cache.clone(),
            before: Vec::new(),
        };
        let fill = async move {
            let watch = async {
                loop {
                    let events = watcher(api.clone(), watcher::Config::default());
                    filling
                        .follow(events.backoff(WatchBackoff::default()).modify(|object| prune(object)))
                        .await;
                }
            };
            shutdown.run_until_cancelled(watch).await;
        };
        (cache, fill)
    }

    /// Changes that some subscriber was not told of yet.
    pub fn untold(&self) -> usize {
        self.changes.len()
    }

    /// Are there objects that found no room here? What is decided from all objects cannot be decided then.
    pub fn leaves_out(&self) -> bool {
        self.leaves_out.load(Ordering::Relaxed)
    }

    /// The objects.
    pub fn store(&self) -> &Store<K> {
        &self.store
    }

    /// Ends when the first list is complete, or when the cache is dropped unfilled.
    pub async fn ready(&self) {
        if self.store.wait_until_ready().await.is_err() {
            tracing::debug!(kind = %K::kind(&()), "cache dropped before it was filled");
        }
    }

    /// Every object that exists now, then each that is changed, made or deleted, for ever. A name may come
    /// twice, and its object may be gone when it comes, or have found no room: look it up.
    pub fn subscribe(&self) -> impl Stream<Item = ObjectRef<K>> + Send + use<K> {
        self.subscribe_from(|_| true)
    }

    /// As [`Self::subscribe`]; of those that exist now, these `first`.
    pub fn subscribe_from<F: Fn(&K) -> bool>(
        &self,
        first: F,
    ) -> impl Stream<Item = ObjectRef<K>> + Send + use<K, F> {
        let receiver = self.changes.subscribe();
        let (mut present, rest): (Vec<_>, Vec<_>) =
            self.store.state().into_iter().partition(|object| first(object));
        present.extend(rest);
        let present: Vec<_> = present.iter().map(|object| ObjectRef::from_obj(object.as_ref())).collect();
        let known = present.iter().map(short).collect();
        let subscriber = Subscriber { receiver, store: self.store.clone(), known };
        let news = stream::unfold(subscriber, |mut subscriber| async move {
            let names = subscriber.next().await?;
            Some((stream::iter(names), subscriber))
        });
        gently(present).chain(news.flatten())
    }
}

/// What fills a cache.
struct Filling<K: Cached> {
    room: Room,
    writer: reflector::store::Writer<K>,
    cache: Cache<K>,
    /// Names from the beginning of a list to its end: what is not in a list that follows a broken watch was deleted
    /// meanwhile, and no event says so.
    before: Vec<ObjectRef<K>>,
}

impl<K: Cached> Filling<K> {
    /// Follows a watch, until a new list is worth its price.
    async fn follow(&mut self, events: impl Stream<Item = watcher::Result<watcher::Event<K>>> + Send) {
        let mut events = std::pin::pin!(events);
        loop {
            let list_at = self.room.wants_a_list(self.cache.store.len(), Instant::now());
            let event = tokio::select! {
                biased;
                () = reached(list_at) => return,
                event = events.next() => event,
            };
            match event {
                Some(Ok(event)) => self.take(&event),
                // The watcher tries again by itself, with backoff.
                Some(Err(error)) => tracing::warn!(kind = %K::kind(&()), %error, "watch interrupted"),
                None => return,
            }
        }
    }

    fn take(&mut self, event: &watcher::Event<K>) {
        let left_out = self.cache.leaves_out();
        if !self.room.refuses(event, &self.cache.store, Instant::now()) {
            self.writer.apply_watcher_event(event);
            self.room.has_taken(event);
            announce(event, &mut self.before, &self.cache.store, &self.cache.changes);
        } else if !left_out && self.cache.leaves_out() {
            // Whoever decides from all objects is to notice that it cannot do so any more.
            announce(event, &mut self.before, &self.cache.store, &self.cache.changes);
        }
    }
}

async fn reached(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// One that follows a cache.
struct Subscriber<K: Cached> {
    receiver: broadcast::Receiver<ObjectRef<K>>,
    store: Store<K>,
    /// What it was told of and not told that it is gone: the only trace of a deletion whose news was lost.
    /// As short as can be: there are as many as objects, for each subscriber.
    known: HashSet<Box<str>>,
}

impl<K: Cached> Subscriber<K> {
    async fn next(&mut self) -> Option<Vec<ObjectRef<K>>> {
        match self.receiver.recv().await {
            Ok(name) => {
                if self.store.get(&name).is_some() {
                    self.known.insert(short(&name));
                } else {
                    self.known.remove(&short(&name));
                }
                Some(vec![name])
            }
            Err(RecvError::Lagged(missed)) => {
                tracing::debug!(kind = %K::kind(&()), missed, "subscriber fell behind: all objects again");
                let present = everything(&self.store);
                let known = std::mem::replace(&mut self.known, present.iter().map(short).collect());
                let gone = known.into_iter().filter(|name| !self.known.contains(name));
                Some(gone.map(|name| whole(&name)).chain(present).collect())
            }
            Err(RecvError::Closed) => None,
        }
    }
}

/// One after the other, with a breath after some: whoever takes all that it can get does something about the first ones before it is
/// told of the ten thousandth.
fn gently<T: Send>(all: Vec<T>) -> impl Stream<Item = T> + Send {
    stream::iter(all.into_iter().enumerate()).then(|(number, one)| async move {
        if number % BREATH == BREATH - 1 {
            tokio::task::yield_now().await;
        }
        one
    })
}

/// `namespace/name`, or `/name` without a namespace: neither has a slash (RFC 1123 labels and subdomains).
fn short<K: Cached>(name: &ObjectRef<K>) -> Box<str> {
    format!("{}/{}", name.namespace.as_deref().unwrap_or_default(), name.name).into()
}

/// The reference to what [`short`] names.
fn whole<K: Cached>(name: &str) -> ObjectRef<K> {
    match name.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() => ObjectRef::new(name).within(namespace),
        _ => ObjectRef::new(name.trim_start_matches('/')),
    }
}

fn everything<K: Cached>(store: &Store<K>) -> Vec<ObjectRef<K>> {
    store.state().iter().map(|object| ObjectRef::from_obj(object.as_ref())).collect()
}

/// Tells of an event whose object the store has taken.
fn announce<K: Cached>(
    event: &watcher::Event<K>,
    before: &mut Vec<ObjectRef<K>>,
    store: &Store<K>,
    sender: &broadcast::Sender<ObjectRef<K>>,
) {
    // A send fails only when nobody listens.
    match event {
        watcher::Event::Apply(object) | watcher::Event::Delete(object) => {
            let _nobody = sender.send(ObjectRef::from_obj(object));
        }
        // The store is replaced at the end of a list.
        watcher::Event::InitDone => {
            let gone = std::mem::take(before).into_iter().filter(|name| store.get(name).is_none());
            for name in gone.chain(everything(store)) {
                let _nobody = sender.send(name);
            }
        }
        watcher::Event::Init => *before = everything(store),
        watcher::Event::InitApply(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use k8s_openapi::api::core::v1::Pod;
    use kube::api::ObjectMeta;
    use kube::runtime::watcher::Event;

    use super::*;

    fn pod(name: &str) -> Pod {
        Pod { metadata: ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() }, ..Pod::default() }
    }

    #[tokio::test]
    async fn a_subscriber_that_falls_behind_is_told_of_all_that_is_and_of_all_that_is_gone() {
        let (store, mut writer) = reflector::store();
        let (changes, _) = broadcast::channel(16);
        let cache = Cache { store, changes, leaves_out: Arc::default() };
        let mut before = Vec::new();
        let mut list = |names: std::ops::Range<u32>| {
            let objects = names.map(|number| Event::InitApply(pod(&number.to_string())));
            for event in [Event::Init].into_iter().chain(objects).chain([Event::InitDone]) {
                writer.apply_watcher_event(&event);
                announce(&event, &mut before, &cache.store, &cache.changes);
            }
        };
        list(0..100);
        let mut told = std::pin::pin!(cache.subscribe());
        for _ in 0..100 {
            told.next().await;
        }
        list(90..150);
        let mut missing: HashSet<String> = (0..150).map(|number| number.to_string()).collect();
        while !missing.is_empty() {
            missing.remove(&told.next().await.unwrap().name);
        }
    }

    #[tokio::test]
    async fn a_new_subscriber_is_told_of_some_first_and_of_all_in_portions() {
        let (store, mut writer) = reflector::store();
        let cache = Cache { store, changes: broadcast::channel(16).0, leaves_out: Arc::default() };
        let names = (0..10 * BREATH).map(|number| number.to_string());
        let objects = names.map(|name| Event::InitApply(pod(&name)));
        [Event::Init].into_iter().chain(objects).chain([Event::InitDone]).for_each(|event| {
            writer.apply_watcher_event(&event);
        });
        let mut told = std::pin::pin!(cache.subscribe_from(|pod| pod.metadata.name.as_deref() == Some("77")));
        let mut all = HashSet::new();
        assert_eq!(told.next().await.unwrap().name, "77");
        let mut at_once = 1;
        for _ in 1..10 * BREATH {
            let name = match told.next().now_or_never() {
                Some(name) => name,
                None => {
                    assert!(at_once <= BREATH, "{at_once} at once");
                    at_once = 0;
                    told.next().await
                }
            };
            at_once += 1;
            assert!(at_once <= BREATH && all.insert(name.unwrap().name));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_is_followed_until_a_deletion_was_a_minute_after_the_list_that_left_something_out() {
        let (store, writer) = reflector::store();
        let cache = Cache { store, changes: broadcast::channel(64).0, leaves_out: Arc::default() };
        let refused = prometheus::IntCounter::new("refused", "those").unwrap();
        let room = Room::new(Bound { objects: 21, refused }, cache.leaves_out.clone());
        let mut filling = Filling { room, writer, cache, before: Vec::new() };
        let objects = (0..22).map(|number| Event::InitApply(pod(&number.to_string())));
        let events = [Event::Init].into_iter().chain(objects);
        // The one that was left out is no longer there.
        let events = events.chain([Event::InitDone, Event::Delete(pod("21"))]).map(Ok);
        let began = Instant::now();
        filling.follow(stream::iter(events).chain(stream::pending())).await;
        assert_eq!(began.elapsed().as_secs(), 60);
    }

    #[tokio::test]
    async fn the_first_object_that_finds_no_room_is_told_of_and_those_after_it_are_not() {
        let (store, writer) = reflector::store();
        let (changes, mut told) = broadcast::channel(64);
        let cache = Cache { store, changes, leaves_out: Arc::default() };
        let refused = prometheus::IntCounter::new("refused", "those").unwrap();
        let room = Room::new(Bound { objects: 1, refused }, cache.leaves_out.clone());
        let mut filling = Filling { room, writer, cache, before: Vec::new() };
        let list = [Event::Init, Event::InitApply(pod("a")), Event::InitDone];
        let events = list.into_iter().chain(["b", "c"].map(|name| Event::Apply(pod(name))));
        filling.follow(stream::iter(events.map(Ok))).await;
        let names: Vec<String> = std::iter::from_fn(|| told.try_recv().ok()).map(|name| name.name).collect();
        assert_eq!(names, ["a", "b"]);
    }

    #[test]
    fn what_a_new_list_no_longer_has_is_announced_too() {
        let (store, mut writer) = reflector::store();
        let (sender, mut receiver) = broadcast::channel(16);
        let mut before = Vec::new();
        let again = [Event::Init, Event::InitApply(pod("stays")), Event::InitDone];
        let first =
            [Event::Init, Event::InitApply(pod("stays")), Event::InitApply(pod("goes")), Event::InitDone];
        for event in first {
            writer.apply_watcher_event(&event);
            announce(&event, &mut before, &store, &sender);
        }
        while receiver.try_recv().is_ok() {}
        for event in again {
            writer.apply_watcher_event(&event);
            announce(&event, &mut before, &store, &sender);
        }
        let said: Vec<String> =
            std::iter::from_fn(|| receiver.try_recv().ok()).map(|name| name.name).collect();
        assert_eq!(said, ["goes", "stays"]);
    }
}
