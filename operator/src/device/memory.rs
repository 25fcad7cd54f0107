//! What this process keeps in memory of one device: freshness, order, what is under way, and what went wrong. All
//! of it can be lost: status and the device itself give back what matters.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Duration;

use edge_api::condition::{find_condition, types};
use edge_api::{Device, DevicePhase};
use edge_protocol::{Held, Report};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use tokio::time::Instant;
use tokio_util::sync::DropGuard;

use super::answer::Outcome;
use super::evidence::{Contradiction, Evidence, Foreign};
use super::message_id::DeviceIds;
use super::policy::Policy;
use super::release::Release;
use super::validate::{Host, Patience, Target};
use crate::budget::Bucket;

/// Why a target is not tried again until it changes. The condition Synced keeps it over a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What failed.
    pub target: Target,
    /// One of [`Self::REASONS`].
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
}

impl Verdict {
    /// The device refuses it.
    pub const REFUSED: &'static str = "Refused";
    /// The device gave its install up.
    pub const INSTALL_FAILED: &'static str = "InstallFailed";
    /// It does not fit into a command.
    pub const NOT_SENDABLE: &'static str = "NotSendable";
    /// All reasons: no other reason of Synced is one of these.
    pub(crate) const REASONS: [&'static str; 3] = [Self::REFUSED, Self::INSTALL_FAILED, Self::NOT_SENDABLE];

    /// What the process before this one wrote.
    fn restored(target: Target, synced: &Condition) -> Option<Self> {
        let reason = Self::REASONS.into_iter().find(|reason| *reason == synced.reason)?;
        Some(Self { target, reason, message: synced.message.clone() })
    }
}

/// Why a device is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// It is not ours.
    Foreign(Foreign),
    /// It contradicts itself, or what it acknowledged.
    Contradiction(Contradiction),
}

impl Conflict {
    /// May it be commanded?
    pub fn can_be_commanded(self) -> bool {
        match self {
            Self::Foreign(_) => false,
            Self::Contradiction(contradiction) => contradiction.can_be_recommanded(),
        }
    }

    /// May a person end it by giving the device to this object?
    pub fn can_be_adopted(self) -> bool {
        match self {
            Self::Foreign(Foreign::Owner | Foreign::Released) => true,
            Self::Foreign(Foreign::Name) => false,
            Self::Contradiction(contradiction) => {
                matches!(contradiction, Contradiction::EpochAhead | Contradiction::GenerationAhead)
            }
        }
    }
}

/// The last command that was begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put {
    /// What it was to reach.
    pub target: Target,
    /// Under which generation.
    pub generation: u64,
    /// Answered 2.04.
    pub acknowledged: bool,
}

/// An exchange under way. Dropped, it is ended.
#[derive(Debug)]
pub struct Busy {
    /// Its number.
    pub number: u64,
    /// When it was decided on.
    pub asked: Instant,
    /// It has left the queue: the device can know of it.
    pub sent: bool,
    /// Ends its task; none in tests and until it is started.
    pub guard: Option<DropGuard>,
}

/// Addresses of a DNS name.
#[derive(Clone, Debug, Default)]
pub struct Lookup {
    /// What came last; none before the first.
    pub found: Vec<IpAddr>,
    /// Why nothing came.
    pub error: Option<String>,
    /// Under way.
    pub busy: bool,
    /// When the next one is due.
    pub due: Option<Instant>,
}

