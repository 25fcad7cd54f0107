//! Whom a fleet tells now what it brings.

use std::sync::Arc;

use edge_api::Desired;
use edge_api::condition::{is_true, types};

use super::super::action::Change;
use super::super::field::{Field, Standing};
use super::super::member::Member;
use super::super::revision;
use super::super::validate::Plan;
use super::Draft;

impl<'a> Draft<'a> {
    /// Reserved ones that were not told yet. In a rollback also those that are away with what was given up: nobody waits
    /// for them, and they shall not go on with it when they are back.
    pub(super) fn change(&mut self, plan: &Plan, target: &Desired, field: &Field<'a>) {
        let given_up = revision::is_given_up(&self.next);
        let is_due = |member: &Member<'_>, standing: Standing| match standing {
            Standing::Trying | Standing::Lost => member.desired != Some(target),
            Standing::Away | Standing::Held => given_up && member.desired == Some(self.seen.template),
            _ => false,
        };
        let is_complete = !given_up && is_true(&self.next.conditions, types::COMPLETE);
        let mut room = field.room_to_tell(plan, target, is_complete);
        // Whoever is under way with something else may be told at any time.
        let mut may_be_told = |member: &Member<'_>, standing: Standing| {
            if !Field::waits_to_begin(member, standing, target) {
                return true;
            }
            let is_room = room > 0;
            room = room.saturating_sub(1);
            is_room
        };
        let due = field.ours.iter().filter(|(member, standing)| {
            !member.sent && is_due(member, *standing) && may_be_told(member, *standing)
        });
        let shared = Arc::new(target.clone());
        let changes = due.map(|(member, standing)| Change {
            name: member.name.to_owned(),
            uid: member.uid.to_owned(),
            version: member.version.map(str::to_owned),
            desired: shared.clone(),
            reserved: !matches!(standing, Standing::Away | Standing::Held),
        });
        self.changes = changes.take(plan.max_in_flight).collect();
    }
}
