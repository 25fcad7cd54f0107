//! What a seed stands for: how many devices, what a person does and when, what goes wrong and when. Pure.

use std::time::Duration;

use device_sim::Behaviour;
use device_sim::random::Dice;
use edge_api::quantity::Share;
use serde_json::json;

use crate::happening::{FleetEdit, Happening, Life};
use crate::rollouts::{self, FleetPlan};
use crate::rule::Rule;
use crate::sweep::Point;
use crate::trouble::trouble;

/// Faults begin after this.
const FAULTS_FROM: Duration = Duration::from_secs(5);
/// And are over by this; from then on all is calm.
pub(crate) const CALM_FROM: Duration = Duration::from_secs(60);

/// Operators.
pub const REPLICAS: usize = 2;

/// A whole run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Of which seed.
    pub seed: u64,
    /// How many devices.
    pub devices: usize,
    /// The fleets.
    pub fleets: Vec<FleetPlan>,
    /// This device is deleted when all is calm, and not made again.
    pub doomed: Option<usize>,
    /// The moment of a sweep.
    pub point: Option<Point>,
    /// A fleet that is taken over is told nothing of what former leaders wrote, so that it does not wait for it: broken on purpose.
    pub hasty: bool,
    /// The rule that is broken on purpose.
    pub breaks: Option<Rule>,
    /// From then on all is calm.
    pub calm_from: Duration,
    /// What happens, in order of time.
    pub happenings: Vec<(Duration, Happening)>,
}

/// A device that works: it takes its time to boot and to install.
pub fn works() -> Behaviour {
    Behaviour {
        boot_time: "100ms..500ms".parse().unwrap_or_default(),
        install_time: "500ms..3s".parse().unwrap_or_default(),
        ..Behaviour::default()
    }
}

/// Is this a seed whose operators may tell little again, to devices that have to be told again and again?
pub(crate) const fn has_few_retries(seed: u64) -> bool {
    seed % 4 == 3
}

/// A device that has to be told again and again, until another fault changes how it behaves, or all is calm.
fn needs_retries(device: usize) -> (Duration, Happening) {
    let half = Share::from_ppm(500_000).unwrap_or_default();
    let behaviour = Box::new(Behaviour { contradict: half, reboot_in_install: half, ..works() });
    (FAULTS_FROM, Happening::Behave { device, behaviour })
}

impl Plan {
    /// The plan of a seed. A third of them is about devices that people declare one by one, a third about fleets, and a third about
    /// objects that are deleted, made again, and restored from a backup.
    pub fn of(seed: u64) -> Self {
        let mut dice = Dice::new(seed, "plan", 0);
        let theme = below(&mut dice, 3);
        let devices = if theme == 1 { 5 + one_of(&mut dice, 4) } else { 3 + one_of(&mut dice, 5) };
        let mut happenings = Vec::new();
        let declared = if theme == 1 { below(&mut dice, 2) } else { 4 + below(&mut dice, 9) };
        for _ in 0..declared {
            happenings.push((sometime(&mut dice), declare(&mut dice, devices)));
        }
        let fleets =
            if theme == 1 { rollouts::draw(&mut dice, devices, &mut happenings) } else { Vec::new() };
        let doomed = (theme == 2).then(|| lives(&mut dice, devices, &mut happenings)).flatten();
        if theme == 1 && below(&mut dice, 3) == 0 {
            // Of a fleet's devices, too; all of them are there in the end.
            lives(&mut dice, devices, &mut happenings);
        }
        for _ in 0..3 + below(&mut dice, 8) {
            trouble(&mut dice, devices, &mut happenings);
        }
        if has_few_retries(seed) {
            happenings.extend((0..devices).map(needs_retries));
        }
        happenings.sort_by_key(|(at, _)| *at);
        let calm_from = CALM_FROM;
        Self { seed, devices, fleets, doomed, point: None, hasty: false, breaks: None, calm_from, happenings }
    }

