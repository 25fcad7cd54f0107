//! What to do about one device now, and what its status shall say. Pure: whatever it depends on is an argument,
//! and what it wants done is returned as data.

use std::net::IpAddr;
use std::time::Duration;

use edge_api::condition::reasons::{ENDPOINT_NOT_ALLOWED, RESOLVING};
use edge_api::{Device, DevicePhase, DeviceStatus};
use edge_protocol::Install;
use kube::ResourceExt;
use tokio::time::Instant;

use super::absorb::{Note, Surroundings};
use super::memory::Memory;
use super::policy::Policy;
use super::question::{ask, command, own};
use super::status::{self, Standing};
use super::validate::{Host, Invalid, Spec, Target};
use super::{adopt, pause, progress, release};
use crate::action::{Action, Mark, Notice, Question};
use crate::budget::{Bucket, Budgets};

/// However quiet a device is, it is looked at so often.
const RESYNC: Duration = Duration::from_secs(300);
/// How soon an endpoint that is not allowed is judged again.
const JUDGE_AGAIN: Duration = Duration::from_secs(30);

/// While its question waits here a device's silence stands still, so it is looked at no more often than this.
const QUEUE_LOOK: Duration = Duration::from_secs(1);

/// Where a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// At these addresses; never none.
    At(Vec<(IpAddr, Option<String>)>),
    /// Its name is being looked up.
    Unknown,
    /// Its name cannot be looked up; the reason.
    Unresolved(String),
    /// It may not be reached; the sentence.
    NotAllowed(String),
}

/// All that a decision depends on, but for memory and budget.
pub struct Observed<'a> {
    /// The object, as last seen.
    pub device: &'a Device,
    /// The status that the server holds now.
    pub status: &'a DeviceStatus,
    /// Its spec, parsed.
    pub spec: &'a Result<Spec, Invalid>,
    /// Where it is.
    pub place: &'a Place,
    /// Somebody waits for its addresses, which its status does not have yet, or no longer: a fault profile.
    pub is_sought: bool,
    /// Its generation: the latest, freshly read where the cached one is in doubt.
    pub generation: i64,
    /// This operator's epoch.
    pub epoch: u64,
    /// How patient.
    pub policy: &'a Policy,
    /// Now, on the clock that waits use.
    pub now: Instant,
    /// Now, for conditions.
    pub wall: jiff::Timestamp,
    /// A draw in `0.0..1.0`.
    pub draw: f64,
}

impl Observed<'_> {
    pub(super) fn generation(&self) -> u64 {
        u64::try_from(self.generation).unwrap_or(0)
    }
}

/// What comes of it.
#[derive(Debug, Default)]
pub struct Decision {
    /// To be done, in this order.
    pub actions: Vec<Action>,
    /// To be counted.
    pub notes: Vec<Note>,
    /// When to decide again, whatever happens until then.
    pub wake: Duration,
    /// To be written before anything makes the device obey the object.
    pub(super) hold: bool,
}

/// Decides.
pub fn decide(seen: &Observed<'_>, memory: &mut Memory, budgets: &mut Budgets) -> Decision {
    if seen.device.metadata.deletion_timestamp.is_some() {
        return release::decide(seen, memory, &mut budgets.retries, RESYNC);
    }
    let mut decision = Decision { wake: RESYNC, ..Decision::default() };
    memory.patience = None;
    memory.excuse(seen.now);
    let standing = match seen.spec {
        Err(invalid) => {
            memory.busy = None;
            Standing::Pending { reason: "InvalidSpec", message: invalid.to_string() }
        }
        Ok(spec) => {
            memory.move_to((spec.host.clone(), spec.port), seen.now);
            memory.aim(spec.target.as_ref(), seen.now);
            look_up(seen, spec, memory, &mut decision);
            match blocked(seen, spec) {
                Some(standing) => {
                    // A lookup after a restart is no news: what the process before this one wrote stands.
                    if !(memory.inherited && standing.is_resolving()) {
                        hold_still(memory, seen.now);
                    }
                    decision.wake = decision.wake.min(JUDGE_AGAIN);
                    standing
                }
                None => {
                    memory.patience = Some(spec.patience);
                    act(seen, spec, memory, &mut budgets.retries, &mut decision)
                }
            }
        }
    };
    let unmet =
        memory.target.as_ref().is_some_and(|target| !memory.meets(target)) && standing != Standing::Paused;
    memory.unmet_since = unmet.then(|| memory.unmet_since.unwrap_or(seen.now));
    record(seen, memory, &standing, &mut budgets.progress, &mut decision);
    decision
}

