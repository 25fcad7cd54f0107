//! What a fleet's status shall be and which devices are changed next: pure, the clock is an argument. The order is the
//! order of the rollout: what ended, what is exceeded, which batch it is, who is next.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use edge_api::choose::Amount;
use edge_api::condition::{ConditionStatus, find_condition, is_true, types};
use edge_api::{Desired, DeviceFleetStatus, set_condition};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

use super::action::{Action, Change};
use super::field::{Field, Standing};
use super::member::{Contact, Member, Outcome};
use super::notice::notices;
use super::revision::{self, Adoption, Revisions};
use super::validate::Plan;
use crate::refusal::Refusal;

mod budget;
mod change;
mod words;

/// Reason of WithinBudget: too many devices failed.
pub(crate) const FAILURES: &str = "FailureBudgetExceeded";
/// Reason of WithinBudget, or of Progressing in a rollback: no device finished for too long.
pub(crate) const DEADLINE: &str = "ProgressDeadlineExceeded";
/// Reason of Progressing: a person deleted the ControllerRevision that is to be brought back.
pub(crate) const REVISION_MISSING: &str = "RevisionMissing";

/// A fleet and everything that its status depends on.
#[derive(Debug)]
pub(crate) struct Observed<'a> {
    /// `metadata.generation`.
    pub(crate) generation: i64,
    /// The status it has.
    pub(crate) status: Option<&'a DeviceFleetStatus>,
    /// What it asks for, or why nothing is done.
    pub(crate) plan: Result<&'a Plan, &'a Refusal>,
    /// `spec.template`.
    pub(crate) template: &'a Desired,
    /// The templates that were kept, by number.
    pub(crate) revisions: &'a Revisions,
    /// The devices that it selects, by rank.
    pub(crate) members: &'a [Member<'a>],
    /// This operator's epoch.
    pub(crate) epoch: u64,
    /// The time.
    pub(crate) now: Timestamp,
    /// How soon what can wait may be written; zero: now.
    pub(crate) write_in: Duration,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Decision {
    /// A later leader has written: this process is no longer the one to decide.
    StandBack {
        /// That leader's epoch.
        epoch: u64,
    },
    /// Do this, in this order, and stop at the first that fails. Look again after `wake`, or when something changes.
    Act {
        /// Perhaps nothing.
        actions: Vec<Action>,
        /// When time alone will change the answer.
        wake: Option<Duration>,
    },
}

/// Decides.
pub(crate) fn decide(seen: &Observed<'_>) -> Decision {
    let fresh = DeviceFleetStatus::default();
    let old = seen.status.unwrap_or(&fresh);
    if let Some(epoch) = old.epoch.filter(|epoch| *epoch > seen.epoch) {
        return Decision::StandBack { epoch };
    }
    if old.epoch != Some(seen.epoch) {
        // Nothing else before this: from here on the former leader reserves no more devices.
        let claim = DeviceFleetStatus { epoch: Some(seen.epoch), ..old.clone() };
        return Decision::Act { actions: vec![Action::WriteStatus(Box::new(claim))], wake: None };
    }
    if seen.plan.is_ok()
        && let Adoption::Make(number) = revision::adoption(old, seen.template, seen.revisions)
    {
        // First what is outdated goes, so that there is never more than one too many, whoever dies in between.
        let make = Action::MakeRevision { number, template: Arc::new(seen.template.clone()) };
        let actions = tidy(old, seen.revisions).chain(std::iter::once(make)).collect();
        return Decision::Act { actions, wake: Some(Duration::ZERO) };
    }
    let mut draft = Draft { seen, old, next: old.clone(), changes: Vec::new(), wake: None };
    draft.next.observed_generation = Some(seen.generation);
    match seen.plan {
        Ok(plan) => draft.go_on(plan),
        Err(refusal) => draft.refuse(refusal),
    }
    draft.finish()
}

