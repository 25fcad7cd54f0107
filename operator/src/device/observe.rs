//! What a decision is made on. The first step of a reconcile; the only one before the last that may call the API server.

use anyhow::Result;
use edge_api::{Device, DeviceStatus};
use kube::Api;
use tokio::time::Instant;

use super::answer::{Answer, Outcome};
use super::controls::Controls;
use super::decide::{Observed, Place};
use super::key::Key;
use super::memory::Memory;
use super::policy::Policy;
use super::status;
use super::validate::{Host, Invalid, Spec, validate};
use crate::epoch;
use crate::error::{ApiError, call};
use crate::shared::{Shared, draw};

/// What was observed of one device, to be decided on.
pub struct Sight {
    /// The status that the server holds.
    pub status: DeviceStatus,
    /// The resourceVersion that a write is based on.
    pub version: Option<String>,
    spec: Result<Spec, Invalid>,
    place: Place,
    is_sought: bool,
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
            is_sought: self.is_sought,
            generation: device.metadata.generation.unwrap_or(0),
            epoch: self.epoch,
            policy,
            now: self.now,
            wall: self.wall,
            draw: self.draw,
        }
    }
}

/// Looks at a device: where it is and what the server holds. None when the object in the cache is older than one
/// that the device has a command of, or than our own last change of its metadata: then its successor is to be decided
/// on, not a mixture of the two; and when the device is gone meanwhile.
///
/// # Errors
/// When a fresh read was due and failed.
pub async fn observe(controls: &Controls, key: &Key, device: &Device) -> Result<Option<Sight>, ApiError> {
    let (now, shared) = (Instant::now(), &controls.shared);
    let spec = validate(device);
    let known = epoch::parse(device.metadata.resource_version.as_deref()).ok();
    let seen = controls.with_entry(key, device, |entry| {
        // What the cache shows meanwhile needs no second copy of it here.
        entry.written.take_if(|written| written.on != device.metadata.resource_version);
        let (status, version) = match &entry.written {
            Some(written) => (written.status.clone(), written.version.clone()),
            None => (device.status.clone().unwrap_or_default(), device.metadata.resource_version.clone()),
        };
        let place = spec.as_ref().map_or(Place::Unknown, |spec| place(shared, key, spec, &entry.memory));
        let reported = reported_generation(entry.memory.inbox.as_deref());
        (status, version, place, reported, entry.marked)
    });
    let Some((status, version, place, reported, marked)) = seen else { return Ok(None) };
    if marked.zip(known).is_some_and(|(marked, known)| known < marked) {
        return Ok(None);
    }
    let cached = device.metadata.generation.unwrap_or(0);
    let ahead = reported.is_some_and(|reported| reported > u64::try_from(cached).unwrap_or(0));
    // In a place of its own: it is rare, and all devices of a cluster may wait behind this.
    if ahead && Box::pin(fresh_generation(shared, key)).await? > cached {
        return Ok(None);
    }
    let (wall, draw, epoch) = (shared.clock.now(), draw(), shared.leadership.epoch());
    let is_sought = status::has_moved(&status, &place) && shared.has_profiles(&key.namespace);
    Ok(Some(Sight { status, version, spec, place, is_sought, epoch, now, wall, draw }))
}

async fn fresh_generation(shared: &Shared, key: &Key) -> Result<i64, ApiError> {
    let devices: Api<Device> = Api::namespaced(shared.client.clone(), &key.namespace);
    let device = call(|| format!("get Device {key}"), devices.get(&key.name)).await?;
    Ok(device.metadata.generation.unwrap_or(0))
}

fn place(shared: &Shared, key: &Key, spec: &Spec, memory: &Memory) -> Place {
    let lookup = memory.lookup.as_deref();
    let found = match &spec.host {
        Host::Address(address) => vec![*address],
        Host::Name(_) if memory.endpoint.as_ref() != Some(&(spec.host.clone(), spec.port)) => Vec::new(),
        Host::Name(_) => lookup.map_or_else(Vec::new, |lookup| lookup.found.clone()),
    };
    if found.is_empty() {
        let error = lookup.and_then(|lookup| lookup.error.clone());
        return error.map_or(Place::Unknown, Place::Unresolved);
    }
    let judged = found.into_iter().map(|ip| Ok((ip, shared.reach.address(&key.namespace, ip)?)));
    match judged.collect::<Result<Vec<_>, crate::resolve::NotAllowed>>() {
        Ok(addresses) => Place::At(addresses),
        Err(refused) => Place::NotAllowed(refused.to_string()),
    }
}

fn reported_generation(inbox: Option<&Outcome>) -> Option<u64> {
    match inbox {
        Some(Outcome { answer: Answer::Report(report), .. }) => Some(report.held_generation),
        _ => None,
    }
}