    /// A leader that is stopped right after a person declared something, with a command on its way and statuses to write, of a fleet, too,
    /// and goes on when another one has long carried out the next declaration.
    pub fn of_a_stopped_leader(replica: usize) -> Self {
        let stopped = |stopped| Happening::Stopped { replica, stopped };
        let declare = |device, firmware| Happening::Declare { device, firmware, interval: 1 };
        let behaves = |behaviour| Happening::Behave { device: 0, behaviour: Box::new(behaviour) };
        let pauses = |paused| Happening::Fleet { fleet: 0, edit: FleetEdit::Pause(paused) };
        let happenings = [
            (11_500, Happening::Latency(400)),
            // What it is told reaches the device only after another one leads.
            (11_900, behaves(Behaviour { drop: Share::ALL, ..works() })),
            (12_000, declare(0, 2)),
            // One of these is on its way then, however long it takes.
            (12_050, pauses(true)),
            (12_100, declare(1, 2)),
            (12_150, pauses(false)),
            (12_250, pauses(true)),
            (12_300, stopped(true)),
            (12_400, behaves(works())),
            (13_000, declare(0, 3)),
            (13_000, declare(1, 3)),
            (13_000, pauses(false)),
            (14_800, stopped(false)),
            (15_000, Happening::Latency(CALM_LATENCY)),
        ];
        let happenings = happenings.map(|(at, happening)| (Duration::from_millis(at), happening)).to_vec();
        let fleet = FleetPlan {
            name: "fleet-0".to_owned(),
            batches: json!(["100%"]),
            max_in_flight: 1,
            max_unavailable: 1,
            failures: 100,
            pauses: true,
            members: vec![2],
        };
        Self { devices: 3, fleets: vec![fleet], happenings, ..Self::sweep(None) }
    }

    /// The scenario of the sweeps: a firmware, a setting, a change in the middle of an install, a pause. Nothing goes wrong but
    /// at the chosen moment.
    pub fn sweep(point: Option<Point>) -> Self {
        let declare = |device, firmware, interval| Happening::Declare { device, firmware, interval };
        let pause = |paused| Happening::Pause { device: 0, paused };
        let happenings = [
            (12_000, declare(0, 2, 1)),
            (14_000, declare(1, 2, 2)),
            (14_500, declare(1, 3, 2)),
            (18_000, pause(true)),
            (18_500, declare(0, 3, 3)),
            (20_000, pause(false)),
        ];
        let happenings = happenings.map(|(at, happening)| (Duration::from_millis(at), happening)).to_vec();
        Self {
            seed: 0,
            devices: 2,
            fleets: Vec::new(),
            doomed: None,
            point,
            hasty: false,
            breaks: None,
            calm_from: Duration::from_secs(26),
            happenings,
        }
    }
}

impl Plan {
    /// The scenario of the sweeps, in which both operators are told to end in turn, and twice: whoever leads gives the Lease away.
    pub fn sweep_of_a_handover(point: Option<Point>) -> Self {
        let mut plan = Self::sweep(point);
        for (at, replica) in [(13_000, 0), (15_500, 1), (19_000, 0), (22_000, 1)] {
            plan.happenings.push((Duration::from_millis(at), Happening::Terminate { replica }));
        }
        plan.happenings.sort_by_key(|(at, _)| *at);
        plan
    }
}

fn declare(dice: &mut Dice, devices: usize) -> Happening {
    Happening::Declare {
        device: one_of(dice, devices),
        firmware: 2 + below(dice, 4),
        interval: 1 + below(dice, 3),
    }
}

/// Objects that are deleted and made again, and sometimes a backup that is restored. Gives the one that goes for good.
fn lives(dice: &mut Dice, devices: usize, happenings: &mut Vec<(Duration, Happening)>) -> Option<usize> {
    for _ in 0..1 + below(dice, 4) {
        let (device, from) = (one_of(dice, devices), sometime(dice));
        let to = (from + dice.between(Duration::from_millis(10), Duration::from_secs(20))).min(CALM_FROM);
        happenings.push((from, Happening::Life(Life::Delete(device))));
        happenings.push((to, Happening::Life(Life::Make(device))));
    }
    for _ in 0..below(dice, 3) {
        happenings.push((sometime(dice), Happening::Life(Life::Adopt(one_of(dice, devices)))));
    }
    if below(dice, 2) == 0 {
        let backed_up = dice.between(FAULTS_FROM, CALM_FROM / 2);
        let restored = dice.between(backed_up + Duration::from_secs(1), CALM_FROM);
        happenings.push((backed_up, Happening::Life(Life::BackUp)));
        happenings.push((restored, Happening::Life(Life::Restore)));
    }
    (below(dice, 2) == 0).then(|| one_of(dice, devices))
}

pub(crate) fn below(dice: &mut Dice, limit: u64) -> u64 {
    dice.draw() % limit
}

pub(crate) fn one_of(dice: &mut Dice, count: usize) -> usize {
    usize::try_from(below(dice, count as u64)).unwrap_or(0)
}

pub(crate) fn sometime(dice: &mut Dice) -> Duration {
    dice.between(FAULTS_FROM, CALM_FROM)
}

pub(crate) fn some_replica(dice: &mut Dice) -> usize {
    one_of(dice, REPLICAS)
}

