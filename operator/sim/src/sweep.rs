//! One chosen moment of a calm run (Sieve's perturbations): an operator dies at it, misses an event, or hands over to one whose
//! view is old. A sweep takes each moment of a scenario in turn.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use crate::clock;

/// What happens at which moment. An effect is a write of an operator to the API server that changed something, or a command
/// that a device stored; both are counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// Whoever caused this effect dies before the answer arrives, and nothing of it has any effect after this one.
    Unanswered(u64),
    /// It dies when the answer has arrived for sure (`ARRIVES`): what it does at once when it reads it has happened by then.
    After(u64),
    /// This event is told to no watch of an operator: the watch ends, and a list follows that shows only what came of it.
    Lost(u64),
    /// As `Lost`, of the Lease.
    LostLease(u64),
    /// As `Unanswered`, and the watches of the other operator were told nothing since an effect some way before this one, until it has
    /// led for a while.
    Stale(u64),
    /// Whoever wrote the Lease for this time, counted from 1 over all operators, dies before the answer arrives.
    LeaseUnanswered(u64),
    /// It dies when the answer has arrived for sure.
    LeaseAfter(u64),
}

impl FromStr for Point {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, number) = text.split_once(':').ok_or("write KIND:NUMBER")?;
        let number = number.parse().map_err(|error| format!("{number:?}: {error}"))?;
        match kind {
            "unanswered" => Ok(Self::Unanswered(number)),
            "after" => Ok(Self::After(number)),
            "lost" => Ok(Self::Lost(number)),
            "lost-lease" => Ok(Self::LostLease(number)),
            "stale" => Ok(Self::Stale(number)),
            "lease-unanswered" => Ok(Self::LeaseUnanswered(number)),
            "lease-after" => Ok(Self::LeaseAfter(number)),
            _ => {
                Err("write unanswered, after, lost, lost-lease, stale, lease-unanswered or lease-after before the colon"
                    .to_owned())
            }
        }
    }
}

/// From an effect until its answer has arrived for sure: two ways of a message, and as many steps of the simulation.
const ARRIVES: Duration = Duration::from_millis(40);
/// So long after it took the Lease a leader with an old view is told what it missed.
const BEHIND: Duration = Duration::from_secs(15);
/// A view is older than the chosen effect by up to so many, as many as its number says: so views of all ages come up.
const OLDEST: u64 = 16;
/// What is old in each such view. At every second moment nothing else is, as watches of several kinds are behind each by itself.
const DEVICES: &str = "devices";

/// Whoever did not lead then is told of nothing after this.
#[derive(Clone, Debug)]
struct Held {
    leader: String,
    version: u64,
    devices_alone: bool,
    /// None: nobody else leads yet.
    until: Option<Duration>,
}

/// Counts towards the moment.
#[derive(Clone, Debug, Default)]
pub struct Sweep {
    point: Option<Point>,
    /// Effects so far.
    pub effects: u64,
    /// Events told to operators so far.
    pub events: u64,
    /// Events of the Lease told to operators so far.
    pub lease_events: u64,
    /// Writes of the Lease so far.
    pub leases: u64,
    /// Who took over was told of no effect on any device since before the chosen one.
    pub is_from_old_view: bool,
    writer: Option<String>,
    /// What the last write made.
    version: u64,
    frozen: Option<String>,
    dies: Option<(Duration, String)>,
    held: Option<Held>,
    /// What the chosen effect made.
    chosen: Option<u64>,
    /// By operator: up to which version its watch of Devices was told.
    told: BTreeMap<String, u64>,
}

/// The first effect that a stale view does not have.
fn first_missed(chosen: u64) -> u64 {
    chosen.saturating_sub(1 + chosen * 7 % OLDEST).max(1)
}

impl Sweep {
    /// Towards this moment.
    pub fn to(point: Option<Point>) -> Self {
        Self { point, ..Self::default() }
    }

