//! What a report is worth. Reports are evidence: ordered by boot and sequence, checked for whose they are, and
//! for contradictions with themselves and with what was acknowledged. Pure.

use std::collections::VecDeque;

use edge_api::Reported;
use edge_protocol::{BootId, ConfigDigest, Install, Report};
use smol_str::SmolStr;

use super::validate::Target;

/// Boots before the current one that are remembered, so that their late reports are known to be old.
const FORMER_BOOTS: usize = 8;

/// How a device contradicts itself or what it acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Contradiction {
    /// It runs a later generation than it says it holds.
    AppliedAboveHeld,
    /// It has nothing to do, and does not run what it holds.
    IdleNotApplied,
    /// It holds a generation that the object never had.
    GenerationAhead,
    /// It obeys an epoch later than this operator's.
    EpochAhead,
    /// It acknowledged a command as stored, and holds an older one.
    LostCommand,
    /// It says that it carried a command out, and runs something else.
    WrongResult,
}

impl Contradiction {
    /// As a condition's reason.
    pub fn reason(self) -> &'static str {
        match self {
            Self::AppliedAboveHeld => "AppliedAboveHeld",
            Self::IdleNotApplied => "IdleNotApplied",
            Self::GenerationAhead => "GenerationAhead",
            Self::EpochAhead => "EpochAhead",
            Self::LostCommand => "LostCommand",
            Self::WrongResult => "WrongResult",
        }
    }

    /// As a sentence; the same for the same contradiction, so that it is written once.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::AppliedAboveHeld => "the device says that it runs a later generation than it holds",
            Self::IdleNotApplied => "the device says that it is done and does not run what it holds",
            Self::GenerationAhead => {
                "the device holds a generation above metadata.generation: was this cluster restored from a backup?"
            }
            Self::EpochAhead => {
                "the device obeys a later epoch than this operator's: is another operator at work, or was this \
                 cluster restored from a backup?"
            }
            Self::LostCommand => "the device acknowledged a command as stored and no longer holds it",
            Self::WrongResult => "the device says that it carried out the command and runs something else",
        }
    }

    /// Can commanding it again help? Not against a later epoch: the device refuses.
    pub fn can_be_recommanded(self) -> bool {
        self != Self::EpochAhead
    }
}

/// Whose a device is, if not ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Foreign {
    /// It has another name: this address belongs to another device now.
    Name,
    /// It has this name, and obeys another object.
    Owner,
    /// It was released from this object, which was gone and is there again.
    Released,
}

/// What a report turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Disposition {
    /// Believed.
    Accepted,
    /// Older than one seen before: ignored.
    Stale,
    /// The first of a new boot: the device is asked again before it is believed.
    Rebooted,
    /// Of yet another boot, before the last new one was confirmed: to be asked again, but not at once.
    Restless,
    /// Another device's, or another owner's.
    Foreign(Foreign),
    /// Not to be believed.
    Contradictory(Contradiction),
}

impl Disposition {
    /// As the metrics name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Stale => "stale",
            Self::Rebooted | Self::Restless => "unconfirmed",
            Self::Foreign(_) => "foreign",
            Self::Contradictory(_) => "contradictory",
        }
    }
}

/// What a report is held against.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// Namespace, name and uid of the object.
    pub identity: (&'a str, &'a str, &'a str),
    /// The latest generation known, freshly read if the report's is above the cached one.
    pub generation: u64,
    /// This operator's epoch.
    pub epoch: u64,
    /// The last command that the device acknowledged: its generation.
    pub acknowledged: Option<u64>,
    /// Generations under which the present target was commanded, and the target.
    pub commanded: (Option<u64>, Option<&'a Target>),
}

/// The last believed state of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Believed {
    /// Running firmware.
    pub firmware: SmolStr,
    /// Digest of the running config.
    pub digest: ConfigDigest,
    /// Generation of the command that runs.
    pub applied: u64,
    /// Generation of the command that it holds.
    pub held: u64,
    /// What it does about that.
    pub install: Install,
    /// Its last error.
    pub last_error: Option<String>,
    /// Read by this process, since its last command. What was taken over from status, or is older than a command,
    /// is good enough to show and not to act on.
    pub fresh: bool,
}

impl Believed {
    /// Does it run this, with nothing else under way?
    pub fn runs(&self, target: &Target) -> bool {
        self.firmware == target.firmware
            && self.digest == target.digest
            && self.install == Install::Idle
            && self.held == self.applied
    }
}

/// The order of a device's reports, and the last one believed.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    boot: Option<BootId>,
    sequence: u64,
    candidate: Option<(BootId, u64)>,
    former: VecDeque<BootId>,
    believed: Option<Believed>,
}