/// Reasons not to send anything.
fn blocked(seen: &Observed<'_>, spec: &Spec) -> Option<Standing> {
    if spec.paused {
        return Some(Standing::Paused);
    }
    let (reason, message) = match seen.place {
        Place::At(_) => return None,
        Place::Unknown => (RESOLVING, "spec.endpoint.host is being looked up".to_owned()),
        Place::Unresolved(error) => {
            ("NotResolved", format!("spec.endpoint.host cannot be looked up: {error}"))
        }
        Place::NotAllowed(sentence) => (ENDPOINT_NOT_ALLOWED, sentence.clone()),
    };
    Some(Standing::Pending { reason, message })
}

/// While nothing may be sent, nothing is under way, and silence is nobody's fault.
fn hold_still(memory: &mut Memory, now: Instant) {
    memory.busy = None;
    (memory.inbox, memory.pushed) = (None, None);
    memory.begin_anew(now);
    memory.next_probe = now;
    memory.evidence.outdated();
}

pub(super) fn look_up(seen: &Observed<'_>, spec: &Spec, memory: &mut Memory, decision: &mut Decision) {
    let Host::Name(name) = &spec.host else { return };
    let lookup = memory.lookup.get_or_insert_default();
    if lookup.busy || spec.paused {
        return;
    }
    let due = lookup.due.unwrap_or(seen.now);
    if due <= seen.now {
        lookup.busy = true;
        decision.actions.push(Action::Resolve(name.clone()));
    } else {
        decision.wake = decision.wake.min(due - seen.now);
    }
}

fn act(
    seen: &Observed<'_>,
    spec: &Spec,
    memory: &mut Memory,
    budget: &mut Bucket,
    decision: &mut Decision,
) -> Standing {
    let (namespace, name) = (seen.device.namespace().unwrap_or_default(), seen.device.name_any());
    let uid = memory.uid.clone();
    let around = Surroundings {
        identity: (&namespace, &name, &uid),
        generation: seen.generation(),
        epoch: seen.epoch,
        spec,
        policy: seen.policy,
        now: seen.now,
        draw: seen.draw,
    };
    decision.notes = memory.hear(&around);
    if memory.busy.is_none() {
        match next_question(seen, spec, memory, budget, decision) {
            Ok(question) => decision.actions.extend(ask(seen, memory, question, Some(spec.patience))),
            Err(wait) => decision.wake = decision.wake.min(wait),
        }
    }
    let silence = memory.silence(seen.now);
    let waits = [spec.patience.suspect, spec.patience.lost].map(|limit| limit.saturating_sub(silence));
    let next = waits.into_iter().filter(|wait| !wait.is_zero()).min();
    let waiting = memory.waits(seen.now).is_some();
    let next = next.map(|wait| if waiting { wait.max(QUEUE_LOOK) } else { wait });
    decision.wake = next.map_or(decision.wake, |wait| decision.wake.min(wait));
    status::assess(memory, spec, seen)
}

/// The next question for the device, or how long there is none.
fn next_question(
    seen: &Observed<'_>,
    spec: &Spec,
    memory: &mut Memory,
    budget: &mut Bucket,
    decision: &mut Decision,
) -> Result<Question, Duration> {
    let until_probe = memory.next_probe.saturating_duration_since(seen.now);
    let mut until_command = RESYNC;
    let adoption = adopt::due(seen.device, memory, seen.epoch);
    let target = spec.target.as_ref().filter(|target| wants_command(memory, target, seen.generation()));
    // An object that was restored from a backup can lack what it had.
    let obeys = memory.holder.as_ref().is_some_and(|held| held.uid == memory.uid);
    if !release::is_held(seen.device) && (adoption.is_some() || target.is_some() || obeys) {
        // The device will obey this object, or does: from now on it is to be released first.
        decision.hold = true;
    } else if let Some(command) = adoption {
        match permission(memory, budget, seen.now, &mut decision.notes) {
            Ok(()) => return own(seen, command),
            Err(wait) => until_command = wait,
        }
    } else if let Some(target) = target {
        match permission(memory, budget, seen.now, &mut decision.notes) {
            Ok(()) => match command(seen, memory, target) {
                Ok(command) => return Ok(Question::Command(Box::new(command))),
                Err(verdict) => memory.verdict = Some(verdict),
            },
            Err(wait) => until_command = wait,
        }
    }
    if until_probe.is_zero() {
        return Ok(Question::Report);
    }
    Err(until_probe.min(until_command))
}

