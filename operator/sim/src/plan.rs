//! What a seed stands for: how many devices, what a person does and when, what goes wrong and when. Pure.

use std::time::Duration;

use device_sim::Behaviour;
use device_sim::random::Dice;
use edge_api::quantity::Share;

use crate::sweep::Point;
use crate::weather::Bad;

/// Faults begin after this.
const FAULTS_FROM: Duration = Duration::from_secs(5);
/// And are over by this; from then on all is calm.
const CALM_FROM: Duration = Duration::from_secs(60);

/// Operators.
pub const REPLICAS: usize = 2;

/// A whole run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Of which seed.
    pub seed: u64,
    /// How many devices.
    pub devices: usize,
    /// The moment of a sweep.
    pub point: Option<Point>,
    /// From then on all is calm.
    pub calm_from: Duration,
    /// What happens, in order of time.
    pub happenings: Vec<(Duration, Happening)>,
}

/// A thing that happens.
#[derive(Clone, Debug, PartialEq)]
pub enum Happening {
    /// A person declares another state of a device.
    Declare {
        /// Which.
        device: usize,
        /// Firmware `<number>.0`.
        firmware: u64,
        /// Setting `interval`.
        interval: u64,
    },
    /// A person pauses a device, or lets it go on.
    Pause {
        /// Which.
        device: usize,
        /// Stop or go on.
        paused: bool,
    },
    /// An operator is killed, or starts again.
    Operator {
        /// Which.
        replica: usize,
        /// Dead or alive.
        up: bool,
    },
    /// An operator is told to end, and starts again.
    Terminate {
        /// Which.
        replica: usize,
    },
    /// The API server is killed, or starts again over what it stored.
    ApiServer {
        /// Dead or alive.
        up: bool,
    },
    /// The power of all devices fails, or is back.
    Power {
        /// Dead or alive.
        up: bool,
    },
    /// The way from an operator to the API server: segments wait until it is whole again.
    Stalled {
        /// Which operator.
        replica: usize,
        /// Broken or whole.
        broken: bool,
    },
    /// The way from an operator to the devices: datagrams are lost.
    Cut {
        /// Which operator.
        replica: usize,
        /// Broken or whole.
        broken: bool,
    },
    /// The longest way of a message, in milliseconds; shorter ones overtake longer ones.
    Latency(u64),
    /// Other weather.
    Weather(Bad),
    /// Devices behave otherwise.
    Behave {
        /// Which.
        device: usize,
        /// How.
        behaviour: Box<Behaviour>,
    },
    /// All clocks on walls but the API server's are wrong by so many seconds.
    Clocks(i64),
    /// Somebody deletes the Lease.
    DeleteLease,
    /// The API server forgets what watches could be told of.
    Compact,
}

/// A device that works: it takes its time to boot and to install.
pub fn works() -> Behaviour {
    Behaviour {
        boot_time: "100ms..500ms".parse().unwrap_or_default(),
        install_time: "500ms..3s".parse().unwrap_or_default(),
        ..Behaviour::default()
    }
}

impl Plan {
    /// The plan of a seed.
    pub fn of(seed: u64) -> Self {
        let mut dice = Dice::new(seed, "plan", 0);
        let devices = 3 + one_of(&mut dice, 5);
        let mut happenings = Vec::new();
        for _ in 0..4 + below(&mut dice, 9) {
            let device = one_of(&mut dice, devices);
            let declare = Happening::Declare {
                device,
                firmware: 2 + below(&mut dice, 4),
                interval: 1 + below(&mut dice, 3),
            };
            happenings.push((sometime(&mut dice), declare));
        }
        for _ in 0..3 + below(&mut dice, 8) {
            trouble(&mut dice, devices, &mut happenings);
        }
        happenings.sort_by_key(|(at, _)| *at);
        Self { seed, devices, point: None, calm_from: CALM_FROM, happenings }
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
        Self { seed: 0, devices: 2, point, calm_from: Duration::from_secs(26), happenings }
    }
}

fn below(dice: &mut Dice, limit: u64) -> u64 {
    dice.draw() % limit
}

fn one_of(dice: &mut Dice, count: usize) -> usize {
    usize::try_from(below(dice, count as u64)).unwrap_or(0)
}

fn sometime(dice: &mut Dice) -> Duration {
    dice.between(FAULTS_FROM, CALM_FROM)
}

fn some_replica(dice: &mut Dice) -> usize {
    one_of(dice, REPLICAS)
}