/// A status in the making.
struct Draft<'a> {
    seen: &'a Observed<'a>,
    old: &'a DeviceFleetStatus,
    next: DeviceFleetStatus,
    changes: Vec<Change>,
    wake: Option<Duration>,
}

impl<'a> Draft<'a> {
    fn go_on(&mut self, plan: &Plan) {
        self.set(types::ACCEPTED, ConditionStatus::True, "Accepted", "no other fleet selects its devices");
        if let Adoption::Next(number) = revision::adoption(self.old, self.seen.template, self.seen.revisions)
        {
            self.adopt(number);
        }
        self.restate(types::COMPLETE);
        let Some(target) = self.target() else { return self.miss_revision() };
        let field = self.take_stock(target);
        if plan.paused {
            return self.hold("Paused", "spec.paused: nothing more is changed");
        }
        if self.is_held_by_budget() {
            return self.hold("BudgetExceeded", "see WithinBudget; it goes on when spec changes");
        }
        if !revision::is_given_up(&self.next) {
            self.set(
                types::WITHIN_BUDGET,
                ConditionStatus::True,
                "WithinBudget",
                "not too many devices failed",
            );
        }
        if self.is_rolling_out()
            && let Some((reason, message)) = self.exceeded(plan, &field)
        {
            return self.give_up(plan, &field, reason, &message);
        }
        self.advance(plan, &field);
        self.reserve(plan, &field);
        let field = Field::new(self.seen.members, target, &self.next.reserved, self.began());
        self.next.counts.unavailable = field.counts(target).unavailable;
        self.change(plan, target, &field);
        self.watch_the_clock(plan, &field);
        self.say(plan, &field);
    }

    /// Nothing is done for it. What was done stays, and what is under way goes on by itself.
    fn refuse(&mut self, refusal: &Refusal) {
        self.set(types::ACCEPTED, ConditionStatus::False, refusal.reason, &refusal.message);
        // Where the devices are not known, those that are reserved stay so.
        if let Some(target) = self.target().filter(|_| !self.seen.members.is_empty()) {
            self.take_stock(target);
        }
        self.hold(refusal.reason, "see Accepted: nothing more is changed");
    }

    fn adopt(&mut self, number: i64) {
        self.release_the_ended();
        self.next.previous_revision = revision::last_good(self.old);
        self.next.revision = Some(number);
        self.next.failed_revision = None;
        self.next.batch = 1;
        self.next.progressed_at = None;
        self.set(types::COMPLETE, ConditionStatus::False, "NewTemplate", "the template has changed");
        self.set(types::WITHIN_BUDGET, ConditionStatus::True, "NewTemplate", "the template has changed");
    }

    /// Whoever has ended by now what it was reserved for, though nobody has looked since, is not under way when another template comes: it
    /// waits for its turn as the others do.
    fn release_the_ended(&mut self) {
        let Some(target) = self.target() else { return };
        let field = Field::new(self.seen.members, target, &self.next.reserved, self.began());
        let standings = field.by_name();
        self.next.reserved.retain(|name| !standings.get(name.as_str()).is_some_and(|one| one.is_end()));
    }

