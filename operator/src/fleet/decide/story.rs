//! A fleet's life as prose, without an API server: its status, revisions and devices as the server has them, a view of the
//! devices that may be behind, and leaders that come and go between any two writes.

use std::collections::{BTreeMap, BTreeSet};

use edge_api::condition::find_condition;
use edge_api::{DeviceFleetSpec, FleetPhase, choose};
use jiff::SignedDuration;
use serde_json::{Value, json};

use super::super::validate::plan;
use super::*;

/// What a device does with a firmware that it is told to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Installs it.
    Works,
    /// Gives up.
    Fails,
    /// Is lost on the way, until it returns; then installs it.
    Dies,
}

/// A device, as the API server has it.
#[derive(Clone, Debug)]
pub(super) struct Sim {
    pub(super) name: String,
    pub(super) uid: String,
    /// The fleet selects it.
    pub(super) is_member: bool,
    /// Nobody has asked it anything yet.
    pub(super) is_new: bool,
    pub(super) desired: Option<Desired>,
    pub(super) foreign: bool,
    pub(super) contact: Contact,
    pub(super) outcome: Outcome,
    pub(super) lost_at: Option<Timestamp>,
    pub(super) version: u64,
}

pub(super) struct Story {
    pub(super) spec: DeviceFleetSpec,
    pub(super) generation: i64,
    pub(super) status: Option<DeviceFleetStatus>,
    pub(super) revisions: Revisions,
    pub(super) devices: Vec<Sim>,
    /// The devices as the leader's cache has them.
    pub(super) view: Vec<Sim>,
    /// What this leader has sent: the device, and the version that it was decided on.
    sent: BTreeMap<String, String>,
    pub(super) epoch: u64,
    pub(super) now: Timestamp,
    pub(super) write_in: Duration,
    pub(super) refusal: Option<Refusal>,
    /// Reasons of all notices so far.
    pub(super) said: Vec<&'static str>,
    /// Writes of all kinds so far.
    pub(super) writes: usize,
    /// Devices that were changed since the target changed, and were reserved for that.
    pub(super) changed: BTreeSet<String>,
    /// Those of them that were lost and came back.
    pub(super) revived: BTreeSet<String>,
    /// Those of them that a person has kept from the operator since.
    pub(super) withheld: BTreeSet<String>,
    /// So many of them were reserved when it did.
    pub(super) carried: usize,
    /// How often a device has joined the others.
    pub(super) joined: usize,
    /// A device's fate with a firmware, by name and version; others work.
    pub(super) fates: BTreeMap<(String, String), Fate>,
    /// The next leader's actions until it is killed, if it is.
    pub(super) dies_after: Option<usize>,
}

pub(super) fn firmware(version: &str) -> Desired {
    Desired { firmware: version.into(), config: BTreeMap::new() }
}

impl Story {
    /// A fleet with this rollout, and so many devices in sync with nothing in particular.
    pub(super) fn of(devices: usize, rollout: Value) -> Self {
        let spec = json!({
            "selector": {"matchLabels": {"model": "px4"}}, "template": {"firmware": "1"}, "rollout": rollout,
        });
        let device = |number: usize| Sim {
            name: format!("pump-{number}"),
            uid: format!("first-{number}"),
            is_member: true,
            is_new: false,
            desired: None,
            foreign: false,
            contact: Contact::Answering,
            outcome: Outcome::InSync,
            lost_at: None,
            version: 1,
        };
        let devices: Vec<Sim> = (0..devices).map(device).collect();
        Self {
            spec: serde_json::from_value(spec).unwrap(),
            generation: 1,
            status: None,
            revisions: Revisions::new(),
            view: devices.clone(),
            devices,
            sent: BTreeMap::new(),
            epoch: 5,
            now: Timestamp::from_second(1_800_000_000).unwrap(),
            write_in: Duration::ZERO,
            refusal: None,
            said: Vec::new(),
            writes: 0,
            changed: BTreeSet::new(),
            revived: BTreeSet::new(),
            withheld: BTreeSet::new(),
            carried: 0,
            joined: 0,
            fates: BTreeMap::new(),
            dies_after: None,
        }
    }

    /// The same, with version 1 complete on all devices.
    pub(super) fn complete(devices: usize, rollout: Value) -> Self {
        let mut story = Self::of(devices, rollout);
        story.runs_until_quiet();
        assert_eq!(story.phase(), FleetPhase::Complete, "{:#?}", story.status);
        story
    }

