//! When a rollout is given up: too many devices failed, or none finished for too long; and what comes of that.

use std::time::Duration;

use edge_api::condition::{ConditionStatus, find_condition, is_true, types};
use edge_api::{FleetPhase, OnBudgetExceeded};
use jiff::SignedDuration;

use super::super::field::{Field, Standing};
use super::super::member::Member;
use super::super::revision;
use super::super::validate::Plan;
use super::{DEADLINE, Draft, FAILURES, is_settling};

impl<'a> Draft<'a> {
    /// Was a budget exceeded, and has nobody touched the spec since?
    pub(super) fn is_held_by_budget(&self) -> bool {
        !revision::is_given_up(&self.next)
            && find_condition(&self.next.conditions, types::WITHIN_BUDGET).is_some_and(|condition| {
                condition.status == "False" && condition.observed_generation == Some(self.seen.generation)
            })
    }

    pub(super) fn exceeded(&self, plan: &Plan, field: &Field<'a>) -> Option<(&'static str, String)> {
        let (failed, in_sync) = (field.count(Standing::Failed), field.running());
        if field.failures_exceeded(plan) {
            let message = format!("{failed} devices failed and {in_sync} are in sync");
            return Some((FAILURES, message));
        }
        let left = self.time_left(plan, field)?;
        left.is_zero().then(|| {
            let message = format!(
                "no device finished for {:#}; {} are under way or lost, {failed} failed{}",
                plan.deadline,
                field.waiting() + field.count(Standing::Gone),
                self.unclear(plan, field)
            );
            (DEADLINE, message)
        })
    }

    /// Time until the deadline; none while nothing is waited for.
    fn time_left(&self, plan: &Plan, field: &Field<'a>) -> Option<Duration> {
        let since = self.next.progressed_at.as_ref().filter(|_| self.is_waiting(plan, field))?;
        let waited = self.seen.now.duration_since(since.0).max(SignedDuration::ZERO);
        Some(Duration::try_from(plan.deadline.saturating_sub(waited)).unwrap_or_default())
    }

    /// Is a device to finish, or to begin for which the budgets leave no room? A rollout waits for those, too, of which it is
    /// not known whether they answer: perhaps no controller asks them.
    fn is_waiting(&self, plan: &Plan, field: &Field<'a>) -> bool {
        let scope = self.scope(plan, field);
        let unclear = |(_, standing): &(&Member<'_>, Standing)| *standing == Standing::Unclear;
        field.waiting() > 0
            || (self.is_rolling_out() && scope.iter().any(unclear))
            || scope.iter().any(|(member, standing)| is_settling(member, *standing))
            || scope.iter().any(|(_, standing)| *standing == Standing::Ready)
    }

    pub(super) fn give_up(&mut self, plan: &Plan, field: &Field<'a>, reason: &'static str, message: &str) {
        let revisions = self.seen.revisions;
        let made = |number: i64| revision::readable(revisions, number);
        if plan.on_exceeded == OnBudgetExceeded::Rollback {
            // A person who went back to it by hand has made it the one that fails now: brought back, it would only be tried again.
            let failed = self.next.revision.and_then(made);
            self.next.previous_revision.take_if(|number| failed.is_some() && made(*number) == failed);
        }
        let previous = self.next.previous_revision.filter(|number| made(*number).is_some());
        match (plan.on_exceeded, previous) {
            (OnBudgetExceeded::Rollback, Some(number)) => {
                let message = format!("{message}; bringing back revision {number}");
                self.set(types::WITHIN_BUDGET, ConditionStatus::False, reason, &message);
                self.next.failed_revision = self.next.revision;
                self.next.progressed_at = Some(self.stamp());
                // These are what the rollback is for; it waits for none of them.
                let standings = field.by_name();
                self.next.reserved.retain(|name| standings.get(name.as_str()) != Some(&Standing::Lost));
                self.next.phase = FleetPhase::RollingBack;
                self.set(types::PROGRESSING, ConditionStatus::True, "RollingBack", &message);
                self.wake_in(Duration::ZERO);
            }
            (OnBudgetExceeded::Rollback, None) => {
                let message =
                    format!("{message}; there is no other template that was complete to bring back");
                self.set(types::WITHIN_BUDGET, ConditionStatus::False, reason, &message);
                self.hold("BudgetExceeded", "see WithinBudget; it goes on when spec changes");
            }
            (OnBudgetExceeded::Pause, _) => {
                self.set(types::WITHIN_BUDGET, ConditionStatus::False, reason, message);
                self.hold("BudgetExceeded", "see WithinBudget; it goes on when spec changes");
            }
        }
    }

    pub(super) fn watch_the_clock(&mut self, plan: &Plan, field: &Field<'a>) {
        let complete = is_true(&self.next.conditions, types::COMPLETE) && !revision::is_given_up(&self.next);
        if complete || !self.is_waiting(plan, field) {
            self.next.progressed_at = None;
        } else if self.next.progressed_at.is_none() {
            self.next.progressed_at = Some(self.stamp());
        }
        if let Some(left) = self.time_left(plan, field).filter(|left| !left.is_zero()) {
            self.wake_in(left);
        }
    }
}

#[cfg(test)]
mod tests {
    use edge_api::condition::types::WITHIN_BUDGET;
    use serde_json::json;

    use super::super::story::{Fate, Story};
    use super::*;

    #[test]
    fn a_template_that_was_good_before_and_fails_now_is_not_brought_back_in_its_own_place() {
        let budget = json!({"percent": "0%", "minimumSample": 1});
        let mut story = Story::complete(4, json!({"maxInFlight": 1, "failureBudget": budget}));
        let first = story.ranked()[0];
        story.wants("2").settles();
        assert_eq!(story.told("2"), 1);
        // A person thinks better of it, and the one that was told does not take the old one any more.
        story.fate(first, "1", Fate::Fails);
        story.wants("1").runs_until_quiet();
        assert_eq!((story.phase(), story.status().failed_revision), (FleetPhase::Paused, None));
        assert_eq!(story.condition(WITHIN_BUDGET), "False/FailureBudgetExceeded");
        let says = story.message(WITHIN_BUDGET);
        assert!(says.contains("no other template"), "{says}");
        story.wants("3").runs_until_quiet();
        assert_eq!((story.phase(), story.told("3")), (FleetPhase::Complete, 4));
    }
}
