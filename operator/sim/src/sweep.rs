//! One chosen moment of a calm run (Sieve's perturbations): an operator dies at it, misses an event, or hands over to one whose
//! view is old. A sweep takes each moment of a scenario in turn.

use std::str::FromStr;
use std::time::Duration;

use crate::clock;

/// What happens at which moment. An effect is a write of an operator to the API server that changed something, or a command
/// that a device stored; both are counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// Whoever caused this effect dies before the answer arrives, and nothing of it has any effect after this one.
    Unanswered(u64),
    /// It dies right after the answer arrived.
    After(u64),
    /// This event is told to no watch of an operator: the watch ends, and a list follows that shows only what came of it.
    Lost(u64),
    /// As `Unanswered`, and until then the watches of the other operator are seconds behind.
    Stale(u64),
    /// Whoever wrote the Lease for this time, counted from 1 over all operators, dies before the answer arrives.
    LeaseUnanswered(u64),
    /// It dies right after the answer arrived.
    LeaseAfter(u64),
}

impl FromStr for Point {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, number) = text.split_once(':').ok_or("write KIND:NUMBER")?;
        let number = number.parse().map_err(|error| format!("{number:?}: {error}"))?;
        match kind {
            "unanswered" => Ok(Self::Unanswered(number)),
            "after" => Ok(Self::After(number)),
            "lost" => Ok(Self::Lost(number)),
            "stale" => Ok(Self::Stale(number)),
            "lease-unanswered" => Ok(Self::LeaseUnanswered(number)),
            "lease-after" => Ok(Self::LeaseAfter(number)),
            _ => {
                Err("write unanswered, after, lost, stale, lease-unanswered or lease-after before the colon"
                    .to_owned())
            }
        }
    }
}

/// From an effect until its answer has arrived for sure.
const ARRIVES: Duration = Duration::from_millis(40);
/// How far a stale view is behind.
const BEHIND: Duration = Duration::from_secs(6);

/// Counts towards the moment.
#[derive(Clone, Debug, Default)]
pub struct Sweep {
    point: Option<Point>,
    /// Effects so far.
    pub effects: u64,
    /// Events told to operators so far.
    pub events: u64,
    /// Writes of the Lease so far.
    pub leases: u64,
    writer: Option<String>,
    frozen: Option<String>,
    dies: Option<(Duration, String)>,
}

impl Sweep {
    /// Towards this moment.
    pub fn to(point: Option<Point>) -> Self {
        Self { point, ..Self::default() }
    }

    /// An operator wrote.
    pub fn wrote(&mut self, caller: &str) {
        self.writer = Some(caller.to_owned());
        self.effect();
    }

    /// Something had an effect; a device's command is that of the last writer, who leads.
    pub fn effect(&mut self) {
        self.effects += 1;
        let Some(writer) = self.writer.clone() else { return };
        match self.point {
            Some(Point::Unanswered(number) | Point::Stale(number)) if number == self.effects => {
                self.dies_unanswered(writer);
            }
            Some(Point::After(number)) if number == self.effects => self.dies_after(writer),
            _ => {}
        }
    }

    /// An operator wrote the Lease.
    pub fn leased(&mut self, caller: &str) {
        self.leases += 1;
        match self.point {
            Some(Point::LeaseUnanswered(number)) if number == self.leases => {
                self.dies_unanswered(caller.to_owned());
            }
            Some(Point::LeaseAfter(number)) if number == self.leases => self.dies_after(caller.to_owned()),
            _ => {}
        }
    }

    fn dies_unanswered(&mut self, host: String) {
        self.frozen = Some(host.clone());
        self.dies = Some((Duration::ZERO, host));
    }

    fn dies_after(&mut self, host: String) {
        self.dies = Some((clock::elapsed() + ARRIVES, host));
    }

    /// Has what this operator does no effect any more?
    pub fn is_frozen(&self, host: &str) -> bool {
        self.frozen.as_deref() == Some(host)
    }

    /// How far behind the watches of this operator are.
    pub fn behind(&self, host: &str) -> Duration {
        let stale = matches!(self.point, Some(Point::Stale(_)));
        let waits = self.writer.as_deref().is_some_and(|writer| writer != host);
        if stale && waits { BEHIND } else { Duration::ZERO }
    }

    /// Is an operator told of this event?
    pub fn tells(&mut self) -> bool {
        self.events += 1;
        self.point != Some(Point::Lost(self.events))
    }

    /// Who dies now, once.
    pub fn struck(&mut self) -> Option<String> {
        let due = self.dies.take_if(|(at, _)| *at <= clock::elapsed());
        let (_, host) = due?;
        self.frozen = None;
        Some(host)
    }
}
