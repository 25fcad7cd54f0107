//! Watches the budgets of fleets: it is told of each change of the API server's objects, in their order, and knows what devices
//! truly run. What a fleet's status counts it does not believe; it takes from it only what the fleet decided, not what it
//! observed: whom it reserved, its batch, and which template it brings.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use device_sim::history::What;
use edge_api::choose::{rank, wanted};
use edge_api::condition::{is_true, types};
use edge_api::{Desired, Device, DeviceFleet, DevicePhase, FleetPhase};
use edge_protocol::config_digest;
use kube::ResourceExt as _;
use serde::Deserialize as _;
use serde_json::Value;

use crate::person::NAMESPACE;
use crate::rollouts::FleetPlan;
use crate::rule::{Rule, Violation};
use crate::server::store::Change;
use crate::states::Memory;

mod limits;
mod lives;

/// Who sets what a fleet wants.
const FLEET: &str = "edge-fleet";

/// The judge. Clones share what it saw.
#[derive(Clone)]
pub struct Judge(Arc<Mutex<Book>>);

struct Book {
    fleets: Vec<FleetPlan>,
    states: Memory,
    devices: BTreeMap<String, Device>,
    objects: BTreeMap<String, DeviceFleet>,
    told: BTreeMap<String, Told>,
    /// By fleet and device: under which mode of the fleet it was reserved.
    reserved: BTreeMap<(String, String), Mode>,
    rollouts: BTreeMap<String, Rollout>,
    /// How often each device was made.
    made: BTreeMap<String, usize>,
    broken: Vec<Violation>,
}

/// Which revision a fleet rolls out, and which it gave up.
type Mode = (Option<i64>, Option<i64>);

/// A device that a fleet changed, after it was reserved.
#[derive(Clone, Debug)]
struct Told {
    fleet: usize,
    desired: Desired,
    /// From which generation on its commands are of that.
    generation: u64,
    /// It was running it, at some time since.
    ended: bool,
    /// It was lost since: it is not in flight any more, and when it is back nobody could help that there is one more.
    lost: bool,
    /// A person kept it from the operator since: the same, and it counts for no budget.
    withheld: bool,
    /// It is given up.
    failed: bool,
    /// It is lost now.
    away: bool,
}

#[derive(Clone, Debug, Default)]
struct Rollout {
    target: Option<Desired>,
    /// Changed since too many had failed.
    since_exceeded: Option<usize>,
    /// Changed since there was no room for another one, as some got lost that had run it.
    since_full: Option<usize>,
}

impl Judge {
    /// Of these fleets.
    pub fn new(fleets: Vec<FleetPlan>, states: Memory) -> Self {
        let book = Book {
            fleets,
            states,
            devices: BTreeMap::new(),
            objects: BTreeMap::new(),
            told: BTreeMap::new(),
            reserved: BTreeMap::new(),
            rollouts: BTreeMap::new(),
            made: BTreeMap::new(),
            broken: Vec::new(),
        };
        Self(Arc::new(Mutex::new(book)))
    }

    /// What was broken so far and not yet told.
    pub fn broken(&self) -> Vec<Violation> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).broken)
    }

    /// Something changed.
    pub fn saw(&self, change: &Change) {
        let mut book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let name = change.place.2.clone();
        let object = change.after.as_deref();
        book.epoch(change);
        match change.place.0.rsplit('/').next() {
            // One that is being deleted is no fleet's any more.
            Some("devices") => match object.and_then(|object| Device::deserialize(object).ok()) {
                Some(device) if device.metadata.deletion_timestamp.is_none() => book.device(name, device),
                _ => {
                    book.devices.remove(&name);
                    book.told.remove(&name);
                }
            },
            Some("devicefleets") => match object.and_then(|object| DeviceFleet::deserialize(object).ok()) {
                Some(fleet) => book.fleet(name, fleet),
                None => book.forgets_fleet(&name),
            },
            _ => {}
        }
    }
}

