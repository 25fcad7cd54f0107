//! Who leads: client-go's rules as a state machine. Pure: the clocks and the draw are arguments, what is to be done is
//! returned, and what came of it is told to it. Why no two lead at once, when all count seconds alike:
//!
//! * A leader's right ends a renew deadline after it *sent* its last write that landed. The others count the (longer)
//!   duration from when they *saw* that write, which is later than it landed, which is later than it was sent.
//! * Each write names the resourceVersion that it was decided on, so who was overtaken changes nothing.
//! * Whoever does not know what came of a write takes nothing for granted: it reads, and waits like the others.
//! * A Lease that is not there may have been deleted under a leader, and "there is none" is no version: it may be true
//!   again later. So making a Lease makes no leader. It claims the place, and the claim is taken as any held Lease is.

use std::time::Duration;

use jiff::Timestamp;
use thiserror::Error;
use tokio::time::Instant;

use super::record::Record;

/// How patient an election is, and in whose name. `retry_period` < `renew_deadline` < `duration`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Of this process alone: another that is started under the same name is another holder.
    pub holder: String,
    /// Whole seconds.
    pub duration: Duration,
    /// So long after a write a leader acts; then it stops.
    pub renew_deadline: Duration,
    /// So often a leader writes, and so often what failed is tried again.
    pub retry_period: Duration,
}

impl Settings {
    /// One call may take so long: two fit into the renew deadline, as Kubernetes' own components have it.
    pub fn call_deadline(&self) -> Duration {
        self.renew_deadline / 2
    }
}

/// The Lease as it is at one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sight {
    /// Its resourceVersion; where there is no Lease, that of the list without it or of its deletion.
    pub version: u64,
    /// What it says; none where there is no Lease.
    pub record: Option<Record>,
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing until then, or until there is news.
    Wait(Instant),
    /// Read the Lease, as it is now.
    Read,
    /// Write it.
    Write(Write),
    /// It is over: stop acting, and end.
    Lose(Loss),
    /// There is nothing (more) to give away: end.
    Leave,
}

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// What the Lease shall say.
    pub record: Record,
    /// The resourceVersion that it is decided on; none: there shall be no Lease yet.
    pub on: Option<u64>,
    /// What for.
    pub purpose: Purpose,
    /// How long it may take.
    pub within: Duration,
}

/// What a write is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To make a Lease that is not there.
    Claim,
    /// To lead.
    Take,
    /// To go on leading.
    Renew,
    /// To let another lead.
    Release,
}

/// What came of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It made this resourceVersion.
    Landed(u64),
    /// The Lease was another one: nothing was written.
    Conflict,
    /// It failed, or there was no answer: it may land yet.
    Unknown,
}

/// Why a leader leads no longer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Loss {
    /// No write landed for too long.
    #[error("the Lease could not be renewed within the renew deadline")]
    Expired,
    /// Somebody else wrote it.
    #[error("the Lease is held by {by:?}")]
    Displaced {
        /// The holder; empty: nobody.
        by: String,
    },
}

/// A leader's right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// The resourceVersion of the write that took the Lease.
    pub epoch: u64,
    /// When the right ends, if nothing more is written.
    pub until: Instant,
}

#[derive(Clone, Debug)]
struct Seen {
    sight: Sight,
    /// When it was first seen to be so.
    since: Instant,
}

#[derive(Clone, Debug)]
struct Leading {
    term: Term,
    renew_at: Instant,
    own: Record,
}

/// One process's part in an election.
#[derive(Clone, Debug)]
pub struct Elector {
    settings: Settings,
    seen: Option<Seen>,
    /// What was seen last may no longer be so.
    doubtful: bool,
    not_before: Option<Instant>,
    leading: Option<Leading>,
    /// The Lease is ours, or a write that may have landed made it so.
    maybe_ours: bool,
    /// The Lease may be ours by a claim alone. A claim is not given away: whoever led when the Lease was deleted may lead
    /// on for a renew deadline, so others have to wait for the claim's duration, also when its maker is gone.
    maybe_claimed: bool,
    /// It is leaving, and gives up then.
    leaving: Option<Instant>,
}

