//! What reconciles of devices share: sockets, slots and budgets, and the table of what is remembered of each device.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result};
use edge_api::{Device, DevicePhase, DeviceStatus};
use kube::ResourceExt;
use kube::runtime::events::EventType;
use kube::runtime::reflector::ObjectRef;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::absorb::Note;
use super::answer::Answer;
use super::census::{Census, Summary};
use super::key::Key;
use super::memory::Memory;
use super::message_id::MessageIds;
use super::metrics::DeviceMetrics;
use super::policy::Policy;
use super::release::is_held;
use super::status;
use super::table::Table;
use crate::args::bounds::size;
use crate::budget::{Bucket, Budgets};
use crate::dns::Dns;
use crate::epoch;
use crate::link::Link;
use crate::link::observe::{Heed, Notification, Subject};
use crate::link::socket::{self, Sockets};
use crate::lock::lock;
use crate::metrics::{ControllerMetrics, Metrics, usage};
use crate::queue::Permits;
use crate::retry::Failure;
use crate::shared::{Shared, draw};
use crate::slots::{Cause, Passes, Slots};

mod outlet;

pub use self::outlet::WhileLeading;

/// A status that was written, and is perhaps not yet in the cache.
#[derive(Clone, Debug)]
pub struct Written {
    /// resourceVersion that it was written on.
    pub on: Option<String>,
    /// resourceVersion that the write made.
    pub version: Option<String>,
    /// What was written.
    pub status: DeviceStatus,
}

/// What is remembered of a device. What most devices have at no time, or for a moment, is in a place of its own.
pub(super) struct Entry {
    pub(super) memory: Memory,
    pub(super) written: Option<Box<Written>>,
    /// resourceVersion that our last change of its metadata made: what is in the cache and older does not show it.
    pub(super) marked: Option<u64>,
    /// When it had its last turns.
    pub(super) passes: Passes,
    failures: u32,
}

/// What reconciles of devices share.
pub struct Controls {
    /// What all controllers share.
    pub shared: Arc<Shared>,
    /// Reconciles at once.
    pub permits: Permits,
    /// What is counted of devices.
    pub metrics: DeviceMetrics,
    /// Exchanges.
    pub link: Arc<Link<WhileLeading>>,
    /// Exchanges at once.
    pub slots: Slots,
    /// Writes at once. They last as long as the API server likes, so that whoever is to write holds no permit: else devices that answer
    /// would wait to be asked until others' silence is written down, and be silent themselves.
    pub writers: Slots,
    /// Looks names up.
    pub dns: Dns,
    /// Tasks of exchanges and lookups; at most one of each for a device.
    pub tasks: Mutex<JoinSet<()>>,
    /// Names of devices whose exchange or lookup ended.
    pub outcomes: mpsc::Sender<ObjectRef<Device>>,
    controller: Arc<ControllerMetrics>,
    sockets: Arc<Sockets>,
    policy: Policy,
    table: Arc<Mutex<Table<Entry>>>,
    budgets: Mutex<Budgets>,
    message_ids: MessageIds,
}

