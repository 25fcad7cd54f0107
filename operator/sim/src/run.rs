//! One seed from its first to its last step: faults and edits as planned, then calm, then silence.

use std::time::Duration;

use serde_json::json;

use crate::clock;
use crate::network::API;
use crate::oracle;
use crate::plan::{CALM_LATENCY, Happening, Plan, REPLICAS, works};
use crate::timeline::Timeline;
use crate::turns::Turns;
use crate::weather::Bad;
use crate::world::{DEVICES, World, operator};

/// From the end of all faults until everything is in sync: a lease, the rest of an exchange (five transmissions, of which
/// the last waits 12 s), the longest backoff of a watch (30 s) and of a retry (10 s), and three installs; or two minutes in which an
/// operator measures a clock that jumped and looks at each profile again.
const BOUND: Duration = Duration::from_secs(130);
/// In sync, and nothing written for so long: longer than a device may be silent until it is lost (15 s), since one that
/// died right before the calm is in sync until then.
const SETTLED: Duration = Duration::from_secs(20);
/// Then nothing may be written, and all stay in sync, for so long.
const QUIET: Duration = Duration::from_secs(40);
/// An operator that dies at the moment of a sweep is dead for so long.
const DEAD_FOR: Duration = Duration::from_secs(2);
/// What is looked at all the time is looked at so often.
const LOOK: Duration = Duration::from_secs(1);

/// What came of a seed.
#[derive(Clone, Debug)]
pub struct Report {
    /// What was broken; nothing, in a good run.
    pub violations: Vec<String>,
    /// From the end of the faults until everything was in sync.
    pub converged_after: Option<Duration>,
    /// Simulated time.
    pub simulated: Duration,
    /// Writes to the API server that changed something, but for those of the Lease.
    pub writes: u64,
    /// Effects of operators, and events told to them: the moments of a sweep.
    pub moments: (u64, u64),
}

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
    };
    for (at, happening) in &plan.happenings {
        run.until(*at)?;
        run.happens(happening);
    }
    run.until(plan.calm_from)?;
    run.calm();
    let converged_after = run.converges()?;
    if converged_after.is_some() {
        run.stays_quiet()?;
    }
    run.violations.extend(oracle::history(&run.world, plan));
    run.violations.extend(turns.unfair());
    let writes = run.world.weather.writes();
    let sweep = run.world.weather.sweep().clone();
    let moments = (sweep.effects, sweep.events);
    Ok(Report { violations: run.violations, converged_after, simulated: run.now, writes, moments })
}

struct Run<'a> {
    world: World,
    plan: &'a Plan,
    now: Duration,
    /// Who was struck at the moment of a sweep starts again then.
    restarts: Option<(Duration, String)>,
    violations: Vec<String>,
}

impl Run<'_> {
    fn step(&mut self) -> anyhow::Result<()> {
        self.world.sim.step().map_err(|error| anyhow::anyhow!("a host ended: {error}"))?;
        self.now = self.world.sim.elapsed();
        clock::set(self.now);
        self.strike();
        if self.now.as_millis().is_multiple_of(LOOK.as_millis()) {
            let broken = oracle::exceeded(&self.world, self.now);
            self.breaks(broken);
        }
        Ok(())
    }

    fn strike(&mut self) {
        let struck = self.world.weather.sweep().struck();
        if let Some(host) = struck {
            self.world.switch(&host, false);
            self.restarts = Some((self.now + DEAD_FOR, host));
        }
        if let Some((_, host)) = self.restarts.take_if(|(at, _)| *at <= self.now) {
            self.world.switch(&host, true);
        }
    }

    fn breaks(&mut self, broken: Vec<String>) {
        for sentence in broken {
            self.world.timeline.note("oracle", sentence.clone());
            self.violations.push(sentence);
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
            Happening::Cut { replica, broken: true } => world.sim.partition(operator(*replica), DEVICES),
            Happening::Cut { replica, broken: false } => world.sim.repair(operator(*replica), DEVICES),
            Happening::Latency(longest) => world.sim.set_max_message_latency(Duration::from_millis(*longest)),
            Happening::Weather(bad) => world.weather.change(|now| *now = *bad),
            Happening::Behave { device, behaviour } => {
                if let Some(device) = world.device(*device) {
                    device.set_behaviour((**behaviour).clone());
                }
            }
            Happening::Clocks(seconds) => clock::jump(*seconds),
            Happening::DeleteLease => world.person.deletes_the_lease(),
            Happening::Compact => world.person.0.store.compact(),
        }
    }

    /// All faults end, and a person does what statuses ask for.
    fn calm(&mut self) {
        self.world.timeline.note("world", "from now on all is calm");
        for host in [API, DEVICES] {
            self.world.switch(host, true);
        }
        for replica in 0..REPLICAS {
            self.world.switch(&operator(replica), true);
            self.happens(&Happening::Stalled { replica, broken: false });
            self.happens(&Happening::Cut { replica, broken: false });
        }
        for quiet in
            [Happening::Latency(CALM_LATENCY), Happening::Weather(Bad::default()), Happening::Clocks(0)]
        {
            self.happens(&quiet);
        }
        for device in 0..self.plan.devices {
            self.happens(&Happening::Behave { device, behaviour: Box::new(works()) });
            self.happens(&Happening::Pause { device, paused: false });
        }
    }

    /// Failed is left when `desired` changes: a person looks at it and declares something else.
    fn repair_the_failed(&mut self) {
        for device in 0..self.plan.devices {
            let status = self.world.person.sees(device).and_then(|seen| seen.status);
            if status.is_some_and(|status| status.phase == edge_api::DevicePhase::Failed) {
                self.happens(&Happening::Declare { device, firmware: 9, interval: 9 });
            }
        }
    }

    fn converges(&mut self) -> anyhow::Result<Option<Duration>> {
        let deadline = self.plan.calm_from + BOUND;
        loop {
            self.until(self.now + LOOK)?;
            self.repair_the_failed();
            let why_not = oracle::out_of_sync(&self.world, self.plan);
            let silent = self.now.saturating_sub(self.world.weather.last_write().max(self.plan.calm_from));
            match why_not {
                None if silent >= SETTLED => {
                    self.world.timeline.note("world", "all is in sync and settled");
                    return Ok(Some(self.world.weather.last_write().saturating_sub(self.plan.calm_from)));
                }
                Some(why) if self.now >= deadline => {
                    self.breaks(vec![format!("not in sync {BOUND:?} after the last fault: {why}")]);
                    return Ok(None);
                }
                None if self.now >= deadline + SETTLED => {
                    self.breaks(vec![format!("still writing {BOUND:?} after the last fault")]);
                    return Ok(None);
                }
                _ => {}
            }
        }
    }

    fn stays_quiet(&mut self) -> anyhow::Result<()> {
        let (before, end) = (self.world.weather.writes(), self.now + QUIET);
        while self.now < end {
            self.until(self.now + LOOK)?;
            if let Some(why) = oracle::out_of_sync(&self.world, self.plan) {
                self.breaks(vec![format!("did not stay in sync: {why}")]);
                return Ok(());
            }
        }
        let more = self.world.weather.writes() - before;
        if more > 0 {
            self.breaks(vec![format!("{more} writes within {QUIET:?} in which nothing happened")]);
        }
        Ok(())
    }
}
