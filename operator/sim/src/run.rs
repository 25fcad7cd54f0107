//! One seed from its first to its last step: faults and edits as planned, then calm, then silence.

mod calm;

use std::collections::BTreeSet;
use std::time::Duration;

use edge_api::quantity::Share;
use serde_json::json;

use self::calm::BOUND;
use crate::clock::{self, Machine};
use crate::happening::{Cut, Happening, Life};
use crate::network::API;
use crate::oracle;
use crate::plan::{Plan, REPLICAS};
use crate::report::{Moments, Report};
use crate::rule::{Rule, Violation};
use crate::server::store::Backup;
use crate::sweep::Sweep;
use crate::timeline::Timeline;
use crate::turns::Turns;
use crate::world::{DEVICES, World, operator};

/// An operator that dies at the moment of a sweep is dead for so long.
const DEAD_FOR: Duration = Duration::from_secs(2);
/// Or for so long, where another one has to lead meanwhile: longer than a lease and a renewal, and than that one's view is old then.
const GONE_FOR: Duration = Duration::from_secs(25);
/// What is looked at all the time is looked at so often.
const LOOK: Duration = Duration::from_secs(1);

/// Runs a plan.
///
/// # Errors
/// When the world cannot be made, or a host ends.
pub fn run(plan: &Plan, timeline: &Timeline, turns: &Turns) -> anyhow::Result<Report> {
    let mut run = Run {
        world: World::new(plan, timeline.clone(), turns.clone())?,
        plan,
        now: Duration::ZERO,
        restarts: None,
        violations: Vec::new(),
        calm_from: plan.calm_from,
        to_make: BTreeSet::new(),
        backup: None,
    };
    for (at, happening) in &plan.happenings {
        run.until(*at)?;
        if plan.point.is_some() {
            run.lets_it_end(Some(happening))?;
        }
        if plan.breaks == Some(Rule::ReservedFirst) {
            run.world.person.passes_for_a_fleet(0, 2, 1);
        }
        run.happens(happening);
    }
    run.until(plan.calm_from)?;
    if plan.point.is_some() {
        run.lets_it_end(None)?;
    }
    let before_the_calm = run.world.weather.sweep().clone();
    run.calm();
    let converged_after = run.converges()?;
    if converged_after.is_some() {
        run.stays_quiet()?;
    }
    run.violations.extend(oracle::history(&run.world, plan));
    run.violations.extend(oracle::crowded(&run.world));
    run.violations.extend(turns.unfair().into_iter().map(|sentence| Rule::Fair.broken(sentence)));
    let (writes, waits) = (run.world.weather.writes(), turns.waits());
    let sweep = run.world.weather.sweep().clone();
    let old_views = u64::from(sweep.is_from_old_view);
    let Sweep { leases, lease_events, .. } = before_the_calm;
    let moments = Moments { effects: sweep.effects, events: sweep.events, leases, lease_events, old_views };
    let (end, deeds) = (oracle::end(&run.world, plan), oracle::deeds(&run.world, plan));
    let told = run.world.person.sees_events().into_iter().collect();
    let refused = run.world.refused();
    let (violations, simulated) = (run.violations, run.now);
    Ok(Report { violations, converged_after, simulated, writes, waits, refused, moments, end, deeds, told })
}

struct Run<'a> {
    world: World,
    plan: &'a Plan,
    now: Duration,
    /// Who was struck at the moment of a sweep starts again then.
    restarts: Option<(Duration, String)>,
    violations: Vec<Violation>,
    /// From then on all is calm: as planned, or later where a sweep waited.
    calm_from: Duration,
    /// Devices that are made again as soon as they are gone.
    to_make: BTreeSet<usize>,
    backup: Option<Backup>,
}

