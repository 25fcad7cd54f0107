//! What a profile's status shall be: pure, the clocks are arguments.
//! Expiry, acceptance, choice, start, then the agents' words; and what a person is told of a transition.

use std::time::Duration;

use edge_api::condition::{ConditionStatus, find_condition, is_true, types};
use edge_api::{FaultPhase, FaultProfileStatus, TargetCounts, set_condition};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use tokio::time::Instant;

use super::agents::Agents;
use super::choice::{Chosen, Found};
use super::notice::{Notice, notices};
use super::rollup::{AGENT_LOST, RollUp, Subject, roll_up};
use super::validate::Plan;
use crate::refusal::Refusal;
use words::{HOST_NETWORK, accepted, left_out, nobody};

mod refused;
mod words;

/// For so long agents may be silent about a new generation or target before that is a problem.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// `status.nodes` holds at most so many (the schema's limit).
const MAX_NODES: usize = 256;
/// … each with a message of at most so many characters.
const MAX_MESSAGE: usize = 1024;
/// Reason of Effective once a kernel counter said so …
const ACTED: &str = "ActedOnPackets";
/// … and its message when none says so any more: its agent was started again, say.
const ACTED_BEFORE: &str = "kernel counters showed since the start that the rules acted on packets";

/// Message of Installed while nothing is, as its owner wants it.
const PAUSED: &str = "spec.paused lifts the faults; the clock goes on";

/// A profile and everything that its status depends on.
#[derive(Debug)]
pub(crate) struct Observed<'a> {
    /// `metadata.uid`.
    pub(crate) uid: &'a str,
    /// `metadata.generation`.
    pub(crate) generation: i64,
    /// The status it has.
    pub(crate) status: Option<&'a FaultProfileStatus>,
    /// What it asks for, or why it may not.
    pub(crate) plan: Result<&'a Plan, &'a Refusal>,
    /// Why not all of its targets, or of the agents, are known; none: they are.
    pub(crate) lacks: Option<&'a Refusal>,
    /// What its selector finds; empty when there is no plan.
    pub(crate) found: &'a Found,
    /// What the agents say.
    pub(crate) agents: &'a Agents,
    /// This operator's epoch.
    pub(crate) epoch: u64,
    /// The time.
    pub(crate) clock: Clock,
    /// How soon what can wait may be written.
    pub(crate) pace: Pace,
}

/// Two clocks: one that others' times are compared with, one that never jumps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// The API server's time.
    pub(crate) wall: Timestamp,
    /// This process's own.
    pub(crate) own: Instant,
}

/// What is left of the pauses between writes; zero: now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pace {
    /// Until the cutoff may move again.
    pub(crate) move_in: Duration,
    /// Until counts and messages may be written again.
    pub(crate) write_in: Duration,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Decision {
    /// It has expired and stays as it is.
    Done,
    /// A later leader has written: this process is no longer the one to decide.
    StandBack {
        /// That leader's epoch.
        epoch: u64,
    },
    /// The status is right. Look again after `wake`, or when something changes.
    Keep {
        /// When time alone will change the answer.
        wake: Option<Duration>,
    },
    /// Write this status, then say this.
    Write {
        /// The whole new status.
        status: Box<FaultProfileStatus>,
        /// For people.
        notices: Vec<Notice>,
        /// When time alone will change the answer again.
        wake: Option<Duration>,
    },
}

/// Decides.
pub(crate) fn decide(observed: &Observed<'_>) -> Decision {
    let fresh = FaultProfileStatus::default();
    let old = observed.status.unwrap_or(&fresh);
    if let Some(epoch) = old.epoch.filter(|epoch| *epoch > observed.epoch) {
        return Decision::StandBack { epoch };
    }
    if old.phase == FaultPhase::Expired {
        return Decision::Done;
    }
    let mut draft = Draft { observed, old, next: old.clone(), wake: None };
    draft.next.observed_generation = Some(observed.generation);
    draft.next.epoch = Some(observed.epoch);
    draft.fill();
    draft.finish(observed.status.is_none())
}

/// A status in the making.
struct Draft<'a> {
    observed: &'a Observed<'a>,
    old: &'a FaultProfileStatus,
    next: FaultProfileStatus,
    wake: Option<Duration>,
}

impl<'a> Draft<'a> {
    fn fill(&mut self) {
        let now = self.observed.clock.wall;
        if self.next.expires_at.as_ref().is_some_and(|end| end.0 <= now) {
            return self.expire();
        }
        let plan = match self.acceptance() {
            Ok(plan) => plan,
            Err(refusal) => return self.reject(&refusal),
        };
        if let Some(lacks) = self.observed.lacks {
            return self.freeze(plan, lacks);
        }
        let found: &'a Found = self.observed.found;
        self.set(types::ACCEPTED, ConditionStatus::True, "Accepted", &accepted(found, plan.repeats));
        self.choose(plan);
        let chosen = found.chosen(self.next.cutoff);
        if self.next.started_at.is_none() && chosen.total > 0 {
            self.start(plan);
        }
        self.wake_at_end();
        self.report(plan, &chosen);
    }