impl Controls {
    /// # Errors
    /// When there is no socket, or a metric is registered twice.
    pub async fn new(
        shared: Arc<Shared>,
        outcomes: mpsc::Sender<ObjectRef<Device>>,
        news: mpsc::Sender<Notification>,
    ) -> Result<Self> {
        let args = &shared.args;
        let registry = shared.metrics.registry();
        let devices = shared.devices.store();
        let series = args.work.per_device_series;
        let metrics = DeviceMetrics::new(registry, devices.clone(), size(series))?;
        shared.metrics.bound("per_device_series", f64::from(series), metrics.named());
        let table = Arc::new(Mutex::new(Table::new(size(args.bounds.max_devices))));
        Census::register(registry, devices.clone(), {
            let table = table.clone();
            move || summaries(&lock(&table), Instant::now())
        })?;
        let sockets = Arc::new(Sockets::bind_in(shared.network.as_ref()).await.context("UDP socket")?);
        let in_flight = usize::from(args.work.max_in_flight);
        let outlet = WhileLeading { sockets: sockets.clone(), leadership: shared.leadership.clone() };
        let observed = usize::try_from(args.work.max_observations).unwrap_or(usize::MAX);
        let bounds = &args.bounds;
        let heed = Heed { burst: bounds.notification_burst, rate: bounds.notification_rate };
        shared.metrics.bound("notifications", f64::from(bounds.notification_queue), usage::waiting(&news));
        shared.metrics.bound("outcomes", f64::from(bounds.outcome_queue), usage::waiting(&outcomes));
        let link = Link::new(outlet, args.link.timing(), in_flight, metrics.datagrams.clone())
            .bounded(size(bounds.remembered_exchanges), usize::from(bounds.exchange_mailbox))
            .observing((observed, heed), news, metrics.observations.clone());
        let (link, dns) =
            (Arc::new(link), Dns::new(usize::from(args.work.max_lookups), metrics.waiting_lookups.clone()));
        show_bounds(&shared, &link, &dns, &table);
        let controller = shared.metrics.controller("device");
        let writers = Slots::new(usize::from(args.work.device_writers));
        shared.metrics.bound("device_writers", f64::from(args.work.device_writers), writers.usage());
        Ok(Self {
            permits: Permits::new(args.work.workers, controller.clone()),
            controller,
            metrics,
            link,
            slots: Slots::new(in_flight),
            writers,
            dns,
            tasks: Mutex::default(),
            outcomes,
            sockets,
            policy: Policy::of(args),
            table,
            budgets: Mutex::new(Budgets {
                retries: Bucket::new(args.retry.retry_burst, args.retry.retry_rate),
                progress: Bucket::new(args.bounds.progress_burst, args.bounds.progress_rate),
            }),
            message_ids: MessageIds::new(rand::random()),
            shared,
        })
    }

    /// Reads the sockets until shutdown.
    pub async fn receive(self: Arc<Self>) {
        socket::receive(self.link.clone(), self.sockets.clone(), self.shared.shutdown.clone()).await;
    }

    /// Hands the reports that came by themselves to their devices, for ever.
    pub async fn heed(self: Arc<Self>, mut news: mpsc::Receiver<Notification>) {
        while let Some(Notification { subject: Subject { namespace, name, uid }, payload }) =
            news.recv().await
        {
            let key = Key { namespace: namespace.into(), name: name.into() };
            let report = match Answer::pushed(&payload) {
                Answer::Pushed(report) => report,
                _ => {
                    self.metrics.note(&key.namespace, &[Note::Report("malformed")]);
                    continue;
                }
            };
            let known = self.if_known(&key, &uid, |memory| memory.push(report));
            if known.is_some() && self.outcomes.send(key.reference()).await.is_err() {
                return;
            }
        }
    }

    /// Ends all exchanges and lookups.
    pub async fn stop(&self) {
        let mut tasks = std::mem::take(&mut *lock(&self.tasks));
        tasks.shutdown().await;
    }

    /// How patient.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Is this device remembered, or is there room for it? If not, a person is told. One that waits to be released finds room in
    /// the reserve: else nobody would ever take its finalizer away, and it is gone when that is done.
    pub fn admits(&self, key: &Key, device: &Device) -> bool {
        let leaves = device.metadata.deletion_timestamp.is_some() && is_held(device);
        let uid = device.uid().unwrap_or_default();
        let mut table = lock(&self.table);
        match table.get(key).map(|entry| entry.memory.uid == uid) {
            Some(true) => return true,
            Some(false) => self.take_out(&mut table, key),
            None => {}
        }
        let is_in = table.insert(key, leaves, || self.nothing_yet(key, device));
        drop(table);
        if !is_in {
            self.refuse(device, leaves);
            return false;
        }
        // Nobody tells again of a device that was gone before it was put in.
        let exists = self.shared.devices.store().get(&key.reference()).is_some();
        if !exists {
            self.forget(key);
        }
        exists
    }

