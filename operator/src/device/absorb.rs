//! What an exchange's outcome teaches: the only place where a device's words change what is remembered of it. Pure.

use edge_protocol::{Held, Refusal, RefusalReason, Report};
use tokio::time::Instant;

use super::answer::{Answer, FORBIDDEN, Outcome, PRECONDITION_FAILED, Topic};
use super::evidence::{Context, Contradiction, Disposition, Foreign};
use super::memory::{Conflict, Memory, Put, Verdict};
use super::policy::Policy;
use super::validate::Spec;
use crate::link::Code;

/// Something to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// A report, by what it turned out to be.
    Report(&'static str),
    /// A new boot.
    Reboot,
    /// A command that may be sent again.
    Retry,
    /// A command that was due again and found no token; whose budget has none: `device` or `process`.
    BudgetExhausted(&'static str),
    /// A status that leads somewhere and was not written, since too many are.
    PutOff,
    /// A device obeys its object since a person said so.
    Adopted,
    /// The release of a device ended so.
    Released(&'static str),
}

/// What an outcome is held against.
pub struct Surroundings<'a> {
    /// Namespace, name and uid.
    pub identity: (&'a str, &'a str, &'a str),
    /// The latest generation known.
    pub generation: u64,
    /// This operator's epoch.
    pub epoch: u64,
    /// The spec.
    pub spec: &'a Spec,
    /// How patient.
    pub policy: &'a Policy,
    /// Now.
    pub now: Instant,
    /// A draw in `0.0..1.0`.
    pub draw: f64,
}

impl Memory {
    /// Takes in the outcome of the last exchange and the report that came by itself, the older one of both first.
    pub fn hear(&mut self, around: &Surroundings<'_>) -> Vec<Note> {
        let outcome = self.inbox.take();
        let asked = outcome.as_ref().and_then(|outcome| match &outcome.answer {
            Answer::Report(report) => Some((report.boot_id, report.sequence)),
            _ => None,
        });
        let earlier = |report: &mut Box<Report>| {
            asked.is_none_or(|(boot, sequence)| boot != report.boot_id || report.sequence < sequence)
        };
        let mut notes = Vec::new();
        let mut pushed = self.pushed.take();
        if let Some(report) = pushed.take_if(earlier) {
            notes.extend(self.absorb_pushed(&report, around));
        }
        if let Some(outcome) = outcome {
            notes.extend(self.absorb(*outcome, around));
        }
        if let Some(report) = pushed {
            notes.extend(self.absorb_pushed(&report, around));
        }
        notes
    }

    /// Takes in the outcome of the last exchange.
    pub fn absorb(&mut self, outcome: Outcome, around: &Surroundings<'_>) -> Vec<Note> {
        self.next_probe = around.now + around.policy.probe_delay(around.spec.patience.probe, around.draw);
        if outcome.answer != Answer::Abandoned {
            self.doubtful = outcome.answer == Answer::Silence;
        }
        match outcome.answer {
            Answer::Report(report) => self.absorb_report(&report, around),
            Answer::Pushed(report) => self.absorb_pushed(&report, around),
            Answer::Stored if outcome.topic == Topic::Owner => {
                self.alive(around.now);
                self.adopted(around.now);
                vec![Note::Adopted]
            }
            Answer::Stored => {
                self.alive(around.now);
                if self.conflict.is_none() {
                    self.failures = 0;
                }
                self.recommand = false;
                if let Some(put) = &mut self.put {
                    put.acknowledged = true;
                }
                self.evidence.outdated();
                self.next_probe = around.now;
                Vec::new()
            }
            Answer::Refused(code, refusal) => {
                self.absorb_refusal(code, refusal, around);
                Vec::new()
            }
            Answer::Malformed(error) => {
                self.fail(format!("its answer is malformed: {error}"), around);
                vec![Note::Report("malformed")]
            }
            Answer::Unable(code) => {
                self.fail(format!("it answered {code}"), around);
                Vec::new()
            }
            Answer::Reset => {
                self.fail("it answered with a reset".to_owned(), around);
                Vec::new()
            }
            Answer::Silence => {
                self.address_index = self.address_index.wrapping_add(1);
                // An unanswered probe says what silence says anyway; it delays no command.
                if outcome.topic != Topic::State {
                    self.fail("no answer".to_owned(), around);
                    self.lost_touch = true;
                }
                Vec::new()
            }
            Answer::Abandoned => {
                self.next_probe = around.now;
                Vec::new()
            }
        }
    }

    /// The device says whom it obeys.
    fn holds(&mut self, uid: Option<&str>, epoch: u64) {
        self.holder = uid.map(|uid| Held { uid: uid.to_owned(), epoch });
    }

    /// The device obeys this object, from now and generation 0 on: what was commanded before counts no more.
    fn adopted(&mut self, now: Instant) {
        self.conflict = None;
        self.holder = None;
        self.put = None;
        self.recommand = false;
        self.settle();
        self.evidence.outdated();
        self.next_probe = now;
    }

    fn alive(&mut self, now: Instant) {
        self.heard = Some(now);
        self.queued = std::time::Duration::ZERO;
        self.inherited = false;
        if self.lost_touch {
            self.settle();
        }
    }

    fn fail(&mut self, error: String, around: &Surroundings<'_>) {
        self.failures = self.failures.saturating_add(1);
        self.last_error = Some(error);
        self.lost_touch = false;
        let delay = around.policy.backoff.delay(self.failures, around.draw);
        self.not_before = Some(around.now + delay);
    }

    /// Takes in a report that came by itself. It may have left the device before something that is known already, a
    /// command above all: so it can say what is new, and never accuse. What it cannot be believed is asked.
    pub fn absorb_pushed(&mut self, report: &Report, around: &Surroundings<'_>) -> Vec<Note> {
        let disposition = self.weigh(report, around);
        let mut notes = vec![Note::Report(disposition.as_str())];
        match disposition {
            Disposition::Accepted => {
                self.holds(report.uid.as_deref(), report.epoch);
                self.alive(around.now);
                self.accept(around);
            }
            Disposition::Rebooted => {
                self.alive(around.now);
                self.next_probe = around.now;
                notes.push(Note::Reboot);
            }
            Disposition::Stale => {}
            Disposition::Restless | Disposition::Foreign(_) | Disposition::Contradictory(_) => {
                let usual = self.next_probe;
                self.ask_again(around);
                self.next_probe = self.next_probe.min(usual);
            }
        }
        notes
    }

    fn weigh(&mut self, report: &Report, around: &Surroundings<'_>) -> Disposition {
        let acknowledged = self.put.as_ref().filter(|put| put.acknowledged).map(|put| put.generation);
        let held_is_current = report.held_generation == around.generation;
        let commanded = if held_is_current { Some(around.generation) } else { self.commanded_generation() };
        let context = Context {
            identity: around.identity,
            generation: around.generation,
            epoch: around.epoch,
            acknowledged,
            commanded: (commanded, around.spec.target.as_ref()),
        };
        self.evidence.weigh(report, &context)
    }

    fn absorb_report(&mut self, report: &Report, around: &Surroundings<'_>) -> Vec<Note> {
        let disposition = self.weigh(report, around);
        let released = report.uid.is_none() && self.conflict == Some(Conflict::Foreign(Foreign::Released));
        if disposition != Disposition::Stale && !released {
            self.holds(report.uid.as_deref(), report.epoch);
        }
        let mut notes = vec![Note::Report(disposition.as_str())];
        match disposition {
            Disposition::Accepted => {
                self.alive(around.now);
                // Only a device that obeys this object again has forgotten that it was released from it.
                if !released {
                    self.conflict = None;
                }
                self.accept(around);
            }
            Disposition::Stale => {
                self.alive(around.now);
                self.ask_again(around);
            }
            Disposition::Rebooted => {
                self.alive(around.now);
                self.next_probe = around.now;
                notes.push(Note::Reboot);
            }
            Disposition::Restless => {
                self.alive(around.now);
                let usual = self.next_probe;
                self.fail("it reports another boot each time".to_owned(), around);
                self.ask_again(around);
                self.next_probe = self.next_probe.max(self.not_before.unwrap_or(around.now)).min(usual);
                notes.push(Note::Reboot);
            }
            Disposition::Foreign(foreign) => {
                // Another device at this address says nothing of how ours is.
                if foreign == Foreign::Owner {
                    self.alive(around.now);
                }
                self.inherited = false;
                self.conflict = Some(Conflict::Foreign(foreign));
            }
            Disposition::Contradictory(contradiction) => {
                self.alive(around.now);
                self.contradict(contradiction, around);
            }
        }
        notes
    }

    fn accept(&mut self, around: &Surroundings<'_>) {
        use edge_protocol::Install;

        let Some(believed) = self.evidence.believed().cloned() else { return };
        let ours = Some(believed.held) == self.commanded_generation() || believed.held == around.generation;
        match believed.install {
            Install::Failed { attempts } if ours => {
                let error = believed.last_error.unwrap_or_else(|| "the install failed".to_owned());
                if attempts >= around.policy.install_attempts
                    && let Some(target) = self.target.clone()
                {
                    let message = format!(
                        "the device gave up after {} attempts: {error}",
                        around.policy.install_attempts
                    );
                    self.verdict =
                        Some(Box::new(Verdict { target, reason: Verdict::INSTALL_FAILED, message }));
                }
                self.failures = attempts.saturating_sub(1);
                self.fail(error, around);
            }
            Install::Running { .. } if ours => {
                self.settle();
                self.next_probe =
                    around.now + around.policy.probe_delay(around.policy.poll_interval, around.draw);
            }
            _ if self.target.as_ref().is_none_or(|target| self.meets(target)) => self.settle(),
            _ => {}
        }
    }

    /// Soon, and a little spread: it answers with old reports.
    fn ask_again(&mut self, around: &Surroundings<'_>) {
        let soon = around.policy.poll_interval.min(around.spec.patience.probe);
        self.next_probe = around.now + around.policy.probe_delay(soon, around.draw);
    }

    fn contradict(&mut self, contradiction: Contradiction, around: &Surroundings<'_>) {
        self.conflict = Some(Conflict::Contradiction(contradiction));
        if contradiction.can_be_recommanded() && !self.recommand {
            self.recommand = true;
            self.recommands = self.recommands.saturating_add(1);
        }
        if let Some(put) = &mut self.put {
            put.acknowledged = false;
        }
        self.fail(contradiction.sentence().to_owned(), around);
    }

    fn absorb_refusal(&mut self, code: Code, refusal: Option<Refusal>, around: &Surroundings<'_>) {
        let reason = refusal.as_ref().map(|refusal| refusal.reason);
        if reason != Some(RefusalReason::WrongName) {
            self.alive(around.now);
        }
        self.inherited = false;
        self.evidence.outdated();
        if let Some(refusal) = &refusal {
            self.holds(refusal.uid.as_deref(), refusal.epoch);
        }
        match reason {
            Some(RefusalReason::Released) => {
                self.holds(Some(around.identity.2), 0);
                self.conflict = Some(Conflict::Foreign(Foreign::Released));
            }
            Some(RefusalReason::WrongName) => self.conflict = Some(Conflict::Foreign(Foreign::Name)),
            Some(RefusalReason::ForeignUid) => self.conflict = Some(Conflict::Foreign(Foreign::Owner)),
            None if code == FORBIDDEN => self.conflict = Some(Conflict::Foreign(Foreign::Owner)),
            Some(RefusalReason::LowerEpoch) => self.contradict(Contradiction::EpochAhead, around),
            None if code == PRECONDITION_FAILED => {
                self.fail("it holds something later".to_owned(), around);
                self.next_probe = around.now;
            }
            // Ours was old, or the device is ahead of the object: its next report tells which.
            Some(RefusalReason::LowerGeneration) => {
                self.fail("it holds a later generation".to_owned(), around);
                self.next_probe = around.now;
            }
            Some(RefusalReason::Unsupported) | None => {
                let detail = refusal.and_then(|refusal| refusal.detail);
                let message = match detail {
                    Some(detail) => format!("the device refused with {code}: {detail}"),
                    None => format!("the device refused with {code}"),
                };
                let refused = |put: &Put| Verdict {
                    target: put.target.clone(),
                    reason: Verdict::REFUSED,
                    message: message.clone(),
                };
                self.verdict = self.put.as_ref().map(refused).map(Box::new);
                self.last_error = Some(message);
            }
        }
    }
}
