//! The end of a Device: its device is released, so that another object can own it, or given up after a deadline. Pure.

use std::time::Duration;

use edge_api::Device;
use edge_api::device::FINALIZER;
use edge_protocol::{OwnerChange, OwnerCommand, RefusalReason};
use jiff::SignedDuration;
use kube::ResourceExt;
use tokio::time::Instant;

use super::absorb::Note;
use super::answer::{Answer, FORBIDDEN};
use super::decide::{Decision, Observed, Place, look_up, permission};
use super::memory::Memory;
use super::question::{ask, own};
use crate::action::{Action, Mark, Notice, Question};
use crate::budget::Bucket;

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The device said that it obeys the object no longer.
    Released,
    /// It obeys somebody else: there is nothing to release.
    NotOurs,
    /// It obeys a later epoch of this object, and refuses.
    Refused,
    /// Nothing may be sent to it: paused.
    Paused,
    /// Nothing can be sent to it: its spec is not valid.
    Invalid,
    /// It did not answer in time.
    GaveUp,
}

impl End {
    /// As the metrics name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Released => "released",
            Self::NotOurs => "not_ours",
            Self::Refused => "refused",
            Self::Paused => "paused",
            Self::Invalid => "invalid",
            Self::GaveUp => "gave_up",
        }
    }

    /// What a person has to know, since a new object of this name will not be obeyed.
    fn notice(self) -> Option<Notice> {
        let why = match self {
            Self::Released | Self::NotOurs => return None,
            Self::Refused => "it obeys a later epoch of it",
            Self::Paused => "spec.paused: nothing is sent",
            Self::Invalid => "its spec is not valid: nothing is sent",
            Self::GaveUp => "it did not answer in time",
        };
        let note = format!(
            "the device was not released ({why}): it goes on obeying this object, and a new one of this name has to adopt it"
        );
        Some(Notice { reason: "NotReleased", note })
    }
}

/// A release under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release {
    /// When this process saw first that the object is being deleted.
    pub since: Instant,
    /// Did the device have a chance: did an exchange of ours end without an answer that ends it?
    pub tried: bool,
    /// How it ended.
    pub end: Option<End>,
}

/// Does the object wait for its device to be released?
pub fn is_held(device: &Device) -> bool {
    device.finalizers().iter().any(|finalizer| finalizer == FINALIZER)
}

/// Decides about an object that is being deleted.
pub(super) fn decide(
    seen: &Observed<'_>,
    memory: &mut Memory,
    budget: &mut Bucket,
    resync: Duration,
) -> Decision {
    let mut decision = Decision { wake: resync, ..Decision::default() };
    if !is_held(seen.device) {
        // Others have something to do before it goes; no device is concerned.
        memory.busy = None;
        return decision;
    }
    memory.unmet_since = None;
    let release = memory.release.unwrap_or_else(|| {
        // What else was under way is of no use any more, and what failed before says nothing of this.
        (memory.busy, memory.inbox, memory.pushed, memory.attempts) = (None, None, None, 0);
        memory.settle();
        Release { since: seen.now, tried: false, end: None }
    });
    let heard = memory.inbox.take();
    let was_asked = heard.as_ref().is_some_and(|outcome| outcome.answer != Answer::Abandoned);
    let release = Release { tried: release.tried || was_asked, ..release };
    memory.release = Some(release);
    let left = time_left(seen, release);
    let answered = heard.and_then(|outcome| learn(seen, memory, &outcome.answer));
    let blocked = match seen.spec {
        Ok(spec) if !spec.paused => None,
        Ok(_) => Some(End::Paused),
        Err(_) => Some(End::Invalid),
    };
    let late = left.is_zero().then_some(End::GaveUp);
    if let Some(end) = release.end.or(answered).or(blocked).or(late) {
        if release.end.is_none() {
            memory.release = Some(Release { end: Some(end), ..release });
            decision.notes.push(Note::Released(end.as_str()));
            decision.actions.extend(end.notice().map(Action::Notify));
        }
        memory.busy = None;
        decision.actions.push(Action::Mark(Mark::LetGo));
        return decision;
    }
    decision.wake = left;
    if let Ok(spec) = seen.spec {
        memory.move_to((spec.host.clone(), spec.port), seen.now);
        look_up(seen, spec, memory, &mut decision);
    }
    if memory.busy.is_none() && matches!(seen.place, Place::At(_)) {
        match begin(seen, memory, budget, &mut decision.notes) {
            Ok(question) => decision.actions.extend(ask(seen, memory, question, None)),
            Err(wait) => decision.wake = decision.wake.min(wait),
        }
    }
    decision
}

/// Until it is given up: so long after the deletion by the API server's clock, once the device was asked, so that it is also
/// where no operator ran for longer than that; or so long after the deletion was first seen, by ours.
fn time_left(seen: &Observed<'_>, Release { since, tried, .. }: Release) -> Duration {
    let deadline = seen.policy.release_deadline;
    let deleted = seen.device.metadata.deletion_timestamp.as_ref().filter(|_| tried);
    let by_server = deleted.map_or(SignedDuration::ZERO, |at| seen.wall.duration_since(at.0));
    let passed = Duration::try_from(by_server).unwrap_or_default();
    deadline.saturating_sub(passed.max(seen.now.saturating_duration_since(since)))
}

fn learn(seen: &Observed<'_>, memory: &mut Memory, answer: &Answer) -> Option<End> {
    match answer {
        Answer::Stored => return Some(End::Released),
        Answer::Refused(code, refusal) => match refusal.as_ref().map(|refusal| refusal.reason) {
            Some(RefusalReason::ForeignUid | RefusalReason::WrongName | RefusalReason::Released) => {
                return Some(End::NotOurs);
            }
            Some(RefusalReason::LowerEpoch) => return Some(End::Refused),
            None if *code == FORBIDDEN => return Some(End::NotOurs),
            _ => {}
        },
        Answer::Abandoned => return None,
        Answer::Silence => memory.address_index = memory.address_index.wrapping_add(1),
        Answer::Report(_) | Answer::Pushed(_) | Answer::Malformed(_) | Answer::Unable(_) | Answer::Reset => {}
    }
    memory.failures = memory.failures.saturating_add(1);
    memory.not_before = Some(seen.now + seen.policy.backoff.delay(memory.failures, seen.draw));
    None
}

fn begin(
    seen: &Observed<'_>,
    memory: &mut Memory,
    budget: &mut Bucket,
    notes: &mut Vec<Note>,
) -> Result<Question, Duration> {
    permission(memory, budget, seen.now, notes)?;
    let command = OwnerCommand {
        namespace: seen.device.namespace().unwrap_or_default(),
        name: seen.device.name_any(),
        uid: memory.uid.clone(),
        epoch: seen.epoch,
        change: OwnerChange::Release,
    };
    own(seen, command)
}