/// A fault and its end.
fn trouble(dice: &mut Dice, devices: usize, happenings: &mut Vec<(Duration, Happening)>) {
    let from = sometime(dice);
    let to = (from + dice.between(Duration::from_millis(500), Duration::from_secs(25))).min(CALM_FROM);
    let replica = some_replica(dice);
    let device = one_of(dice, devices);
    let (begins, ends) = match below(dice, 14) {
        0 | 1 => {
            (Happening::Operator { replica, up: false }, Some(Happening::Operator { replica, up: true }))
        }
        2 => (Happening::ApiServer { up: false }, Some(Happening::ApiServer { up: true })),
        3 => (Happening::Power { up: false }, Some(Happening::Power { up: true })),
        4 => {
            let ends = Happening::Stalled { replica, broken: false };
            (Happening::Stalled { replica, broken: true }, Some(ends))
        }
        5 => (Happening::Cut { replica, broken: true }, Some(Happening::Cut { replica, broken: false })),
        6 => (Happening::Latency(50 + below(dice, 2000)), Some(Happening::Latency(CALM_LATENCY))),
        7 | 8 => (Happening::Weather(bad(dice)), Some(Happening::Weather(Bad::default()))),
        9 | 10 => {
            let behaviour = Box::new(misbehaves(dice));
            (
                Happening::Behave { device, behaviour },
                Some(Happening::Behave { device, behaviour: Box::new(works()) }),
            )
        }
        11 => {
            let wrong = i64::try_from(below(dice, 7200)).unwrap_or(0) - 3600;
            (Happening::Clocks(wrong), Some(Happening::Clocks(0)))
        }
        12 => match below(dice, 3) {
            0 => (Happening::DeleteLease, None),
            1 => (Happening::Compact, None),
            _ => (Happening::Terminate { replica }, None),
        },
        _ => (Happening::Pause { device, paused: true }, Some(Happening::Pause { device, paused: false })),
    };
    happenings.push((from, begins));
    happenings.extend(ends.map(|ends| (to, ends)));
}

/// The longest way of a message while nothing is wrong, in milliseconds.
pub const CALM_LATENCY: u64 = 10;

fn bad(dice: &mut Dice) -> Bad {
    let mut share = |most: u64| if dice.draw().is_multiple_of(2) { 0 } else { 1 + dice.draw() % most };
    Bad {
        loss: share(400),
        twice: share(300),
        refused: share(300),
        unanswered: share(150),
        late: share(300),
        lag: share(8000),
    }
}

fn misbehaves(dice: &mut Dice) -> Behaviour {
    let mut share = |most: u32| {
        let ppm = if dice.draw().is_multiple_of(2) {
            0
        } else {
            u32::try_from(dice.draw() % u64::from(most)).unwrap_or(0)
        };
        Share::from_ppm(ppm).unwrap_or_default()
    };
    let mut behaviour = Behaviour {
        drop: share(400_000),
        lose_answers: share(400_000),
        repeat: share(300_000),
        stale: share(300_000),
        contradict: share(200_000),
        forget: share(200_000),
        reboot_in_install: share(400_000),
        install_fail: share(300_000),
        clock_skew: share(200_000),
        ..works()
    };
    if dice.draw().is_multiple_of(2) {
        behaviour.late = "30%:100ms..4s".parse().unwrap_or_default();
        behaviour.duplicate = "20%:500ms".parse().unwrap_or_default();
    }
    if dice.draw().is_multiple_of(2) {
        behaviour.reorder = "20%:2s".parse().unwrap_or_default();
    }
    if dice.draw().is_multiple_of(3) {
        behaviour.reboot_every = Some(Duration::from_secs(5));
    }
    behaviour
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_stands_for_one_plan_and_every_fault_ends_before_the_calm() {
        for seed in 0..200 {
            let plan = Plan::of(seed);
            assert_eq!(plan.happenings, Plan::of(seed).happenings);
            assert!(plan.happenings.iter().all(|(at, _)| *at <= CALM_FROM));
            assert!(plan.happenings.is_sorted_by_key(|(at, _)| *at));
        }
    }

    #[test]
    fn every_kind_of_trouble_comes_up_within_200_seeds() {
        let all: Vec<_> = (0..200).flat_map(|seed| Plan::of(seed).happenings).collect();
        let seen = |is: fn(&Happening) -> bool| all.iter().any(|(_, happening)| is(happening));
        assert!(seen(|one| matches!(one, Happening::Operator { up: false, .. })));
        assert!(seen(|one| matches!(one, Happening::Terminate { .. })));
        assert!(seen(|one| matches!(one, Happening::ApiServer { up: false })));
        assert!(seen(|one| matches!(one, Happening::Power { up: false })));
        assert!(seen(|one| matches!(one, Happening::Stalled { broken: true, .. })));
        assert!(seen(|one| matches!(one, Happening::Cut { broken: true, .. })));
        assert!(seen(|one| matches!(one, Happening::Behave { .. })));
        assert!(seen(|one| matches!(one, Happening::Clocks(_))));
        assert!(seen(|one| matches!(one, Happening::DeleteLease)));
        assert!(seen(|one| matches!(one, Happening::Compact)));
    }
}
