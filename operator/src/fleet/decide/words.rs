//! From where a rollout stands to the words of its status: the phase, and the condition Progressing.

use edge_api::FleetPhase;
use edge_api::condition::{ConditionStatus, find_condition, is_true, types};

use super::super::field::{Field, Standing};
use super::super::member::Member;
use super::super::revision;
use super::super::validate::Plan;
use super::{DEADLINE, Draft, is_settling};

/// So many devices are named in a message.
const NAMED: usize = 3;

impl<'a> Draft<'a> {
    /// Nothing more is changed.
    pub(super) fn hold(&mut self, reason: &str, message: &str) {
        self.next.phase = FleetPhase::Paused;
        self.next.progressed_at = None;
        self.set(types::PROGRESSING, ConditionStatus::False, reason, message);
        if find_condition(&self.next.conditions, types::COMPLETE).is_none() {
            self.set(types::COMPLETE, ConditionStatus::False, reason, message);
        }
    }

    /// The devices in turn of which nothing is known, as the end of a sentence; nothing where there are none.
    pub(super) fn unclear(&self, plan: &Plan, field: &Field<'a>) -> String {
        let unclear = |(_, standing): &&(&Member<'_>, Standing)| *standing == Standing::Unclear;
        let scope = self.scope(plan, field);
        let names: Vec<_> = scope.iter().filter(unclear).map(|(member, _)| member.name).collect();
        if names.is_empty() {
            return String::new();
        }
        let more = if names.len() > NAMED { ", …" } else { "" };
        let shown = names.get(..NAMED).unwrap_or(&names).join(", ");
        format!(
            "; {} are waited for of which it is not known whether they answer ({shown}{more}): if that stays so, see their \
             Events, and whether the operator runs its device controller",
            names.len()
        )
    }

    /// Something is, or was, changed.
    pub(super) fn say(&mut self, plan: &Plan, field: &Field<'a>) {
        if revision::is_given_up(&self.next) {
            self.say_rollback(field);
        } else if is_true(&self.next.conditions, types::COMPLETE) {
            self.next.phase = FleetPhase::Complete;
            let message = self.say_complete(plan, field);
            self.set(types::PROGRESSING, ConditionStatus::False, "Complete", &message);
        } else if field.ours.is_empty() {
            self.next.phase = FleetPhase::Pending;
            let message = match field.foreign {
                0 => "the selector matches no device".to_owned(),
                foreign => format!(
                    "somebody else has set the desired state of all {foreign} devices: remove spec.desired from what \
                     manages them, and the fleet sets it"
                ),
            };
            self.set(types::PROGRESSING, ConditionStatus::False, "NoDevices", &message);
        } else {
            self.next.phase = FleetPhase::Progressing;
            let trying = field.count(Standing::Trying);
            let lost = field.count(Standing::Lost) + field.count(Standing::Gone);
            let message = format!(
                "batch {}: {trying} devices are under way, {lost} got lost{}{}",
                self.next.batch,
                held(field),
                self.unclear(plan, field)
            );
            self.set(types::PROGRESSING, ConditionStatus::True, "RollingOut", &message);
        }
        if !is_true(&self.next.conditions, types::COMPLETE) {
            let word = if revision::is_given_up(&self.next) { "GivenUp" } else { "RollingOut" };
            self.set(types::COMPLETE, ConditionStatus::False, word, "the last batch has not ended");
        }
    }

    /// Who is behind after the last batch, and what becomes of them.
    fn say_complete(&self, plan: &Plan, field: &Field<'a>) -> String {
        let (behind, failed) = (behind(field), field.count(Standing::Failed));
        if field.failures_exceeded(plan) && field.unavailable() >= field.may_be_unavailable(plan) {
            return format!(
                "the last batch has ended; {behind} devices are behind, of which {failed} failed since, more than failureBudget allows and \
                 as many as maxUnavailable: nobody else is told until spec.template or these change"
            );
        }
        format!(
            "the last batch has ended; {behind} devices are behind, of which {failed} failed; the others are brought up when they answer, \
             within maxInFlight and maxUnavailable"
        )
    }

    fn say_rollback(&mut self, field: &Field<'_>) {
        let is_left = |(member, standing): &&(&Member<'_>, Standing)| {
            matches!(standing, Standing::Trying | Standing::Ready) || is_settling(member, *standing)
        };
        let left = field.ours.iter().filter(is_left).count();
        let number = self.next.previous_revision.unwrap_or_default();
        if self.old.phase == FleetPhase::RolledBack || (left == 0 && self.changes.is_empty()) {
            self.next.phase = FleetPhase::RolledBack;
            let message = format!(
                "revision {number} is back; {} devices are behind; the failed one is not tried again until the template \
                 changes",
                behind(field)
            );
            return self.set(types::PROGRESSING, ConditionStatus::False, "RolledBack", &message);
        }
        self.next.phase = FleetPhase::RollingBack;
        let message = format!("bringing back revision {number}: {left} devices are to go");
        if self.is_late() {
            self.set(types::PROGRESSING, ConditionStatus::False, DEADLINE, &message);
        } else {
            self.set(types::PROGRESSING, ConditionStatus::True, "RollingBack", &message);
        }
    }

    /// Has no device finished for too long?
    fn is_late(&self) -> bool {
        let Ok(plan) = self.seen.plan else { return false };
        let since = self.next.progressed_at.as_ref();
        since.is_some_and(|since| self.seen.now.duration_since(since.0) >= plan.deadline)
    }
}

/// The reserved devices that a person keeps from the operator, as the end of a sentence; nothing where there are none.
fn held(field: &Field<'_>) -> String {
    match field.count(Standing::Held) {
        0 => String::new(),
        held => format!(", {held} are paused or out of reach and are not waited for"),
    }
}

fn behind(field: &Field<'_>) -> usize {
    field.ours.len() - field.running()
}