fn mode(fleet: &DeviceFleet) -> Mode {
    let status = fleet.status.as_ref();
    (status.and_then(|status| status.revision), status.and_then(|status| status.failed_revision))
}

fn is_given_up(fleet: &DeviceFleet) -> bool {
    let (revision, failed) = mode(fleet);
    revision.is_some() && revision == failed
}

fn is_complete(fleet: &DeviceFleet) -> bool {
    fleet.status.as_ref().is_some_and(|status| is_true(&status.conditions, types::COMPLETE))
}

/// Does it say of what is asked now that it has come to an end?
fn says_ended(fleet: &DeviceFleet) -> bool {
    fleet.status.as_ref().is_some_and(|status| {
        let current = status.observed_generation == fleet.metadata.generation;
        current && matches!(status.phase, FleetPhase::Complete | FleetPhase::RolledBack)
    })
}

/// Does it have the fleet's label?
fn selects(plan: &FleetPlan, device: &Device) -> bool {
    device.labels().get(&plan.name).is_some_and(|value| value == "yes")
}

fn reserved(fleet: &DeviceFleet) -> &[String] {
    fleet.status.as_ref().map(|status| status.reserved.as_slice()).unwrap_or_default()
}

/// Is its desired state the fleets' alone?
fn is_fleets(device: &Device) -> bool {
    let owns = |entry: &&k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry| {
        entry.fields_v1.as_ref().is_some_and(|fields| fields.0.pointer("/f:spec/f:desired").is_some())
    };
    let mut owners = device.metadata.managed_fields.iter().flatten().filter(owns);
    owners.all(|entry| entry.manager.as_deref() == Some(FLEET))
}

impl Book {
    fn breaks(&mut self, rule: Rule, sentence: String) {
        self.broken.push(rule.broken(sentence));
    }

    /// Has it run that, at any time since it was told?
    fn has_run(&self, device: &str, told: &Told) -> bool {
        let Some(kept) = self.states.get(device) else { return false };
        let (firmware, digest) = (&told.desired.firmware, config_digest(&told.desired.config));
        let runs = &kept.running.firmware == firmware && kept.running.config == told.desired.config;
        runs || kept.history.of(What::Applied).any(|entry| {
            entry.generation >= told.generation
                && &entry.firmware == firmware
                && entry.config_digest == digest
        })
    }

    /// What a later leader has written is never a former one's again. (A cluster that is set back to a backup is no change.)
    fn epoch(&mut self, change: &Change) {
        let epoch = |object: &Value| object.pointer("/status/epoch").and_then(Value::as_u64);
        let (Some(before), Some(object)) = (change.before.as_deref().and_then(epoch), &change.after) else {
            return;
        };
        let after = epoch(object);
        if after.unwrap_or_default() < before {
            let sentence = format!("{:?} went from epoch {before} to {after:?}", change.place);
            self.breaks(Rule::EpochsRise, sentence);
        }
    }

    fn look_at_devices(&mut self) {
        let ended: Vec<String> = self
            .told
            .iter()
            .filter(|(name, told)| !told.ended && self.has_run(name, told))
            .map(|(name, _)| name.clone())
            .collect();
        for name in ended {
            if let Some(told) = self.told.get_mut(&name) {
                told.ended = true;
            }
        }
    }

    fn device(&mut self, name: String, device: Device) {
        let before = self.devices.insert(name.clone(), device.clone());
        if before.is_none() {
            *self.made.entry(name.clone()).or_default() += 1;
        }
        let was = before.as_ref().and_then(|before| before.spec.desired.clone());
        if was != device.spec.desired {
            match device.spec.desired.clone().filter(|_| is_fleets(&device)) {
                Some(desired) => self.changes(&name, before.as_ref(), &device, desired),
                None => drop(self.told.remove(&name)),
            }
        }
        let Some(told) = self.told.get_mut(&name) else { return };
        let Some(status) = &device.status else { return };
        told.away = status.phase == DevicePhase::Unreachable;
        told.lost |= told.away;
        told.withheld |=
            matches!(status.phase, DevicePhase::Paused | DevicePhase::Pending) || device.spec.paused;
        let current = status.observed_generation == device.metadata.generation;
        told.failed = status.phase == DevicePhase::Failed && current;
        let number = told.fleet;
        self.judge_failures(number);
        self.judge_gone(number);
    }

