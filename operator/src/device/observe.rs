//! What a decision is made on, and the table of what is remembered. The first step of a reconcile; the only one
//! before the last that may call the API server.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use edge_api::{Device, DeviceStatus};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::absorb::{Answer, Outcome};
use super::decide::{Observed, Place};
use super::memory::Memory;
use super::metrics::{Census, DeviceMetrics};
use super::policy::Policy;
use super::validate::{Host, Invalid, Spec, validate};
use crate::budget::Bucket;
use crate::dns::Dns;
use crate::error::{ApiError, call};
use crate::link::slots::Slots;
use crate::link::socket::{self, Sockets};
use crate::link::{Link, Timing};
use crate::metrics::ControllerMetrics;
use crate::queue::Permits;
use crate::runtime::{self, Shared};

/// Names a Device.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Key {
    /// Out of a reference.
    pub fn of(object: &ObjectRef<Device>) -> Self {
        Self { namespace: object.namespace.clone().unwrap_or_default(), name: object.name.clone() }
    }

    /// As a reference.
    pub fn reference(&self) -> ObjectRef<Device> {
        ObjectRef::new(&self.name).within(&self.namespace)
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

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

struct Entry {
    memory: Memory,
    written: Option<Written>,
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
    pub link: Arc<Link<Arc<Sockets>>>,
    /// Exchanges at once.
    pub slots: Slots,
    /// Looks names up.
    pub dns: Dns,
    /// Tasks of exchanges and lookups; at most one of each for a device.
    pub tasks: Mutex<JoinSet<()>>,
    /// Names of devices whose exchange or lookup ended.
    pub outcomes: mpsc::Sender<ObjectRef<Device>>,
    controller: Arc<ControllerMetrics>,
    sockets: Arc<Sockets>,
    policy: Policy,
    table: Arc<Mutex<HashMap<Key, Entry>>>,
    budget: Mutex<Bucket>,
}

/// What was observed of one device, to be decided on.
pub struct Sight {
    /// The status that the server holds.
    pub status: DeviceStatus,
    /// The resourceVersion that a write is based on.
    pub version: Option<String>,
    spec: Result<Spec, Invalid>,
    place: Place,
    epoch: u64,
    now: Instant,
    wall: jiff::Timestamp,
    draw: f64,
}

impl Sight {
    /// With the object and the policy, all that a decision depends on.
    pub fn observed<'a>(&'a self, device: &'a Device, policy: &'a Policy) -> Observed<'a> {
        Observed {
            device,
            status: &self.status,
            spec: &self.spec,
            place: &self.place,
            generation: device.metadata.generation.unwrap_or(0),
            epoch: self.epoch,
            policy,
            now: self.now,
            wall: self.wall,
            draw: self.draw,
        }
    }
}

