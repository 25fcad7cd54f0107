//! What goes wrong in a seed: faults, each with its end before the calm.

use std::time::Duration;

use device_sim::Behaviour;
use device_sim::random::Dice;
use edge_api::quantity::Share;

use crate::clock::Wrong;
use crate::happening::{Cut, Happening};
use crate::plan::{CALM_FROM, CALM_LATENCY, below, one_of, some_replica, sometime, works};
use crate::weather::Bad;

/// An operator that was stopped goes on after this at the latest: shorter than its renew deadline, so that it still takes itself for
/// the leader.
const STOPPED_FOR: Duration = Duration::from_millis(3500);
/// None is stopped later.
const LAST_STOP: Duration = Duration::from_secs(56);

/// A fault and its end.
pub(crate) fn trouble(dice: &mut Dice, devices: usize, happenings: &mut Vec<(Duration, Happening)>) {
    let from = sometime(dice);
    let to = (from + dice.between(Duration::from_millis(500), Duration::from_secs(25))).min(CALM_FROM);
    let replica = some_replica(dice);
    let device = one_of(dice, devices);
    let (begins, ends) = match below(dice, 15) {
        0 | 1 => {
            (Happening::Operator { replica, up: false }, Some(Happening::Operator { replica, up: true }))
        }
        2 => (Happening::ApiServer { up: false }, Some(Happening::ApiServer { up: true })),
        3 => (Happening::Power { up: false }, Some(Happening::Power { up: true })),
        4 => {
            let ends = Happening::Stalled { replica, broken: false };
            (Happening::Stalled { replica, broken: true }, Some(ends))
        }
        5 => {
            let cut = [Cut::Questions, Cut::Answers, Cut::All][one_of(dice, 3)];
            (Happening::Cut { replica, cut }, Some(Happening::Cut { replica, cut: Cut::Nothing }))
        }
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
            let mut wrong = || i64::try_from(below(dice, 7200)).unwrap_or(0) - 3600;
            let wrong = Wrong { operators: [wrong(), wrong()], devices: wrong() };
            (Happening::Clocks(wrong), Some(Happening::Clocks(Wrong::default())))
        }
        12 => {
            let (from, to) = (from.min(LAST_STOP), Happening::Stopped { replica, stopped: false });
            happenings.push((from + dice.between(Duration::from_secs(1), STOPPED_FOR), to));
            happenings.push((from, Happening::Stopped { replica, stopped: true }));
            return;
        }
        13 => match below(dice, 3) {
            0 => (Happening::DeleteLease, None),
            1 => (Happening::Compact, None),
            _ => (Happening::Terminate { replica }, None),
        },
        _ => (Happening::Pause { device, paused: true }, Some(Happening::Pause { device, paused: false })),
    };
    happenings.push((from, begins));
    happenings.extend(ends.map(|ends| (to, ends)));
}

fn bad(dice: &mut Dice) -> Bad {
    let mut share = |most: u64| if dice.draw().is_multiple_of(2) { 0 } else { 1 + dice.draw() % most };
    Bad {
        loss: share(400),
        twice: share(300),
        refused: share(300),
        unanswered: share(150),
        late: share(300),
        lag: share(8000),
        stale: share(40),
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
    if dice.draw().is_multiple_of(3) {
        behaviour.flood = Some(Duration::from_millis(200));
    }
    if dice.draw().is_multiple_of(3) {
        behaviour.refuse_firmware = Some(format!("{}.0", 2 + below(dice, 4)));
    }
    behaviour
}