    /// What the devices shall run.
    fn target(&self) -> Option<&'a Desired> {
        let wanted =
            if revision::is_given_up(&self.next) { self.next.previous_revision } else { self.next.revision };
        revision::readable(self.seen.revisions, wanted?)
    }

    fn miss_revision(&mut self) {
        let number = self.next.previous_revision.unwrap_or_default();
        let sentence = format!(
            "the ControllerRevision with number {number}, which is to be brought back, is gone: write a new template"
        );
        self.hold(REVISION_MISSING, &sentence);
    }

    /// Releases the reserved ones that ended, that are held and were told nothing of this, or are no longer the fleet's, and counts.
    fn take_stock(&mut self, target: &'a Desired) -> Field<'a> {
        let field = Field::new(self.seen.members, target, &self.next.reserved, self.began());
        let standings = field.by_name();
        let mut finished = false;
        self.next.reserved.retain(|name| {
            let standing = standings.get(name.as_str());
            finished |= standing.is_some_and(|standing| standing.is_end());
            standing.is_some_and(|standing| !standing.is_end())
        });
        if finished {
            self.next.progressed_at = Some(self.stamp());
        }
        // Another one takes its place meanwhile, so that it waits for its turn when it is given back. Whatever somebody was about to tell
        // it was decided before it was held, on an older version of it, and is refused.
        let is_idle = |member: &Member<'_>, standing: Standing| {
            let told = [Some(target), Some(self.seen.template)].contains(&member.desired);
            standing == Standing::Held && !told && !member.sent
        };
        let idle: HashSet<&str> = field
            .ours
            .iter()
            .filter(|(member, standing)| is_idle(member, *standing))
            .map(|(member, _)| member.name)
            .collect();
        self.next.reserved.retain(|name| !idle.contains(name.as_str()));
        self.next.counts = field.counts(target);
        field
    }

    /// Are the budgets of a rollout in force? In a rollback there is nothing better to go to, and whoever catches up after the
    /// last batch holds up nobody; how many do so at once [`Field::room`] says.
    fn is_rolling_out(&self) -> bool {
        !revision::is_given_up(&self.next) && !is_true(&self.next.conditions, types::COMPLETE)
    }

    /// Since when what its devices shall run is rolled out, or what was before it that did not come to its end either; none when
    /// no rollout is under way.
    fn began(&self) -> Option<Timestamp> {
        let incomplete = find_condition(&self.next.conditions, types::COMPLETE);
        Some(incomplete.filter(|_| self.is_rolling_out())?.last_transition_time.0)
    }

    /// Goes on to the next batch when this one has ended, and to the one after it when that has nobody to wait for.
    fn advance(&mut self, plan: &Plan, field: &Field<'a>) {
        if !self.is_rolling_out() {
            return;
        }
        self.next.batch = self.next.batch.clamp(1, batches(plan));
        while self.has_ended(plan, field) {
            self.next.progressed_at = Some(self.stamp());
            if self.next.batch == batches(plan) {
                return self.set(
                    types::COMPLETE,
                    ConditionStatus::True,
                    "Complete",
                    "the last batch has ended",
                );
            }
            self.next.batch += 1;
        }
    }

    /// Has every device that could be changed ended? Where none at all could be, nothing is known of the template, and it
    /// goes no further.
    fn has_ended(&self, plan: &Plan, field: &Field<'a>) -> bool {
        let is_open = |(member, standing): &(&Member<'_>, Standing)| match standing {
            Standing::Trying | Standing::Lost | Standing::Ready | Standing::Unclear => true,
            _ => is_settling(member, *standing),
        };
        let is_evidence = |standing| {
            matches!(standing, Standing::InSync | Standing::Gone | Standing::Failed | Standing::Ready)
        };
        field.waiting() == 0
            && !self.scope(plan, field).iter().any(is_open)
            && field.ours.iter().any(|(_, standing)| is_evidence(*standing))
    }

    /// The devices whose turn it is.
    fn scope<'f>(&self, plan: &Plan, field: &'f Field<'a>) -> &'f [(&'a Member<'a>, Standing)] {
        let index = usize::try_from(self.next.batch.max(1) - 1).unwrap_or(usize::MAX);
        let batch = plan.batches.get(index).copied().unwrap_or(Amount::All);
        field.up_to(if self.is_rolling_out() { batch } else { Amount::All })
    }

    fn reserve(&mut self, plan: &Plan, field: &Field<'a>) {
        let ready = |(_, standing): &&(&Member<'_>, Standing)| *standing == Standing::Ready;
        let mut ready: Vec<_> = self.scope(plan, field).iter().filter(ready).collect();
        let is_given_up = revision::is_given_up(&self.next);
        if is_given_up {
            // By rank, but first those that are out of order anyway.
            ready.sort_by_key(|(member, _)| member.outcome != Outcome::Failed);
        }
        let is_complete = !is_given_up && is_true(&self.next.conditions, types::COMPLETE);
        let room = field.room(plan, is_complete);
        let next = ready.into_iter().take(room).map(|(member, _)| member.name.to_owned());
        let before = self.next.reserved.len();
        self.next.reserved.extend(next);
        if before == 0 && !self.next.reserved.is_empty() {
            self.next.progressed_at = Some(self.stamp());
        }
    }

    fn wake_in(&mut self, after: Duration) {
        self.wake = Some(self.wake.map_or(after, |wake| wake.min(after)));
    }

    /// As precise as the API keeps it, so that what is decided on is what is stored.
    fn stamp(&self) -> MicroTime {
        MicroTime(Timestamp::from_microsecond(self.seen.now.as_microsecond()).unwrap_or(self.seen.now))
    }

    fn set(&mut self, type_: &str, status: ConditionStatus, reason: &str, message: &str) {
        let (generation, now) = (Some(self.seen.generation), self.seen.now);
        set_condition(&mut self.next.conditions, type_, status, reason, message, generation, now);
    }

    /// What was said holds of the present generation, too: `kubectl wait` asks for that.
    fn restate(&mut self, type_: &str) {
        let condition = self.next.conditions.iter_mut().find(|condition| condition.type_ == type_);
        if let Some(condition) = condition {
            condition.observed_generation = Some(self.seen.generation);
        }
    }

    fn finish(mut self) -> Decision {
        let mut actions = Vec::new();
        if self.next != *self.old {
            if !self.seen.write_in.is_zero() && !is_urgent(self.old, &self.next) {
                self.wake_in(self.seen.write_in);
                // Nobody is changed who is not yet reserved.
                let old = self.old;
                self.changes.retain(|change| !change.reserved || old.reserved.contains(&change.name));
            } else {
                actions.push(Action::WriteStatus(Box::new(self.next.clone())));
                actions.extend(notices(self.old, &self.next).into_iter().map(Action::Notify));
            }
        }
        actions.extend(self.changes.into_iter().map(Action::Change));
        actions.extend(tidy(&self.next, self.seen.revisions));
        Decision::Act { actions, wake: self.wake }
    }
}