    fn fleet(&mut self, name: String, fleet: DeviceFleet) {
        let before = self.objects.insert(name.clone(), fleet.clone());
        let names: BTreeSet<&String> = reserved(&fleet).iter().collect();
        self.reserved.retain(|(of, device), _| *of != name || names.contains(device));
        for device in names {
            self.reserved.entry((name.clone(), device.clone())).or_insert(mode(&fleet));
        }
        let Some(number) = self.fleets.iter().position(|plan| plan.name == name) else { return };
        let batch = |fleet: &DeviceFleet| fleet.status.as_ref().map_or(0, |status| status.batch);
        if says_ended(&fleet) && !before.as_ref().is_some_and(says_ended) {
            self.judge_end(number, &fleet);
        }
        let Some(before) = before.filter(|before| mode(before) == mode(&fleet)) else { return };
        if batch(&fleet) > batch(&before).max(1) {
            self.judge_batch(number, batch(&before));
        }
    }

    /// A batch was left behind: everybody who was changed has ended.
    fn judge_batch(&mut self, number: usize, batch: u32) {
        self.look_at_devices();
        let open = |(_, told): &(&String, &Told)| {
            told.fleet == number && !told.ended && !told.failed && !told.withheld && !told.lost
        };
        let open: Vec<String> = self.told.iter().filter(open).map(|(name, _)| name.clone()).collect();
        if !open.is_empty() {
            let name = self.fleets[number].name.clone();
            self.breaks(
                Rule::Batches,
                format!("{name} left batch {batch} behind while {open:?} were under way"),
            );
        }
    }

    /// A fleet changed a device.
    fn changes(&mut self, name: &str, before: Option<&Device>, device: &Device, desired: Desired) {
        self.look_at_devices();
        let holder = self.fleets.iter().position(|plan| {
            self.objects.get(&plan.name).is_some_and(|fleet| reserved(fleet).iter().any(|one| one == name))
        });
        let is_gone = |plan: &FleetPlan| selects(plan, device) && !self.objects.contains_key(&plan.name);
        if holder.is_none() && self.fleets.iter().any(is_gone) {
            // What it had reserved before it was deleted can be on its way.
            self.told.remove(name);
            return;
        }
        let Some(number) = holder else {
            let phase = before.and_then(|before| before.status.as_ref()).map(|status| status.phase);
            let away = [
                DevicePhase::Pending,
                DevicePhase::Unreachable,
                DevicePhase::Conflicted,
                DevicePhase::Paused,
            ];
            if !phase.is_some_and(|phase| away.contains(&phase)) {
                self.breaks(
                    Rule::ReservedFirst,
                    format!("{name} was changed by a fleet, {phase:?} and not reserved"),
                );
            }
            self.told.remove(name);
            return;
        };
        // Whoever is seen to have ended what it was withheld in begins as the others do. The fleet has seen it, too, or its write is refused.
        let was_withheld = self.told.get(name).is_some_and(|told| told.withheld);
        let withheld = was_withheld && !before.is_some_and(limits::is_in_sync) || device.spec.paused;
        // Whoever was lost when the template changed is in flight no more than before.
        let lost = before
            .and_then(|before| before.status.as_ref())
            .is_some_and(|status| status.phase == DevicePhase::Unreachable);
        let generation =
            device.metadata.generation.and_then(|number| u64::try_from(number).ok()).unwrap_or(0);
        let told = Told {
            fleet: number,
            desired: desired.clone(),
            generation,
            ended: false,
            lost,
            withheld,
            failed: false,
            away: lost,
        };
        self.told.insert(name.to_owned(), told);
        self.look_at_devices();
        let plan = self.fleets[number].name.clone();
        let rollout = self.rollouts.entry(plan).or_default();
        if rollout.target.as_ref() != Some(&desired) {
            *rollout = Rollout { target: Some(desired), ..Rollout::default() };
        }
        rollout.since_exceeded = rollout.since_exceeded.map(|changed| changed + 1);
        rollout.since_full = rollout.since_full.map(|changed| changed + 1);
        self.judge_order(number, name);
        self.judge_budgets(number);
        self.judge_failures(number);
        self.judge_gone(number);
    }