    fn wake_at_end(&mut self) {
        if let Some(end) = &self.next.expires_at {
            let left = end.0.duration_since(self.observed.clock.wall);
            self.wake_in(Duration::try_from(left).unwrap_or_default());
        }
    }

    fn choose(&mut self, plan: &Plan) {
        let right = self.observed.found.cutoff(plan.amount, self.next.cutoff);
        let move_in = self.observed.pace.move_in;
        if self.next.cutoff.is_some() && right != self.next.cutoff && !move_in.is_zero() {
            self.wake_in(move_in);
        } else {
            self.next.cutoff = right;
        }
    }

    fn start(&mut self, plan: &Plan) {
        let wall = self.observed.clock.wall;
        // As precise as the API keeps it, so that what is decided on is what is stored.
        let start = Timestamp::from_microsecond(wall.as_microsecond()).unwrap_or(wall);
        let end = start.saturating_add(plan.duration).unwrap_or(Timestamp::MAX);
        self.next.started_at = Some(MicroTime(start));
        self.next.expires_at = Some(MicroTime(end));
    }

    fn report(&mut self, plan: &Plan, chosen: &Chosen) {
        let roll = self.roll_up(chosen, (!plan.paused).then_some(self.observed.generation));
        self.next.targets = TargetCounts { selected: chosen.total, enforced: roll.enforced };
        self.next.nodes = roll.problems.clone();
        if self.next.started_at.is_some()
            && let Some(loss) = self.observed.agents.next_loss(self.observed.clock.own)
        {
            self.wake_in(loss);
        }
        if self.next.started_at.is_none() || chosen.total == 0 {
            self.report_nobody();
        } else if plan.paused {
            self.next.phase = FaultPhase::Paused;
            self.hit_nobody("Paused", PAUSED);
        } else {
            self.report_installed(&roll);
            self.report_effective(&roll);
        }
    }

    /// Nobody to hit: before the start it waits for a first target; later on that is a problem.
    fn report_nobody(&mut self) {
        let started = self.next.started_at.is_some();
        self.next.phase = if started { FaultPhase::Degraded } else { FaultPhase::Pending };
        let (reason, message) = nobody(self.observed.found);
        self.hit_nobody(reason, &message);
    }

    /// Nothing is enforced now. That something was stays true.
    fn hit_nobody(&mut self, reason: &str, message: &str) {
        self.set(types::INSTALLED, ConditionStatus::False, reason, message);
        if self.was_effective() {
            self.set(types::EFFECTIVE, ConditionStatus::True, ACTED, ACTED_BEFORE);
        } else {
            self.set(types::EFFECTIVE, ConditionStatus::False, reason, message);
        }
    }

    /// Did a kernel act on a packet since the start, as far as that was written?
    fn was_effective(&self) -> bool {
        self.next.started_at.is_some() && is_true(&self.old.conditions, types::EFFECTIVE)
    }

    fn report_installed(&mut self, roll: &RollUp) {
        let counts = self.next.targets;
        let of = format!("{} of {} targets have their rules in a kernel", counts.enforced, counts.selected);
        let message = format!("{of}; {}", roll.summary());
        if roll.missing == 0 {
            // Rules that are held, and yet packets meet what nobody asked for.
            let left_out = left_out(self.observed.found).map(|others| format!("{of}; {others}"));
            let (phase, reason, message) = match (&roll.strained, &left_out) {
                (Some(problem), _) => (FaultPhase::Degraded, problem.state.as_str(), &message),
                (None, Some(others)) => (FaultPhase::Degraded, HOST_NETWORK, others),
                (None, None) => (FaultPhase::Active, "Installed", &of),
            };
            self.next.phase = phase;
            return self.set(types::INSTALLED, ConditionStatus::True, reason, message);
        }
        if let Some(problem) = &roll.refused {
            self.next.phase = FaultPhase::Degraded;
            return self.set(types::INSTALLED, ConditionStatus::False, &problem.state, &message);
        }
        if roll.lost {
            self.next.phase = FaultPhase::Degraded;
            return self.set(types::INSTALLED, ConditionStatus::Unknown, AGENT_LOST, &message);
        }
        // A node under a strain says that first, and beside it what it has no way to.
        if let (Some(problem), true) = (&roll.strained, roll.waiting.is_empty()) {
            self.next.phase = FaultPhase::Degraded;
            return self.set(types::INSTALLED, ConditionStatus::False, &problem.state, &message);
        }
        let patience = self.patience();
        if patience.is_zero() {
            self.next.phase = FaultPhase::Degraded;
            self.next.nodes.extend(roll.waiting.iter().cloned());
            return self.set(types::INSTALLED, ConditionStatus::Unknown, "NoAnswer", &message);
        }
        self.wake_in(patience);
        self.next.phase = match self.old.phase {
            phase @ (FaultPhase::Active | FaultPhase::Degraded) => phase,
            _ => FaultPhase::Pending,
        };
        self.set(types::INSTALLED, ConditionStatus::Unknown, "Installing", &message);
    }

