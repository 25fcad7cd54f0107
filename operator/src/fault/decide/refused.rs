//! What becomes of a profile that may not act, and of one that has started when not all is known any more.

use edge_api::condition::{ConditionStatus, find_condition, reasons::ENDPOINT_NOT_ALLOWED, types};
use edge_api::{FaultPhase, TargetCounts};

use super::super::choice::{Chosen, Found};
use super::super::population::NoTarget;
use super::super::validate::Plan;
use super::words::accepted;
use super::{Draft, PAUSED};
use crate::refusal::Refusal;

impl<'a> Draft<'a> {
    /// Its own networks are judged in the plan. Its devices' endpoints were judged where they were resolved:
    /// before the start one out of reach is said aloud, later on it is just no target.
    pub(super) fn acceptance(&self) -> Result<&'a Plan, Refusal> {
        let plan = self.observed.plan.map_err(Clone::clone)?;
        if let Some(lacks) = self.observed.lacks.filter(|_| self.next.started_at.is_none()) {
            return Err(lacks.clone());
        }
        match self.observed.found.others.get(&NoTarget::NotAllowed) {
            Some((count, first)) if self.next.started_at.is_none() => Err(Refusal {
                reason: ENDPOINT_NOT_ALLOWED,
                message: format!(
                    "{count} of the selected devices, {first} among them, have an endpoint that the operator may not \
                     reach; the conditions of device {first} say why: change its endpoint, select others, or start \
                     the operator with --allow-cidrs"
                ),
            }),
            _ => Ok(plan),
        }
    }

    pub(super) fn reject(&mut self, refusal: &Refusal) {
        self.next.phase = FaultPhase::Rejected;
        self.next.nodes.clear();
        let enforced = self.roll_up(&Chosen::default(), None).enforced;
        self.next.targets = TargetCounts { selected: 0, enforced };
        self.set(types::ACCEPTED, ConditionStatus::False, refusal.reason, &refusal.message);
        self.hit_nobody("Rejected", "the profile is rejected, see Accepted");
        self.wake_at_end();
    }

    /// It has started, and who its targets are is not known any more, or what agents say of them. A choice among some would be
    /// another choice, and to lift the faults would be one, too: agents go on with the cutoff that they have.
    pub(super) fn freeze(&mut self, plan: &Plan, lacks: &Refusal) {
        let before = find_condition(&self.old.conditions, types::ACCEPTED).filter(|it| it.status == "True");
        let accepted =
            before.map_or_else(|| accepted(&Found::default(), plan.repeats), |it| it.message.clone());
        self.set(types::ACCEPTED, ConditionStatus::True, "Accepted", &accepted);
        self.wake_at_end();
        if plan.paused {
            self.next.phase = FaultPhase::Paused;
            return self.hit_nobody("Paused", PAUSED);
        }
        self.next.phase = FaultPhase::Degraded;
        let message = format!(
            "{}; until then agents go on with those that were chosen before, and the counts stay as they were",
            lacks.message
        );
        self.set(types::INSTALLED, ConditionStatus::Unknown, lacks.reason, &message);
        let roll = self.roll_up(&Chosen::default(), Some(self.observed.generation));
        if roll.effective || self.was_effective() {
            self.report_effective(&roll);
        } else {
            self.set(types::EFFECTIVE, ConditionStatus::Unknown, lacks.reason, "not every agent is heard");
        }
    }
}