    /// The devices of a fleet, by rank, without those that somebody else has set.
    fn order(&self, number: usize) -> Vec<&str> {
        let plan = &self.fleets[number];
        let seed = rank(0, NAMESPACE, &plan.name);
        let ours = self.devices.iter().filter(|(_, device)| selects(plan, device) && is_fleets(device));
        let ours = ours.filter(|(name, device)| !self.has_just_joined(plan, name, device));
        let mut ours: Vec<(u64, &str)> =
            ours.map(|(name, _)| (rank(seed, NAMESPACE, name), name.as_str())).collect();
        ours.sort_unstable();
        ours.into_iter().map(|(_, name)| name).collect()
    }

    fn judge_order(&mut self, number: usize, device: &str) {
        let plan = &self.fleets[number];
        let Some(fleet) = self.objects.get(&plan.name) else { return };
        if is_given_up(fleet) || is_complete(fleet) {
            return;
        }
        let reserved_for = self.reserved.get(&(plan.name.clone(), device.to_owned()));
        if reserved_for != Some(&mode(fleet)) {
            // It was under way when the template changed.
            return;
        }
        let batch = fleet.status.as_ref().map_or(1, |status| status.batch.max(1));
        let ends = plan.ends();
        let Some(end) = usize::try_from(batch - 1).ok().and_then(|index| ends.get(index)) else { return };
        let order = self.order(number);
        let size = wanted(*end, plan.members.len() + 1);
        let place = order.iter().position(|name| *name == device).unwrap_or(0);
        if place >= size {
            let sentence =
                format!("{device} is number {place} of {} and was changed in batch {batch}", plan.name);
            self.breaks(Rule::Batches, sentence);
        }
    }

    fn judge_budgets(&mut self, number: usize) {
        let plan = &self.fleets[number];
        let target = self.rollouts.get(&plan.name).and_then(|rollout| rollout.target.as_ref());
        let ours = || self.told.iter().filter(|(_, told)| told.fleet == number && !told.withheld);
        let tries = |told: &Told| !told.ended && !told.failed && !told.lost;
        let in_flight: Vec<&String> = ours().filter(|(_, told)| tries(told)).map(|(name, _)| name).collect();
        // Of a rollout that is complete, those that failed hold up nobody: how many may, `judge_failures` knows.
        let is_complete = self.objects.get(&plan.name).is_some_and(is_complete);
        let is_out = |told: &Told| {
            let of_this = Some(&told.desired) == target;
            tries(told) || (of_this && !told.ended && !(is_complete && told.failed))
        };
        let out: Vec<&String> = ours().filter(|(_, told)| is_out(told)).map(|(name, _)| name).collect();
        let mut sentences = Vec::new();
        if in_flight.len() > plan.max_in_flight {
            sentences.push((
                Rule::InFlight,
                format!("{} has {in_flight:?} under way, of {}", plan.name, plan.max_in_flight),
            ));
        }
        if out.len() > plan.max_unavailable {
            sentences.push((
                Rule::Unavailable,
                format!("{} made {out:?} unavailable, of {}", plan.name, plan.max_unavailable),
            ));
        }
        for (rule, sentence) in sentences {
            self.breaks(rule, sentence);
        }
    }
}

#[cfg(test)]
mod tests;
