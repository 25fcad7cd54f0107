//! How a fleet stands to what it is bringing to its devices: who has it, who is on the way, who is next, and how much room
//! the budgets leave. Pure arithmetic on the members.

use std::collections::{BTreeSet, HashMap};

use edge_api::choose::{self, Amount};
use edge_api::fleet::MAX_RESERVED;
use edge_api::{Desired, FleetCounts};
use jiff::Timestamp;

use super::member::{Contact, Member, Outcome};
use super::validate::Plan;

/// One member's place in the rollout of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It was told the target and runs it.
    InSync,
    /// It was told the target, nobody waits for it any more, and it got lost since the rollout began: perhaps by what it was told.
    Gone,
    /// It was told the target and cannot run it.
    Failed,
    /// Reserved, perhaps told, and not lost.
    Trying,
    /// Reserved and lost.
    Lost,
    /// Reserved, and a person keeps it from the operator: it neither gets on nor fails, and nobody waits for it. It goes on
    /// where it was when it is given back.
    Held,
    /// Told, and trying without being reserved: nobody had to wait for it when it was told.
    Settling,
    /// To be told, and it could be told now.
    Ready,
    /// To be told; whether it could be is not known yet.
    Unclear,
    /// To be told, some day.
    Away,
}

impl Standing {
    /// Has what it was told come to an end?
    pub(crate) const fn is_end(self) -> bool {
        matches!(self, Self::InSync | Self::Gone | Self::Failed)
    }
}

/// All members against one target.
pub(crate) struct Field<'a> {
    /// Those that are the fleet's to change, by rank.
    pub(crate) ours: Vec<(&'a Member<'a>, Standing)>,
    /// Those that are not.
    pub(crate) foreign: usize,
}

impl<'a> Field<'a> {
    /// `members` in order of rank. `began`: since when the target is rolled out; none when that is over, or when it is brought
    /// back: whoever gets lost then, the rollout has not done it.
    pub(crate) fn new(
        members: &'a [Member<'a>],
        target: &Desired,
        reserved: &[String],
        began: Option<Timestamp>,
    ) -> Self {
        let reserved: BTreeSet<&str> = reserved.iter().map(String::as_str).collect();
        let ours: Vec<_> = members
            .iter()
            .filter(|member| !member.foreign)
            .map(|member| (member, standing(member, target, reserved.contains(member.name), began)))
            .collect();
        let foreign = members.len() - ours.len();
        Self { ours, foreign }
    }

    /// How many stand so.
    pub(crate) fn count(&self, standing: Standing) -> usize {
        self.ours.iter().filter(|(_, stands)| *stands == standing).count()
    }

    /// The fleet's own by name.
    pub(crate) fn by_name(&self) -> HashMap<&str, Standing> {
        self.ours.iter().map(|(member, standing)| (member.name, *standing)).collect()
    }

    /// Reserved ones that have not ended.
    pub(crate) fn waiting(&self) -> usize {
        self.count(Standing::Trying) + self.count(Standing::Lost)
    }

    /// What maxUnavailable is about, but for those that failed within the failure budget of a rollout that is complete.
    pub(crate) fn unavailable(&self) -> usize {
        self.waiting() + self.count(Standing::Failed) + self.count(Standing::Gone)
    }

    /// Those that run the target, as they last reported.
    pub(crate) fn running(&self) -> usize {
        self.ours.iter().filter(|(member, standing)| is_running(member, *standing)).count()
    }

    /// As the status shows them.
    pub(crate) fn counts(&self, target: &Desired) -> FleetCounts {
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let told = self.ours.iter().filter(|(member, _)| member.desired == Some(target)).count();
        FleetCounts {
            total: number(self.ours.len() + self.foreign),
            updated: number(told),
            in_sync: number(self.running()),
            failed: number(self.count(Standing::Failed)),
            unavailable: number(self.unavailable()),
            foreign: number(self.foreign),
        }
    }

    /// The members of the batches up to this one.
    pub(crate) fn up_to(&self, batch: Amount) -> &[(&'a Member<'a>, Standing)] {
        let size = choose::wanted(batch, self.ours.len());
        self.ours.get(..size).unwrap_or(&self.ours)
    }

    /// How many more devices may be reserved now.
    pub(crate) fn room(&self, plan: &Plan, is_complete: bool) -> usize {
        let entries = MAX_RESERVED.saturating_sub(self.waiting() + self.count(Standing::Held));
        self.room_beside(0, plan, is_complete).min(entries)
    }

    /// How many of those that are reserved and run something else may be told now. All of them, but where another template came, or smaller
    /// budgets, while they ended what they were reserved for.
    pub(crate) fn room_to_tell(&self, plan: &Plan, target: &Desired, is_complete: bool) -> usize {
        let wait = |(member, standing): &&(&Member<'_>, Standing)| {
            !member.sent && Self::waits_to_begin(member, *standing, target)
        };
        self.room_beside(self.ours.iter().filter(wait).count(), plan, is_complete)
    }

    /// Is it reserved, and runs something else to its content?
    pub(crate) fn waits_to_begin(member: &Member<'_>, standing: Standing, target: &Desired) -> bool {
        standing == Standing::Trying && member.outcome == Outcome::InSync && member.desired != Some(target)
    }

    /// The room that the budgets leave, where so many reserved ones have not begun. Once a rollout is complete, those that failed hold up
    /// nobody who catches up, as long as they are within the failure budget.
    fn room_beside(&self, not_begun: usize, plan: &Plan, is_complete: bool) -> usize {
        let in_flight = plan.max_in_flight.saturating_sub(self.count(Standing::Trying) - not_begun);
        let are_spared = is_complete && !self.failures_exceeded(plan);
        let out = if are_spared { self.waiting() } else { self.unavailable() };
        let unavailable = self.may_be_unavailable(plan).saturating_sub(out - not_begun);
        in_flight.min(unavailable)
    }

    /// maxUnavailable as a number: a share is rounded down, and at least one, or nothing could ever be changed.
    pub(crate) fn may_be_unavailable(&self, plan: &Plan) -> usize {
        match plan.max_unavailable {
            Amount::All => self.ours.len(),
            Amount::Count(count) => usize::try_from(count.get()).unwrap_or(usize::MAX),
            Amount::Share(share) => {
                let down = self.ours.len() as u128 * u128::from(share.ppm()) / 1_000_000;
                usize::try_from(down).unwrap_or(usize::MAX).max(1)
            }
        }
    }

    /// Have more failed than may: of those that finished, or of the sample while it is not complete? In that case it is
    /// exceeded as soon as it will be, however the rest of the sample ends.
    pub(crate) fn failures_exceeded(&self, plan: &Plan) -> bool {
        let failed = self.count(Standing::Failed);
        let finished = failed + self.running();
        let sample = finished.max(plan.minimum_sample.min(self.ours.len()));
        failed as u128 * 1_000_000 > sample as u128 * u128::from(plan.failures.ppm())
    }
}

