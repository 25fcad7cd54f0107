//! From the end of all faults on: a person does what statuses ask for, all comes to be in sync, and then nothing is done any more.

use std::time::Duration;

use edge_api::DevicePhase;

use super::{LOOK, Run};
use crate::clock::Wrong;
use crate::happening::{Cut, FleetEdit, Happening, Life};
use crate::network::API;
use crate::oracle;
use crate::person::name;
use crate::plan::{CALM_LATENCY, REPLICAS};
use crate::rule::Rule;
use crate::weather::Bad;
use crate::world::{DEVICES, operator};

/// From the end of all faults until everything is in sync: a lease, the rest of an exchange (five transmissions, of which
/// the last waits 12 s), the longest backoff of a watch (8 s) and of a retry (10 s), and three installs; or two minutes in which an
/// operator measures a clock that jumped and looks at each profile again.
pub(super) const BOUND: Duration = Duration::from_secs(130);
/// As much longer where a rollout has to end first: its deadline, and a rollback by batches of one.
const ROLLOUT: Duration = Duration::from_secs(90);
/// In sync, and nothing written for so long: longer than a device may be silent until it is lost (15 s), since one that
/// died right before the calm is in sync until then.
const SETTLED: Duration = Duration::from_secs(20);
/// By then whoever asked the API server during the faults, and was told nothing, has given up (`ANSWER_DEADLINE`, 30 s), asked again after a
/// backoff of 10 s at most and a wait for a retry's token (5 s), and was told all that it missed: what it writes then, of an old version, is refused.
const TOLD: Duration = Duration::from_secs(45);
/// Then nothing may be written or commanded, not even in vain, and all stay in sync, for so long: until after each fleet and each profile was looked at once more
/// without a reason, as each minute.
const QUIET: Duration = Duration::from_secs(65);

impl Run<'_> {
    /// All faults end, and a person does what statuses ask for.
    pub(super) fn calm(&mut self) {
        self.world.timeline.note("world", "from now on all is calm");
        self.calm_from = self.now;
        for host in [API, DEVICES] {
            self.world.switch(host, true);
        }
        for replica in 0..REPLICAS {
            self.world.switch(&operator(replica), true);
            self.happens(&Happening::Stalled { replica, broken: false });
            self.happens(&Happening::Cut { replica, cut: Cut::Nothing });
            self.happens(&Happening::Stopped { replica, stopped: false });
        }
        for quiet in [
            Happening::Latency(CALM_LATENCY),
            Happening::Weather(Bad::default()),
            Happening::Clocks(Wrong::default()),
        ] {
            self.happens(&quiet);
        }
        for device in 0..self.plan.devices {
            self.happens(&Happening::Behave { device, behaviour: Box::new(self.plan.behaves(device)) });
            self.happens(&Happening::Pause { device, paused: false });
        }
        for fleet in 0..self.plan.fleets.len() {
            self.happens(&Happening::Fleet { fleet, edit: FleetEdit::Make });
            self.happens(&Happening::Fleet { fleet, edit: FleetEdit::Pause(false) });
        }
        if let Some(device) = self.plan.doomed {
            if self.plan.breaks == Some(Rule::LetGo) {
                self.world.person.holds_back(device);
            }
            self.to_make.remove(&device);
            self.world.doomed_uid = self.uid_of_the_doomed(device);
            self.happens(&Happening::Life(Life::Delete(device)));
        }
    }

    /// Which owner a device has to be released from: none where a backup from before any operator held its object was restored, and the
    /// object is deleted before one does so again. Then it is gone at once, and nobody could help that.
    fn uid_of_the_doomed(&self, device: usize) -> Option<String> {
        let restored = |(_, happening): &(Duration, Happening)| *happening == Happening::Life(Life::Restore);
        let restored = self.plan.happenings.iter().any(restored);
        let seen = self.world.person.sees(device)?;
        let nobody_knew = restored && seen.metadata.finalizers.unwrap_or_default().is_empty();
        seen.metadata.uid.filter(|_| !nobody_knew)
    }

    /// What statuses ask a person for: to declare something else where a device failed, since that is what Failed waits for;
    /// to adopt; and to make what a backup did not have.
    pub(super) fn tend(&mut self) {
        for device in (0..self.plan.devices).filter(|device| self.plan.doomed != Some(*device)) {
            if self.world.person.sees(device).is_none() {
                self.to_make.insert(device);
            }
            if self.world.person.adopts(device) {
                self.world.timeline.note("person", format!("adopts {}", name(device)));
            }
        }
        self.repair_the_failed();
    }

    fn repair_the_failed(&mut self) {
        for device in 0..self.plan.devices {
            let Some(seen) = self.world.person.sees(device) else { continue };
            let failed = seen.status.as_ref().is_some_and(|status| status.phase == DevicePhase::Failed);
            if failed && !oracle::may_fail(self.plan, &seen) {
                self.breaks(oracle::is_wrongly_failed(&self.world, device).into_iter().collect());
                self.happens(&Happening::Declare { device, firmware: 9, interval: 9 });
            }
        }
    }

    pub(super) fn converges(&mut self) -> anyhow::Result<Option<Duration>> {
        let bound = if self.plan.fleets.is_empty() { BOUND } else { BOUND + ROLLOUT };
        let deadline = self.calm_from + bound;
        loop {
            self.until(self.now + LOOK)?;
            self.tend();
            let is_told = self.now >= self.calm_from + TOLD;
            let why_not = oracle::out_of_sync(&self.world, self.plan);
            let silent = self.now.saturating_sub(self.world.weather.last_write().max(self.calm_from));
            match why_not {
                // As long as one is away another one may be told late of what there is to do.
                None if silent >= SETTLED && is_told && self.restarts.is_none() => {
                    self.world.timeline.note("world", "all is in sync and settled");
                    return Ok(Some(self.world.weather.last_write().saturating_sub(self.calm_from)));
                }
                Some(why) if self.now >= deadline => {
                    let sentence = format!("{bound:?} after the last fault: {}", why.sentence);
                    self.breaks(vec![why.rule.broken(sentence)]);
                    return Ok(None);
                }
                None if self.now >= deadline + SETTLED => {
                    self.breaks(vec![
                        Rule::Quiet.broken(format!("still writing {bound:?} after the last fault")),
                    ]);
                    return Ok(None);
                }
                _ => {}
            }
        }
    }

    pub(super) fn stays_quiet(&mut self) -> anyhow::Result<()> {
        let (before, end) = (self.world.weather.efforts(), self.now + QUIET);
        if self.plan.breaks == Some(Rule::Quiet) {
            // Nobody's device: a fleet would count one less for a moment.
            self.world.person.forgets_the_status(self.plan.devices - 1);
        }
        while self.now < end {
            self.until(self.now + LOOK)?;
            if let Some(why) = oracle::out_of_sync(&self.world, self.plan) {
                self.breaks(vec![why.rule.broken(format!("did not stay so: {}", why.sentence))]);
                return Ok(());
            }
        }
        let more = self.world.weather.efforts() - before;
        if more > 0 {
            let sentence = format!(
                "{more} writes or commands, carried out or not, within {QUIET:?} in which nothing happened"
            );
            self.breaks(vec![Rule::Quiet.broken(sentence)]);
        }
        Ok(())
    }
}