fn tidy(status: &DeviceFleetStatus, revisions: &Revisions) -> impl Iterator<Item = Action> {
    revision::outdated(status, revisions).into_iter().map(|number| Action::DeleteRevision { number })
}

fn batches(plan: &Plan) -> u32 {
    u32::try_from(plan.batches.len()).unwrap_or(u32::MAX).max(1)
}

/// Does it try, on its own account, what the fleet wants? It will end, or be lost.
fn is_settling(member: &Member<'_>, standing: Standing) -> bool {
    standing == Standing::Settling && member.contact == Contact::Answering
}

/// Must it be written at once? Counts, messages and further reservations can wait until the pace allows.
fn is_urgent(old: &DeviceFleetStatus, new: &DeviceFleetStatus) -> bool {
    let holds = |status: &DeviceFleetStatus, type_| is_true(&status.conditions, type_);
    old.phase != new.phase
        || old.observed_generation != new.observed_generation
        || (old.revision, old.failed_revision, old.batch) != (new.revision, new.failed_revision, new.batch)
        || [types::ACCEPTED, types::WITHIN_BUDGET, types::COMPLETE]
            .iter()
            .any(|type_| holds(old, type_) != holds(new, type_))
        || (old.reserved.is_empty() && !new.reserved.is_empty())
}

#[cfg(test)]
mod gone;
#[cfg(test)]
mod held;
#[cfg(test)]
mod members;
#[cfg(test)]
mod most;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod story;
#[cfg(test)]
mod tests;