/// The memory of one device.
#[derive(Debug)]
pub struct Memory {
    /// The object's uid: another one is another device.
    pub uid: String,
    /// The endpoint that all this was learnt of.
    pub endpoint: Option<(Host, u16)>,
    /// Since when silence is counted, if nothing was heard.
    pub since: Instant,
    /// How soon its silence counts; none while nothing may be sent to it.
    pub patience: Option<Patience>,
    /// Last sign of life.
    pub heard: Option<Instant>,
    /// Time since then in which it could not answer, since questions waited here or were asked too late: no fault of the device.
    pub queued: Duration,
    /// When it was looked at last, or when an exchange ended since: what is late from then on is not in `queued` yet.
    pub idle_since: Instant,
    /// The last exchange ended in silence.
    pub doubtful: bool,
    /// Nothing was learnt since this process began: the status of the one before stands.
    pub inherited: bool,
    /// Reports.
    pub evidence: Evidence,
    /// Why they are not believed.
    pub conflict: Option<Conflict>,
    /// Whom it obeys, as it said last.
    pub holder: Option<Held>,
    /// The object is being deleted.
    pub release: Option<Release>,
    /// The exchange under way.
    pub busy: Option<Busy>,
    /// The outcome of the last one, not looked at yet.
    pub inbox: Option<Box<Outcome>>,
    /// The last report that came by itself, not looked at yet.
    pub pushed: Option<Box<Report>>,
    /// Number of the next exchange.
    pub next_number: u64,
    /// Message ids of its exchanges.
    pub message_ids: DeviceIds,
    /// The target when last looked at.
    pub target: Option<Target>,
    /// The last command.
    pub put: Option<Put>,
    /// Why the target is not tried again.
    pub verdict: Option<Box<Verdict>>,
    /// It contradicted: command it again, whatever it says.
    pub recommand: bool,
    /// Commands of the target so far.
    pub attempts: u32,
    /// Contradictions that made a new command necessary; part of the command's id.
    pub recommands: u32,
    /// Failures in a row, of commands and of what they led to.
    pub failures: u32,
    /// The last of them was silence: a sign of life ends it.
    pub lost_touch: bool,
    /// No command before this.
    pub not_before: Option<Instant>,
    /// No probe before this.
    pub next_probe: Instant,
    /// What went wrong last, one sentence.
    pub last_error: Option<String>,
    /// Since when a phase lasts that the status does not tell yet, without the time that questions waited here.
    pub untold: Option<Instant>,
    /// Since when the target is unmet.
    pub unmet_since: Option<Instant>,
    /// Retries that it may use.
    pub bucket: Bucket,
    /// Statuses that may be written of it.
    pub statuses: Bucket,
    /// DNS; none while its endpoint is an address.
    pub lookup: Option<Box<Lookup>>,
    /// Which of several addresses is used.
    pub address_index: usize,
    /// The last Event, so that the same is not told twice in a row.
    pub told: Option<&'static str>,
}

impl Memory {
    /// What the status tells a new process. `wall` is the time of day at `now`, `draw` in `0.0..1.0`.
    pub fn new(
        device: &Device,
        now: Instant,
        wall: jiff::Timestamp,
        draw: f64,
        message_ids: DeviceIds,
        policy: &Policy,
    ) -> Self {
        let status = device.status.clone().unwrap_or_default();
        let current =
            status.observed_generation.is_some() && status.observed_generation == device.metadata.generation;
        let spec = super::validate::validate(device).ok();
        // One that was lost stays so until there is news: it is not silent since this process began.
        let lost = spec.as_ref().filter(|_| status.phase == DevicePhase::Unreachable);
        let since = lost.and_then(|spec| now.checked_sub(spec.patience.lost)).unwrap_or(now);
        // One that is as it shall be is asked within its probe interval, as if the process before had asked it last: so a new leader
        // talks first to those that it has something to say to, and not to all at once.
        let settled = spec.as_ref().filter(|_| current && status.phase == DevicePhase::InSync);
        let next_probe = settled.map_or(now, |spec| now + spec.patience.probe.mul_f64(draw.clamp(0.0, 1.0)));
        let target = spec.and_then(|spec| spec.target);
        let synced = find_condition(&status.conditions, types::SYNCED);
        let verdict = target.clone().filter(|_| current).zip(synced);
        let verdict = verdict.and_then(|(target, synced)| Verdict::restored(target, synced)).map(Box::new);
        let sync = status.sync.clone().filter(|_| current);
        // A command of the process before this one, for the same target; whether it was acknowledged is unknown.
        let put = sync.as_ref().zip(target.clone()).map(|(sync, target)| Put {
            target,
            generation: u64::try_from(sync.generation).unwrap_or(0),
            acknowledged: false,
        });
        let unmet = synced.filter(|c| c.status == "False" && target.is_some());
        let age = unmet.and_then(|c| Duration::try_from(wall.duration_since(c.last_transition_time.0)).ok());
        Self {
            uid: device.uid().unwrap_or_default(),
            endpoint: None,
            since,
            patience: None,
            heard: None,
            queued: Duration::ZERO,
            idle_since: now,
            doubtful: false,
            inherited: current && status.phase != DevicePhase::Pending,
            evidence: Evidence::restored(status.reported.as_ref()),
            conflict: None,
            holder: None,
            release: None,
            busy: None,
            inbox: None,
            pushed: None,
            next_number: 0,
            message_ids,
            target,
            put,
            verdict,
            recommand: false,
            attempts: sync.map_or(0, |sync| sync.attempts),
            recommands: 0,
            failures: 0,
            lost_touch: false,
            not_before: None,
            next_probe,
            last_error: None,
            untold: None,
            unmet_since: age.and_then(|age| now.checked_sub(age)),
            bucket: policy.retries(),
            statuses: policy.statuses(),
            lookup: None,
            address_index: 0,
            told: None,
        }
    }