impl Evidence {
    /// What the process before this one wrote into the status.
    pub fn restored(reported: Option<&Reported>) -> Self {
        let Some(reported) = reported else { return Self::default() };
        let boot = u64::from_str_radix(&reported.boot_id, 16).ok().map(BootId);
        let generation =
            reported.generation.and_then(|generation| u64::try_from(generation).ok()).unwrap_or(0);
        let digest = reported.config_digest.as_deref().and_then(|text| text.parse().ok());
        let believed =
            digest.zip(reported.firmware.as_deref().map(SmolStr::from)).map(|(digest, firmware)| Believed {
                firmware,
                digest,
                applied: generation,
                held: generation,
                install: Install::Idle,
                last_error: None,
                fresh: false,
            });
        let sequence = if boot.is_some() { reported.sequence } else { 0 };
        Self { boot, sequence, believed, ..Self::default() }
    }

    /// The last believed state.
    pub fn believed(&self) -> Option<&Believed> {
        self.believed.as_ref()
    }

    /// What is believed is older than something that was just told to the device.
    pub fn outdated(&mut self) {
        if let Some(believed) = &mut self.believed {
            believed.fresh = false;
        }
    }

    /// What is believed, as status shows it.
    pub fn reported(&self) -> Option<Reported> {
        let believed = self.believed.as_ref()?;
        Some(Reported {
            firmware: Some(believed.firmware.to_string()),
            config_digest: Some(believed.digest.to_string()),
            generation: i64::try_from(believed.applied).ok(),
            boot_id: self.boot.map(|boot| boot.to_string()).unwrap_or_default(),
            sequence: self.sequence,
        })
    }

    /// Judges a report, and believes it if it can be believed.
    pub fn weigh(&mut self, report: &Report, context: &Context<'_>) -> Disposition {
        let (namespace, name, uid) = context.identity;
        if (report.namespace.as_str(), report.name.as_str()) != (namespace, name) {
            return Disposition::Foreign(Foreign::Name);
        }
        if let Some(disposition) = self.order(report.boot_id, report.sequence) {
            return disposition;
        }
        if report.uid.as_deref().is_some_and(|owner| owner != uid) {
            return Disposition::Foreign(Foreign::Owner);
        }
        if let Some(contradiction) = contradiction(report, context) {
            self.outdated();
            return Disposition::Contradictory(contradiction);
        }
        self.believed = Some(Believed {
            firmware: report.firmware.as_str().into(),
            digest: report.config_digest,
            applied: report.applied_generation,
            held: report.held_generation,
            install: report.install.clone(),
            last_error: report.last_error.clone(),
            fresh: true,
        });
        Disposition::Accepted
    }

    /// Puts a report in its order; something, if it shall not be read on.
    fn order(&mut self, boot: BootId, sequence: u64) -> Option<Disposition> {
        if self.former.contains(&boot) {
            return Some(Disposition::Stale);
        }
        match (self.boot, self.candidate) {
            (Some(current), _) if current == boot => {
                if sequence <= self.sequence {
                    return Some(Disposition::Stale);
                }
            }
            (Some(_), Some((candidate, seen))) if candidate == boot => {
                if sequence <= seen {
                    return Some(Disposition::Stale);
                }
                self.forget_current_boot();
            }
            (Some(_), _) => {
                let first = self.candidate.replace((boot, sequence)).is_none();
                self.outdated();
                return Some(if first { Disposition::Rebooted } else { Disposition::Restless });
            }
            (None, _) => {}
        }
        self.boot = Some(boot);
        self.sequence = sequence;
        self.candidate = None;
        None
    }

    fn forget_current_boot(&mut self) {
        if self.former.len() >= FORMER_BOOTS {
            self.former.pop_front();
        }
        self.former.extend(self.boot.take());
    }
}

fn contradiction(report: &Report, context: &Context<'_>) -> Option<Contradiction> {
    let (held, applied) = (report.held_generation, report.applied_generation);
    let idle = report.install == Install::Idle;
    if applied > held {
        return Some(Contradiction::AppliedAboveHeld);
    }
    if idle && applied != held {
        return Some(Contradiction::IdleNotApplied);
    }
    // Before the generation: against a later epoch no command helps.
    if report.epoch > context.epoch {
        return Some(Contradiction::EpochAhead);
    }
    if held > context.generation {
        return Some(Contradiction::GenerationAhead);
    }
    if context.acknowledged.is_some_and(|acknowledged| held < acknowledged) {
        return Some(Contradiction::LostCommand);
    }
    let (generation, target) = context.commanded;
    let wrong =
        |target: &Target| (report.firmware != target.firmware) || (report.config_digest != target.digest);
    (idle && generation == Some(held) && target.is_some_and(wrong)).then_some(Contradiction::WrongResult)
}

#[cfg(test)]
mod tests;