fn is_running(member: &Member<'_>, standing: Standing) -> bool {
    standing == Standing::InSync || (standing == Standing::Gone && member.outcome == Outcome::InSync)
}

fn standing(member: &Member<'_>, target: &Desired, reserved: bool, began: Option<Timestamp>) -> Standing {
    let told = member.desired == Some(target);
    // Whoever was away before the rollout began, with what a former one told it, was not lost by this one.
    let is_gone = told && member.lost_at.zip(began).is_some_and(|(lost, began)| lost >= began);
    match member.outcome {
        Outcome::InSync if is_gone => Standing::Gone,
        Outcome::InSync if told => Standing::InSync,
        Outcome::Failed if told => Standing::Failed,
        Outcome::Lost if reserved => Standing::Lost,
        _ if reserved && member.contact == Contact::Withheld => Standing::Held,
        _ if reserved => Standing::Trying,
        _ if is_gone => Standing::Gone,
        _ if told => Standing::Settling,
        _ => match member.contact {
            Contact::Answering => Standing::Ready,
            Contact::Unclear => Standing::Unclear,
            Contact::Away | Contact::Withheld => Standing::Away,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::num::NonZeroU32;

    use super::*;
    use crate::fleet::validate::plan;

    fn firmware(version: &str) -> Desired {
        Desired { firmware: version.into(), config: BTreeMap::new() }
    }

    fn member<'a>(name: &'a str, desired: &'a Desired, outcome: Outcome) -> Member<'a> {
        Member {
            name,
            uid: name,
            version: None,
            desired: Some(desired),
            foreign: false,
            contact: Contact::Answering,
            outcome,
            lost_at: None,
            sent: false,
        }
    }

    fn some_plan() -> Plan {
        let spec =
            serde_json::json!({"selector": {"matchLabels": {"a": "b"}}, "template": {"firmware": "2"}});
        plan(&serde_json::from_value(spec).unwrap()).unwrap()
    }

    #[test]
    fn in_flight_are_the_reserved_that_try_and_unavailable_also_those_that_failed_or_got_lost() {
        let (old, new) = (firmware("1"), firmware("2"));
        let gone = |desired, second| Member {
            contact: Contact::Away,
            lost_at: Some(Timestamp::from_second(second).unwrap()),
            ..member("gone", desired, Outcome::InSync)
        };
        let lost = member("lost", &new, Outcome::Lost);
        let lost_before = Member { contact: Contact::Away, ..member("lost before", &old, Outcome::Lost) };
        let members = [
            member("ready", &old, Outcome::InSync),
            member("reserved", &old, Outcome::InSync),
            member("trying", &new, Outcome::Trying),
            lost,
            lost_before,
            member("failed", &new, Outcome::Failed),
            member("failed before", &old, Outcome::Failed),
            member("in sync", &new, Outcome::InSync),
            member("settling", &new, Outcome::Trying),
            gone(&new, 7),
            gone(&new, 5),
            gone(&old, 9),
            Member { foreign: true, ..member("foreign", &new, Outcome::InSync) },
        ];
        let reserved = ["reserved", "trying", "lost"].map(str::to_owned);
        let after = |seconds: i64| Some(Timestamp::from_second(seconds).unwrap());
        let field = Field::new(&members, &new, &reserved, None);
        assert_eq!((field.counts(&new).in_sync, field.counts(&new).unavailable), (3, 4));
        let field = Field::new(&members, &new, &reserved, after(6));
        let counts = field.counts(&new);
        let expected =
            FleetCounts { total: 13, updated: 7, in_sync: 3, failed: 1, unavailable: 5, foreign: 1 };
        assert_eq!(counts, expected);
        assert_eq!((field.waiting(), field.count(Standing::Trying), field.count(Standing::Ready)), (3, 2, 2));
        let plan = Plan { max_in_flight: 5, max_unavailable: Amount::All, ..some_plan() };
        assert_eq!(field.room(&plan, false), 3);
        let seven = Amount::Count(NonZeroU32::new(7).unwrap());
        assert_eq!(field.room(&Plan { max_unavailable: seven, ..plan }, false), 2);
    }

    #[test]
    fn a_share_of_unavailable_devices_is_rounded_down_and_at_least_one() {
        let target = firmware("2");
        let names: Vec<String> = (0..29).map(|number| number.to_string()).collect();
        let members: Vec<_> = names.iter().map(|name| member(name, &target, Outcome::InSync)).collect();
        let may =
            |count: usize| Field::new(&members[..count], &target, &[], None).may_be_unavailable(&some_plan());
        assert_eq!((may(29), may(20), may(9), may(0)), (2, 2, 1, 1));
    }

    #[test]
    fn no_more_are_reserved_than_the_status_holds() {
        let (old, new) = (firmware("1"), firmware("2"));
        let names: Vec<String> = (0..600).map(|number| number.to_string()).collect();
        let lost = |number: usize| if number < 499 { Outcome::Lost } else { Outcome::InSync };
        let desired = |number: usize| if number < 499 { &new } else { &old };
        let members: Vec<_> =
            names.iter().enumerate().map(|(n, name)| member(name, desired(n), lost(n))).collect();
        let field = Field::new(&members, &new, &names[..499], None);
        let plan = Plan { max_in_flight: 500, max_unavailable: Amount::All, ..some_plan() };
        assert_eq!((field.count(Standing::Ready), field.room(&plan, false)), (101, 1));
    }

    #[test]
    fn failures_are_judged_by_the_sample_as_soon_as_they_are_too_many_for_it() {
        let target = firmware("2");
        let names: Vec<String> = (0..100).map(|number| number.to_string()).collect();
        let exceeded = |in_sync: usize, failed: usize, all: usize| {
            let outcome = |index: usize| match index {
                index if index < failed => Outcome::Failed,
                index if index < failed + in_sync => Outcome::InSync,
                _ => Outcome::Trying,
            };
            let members: Vec<_> = (0..all).map(|n| member(&names[n], &target, outcome(n))).collect();
            Field::new(&members, &target, &[], None).failures_exceeded(&some_plan())
        };
        assert!(!exceeded(0, 1, 100), "one of a sample of twenty is five percent");
        assert!(exceeded(0, 2, 100), "two of twenty are too many, whatever the other eighteen do");
        assert!(!exceeded(38, 2, 100));
        assert!(exceeded(37, 2, 100));
        assert!(exceeded(9, 1, 10), "a sample of all ten");
        assert!(!exceeded(10, 0, 10));
    }
}