    fn refuse(&self, device: &Device, leaves: bool) {
        let most = self.shared.args.bounds.max_devices;
        self.metrics.refused.inc();
        let note = if leaves {
            let reserve = Table::<Entry>::reserve(size(most));
            format!(
                "not released yet: beside the {most} devices of --max-devices the operator releases {reserve} at once, and this \
                 one waits for its turn"
            )
        } else {
            format!("not managed: there are {most} devices already, which is --max-devices of the operator")
        };
        self.shared.events.tell(device, EventType::Warning, "Sync", "TooManyDevices", &note);
    }

    fn take_out(&self, table: &mut Table<Entry>, key: &Key) {
        if let Some(entry) = table.remove(key) {
            self.link.forget(&key.subject(&entry.memory.uid));
        }
    }

    /// Why it is a device's turn, and when it had its last ones. What is not yet as it shall be is a change, as far as the status of
    /// this object and what is remembered tell.
    pub(super) fn turn(&self, key: &Key, device: &Device) -> (Cause, Passes) {
        let table = lock(&self.table);
        let entry = table.get(key);
        let told = device.status.as_ref().is_some_and(|status| {
            status.observed_generation == device.metadata.generation && status.phase != DevicePhase::Syncing
        });
        let unmet = entry.is_some_and(|entry| entry.memory.is_unmet());
        let cause = if unmet || !told { Cause::Change } else { Cause::Routine };
        (cause, entry.map(|entry| entry.passes).unwrap_or_default())
    }

    /// Works on all that is remembered of a device; none when it is gone, or another one of its name is in its place. Only
    /// [`Self::admits`] remembers one.
    pub(super) fn with_entry<T>(
        &self,
        key: &Key,
        device: &Device,
        act: impl FnOnce(&mut Entry) -> T,
    ) -> Option<T> {
        let mut table = lock(&self.table);
        let entry = table
            .get_mut(key)
            .filter(|entry| Some(entry.memory.uid.as_str()) == device.metadata.uid.as_deref())?;
        Some(act(entry))
    }

    fn nothing_yet(&self, key: &Key, device: &Device) -> Entry {
        let (now, wall) = (Instant::now(), self.shared.clock.now());
        let memory = Memory::new(device, now, wall, draw(), self.message_ids.of(key), &self.policy);
        Entry { memory, written: None, marked: None, passes: Passes::default(), failures: 0 }
    }

    /// Works on what is remembered of a device, and on what all devices share; none as with [`Self::with_entry`].
    pub fn with_memory<T>(
        &self,
        key: &Key,
        device: &Device,
        act: impl FnOnce(&mut Memory, &mut Budgets) -> T,
    ) -> Option<T> {
        self.with_entry(key, device, |entry| act(&mut entry.memory, &mut lock(&self.budgets)))
    }

    /// Works on what is remembered of a device, if it is still this one.
    pub fn if_known<T>(&self, key: &Key, uid: &str, act: impl FnOnce(&mut Memory) -> T) -> Option<T> {
        let mut table = lock(&self.table);
        let entry = table.get_mut(key).filter(|entry| entry.memory.uid == uid)?;
        Some(act(&mut entry.memory))
    }

    /// Remembers a write until the cache has it.
    pub fn wrote(&self, key: &Key, written: Written) {
        if let Some(entry) = lock(&self.table).get_mut(key) {
            entry.memory.status_is_written(Instant::now());
            entry.written = Some(Box::new(written));
        }
    }

    /// Remembers a change of a device's metadata until the cache has it.
    pub fn marked(&self, key: &Key, version: Option<&str>) {
        if let Some(entry) = lock(&self.table).get_mut(key) {
            entry.marked = epoch::parse(version).ok();
        }
    }

    /// Forgets a device that is gone; ends its exchange.
    pub fn forget(&self, key: &Key) {
        self.take_out(&mut lock(&self.table), key);
        self.metrics.forget(key);
    }