/// The lock of a table whose critical sections are short and do not panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Controls {
    /// # Errors
    /// When there is no socket, or a metric is registered twice.
    pub async fn new(shared: Arc<Shared>, outcomes: mpsc::Sender<ObjectRef<Device>>) -> Result<Self> {
        let args = &shared.args;
        let registry = shared.metrics.registry();
        let devices = shared.devices.store();
        let metrics = DeviceMetrics::new(registry, devices.clone(), args.work.per_device_series)?;
        let table: Arc<Mutex<HashMap<Key, Entry>>> = Arc::default();
        Census::register(registry, devices.clone(), {
            let table = table.clone();
            move || ages(&lock(&table), Instant::now())
        })?;
        for (name, limit) in [
            ("in_flight_exchanges", f64::from(args.work.max_in_flight)),
            ("workers", f64::from(args.work.workers)),
            ("lookups", f64::from(args.work.max_lookups)),
            ("retries_per_second", args.retry.retry_rate),
        ] {
            shared.metrics.limit.with_label_values(&[name]).set(limit);
        }
        let sockets = Arc::new(Sockets::bind().await.context("UDP socket")?);
        let timing = Timing { ack_timeout: args.link.ack_timeout, max_retransmit: args.link.max_retransmit };
        let in_flight = usize::from(args.work.max_in_flight);
        let link = Link::new(sockets.clone(), timing, in_flight, metrics.datagrams.clone());
        let controller = shared.metrics.controller("device");
        Ok(Self {
            permits: Permits::new(args.work.workers, controller.clone()),
            controller,
            metrics,
            link: Arc::new(link),
            slots: Slots::new(in_flight),
            dns: Dns::new(usize::from(args.work.max_lookups)),
            tasks: Mutex::default(),
            outcomes,
            sockets,
            policy: Policy::of(args),
            table,
            budget: Mutex::new(Bucket::new(args.retry.retry_burst, args.retry.retry_rate)),
            shared,
        })
    }

    /// Reads the sockets until shutdown.
    pub async fn receive(self: Arc<Self>) {
        socket::receive(self.link.clone(), self.sockets.clone(), self.shared.shutdown.clone()).await;
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

    /// Looks at a device: where it is and what the server holds. None when the object in the cache is older than one
    /// that the device has a command of: then its successor is to be decided on, not a mixture of the two.
    ///
    /// # Errors
    /// When a fresh read was due and failed.
    pub async fn observe(&self, key: &Key, device: &Device) -> Result<Option<Sight>, ApiError> {
        let now = Instant::now();
        let spec = validate(device);
        let (status, version, place, reported) = self.with_entry(key, device, |entry| {
            let current =
                entry.written.as_ref().filter(|written| written.on == device.metadata.resource_version);
            let (status, version) = match current {
                Some(written) => (written.status.clone(), written.version.clone()),
                None => (device.status.clone().unwrap_or_default(), device.metadata.resource_version.clone()),
            };
            let place =
                spec.as_ref().map_or(Place::Unknown, |spec| self.place(&key.namespace, spec, &entry.memory));
            (status, version, place, reported_generation(entry.memory.inbox.as_ref()))
        });
        let cached = device.metadata.generation.unwrap_or(0);
        let ahead = reported.is_some_and(|reported| reported > u64::try_from(cached).unwrap_or(0));
        if ahead && self.fresh_generation(key).await? > cached {
            return Ok(None);
        }
        Ok(Some(Sight {
            status,
            version,
            spec,
            place,
            epoch: self.shared.epoch,
            now,
            wall: runtime::wall_clock(),
            draw: runtime::draw(),
        }))
    }

    async fn fresh_generation(&self, key: &Key) -> Result<i64, ApiError> {
        let devices: Api<Device> = Api::namespaced(self.shared.client.clone(), &key.namespace);
        let device = call(|| format!("get Device {key}"), devices.get(&key.name)).await?;
        Ok(device.metadata.generation.unwrap_or(0))
    }

    fn place(&self, namespace: &str, spec: &Spec, memory: &Memory) -> Place {
        let found = match &spec.host {
            Host::Address(address) => vec![*address],
            Host::Name(_) if memory.endpoint.as_ref() != Some(&(spec.host.clone(), spec.port)) => Vec::new(),
            Host::Name(_) => memory.lookup.found.clone(),
        };
        if found.is_empty() {
            return memory.lookup.error.clone().map_or(Place::Unknown, Place::Unresolved);
        }
        let judged = found.into_iter().map(|ip| Ok((ip, self.shared.reach.address(namespace, ip)?)));
        match judged.collect::<Result<Vec<_>, crate::resolve::NotAllowed>>() {
            Ok(addresses) => Place::At(addresses),
            Err(refused) => Place::NotAllowed(refused.to_string()),
        }
    }

    fn with_entry<T>(&self, key: &Key, device: &Device, act: impl FnOnce(&mut Entry) -> T) -> T {
        let mut table = lock(&self.table);
        let uid = device.uid().unwrap_or_default();
        if table.get(key).is_some_and(|entry| entry.memory.uid != uid) {
            table.remove(key);
        }
        let entry = table.entry(key.clone()).or_insert_with(|| {
            let (now, wall) = (Instant::now(), runtime::wall_clock());
            let memory = Memory::new(device, now, wall, rand::random(), self.policy.bucket());
            Entry { memory, written: None, failures: 0 }
        });
        act(entry)
    }

    /// Works on what is remembered of a device, and on the retries that all devices share.
    pub fn with_memory<T>(
        &self,
        key: &Key,
        device: &Device,
        act: impl FnOnce(&mut Memory, &mut Bucket) -> T,
    ) -> T {
        self.with_entry(key, device, |entry| act(&mut entry.memory, &mut lock(&self.budget)))
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
            entry.written = Some(written);
        }
    }

    /// Forgets a device that is gone; ends its exchange.
    pub fn forget(&self, key: &Key) {
        lock(&self.table).remove(key);
        self.metrics.forget(key);
    }

    /// Counts a failed reconcile of a device; gives how many there were in a row.
    pub fn blame(&self, key: &Key) -> u32 {
        self.controller.retries.inc();
        let mut table = lock(&self.table);
        let Some(entry) = table.get_mut(key) else { return 1 };
        entry.failures = entry.failures.saturating_add(1);
        entry.failures
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

fn reported_generation(inbox: Option<&Outcome>) -> Option<u64> {
    match inbox {
        Some(Outcome { answer: Answer::Report(report), .. }) => Some(report.held_generation),
        _ => None,
    }
}

fn ages(table: &HashMap<Key, Entry>, now: Instant) -> BTreeMap<String, f64> {
    let mut oldest = BTreeMap::new();
    for (key, entry) in table {
        let Some(since) = entry.memory.unmet_since else { continue };
        let age = now.saturating_duration_since(since).as_secs_f64();
        let known: &mut f64 = oldest.entry(key.namespace.clone()).or_default();
        *known = known.max(age);
    }
    oldest
}