/// The longest way of a message while nothing is wrong, in milliseconds.
pub const CALM_LATENCY: u64 = 10;

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::happening::Cut;
    use crate::weather::Bad;

    #[test]
    fn a_seed_stands_for_one_plan_and_every_fault_ends_before_the_calm() {
        for seed in 0..200 {
            let plan = Plan::of(seed);
            assert_eq!(plan.happenings, Plan::of(seed).happenings);
            assert!(plan.happenings.iter().all(|(at, _)| *at <= CALM_FROM));
            assert!(plan.happenings.is_sorted_by_key(|(at, _)| *at));
        }
    }

    /// Which it is; what has two sides, has two kinds.
    fn kinds(happening: &Happening) -> Vec<&'static str> {
        let one = match happening {
            Happening::Declare { .. } => "declare",
            Happening::Pause { paused: true, .. } => "pause",
            Happening::Pause { paused: false, .. } => "go on",
            Happening::Operator { up: false, .. } => "an operator dies",
            Happening::Operator { up: true, .. } => "an operator starts",
            Happening::Terminate { .. } => "terminate",
            Happening::ApiServer { up: false } => "the API server dies",
            Happening::ApiServer { up: true } => "the API server starts",
            Happening::Power { up: false } => "power fails",
            Happening::Power { up: true } => "power is back",
            Happening::Stalled { broken: true, .. } => "stalled",
            Happening::Stalled { broken: false, .. } => "stalled no more",
            Happening::Cut { cut: Cut::All, .. } => "cut",
            Happening::Cut { cut: Cut::Questions, .. } => "questions are cut",
            Happening::Cut { cut: Cut::Answers, .. } => "answers are cut",
            Happening::Cut { cut: Cut::Nothing, .. } => "cut no more",
            Happening::Latency(_) => "latency",
            Happening::Weather(bad) => return weathers(*bad),
            Happening::Behave { behaviour, .. } if **behaviour == works() => "behave",
            Happening::Behave { behaviour, .. } => return misbehaviours(behaviour),
            Happening::Clocks(_) => "clocks",
            Happening::DeleteLease => "delete the Lease",
            Happening::Compact => "compact",
            Happening::Stopped { stopped: true, .. } => "stopped",
            Happening::Stopped { stopped: false, .. } => "stopped no more",
            Happening::Fleet { edit: FleetEdit::Template { .. }, .. } => "template",
            Happening::Fleet { edit: FleetEdit::Pause(true), .. } => "pause a fleet",
            Happening::Fleet { edit: FleetEdit::Pause(false), .. } => "a fleet goes on",
            Happening::Fleet { edit: FleetEdit::Delete, .. } => "delete a fleet",
            Happening::Fleet { edit: FleetEdit::Make, .. } => "make a fleet",
            Happening::Meet { meets: true, .. } => "fleets meet",
            Happening::Meet { meets: false, .. } => "fleets part",
            Happening::Life(Life::Delete(_)) => "delete",
            Happening::Life(Life::Make(_)) => "make",
            Happening::Life(Life::Adopt(_)) => "adopt",
            Happening::Life(Life::BackUp) => "back up",
            Happening::Life(Life::Restore) => "restore",
        };
        vec![one]
    }

    fn misbehaviours(behaviour: &Behaviour) -> Vec<&'static str> {
        let more = [
            (behaviour.flood.is_some(), "flood"),
            (behaviour.refuse_firmware.is_some(), "refuse a firmware"),
        ];
        let more = more.into_iter().filter(|(is_so, _)| *is_so).map(|(_, name)| name);
        std::iter::once("misbehave").chain(more).collect()
    }

    fn weathers(bad: Bad) -> Vec<&'static str> {
        // Written out, so that whoever adds one adds it here.
        let Bad { loss, twice, refused, unanswered, late, lag, stale } = bad;
        let shares = [
            (loss, "loss"),
            (twice, "twice"),
            (refused, "refused"),
            (unanswered, "unanswered"),
            (late, "late"),
            (lag, "lag"),
            (stale, "stale"),
        ];
        shares.into_iter().filter(|(share, _)| *share > 0).map(|(_, name)| name).collect()
    }

    #[test]
    fn every_kind_of_trouble_comes_up_within_200_seeds() {
        // As many as `kinds`, `misbehaviours` and `weathers` know.
        const KINDS: usize = 45;
        let mut seeds: BTreeMap<&str, usize> = BTreeMap::new();
        for seed in 0..200 {
            let plan = Plan::of(seed);
            let seen: BTreeSet<_> =
                plan.happenings.iter().flat_map(|(_, happening)| kinds(happening)).collect();
            for kind in seen {
                *seeds.entry(kind).or_default() += 1;
            }
        }
        assert_eq!(seeds.len(), KINDS, "{seeds:?}");
        assert!(seeds.values().all(|seeds| *seeds >= 5), "one comes up too seldom: {seeds:?}");
    }
}