/// Shall the device be commanded? Only on fresh evidence, so that a restart repeats nothing blindly.
fn wants_command(memory: &Memory, target: &Target, generation: u64) -> bool {
    if memory.verdict.as_ref().is_some_and(|verdict| verdict.target == *target)
        || memory.conflict.is_some_and(|conflict| !conflict.can_be_commanded())
    {
        return false;
    }
    if memory.recommand {
        return true;
    }
    let Some(believed) = memory.evidence.believed().filter(|believed| believed.fresh) else {
        // Never heard of, or out of date: ask first.
        return false;
    };
    if memory.in_doubt(target) {
        return true;
    }
    if believed.runs(target) {
        return false;
    }
    let ours = believed.held == generation || memory.commanded_generation() == Some(believed.held);
    !(ours && matches!(believed.install, Install::Running { .. }))
}

/// A first command needs none. A retry waits for its backoff, and for a token of its device and of the process.
pub(super) fn permission(
    memory: &mut Memory,
    budget: &mut Bucket,
    now: Instant,
    notes: &mut Vec<Note>,
) -> Result<(), Duration> {
    if memory.attempts == 0 && memory.failures == 0 {
        return Ok(());
    }
    let wait = memory.not_before.map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
    if !wait.is_zero() {
        return Err(wait);
    }
    memory.bucket.take(now).inspect_err(|_| notes.push(Note::BudgetExhausted("device")))?;
    budget.take(now).inspect_err(|_| {
        memory.bucket.give_back();
        notes.push(Note::BudgetExhausted("process"));
    })?;
    notes.push(Note::Retry);
    Ok(())
}

/// Writes the status if it says something new, and tells a person what a person would act on.
fn record(
    seen: &Observed<'_>,
    memory: &mut Memory,
    standing: &Standing,
    progress: &mut Bucket,
    decision: &mut Decision,
) {
    // One write at a time: the next is decided on what this one makes of the object.
    if decision.hold {
        return decision.actions.push(Action::Mark(Mark::Hold));
    }
    if adopt::is_spent(seen.device, memory) {
        return decision.actions.push(Action::Mark(Mark::Adopted));
    }
    let current = seen.status.observed_generation == Some(seen.generation);
    let stands = memory.inherited
        && current
        && match standing {
            Standing::Paused => false,
            Standing::Pending { .. } => standing.is_resolving(),
            Standing::Unreachable if seen.status.phase == DevicePhase::Unreachable => true,
            _ => memory.silence(seen.now) < patience(seen).unwrap_or_default(),
        };
    let mut next =
        if stands { seen.status.clone() } else { status::build(seen.status, memory, standing, seen) };
    next.addresses = status::addresses(seen, current);
    if !status::is_transition(seen.status, &next) {
        return;
    }
    if let Err(wait) = pause::is_over(seen, memory, &mut decision.notes) {
        decision.wake = decision.wake.min(wait);
        return;
    }
    if let Err(wait) = progress::tell(seen, memory, standing, progress, &mut decision.notes) {
        decision.wake = decision.wake.min(wait);
        return;
    }
    let notice = if stands { None } else { standing.notice() };
    let reason = notice.as_ref().map(|notice| notice.reason);
    if reason != memory.told {
        memory.told = reason;
        decision
            .actions
            .extend(notice.map(|Notice { reason, note }| Action::Notify(Notice { reason, note })));
    }
    decision.actions.push(Action::WriteStatus(Box::new(next)));
}

fn patience(seen: &Observed<'_>) -> Option<Duration> {
    seen.spec.as_ref().ok().map(|spec| spec.patience.suspect)
}

#[cfg(test)]
mod afresh;
#[cfg(test)]
mod answers;
#[cfg(test)]
mod notices;
#[cfg(test)]
mod often;
#[cfg(test)]
mod owners;
#[cfg(test)]
mod progressing;
#[cfg(test)]
mod reasons;
#[cfg(test)]
mod restarts;
#[cfg(test)]
mod story;
#[cfg(test)]
mod tests;