    /// A report came by itself. Only the latest waits: of those of one boot, the one with the highest sequence.
    pub fn push(&mut self, report: Box<Report>) {
        let overtaken =
            |waiting: &Report| waiting.boot_id == report.boot_id && waiting.sequence > report.sequence;
        if !self.pushed.as_deref().is_some_and(overtaken) {
            self.pushed = Some(report);
        }
    }

    /// Another endpoint: what was learnt of the old one says nothing of this one.
    pub fn move_to(&mut self, endpoint: (Host, u16), now: Instant) {
        if self.endpoint.as_ref() == Some(&endpoint) {
            return;
        }
        if self.endpoint.replace(endpoint).is_some() {
            self.busy = None;
            self.begin_anew(now);
            self.next_probe = now;
            self.conflict = None;
            self.address_index = 0;
            self.lookup = None;
            self.evidence.outdated();
        }
    }

    /// Another target: a verdict on the old one says nothing of it, and an exchange about the old one is
    /// a waste of time.
    pub fn aim(&mut self, target: Option<&Target>, now: Instant) {
        if self.target.as_ref() == target {
            return;
        }
        self.target = target.cloned();
        self.verdict = None;
        self.attempts = 0;
        self.recommands = 0;
        self.settle();
        if target.is_some() {
            self.queued += self.waits(now).unwrap_or_default();
            self.busy = None;
            if self.evidence.believed().is_none_or(|believed| !believed.fresh) {
                self.next_probe = now;
            }
        }
    }

    /// May something else than this be on its way to the device, or in it? So it is while the last command was
    /// for another target, and while the device does not hold the last one.
    pub fn in_doubt(&self, target: &Target) -> bool {
        let Some(put) = &self.put else { return false };
        let held = self.evidence.believed().map_or(0, |believed| believed.held);
        put.target != *target || held < put.generation
    }

    /// Does it run this, as far as it is believed, with nothing else on its way to it?
    pub fn meets(&self, target: &Target) -> bool {
        let believed = self.evidence.believed();
        !self.recommand && !self.in_doubt(target) && believed.is_some_and(|believed| believed.runs(target))
    }

    /// Shall it run something else than it does, and may a command come of that?
    pub fn is_unmet(&self) -> bool {
        let unmet = self.target.as_ref().is_some_and(|target| !self.meets(target));
        let given_up =
            self.verdict.is_some() || self.conflict.is_some_and(|conflict| !conflict.can_be_commanded());
        unmet && !given_up
    }

    /// Is its endpoint one of these addresses? It may be while nothing was decided about it yet.
    pub fn may_be_at(&self, addresses: &HashSet<IpAddr>) -> bool {
        match &self.endpoint {
            None => true,
            Some((Host::Address(address), _)) => addresses.contains(address),
            Some((Host::Name(_), _)) => {
                let found = self.lookup.iter().flat_map(|lookup| &lookup.found);
                found.into_iter().any(|found| addresses.contains(found))
            }
        }
    }

    /// A lookup of this name ended. That of another host, which was the endpoint before, says nothing.
    pub fn looked_up(&mut self, name: &str, found: Result<Vec<IpAddr>, String>, now: Instant, ttl: Duration) {
        if !matches!(&self.endpoint, Some((Host::Name(host), _)) if host == name) {
            return;
        }
        let lookup = self.lookup.get_or_insert_default();
        lookup.busy = false;
        lookup.due = Some(now + ttl);
        match found {
            Ok(addresses) => {
                let asked = self.address_index.checked_rem(lookup.found.len());
                let asked = asked.and_then(|index| lookup.found.get(index));
                if self.busy.is_some() && asked.is_some_and(|asked| !addresses.contains(asked)) {
                    // Nobody answers there any more, and the question would go on for a minute.
                    self.busy = None;
                    self.next_probe = now;
                }
                lookup.error = None;
                lookup.found = addresses;
            }
            // What was found before stays in use.
            Err(error) => lookup.error = Some(error),
        }
    }

    /// What failed before does not count any more.
    pub fn settle(&mut self) {
        self.failures = 0;
        self.lost_touch = false;
        self.not_before = None;
        self.last_error = None;
    }

    /// Generation under which the present target was commanded, if it was.
    pub fn commanded_generation(&self) -> Option<u64> {
        let put = self.put.as_ref()?;
        (Some(&put.target) == self.target.as_ref()).then_some(put.generation)
    }
}