    pub(super) fn wants(&mut self, version: &str) -> &mut Self {
        self.spec.template = firmware(version);
        self.generation += 1;
        self
    }

    pub(super) fn edit(&mut self, change: impl FnOnce(&mut DeviceFleetSpec)) -> &mut Self {
        change(&mut self.spec);
        self.generation += 1;
        self
    }

    pub(super) fn fate(&mut self, number: usize, version: &str, fate: Fate) -> &mut Self {
        self.fates.insert((format!("pump-{number}"), version.into()), fate);
        self
    }

    /// The devices in the order of the rollout.
    pub(super) fn ranked(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.devices.len()).collect();
        order.sort_by_key(|number| self.rank(*number));
        order
    }

    fn rank(&self, number: usize) -> u64 {
        choose::rank(1, "demo", &self.devices[number].name)
    }

    pub(super) fn status(&self) -> &DeviceFleetStatus {
        self.status.as_ref().expect("it was looked at")
    }

    pub(super) fn phase(&self) -> FleetPhase {
        self.status().phase
    }

    pub(super) fn condition(&self, type_: &str) -> String {
        let condition = find_condition(&self.status().conditions, type_).expect("it is there");
        format!("{}/{}", condition.status, condition.reason)
    }

    /// What a condition says to a person.
    pub(super) fn message(&self, type_: &str) -> &str {
        &find_condition(&self.status().conditions, type_).expect("it is there").message
    }

    /// How many devices are told to run this.
    pub(super) fn told(&self, version: &str) -> usize {
        let desired = firmware(version);
        self.devices.iter().filter(|device| device.desired.as_ref() == Some(&desired)).count()
    }

    /// A device changes on its own account.
    pub(super) fn device(&mut self, number: usize, change: impl FnOnce(&mut Sim)) -> &mut Self {
        let device = &mut self.devices[number];
        change(device);
        device.version += 1;
        self
    }

    /// The cache catches up with one device, or with all.
    pub(super) fn sees(&mut self, number: usize) {
        self.view[number] = self.devices[number].clone();
    }

    pub(super) fn sees_all(&mut self) -> &mut Self {
        self.view = self.devices.clone();
        self
    }

    /// Its devices are not looked at.
    pub(super) fn sees_nobody(&mut self) {
        self.view.clear();
    }

    /// Another leader takes over, with a cache that has caught up with what was written until then.
    pub(super) fn another_leads(&mut self) {
        self.epoch += 1;
        self.sent.clear();
        self.dies_after = None;
        self.sees_all();
    }

    pub(super) fn decide(&self) -> Decision {
        let mut order: Vec<usize> = (0..self.view.len()).filter(|it| self.view[*it].is_member).collect();
        order.sort_by_key(|number| self.rank(*number));
        let versions: Vec<String> = self.view.iter().map(|device| device.version.to_string()).collect();
        let member = |number: usize| {
            let device = &self.view[number];
            let version = &versions[number];
            Member {
                name: &device.name,
                uid: &device.uid,
                version: Some(version),
                desired: device.desired.as_ref(),
                foreign: device.foreign,
                contact: device.contact,
                outcome: device.outcome,
                lost_at: device.lost_at,
                sent: self.sent.get(&device.name) == Some(version),
            }
        };
        let members: Vec<Member<'_>> = order.into_iter().map(member).collect();
        let plan = self.refusal.clone().map_or_else(|| plan(&self.spec), Err);
        decide(&Observed {
            generation: self.generation,
            status: self.status.as_ref(),
            plan: plan.as_ref(),
            template: &self.spec.template,
            revisions: &self.revisions,
            members: &members,
            epoch: self.epoch,
            now: self.now,
            write_in: self.write_in,
        })
    }

    /// One look, and what comes of it. Gives how many things were done.
    pub(super) fn look(&mut self) -> usize {
        let Decision::Act { actions, .. } = self.decide() else { return 0 };
        let mut done = 0;
        for action in actions {
            if let Some(left) = &mut self.dies_after {
                if *left == 0 {
                    self.another_leads();
                    return done + 1;
                }
                *left -= 1;
            }
            if !self.act(action) {
                break;
            }
            done += 1;
        }
        done
    }

    /// As the API server answers; false: refused.
    fn act(&mut self, action: Action) -> bool {
        match action {
            Action::MakeRevision { number, template } => {
                self.writes += 1;
                assert!(
                    self.revisions.insert(number, Some(template.as_ref().clone())).is_none(),
                    "{number} twice"
                );
            }
            Action::DeleteRevision { number } => {
                self.writes += 1;
                assert!(self.revisions.remove(&number).is_some());
            }
            Action::WriteStatus(status) => self.write(*status),
            Action::Notify(notice) => self.said.push(notice.reason),
            Action::Change(change) => return self.change(change),
        }
        true
    }

    fn write(&mut self, status: DeviceFleetStatus) {
        self.writes += 1;
        let mode = |status: &DeviceFleetStatus| (status.revision, status.failed_revision);
        if self.status.as_ref().map(mode) != Some(mode(&status)) {
            self.changed = status.reserved.iter().cloned().collect();
            self.carried = self.changed.len();
            self.forgets_what_ended();
        }
        self.status = Some(status);
    }

    fn change(&mut self, change: Change) -> bool {
        let status = self.status.clone().unwrap();
        let number = self.devices.iter().position(|device| device.name == change.name).unwrap();
        assert!(!change.reserved || status.reserved.contains(&change.name), "{change:?} is not reserved");
        let given_up = revision::is_given_up(&status).then_some(&self.spec.template);
        assert_ne!(Some(change.desired.as_ref()), given_up, "what was given up was tried again");
        let device = &mut self.devices[number];
        if change.version != Some(device.version.to_string()) {
            return true;
        }
        assert!(!device.foreign, "{change:?} belongs to somebody else");
        assert_eq!(change.uid, device.uid, "it is another one");
        self.writes += 1;
        self.sent.insert(change.name.clone(), device.version.to_string());
        device.version += 1;
        device.desired = Some(change.desired.as_ref().clone());
        device.outcome = if device.contact == Contact::Away { Outcome::Lost } else { Outcome::Trying };
        if change.reserved {
            self.changed.insert(change.name);
        }
        true
    }

    /// Looks, with a cache that is up to date, until there is nothing more to do.
    pub(super) fn settles(&mut self) {
        for _ in 0..10_000 {
            self.sees_all();
            if self.look() == 0 {
                return;
            }
        }
        panic!("it never comes to rest: {:#?}", self.status);
    }

    /// Every device that tries ends as is its fate.
    pub(super) fn devices_end(&mut self) {
        for number in 0..self.devices.len() {
            self.device_ends(number);
        }
    }

    pub(super) fn device_ends(&mut self, number: usize) {
        self.is_asked(number);
        let device = &self.devices[number];
        if device.outcome != Outcome::Trying || device.contact == Contact::Withheld {
            return;
        }
        let version = device.desired.as_ref().map(|desired| desired.firmware.clone()).unwrap_or_default();
        let fate = self.fates.get(&(device.name.clone(), version)).copied().unwrap_or(Fate::Works);
        match fate {
            Fate::Works => self.device(number, |device| device.outcome = Outcome::InSync),
            Fate::Fails => self.device(number, |device| device.outcome = Outcome::Failed),
            Fate::Dies => self.leaves(number),
        };
    }

    /// A device that is away answers again, and goes on with what it was told.
    pub(super) fn returns(&mut self, number: usize) {
        if self.devices[number].contact != Contact::Away {
            return;
        }
        let version =
            self.devices[number].desired.clone().map(|desired| desired.firmware).unwrap_or_default();
        let key = (self.devices[number].name.clone(), version);
        if self.fates.get(&key) == Some(&Fate::Dies) {
            self.fates.insert(key, Fate::Works);
        }
        self.revived.insert(self.devices[number].name.clone());
        self.device(number, |device| {
            (device.contact, device.lost_at) = (Contact::Answering, None);
            if device.outcome == Outcome::Lost {
                device.outcome = Outcome::Trying;
            }
        });
    }

    pub(super) fn after(&mut self, seconds: i64) -> &mut Self {
        self.now += SignedDuration::from_secs(seconds);
        self
    }

    /// Looks and lets devices end, by turns, until nothing happens any more.
    pub(super) fn runs_until_quiet(&mut self) {
        for _ in 0..1_000 {
            self.settles();
            let before = self.devices.iter().map(|device| device.version).sum::<u64>();
            self.after(1).devices_end();
            if self.devices.iter().map(|device| device.version).sum::<u64>() == before {
                return;
            }
        }
        panic!("it never ends: {:#?}", self.status);
    }
}