impl Elector {
    /// One that has seen nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            seen: None,
            doubtful: true,
            not_before: None,
            leading: None,
            maybe_ours: false,
            maybe_claimed: false,
            leaving: None,
        }
    }

    /// What to do now.
    pub fn next(&self, now: Instant, wall: Timestamp) -> Action {
        if let Some(give_up) = self.leaving {
            return self.leave_next(give_up, now, wall);
        }
        if let Some(loss) = self.loss(now) {
            return Action::Lose(loss);
        }
        let end = self.leading.as_ref().map(|leading| leading.term.until);
        if let Some(pause) = self.not_before.filter(|pause| *pause > now) {
            return Action::Wait(end.map_or(pause, |end| end.min(pause)));
        }
        let Some(seen) = self.seen.as_ref().filter(|_| !self.doubtful) else { return Action::Read };
        match &self.leading {
            Some(leading) if now < leading.renew_at => Action::Wait(leading.renew_at.min(leading.term.until)),
            Some(leading) => {
                let record = leading.own.renewed(wall);
                let left = leading.term.until.saturating_duration_since(now);
                self.write(seen, record, Purpose::Renew, self.settings.call_deadline().min(left))
            }
            None => {
                let (free, purpose) = self.free_at(seen);
                if now < free {
                    return Action::Wait(free);
                }
                let Settings { holder, duration, .. } = &self.settings;
                let record = Record::taken(seen.sight.record.as_ref(), holder, *duration, wall);
                self.write(seen, record, purpose, self.settings.call_deadline())
            }
        }
    }

    fn leave_next(&self, give_up: Instant, now: Instant, wall: Timestamp) -> Action {
        if !self.maybe_ours || self.maybe_claimed || now >= give_up {
            return Action::Leave;
        }
        if let Some(pause) = self.not_before.filter(|pause| *pause > now) {
            return Action::Wait(pause.min(give_up));
        }
        let Some(seen) = self.seen.as_ref().filter(|_| !self.doubtful) else { return Action::Read };
        match &seen.sight.record {
            Some(record) if record.holder == self.settings.holder => {
                self.write(seen, record.released(wall), Purpose::Release, give_up.duration_since(now))
            }
            _ => Action::Leave,
        }
    }

    fn write(&self, seen: &Seen, record: Record, purpose: Purpose, within: Duration) -> Action {
        let on = seen.sight.record.as_ref().map(|_| seen.sight.version);
        Action::Write(Write { record, on, purpose, within })
    }

    fn loss(&self, now: Instant) -> Option<Loss> {
        let leading = self.leading.as_ref()?;
        if now >= leading.term.until {
            return Some(Loss::Expired);
        }
        let record = self.seen.as_ref()?.sight.record.as_ref()?;
        (record.holder != self.settings.holder).then(|| Loss::Displaced { by: record.holder.clone() })
    }

    /// When this process may write over what was seen, and what for. Held by itself is held, too: a claim, or a write
    /// that landed when nobody waited for it any more.
    fn free_at(&self, seen: &Seen) -> (Instant, Purpose) {
        match &seen.sight.record {
            Some(record) if record.holder.is_empty() => (seen.since, Purpose::Take),
            Some(record) => (seen.since + record.duration.unwrap_or(self.settings.duration), Purpose::Take),
            // A leader that lives makes it again before that.
            None => (seen.since + self.settings.retry_period * 2, Purpose::Claim),
        }
    }

    /// The Lease was read.
    pub fn read(&mut self, sight: Sight, now: Instant) {
        self.doubtful = false;
        self.not_before = None;
        let same = self.seen.as_ref().is_some_and(|seen| match (&seen.sight.record, &sight.record) {
            (Some(_), Some(_)) => seen.sight.version == sight.version,
            (before, after) => before.is_none() && after.is_none(),
        });
        if !same {
            self.seen = Some(Seen { sight, since: now });
        }
    }

    /// A watch brought news. It may be older than what is known already.
    pub fn news(&mut self, sight: Sight, now: Instant) {
        if self.seen.as_ref().is_none_or(|seen| seen.sight.version < sight.version) {
            self.seen = Some(Seen { sight, since: now });
        }
    }

    /// A call that was sent at `sent` failed, or a watch ended then: what is known may no longer be so. The pause counts
    /// from there, so that after a call that hung there is none.
    pub fn doubt(&mut self, sent: Instant, draw: f64) {
        self.doubtful = true;
        self.not_before = Some(sent + self.pause(draw));
    }

    /// A write that was sent at `sent` ended. One that was answered too late counts as not answered.
    pub fn wrote(&mut self, write: &Write, sent: Instant, outcome: Outcome, now: Instant, draw: f64) {
        match outcome {
            Outcome::Landed(version) if now < sent + write.within => self.landed(write, sent, version, now),
            Outcome::Conflict => self.doubtful = true,
            Outcome::Landed(_) | Outcome::Unknown => {
                self.maybe_ours |= write.purpose != Purpose::Release;
                self.maybe_claimed |= write.purpose == Purpose::Claim;
                self.doubt(sent, draw);
            }
        }
    }

    fn landed(&mut self, write: &Write, sent: Instant, version: u64, now: Instant) {
        let sight = Sight { version, record: Some(write.record.clone()) };
        self.seen = Some(Seen { sight, since: now });
        self.doubtful = false;
        self.not_before = None;
        self.maybe_ours = write.purpose != Purpose::Release;
        self.maybe_claimed = write.purpose == Purpose::Claim;
        let until = sent + self.settings.renew_deadline;
        let epoch = match (write.purpose, &self.leading) {
            (Purpose::Take, _) if self.leaving.is_none() => version,
            (Purpose::Renew, Some(leading)) => leading.term.epoch,
            _ => return,
        };
        let renew_at = sent + self.settings.retry_period;
        self.leading = Some(Leading { term: Term { epoch, until }, renew_at, own: write.record.clone() });
    }

    /// From now on it leads no longer, and gives away what it holds.
    pub fn leave(&mut self, now: Instant) {
        self.leading = None;
        self.leaving = Some(now + self.settings.call_deadline());
        self.not_before = None;
    }

    /// Half a retry period to a whole one.
    fn pause(&self, draw: f64) -> Duration {
        self.settings.retry_period.mul_f64(0.5 + draw.clamp(0.0, 1.0) / 2.0)
    }

    /// Its right, while it leads. It may be over by the clock.
    pub fn term(&self) -> Option<Term> {
        self.leading.as_ref().map(|leading| leading.term)
    }

    /// Is it giving away what it holds?
    pub fn is_leaving(&self) -> bool {
        self.leaving.is_some()
    }

    /// Who was last seen to hold the Lease.
    pub fn holder(&self) -> Option<&str> {
        let record = self.seen.as_ref()?.sight.record.as_ref()?;
        (!record.holder.is_empty()).then_some(record.holder.as_str())
    }

    /// How patient.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