    /// How long agents may still be silent: counted from when Installed became Unknown, which the status itself
    /// remembers, so that a restart of this process does not begin it anew.
    fn patience(&self) -> Duration {
        let unknown = find_condition(&self.old.conditions, types::INSTALLED)
            .filter(|condition| condition.status == ConditionStatus::Unknown.as_str());
        let Some(condition) = unknown else { return ANSWER_WITHIN };
        let waited = self.observed.clock.wall.duration_since(condition.last_transition_time.0);
        ANSWER_WITHIN.saturating_sub(Duration::try_from(waited).unwrap_or_default())
    }

    fn report_effective(&mut self, roll: &RollUp) {
        let (status, reason, message) = if roll.effective {
            (ConditionStatus::True, ACTED, "kernel counters show that the rules acted on packets")
        } else if self.was_effective() {
            // An agent that was started again counts from nothing: what was once shown stays true.
            (ConditionStatus::True, ACTED, ACTED_BEFORE)
        } else if roll.lost {
            (ConditionStatus::Unknown, AGENT_LOST, "an agent that should know is lost, see status.nodes")
        } else {
            (ConditionStatus::False, "NoPacketYet", "no kernel counted a packet that the rules acted on")
        };
        self.set(types::EFFECTIVE, status, reason, message);
    }

    /// Past its end kernels pass everything, whatever else is true. What it did stays readable.
    fn expire(&mut self) {
        // The last word may still wait for its turn to be written.
        let acted = self.was_effective() || self.roll_up(&Chosen::default(), None).effective;
        self.next.phase = FaultPhase::Expired;
        self.next.targets.enforced = 0;
        self.next.nodes.clear();
        self.set(
            types::INSTALLED,
            ConditionStatus::False,
            "Expired",
            "its time is over; to run it again, delete and apply it",
        );
        let message = if acted {
            "its rules acted on packets before its time was over"
        } else {
            "its rules were not seen to act on packets before its time was over"
        };
        self.set(types::EFFECTIVE, acted.into(), "Expired", message);
    }

    fn roll_up(&self, chosen: &Chosen, generation: Option<i64>) -> RollUp {
        let subject = Subject { uid: self.observed.uid, generation };
        roll_up(chosen, self.observed.agents, subject, self.observed.clock.own)
    }

    fn set(&mut self, type_: &str, status: ConditionStatus, reason: &str, message: &str) {
        let (generation, now) = (Some(self.observed.generation), self.observed.clock.wall);
        set_condition(&mut self.next.conditions, type_, status, reason, message, generation, now);
    }

    fn wake_in(&mut self, after: Duration) {
        self.wake = Some(self.wake.map_or(after, |wake| wake.min(after)));
    }

    fn finish(mut self, first: bool) -> Decision {
        bound(&mut self.next);
        if self.next == *self.old && !first {
            return Decision::Keep { wake: self.wake };
        }
        let write_in = self.observed.pace.write_in;
        if !first && !write_in.is_zero() && !is_urgent(self.old, &self.next) {
            self.wake_in(write_in);
            return Decision::Keep { wake: self.wake };
        }
        let notices = notices(self.old, &self.next, self.observed.found.len());
        Decision::Write { status: Box::new(self.next), notices, wake: self.wake }
    }
}

/// Must it be written at once? Counts and messages can wait until the pace allows.
fn is_urgent(old: &FaultProfileStatus, new: &FaultProfileStatus) -> bool {
    let accepted = |status: &FaultProfileStatus| is_true(&status.conditions, types::ACCEPTED);
    old.phase != new.phase
        || old.observed_generation != new.observed_generation
        || old.epoch != new.epoch
        || old.started_at != new.started_at
        || accepted(old) != accepted(new)
}

fn bound(status: &mut FaultProfileStatus) {
    status.nodes.sort_by(|a, b| a.name.cmp(&b.name));
    status.nodes.truncate(MAX_NODES);
    for node in &mut status.nodes {
        if let Some((end, _)) = node.message.char_indices().nth(MAX_MESSAGE) {
            node.message.truncate(end);
        }
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod story;
#[cfg(test)]
mod strains;
#[cfg(test)]
mod tests;