    /// Counts a failed reconcile of a device; gives how long until it is tried again.
    pub(super) fn blame(&self, key: &Key, failure: Failure) -> Duration {
        let failures = lock(&self.table).get_mut(key).map_or(1, |entry| {
            entry.failures = entry.failures.saturating_add(1);
            entry.failures
        });
        self.shared.retries.blame(&self.controller, failures, failure)
    }

    /// A reconcile went well.
    pub fn forgive(&self, key: &Key) {
        if let Some(entry) = lock(&self.table).get_mut(key) {
            entry.failures = 0;
        }
    }

    /// The devices that are at one of these addresses, or may be; without any, all of them.
    pub fn devices_at(&self, moved: Option<&HashSet<IpAddr>>) -> Vec<ObjectRef<Device>> {
        let table = lock(&self.table);
        let there = table.iter().filter(|(_, entry)| moved.is_none_or(|moved| entry.memory.may_be_at(moved)));
        there.map(|(key, _)| key.reference()).collect()
    }
}

fn show_bounds(shared: &Shared, link: &Arc<Link<WhileLeading>>, dns: &Dns, table: &Arc<Mutex<Table<Entry>>>) {
    let (args, metrics) = (&shared.args, &shared.metrics);
    let (retry, bounds) = (&args.retry, &args.bounds);
    for (name, limit) in [
        ("workers", f64::from(args.work.workers)),
        ("exchange_mailbox", f64::from(bounds.exchange_mailbox)),
        ("device_retries_at_once", f64::from(retry.device_retry_burst)),
        ("device_retries_per_second", retry.device_retry_rate),
        ("retries_at_once", f64::from(retry.retry_burst)),
        ("retries_per_second", retry.retry_rate),
        ("progress_at_once", f64::from(bounds.progress_burst)),
        ("progress_per_second", bounds.progress_rate),
        ("device_notifications_at_once", f64::from(bounds.notification_burst)),
        ("device_notifications_per_second", bounds.notification_rate),
        ("device_statuses_at_once", f64::from(bounds.device_status_burst)),
        ("device_statuses_per_second", bounds.device_status_rate),
        ("events_at_once", f64::from(bounds.event_burst)),
        ("events_per_second", bounds.event_rate),
    ] {
        metrics.limit.with_label_values(&[name]).set(limit);
    }
    metrics.bound("lookups", f64::from(args.work.max_lookups), dns.usage());
    show_table(metrics, args.bounds.max_devices, table);
    let exchanges = link.clone();
    metrics.bound("in_flight_exchanges", f64::from(args.work.max_in_flight), move || exchanges.in_flight());
    let ended = link.clone();
    let most = f64::from(args.bounds.remembered_exchanges);
    metrics.bound("remembered_exchanges", most, move || ended.remembered());
    let observed = link.clone();
    let most = f64::from(args.work.max_observations);
    metrics.bound("observations", most, move || observed.observed_devices());
}

fn show_table<E: Send + 'static>(metrics: &Metrics, most: u32, table: &Arc<Mutex<Table<E>>>) {
    let (held, leaving) = (table.clone(), table.clone());
    metrics.bound("devices", f64::from(most), move || lock(&held).held());
    let reserve = u32::try_from(Table::<E>::reserve(size(most))).unwrap_or(u32::MAX);
    metrics.bound("leaving_devices", f64::from(reserve), move || lock(&leaving).leaving());
}

fn summaries(table: &Table<Entry>, now: Instant) -> BTreeMap<String, Summary> {
    let mut all: BTreeMap<String, Summary> = BTreeMap::new();
    for (key, entry) in table.iter() {
        let memory = &entry.memory;
        let summary = all.entry(key.namespace.to_string()).or_default();
        if let Some(patience) = memory.patience {
            *summary.contacts.entry(status::contact(memory, patience, now)).or_default() += 1;
            summary.silence = summary.silence.max(memory.silence(now).as_secs_f64());
        }
        let age = memory.unmet_since.map(|since| now.saturating_duration_since(since).as_secs_f64());
        summary.unmet = summary.unmet.max(age.unwrap_or(0.0));
    }
    all
}

#[cfg(test)]
mod tests;