    /// An operator wrote, which made this version.
    pub fn wrote(&mut self, caller: &str, version: u64) {
        self.writer = Some(caller.to_owned());
        self.version = version;
        self.effect();
    }

    /// Something had an effect; a device's command is that of the last writer, who leads.
    pub fn effect(&mut self) {
        self.effects += 1;
        let Some(writer) = self.writer.clone() else { return };
        match self.point {
            Some(Point::Stale(number)) if number > 0 => self.grows_old(number, writer),
            Some(Point::Unanswered(number)) if number == self.effects => self.dies_unanswered(writer),
            Some(Point::After(number)) if number == self.effects => self.dies_after(writer),
            _ => {}
        }
    }

    fn grows_old(&mut self, number: u64, writer: String) {
        if self.effects == first_missed(number) {
            let (leader, version) = (writer.clone(), self.version - 1);
            self.held = Some(Held { leader, version, devices_alone: !number.is_multiple_of(2), until: None });
        }
        if self.effects == number {
            self.chosen = Some(self.version);
            self.dies_unanswered(writer);
        }
    }

    /// Somebody writes the Lease: the first one after the chosen effect that did not lead takes over.
    fn takes_over(&mut self, caller: &str) {
        let Some(chosen) = self.chosen else { return };
        if let Some(held) = self.held.as_mut().filter(|held| held.leader != caller && held.until.is_none()) {
            held.until = Some(clock::elapsed() + BEHIND);
            self.is_from_old_view = self.told.get(caller).is_some_and(|told| *told < chosen);
        }
    }

    /// An operator wrote the Lease.
    pub fn leased(&mut self, caller: &str) {
        self.leases += 1;
        self.takes_over(caller);
        match self.point {
            Some(Point::LeaseUnanswered(number)) if number == self.leases => {
                self.dies_unanswered(caller.to_owned());
            }
            Some(Point::LeaseAfter(number)) if number == self.leases => self.dies_after(caller.to_owned()),
            _ => {}
        }
    }

    fn dies_unanswered(&mut self, host: String) {
        self.frozen = Some(host.clone());
        self.dies = Some((Duration::ZERO, host));
    }

    fn dies_after(&mut self, host: String) {
        self.dies = Some((clock::elapsed() + ARRIVES, host));
    }

    /// Has what this operator does no effect any more?
    pub fn is_frozen(&self, host: &str) -> bool {
        self.frozen.as_deref() == Some(host)
    }

    /// Of which version at most a watch of this kind is told.
    pub fn shows(&self, host: &str, kind: &str) -> u64 {
        let is_held = |held: &&Held| {
            let is_over = held.until.is_some_and(|until| clock::elapsed() >= until);
            held.leader != host && !is_over && (kind == DEVICES || !held.devices_alone)
        };
        self.held.as_ref().filter(is_held).map_or(u64::MAX, |held| held.version)
    }

    /// A watch of this kind was told of all up to this version.
    pub fn told(&mut self, host: &str, kind: &str, version: u64) {
        if kind == DEVICES {
            let told = self.told.entry(host.to_owned()).or_default();
            *told = version.max(*told);
        }
    }

    /// Does this moment need whoever died to be away until another one has led for a while?
    pub fn hands_over(&self) -> bool {
        matches!(self.point, Some(Point::Stale(_)))
    }

    /// Is an operator told of this event?
    pub fn tells(&mut self) -> bool {
        self.events += 1;
        self.point != Some(Point::Lost(self.events))
    }

    /// Is an operator told of this event of the Lease?
    pub fn tells_of_the_lease(&mut self) -> bool {
        self.lease_events += 1;
        self.point != Some(Point::LostLease(self.lease_events))
    }

    /// Who dies now, once.
    pub fn struck(&mut self) -> Option<String> {
        let due = self.dies.take_if(|(at, _)| *at <= clock::elapsed());
        let (_, host) = due?;
        self.frozen = None;
        Some(host)
    }
}
