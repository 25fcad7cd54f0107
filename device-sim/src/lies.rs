//! Reports that are not true: old ones in place of new ones, and ones that contradict. Pure; what is true is never
//! changed by it, so that the history stays the history.

use std::collections::{BTreeMap, VecDeque};

use edge_protocol::{Install, Report, config_digest};

use crate::behaviour::Behaviour;
use crate::random::Dice;

/// Earlier reports of a device that can be given again.
pub const EARLIER: usize = 4;

/// How a report was not the truth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lie {
    /// It was one of earlier, whole, with its own boot id and sequence.
    Stale,
    /// It contradicted itself, or what was acknowledged.
    Contradiction,
    /// It told of an install that is none.
    Pretence,
}

/// The latest reports of a device, oldest first. They outlive a reboot, as the cache of a gateway would.
#[derive(Debug, Clone, Default)]
pub struct Earlier(VecDeque<Report>);

impl Earlier {
    /// What is said in place of `truth`, which is remembered.
    pub fn tell(&mut self, truth: Report, behaviour: &Behaviour, dice: &mut Dice) -> (Report, Option<Lie>) {
        let (stale, contradicts) = (dice.happens(behaviour.stale), dice.happens(behaviour.contradict));
        let (which, how) = (dice.draw(), dice.draw());
        let old = usize::try_from(which % EARLIER as u64).ok().filter(|_| stale);
        let old = old.and_then(|which| self.0.get(which % self.0.len().max(1)).cloned());
        if self.0.len() >= EARLIER {
            self.0.pop_front();
        }
        self.0.push_back(truth.clone());
        match old {
            Some(old) => (old, Some(Lie::Stale)),
            None if contradicts => (contradict(truth, how), Some(Lie::Contradiction)),
            None => (truth, None),
        }
    }
}

/// One of five ways not to make sense; `how` chooses.
fn contradict(mut report: Report, how: u64) -> Report {
    match how % 5 {
        // It runs what it does not hold.
        0 => report.applied_generation = report.held_generation + 1,
        // It is done, and does not run what it holds.
        1 => {
            report.held_generation = report.applied_generation + 1;
            report.install = Install::Idle;
        }
        // It forgot what it acknowledged.
        2 if report.held_generation > 0 => {
            (report.held_generation, report.applied_generation, report.epoch) = (0, 0, 0);
            (report.uid, report.command_id, report.install) = (None, None, Install::Idle);
        }
        // It holds what nobody has asked for yet.
        2 | 3 => {
            report.held_generation += 1_000;
            report.applied_generation = report.held_generation;
            report.install = Install::Idle;
        }
        // It is done, and runs another configuration.
        _ => {
            report.config_digest = config_digest(&BTreeMap::from([("nobody".into(), "asked".into())]));
            report.install = Install::Idle;
            report.applied_generation = report.held_generation;
        }
    }
    report
}

#[cfg(test)]
mod tests {
    use edge_api::quantity::Share;
    use edge_protocol::{BootId, CommandId};

    use super::*;

    fn truth(sequence: u64) -> Report {
        Report {
            namespace: "edge".into(),
            name: "pump".into(),
            uid: Some("a".into()),
            firmware: "2.0.0".into(),
            config_digest: config_digest(&BTreeMap::new()),
            applied_generation: 3,
            held_generation: 3,
            epoch: 7,
            command_id: Some(CommandId(1)),
            boot_id: BootId(1),
            sequence,
            uptime_ms: 5,
            install: Install::Idle,
            last_error: None,
        }
    }

    fn told(behaviour: &Behaviour) -> Vec<(Report, Option<Lie>)> {
        let (mut earlier, mut dice) = (Earlier::default(), Dice::new(1, "pump", 1));
        (1..=200).map(|sequence| earlier.tell(truth(sequence), behaviour, &mut dice)).collect()
    }

    #[test]
    fn a_device_that_works_tells_the_truth() {
        for (sequence, said) in (1..).zip(told(&Behaviour::default())) {
            assert_eq!(said, (truth(sequence), None));
        }
    }

    #[test]
    fn a_stale_report_is_one_of_the_latest_before_it_word_for_word() {
        let told = told(&Behaviour { stale: Share::ALL, ..Behaviour::default() });
        assert_eq!(told[0], (truth(1), None), "there was none before it");
        for (now, (said, lie)) in (1..).zip(&told).skip(1) {
            assert_eq!((lie, said), (&Some(Lie::Stale), &truth(said.sequence)));
            assert!(
                said.sequence < now && said.sequence + EARLIER as u64 >= now,
                "{} at {now}",
                said.sequence
            );
        }
    }

    #[test]
    fn contradictions_come_in_all_their_kinds_in_their_order_and_can_be_sent() {
        let told = told(&Behaviour { contradict: Share::ALL, ..Behaviour::default() });
        let mut kinds = std::collections::HashSet::new();
        for (sequence, (said, lie)) in (1..).zip(told) {
            assert_eq!((lie, said.sequence), (Some(Lie::Contradiction), sequence));
            assert_ne!(said, truth(sequence));
            edge_protocol::encode(&said).unwrap();
            kinds.insert((said.held_generation, said.applied_generation, said.uid, said.config_digest));
        }
        assert_eq!(kinds.len(), 5);
    }
}