impl Run<'_> {
    /// A sweep compares ends, and what another thing overtakes ends otherwise than what has the time that it needs: a rollout, the end of
    /// a deleted object, a conflict that a person is told of. Whoever does the next thing waits for that, however long a leader was missing.
    fn lets_it_end(&mut self, next: Option<&Happening>) -> anyhow::Result<()> {
        let latest = self.now + BOUND;
        while self.now < latest && !self.has_ended(next) {
            self.step()?;
        }
        Ok(())
    }

    fn has_ended(&self, next: Option<&Happening>) -> bool {
        // Who was struck is back by itself, and not as the faults end.
        let is_back = self.restarts.is_none() || next.is_some();
        let what_that_needs = match next {
            Some(Happening::Fleet { .. }) | None => oracle::have_rollouts_ended(&self.world, self.plan),
            Some(Happening::Life(Life::Adopt(device))) => self.world.person.is_advised(*device),
            // Who falls silent obeys its object by then.
            Some(Happening::Behave { device, behaviour }) if behaviour.drop == Share::ALL => {
                oracle::obeys(&self.world, *device)
            }
            Some(_) => true,
        };
        is_back && self.to_make.is_empty() && what_that_needs
    }

    fn step(&mut self) -> anyhow::Result<()> {
        self.world.sim.step().map_err(|error| anyhow::anyhow!("a host ended: {error}"))?;
        Machine::stops();
        self.now = self.world.sim.elapsed();
        clock::set(self.now);
        self.strike();
        if self.now.as_millis().is_multiple_of(LOOK.as_millis()) {
            let mut broken = self.world.retries.exceeded(self.plan.buckets(), self.now);
            broken.extend(self.world.judge.broken());
            self.breaks(broken);
            let made = |device: &usize| self.world.person.makes(self.plan, *device);
            self.to_make.retain(|device| !made(device));
        }
        Ok(())
    }

    fn strike(&mut self) {
        let (struck, hands_over) = {
            let mut sweep = self.world.weather.sweep();
            (sweep.struck(), sweep.hands_over())
        };
        if let Some(host) = struck {
            self.world.switch(&host, false);
            self.restarts = Some((self.now + if hands_over { GONE_FOR } else { DEAD_FOR }, host));
        }
        if let Some((_, host)) = self.restarts.take_if(|(at, _)| *at <= self.now) {
            self.world.switch(&host, true);
        }
    }

    fn breaks(&mut self, broken: Vec<Violation>) {
        for violation in broken {
            self.world.timeline.note("oracle", violation.to_string());
            self.violations.push(violation);
        }
    }

    fn until(&mut self, at: Duration) -> anyhow::Result<()> {
        while self.now < at {
            self.step()?;
        }
        Ok(())
    }

    fn happens(&mut self, happening: &Happening) {
        let world = &mut self.world;
        world.timeline.note("world", format!("{happening:?}"));
        match happening {
            Happening::Declare { device, firmware, interval } => {
                world.person.declares(*device, *firmware, *interval);
            }
            Happening::Pause { device, paused } => world.person.edits(*device, json!({ "paused": paused })),
            Happening::Operator { replica, up } => world.switch(&operator(*replica), *up),
            Happening::Terminate { replica } => {
                if let Some(running) = world.running(*replica) {
                    running.ends.cancel();
                }
            }
            Happening::ApiServer { up } => world.switch(API, *up),
            Happening::Power { up } => world.switch(DEVICES, *up),
            Happening::Stalled { replica, broken: true } => world.sim.hold(operator(*replica), API),
            Happening::Stalled { replica, broken: false } => world.sim.release(operator(*replica), API),
            Happening::Cut { replica, cut } => {
                let (replica, sim) = (operator(*replica), &world.sim);
                match cut {
                    Cut::Questions => sim.partition_oneway(replica, DEVICES),
                    Cut::Answers => sim.partition_oneway(DEVICES, replica),
                    Cut::All => sim.partition(replica, DEVICES),
                    Cut::Nothing => sim.repair(replica, DEVICES),
                }
            }
            Happening::Latency(longest) => world.sim.set_max_message_latency(Duration::from_millis(*longest)),
            Happening::Weather(bad) => world.weather.change(|now| *now = *bad),
            Happening::Behave { device, behaviour } => {
                if let Some(device) = world.device(*device) {
                    device.set_behaviour((**behaviour).clone());
                }
            }
            Happening::Clocks(wrong) => clock::jump(*wrong),
            Happening::DeleteLease => world.person.deletes_the_lease(),
            Happening::Stopped { replica, stopped } => self.stops(*replica, *stopped),
            Happening::Fleet { fleet, edit } => {
                world.person.edits_fleet(self.plan, *fleet, edit);
            }
            Happening::Meet { device, fleet, meets } => {
                world.person.labels(*device, &self.plan.fleets[*fleet].name, *meets);
            }
            Happening::Life(life) => self.lives(life),
            Happening::Compact => world.person.server.store.compact(),
        }
    }

    fn stops(&mut self, replica: usize, stopped: bool) {
        let (name, world) = (operator(replica), &mut self.world);
        for other in [API, DEVICES] {
            if stopped {
                world.sim.hold(name.as_str(), other);
            } else {
                world.sim.release(name.as_str(), other);
            }
        }
        let leads = world.person.sees_the_leader().is_some_and(|holder| is_of(&holder, replica));
        if stopped && leads {
            world.person.empties_the_lease();
        }
    }

    fn lives(&mut self, life: &Life) {
        match life {
            Life::Delete(device) => self.world.person.deletes(*device),
            Life::Make(device) => {
                self.to_make.insert(*device);
            }
            Life::Adopt(device) => {
                self.world.person.adopts(*device);
            }
            Life::BackUp => self.backup = Some(self.world.person.server.store.back_up()),
            Life::Restore => {
                let Some(backup) = self.backup.take() else { return };
                let hosts: Vec<String> =
                    (0..REPLICAS).map(operator).chain(std::iter::once(API.to_owned())).collect();
                for host in &hosts {
                    self.world.switch(host, false);
                }
                self.world.person.server.store.restore(&backup);
                self.world.judge.learns_anew(&self.world.person);
                for host in hosts.iter().rev() {
                    self.world.switch(host, true);
                }
            }
        }
    }
}

/// Is the Lease's holder a life of this replica's pod? It is named after its pod, and a number for each life comes after that.
fn is_of(holder: &str, replica: usize) -> bool {
    holder.strip_prefix(operator(replica).as_str()).is_some_and(|life| life.starts_with('_'))
}

#[cfg(test)]
mod tests {
    use super::is_of;

    #[test]
    fn a_holder_is_a_life_of_its_own_pod_and_of_no_other_one_whose_name_begins_so() {
        assert!(is_of("operator-1_00c0ffee", 1));
        assert!(!is_of("operator-10_00c0ffee", 1) && !is_of("operator-1", 1) && !is_of("", 1));
    }
}
