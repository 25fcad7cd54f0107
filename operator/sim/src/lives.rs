//! The scenario of the sweeps through the lives of Devices: released, made again, adopted. Pure.

use std::time::Duration;

use device_sim::Behaviour;
use edge_api::quantity::Share;

use crate::happening::{Happening, Life};
use crate::plan::{Plan, works};
use crate::sweep::Point;

impl Plan {
    /// One Device is deleted in the middle of an install and made again, one is deleted while it is silent, made again when it was given up,
    /// and adopted by a person, and one is deleted for good. Nothing else goes wrong but at the chosen moment.
    pub fn sweep_of_lives(point: Option<Point>) -> Self {
        let behaves = |behaviour| Happening::Behave { device: 1, behaviour: Box::new(behaviour) };
        let happenings = [
            (12_000, Happening::Declare { device: 0, firmware: 2, interval: 1 }),
            (12_300, Happening::Life(Life::Delete(0))),
            (12_300, Happening::Life(Life::Make(0))),
            // So that it is told something, whatever it runs by then.
            (15_000, Happening::Declare { device: 0, firmware: 3, interval: 1 }),
            (16_000, behaves(Behaviour { drop: Share::ALL, ..works() })),
            (16_000, Happening::Life(Life::Delete(1))),
            (16_000, Happening::Life(Life::Make(1))),
            // It is back only when its new object is there.
            (17_000, behaves(works())),
            (18_000, Happening::Life(Life::Adopt(1))),
        ];
        let happenings = happenings.map(|(at, happening)| (Duration::from_millis(at), happening)).to_vec();
        let calm_from = Duration::from_secs(20);
        Self { devices: 3, doomed: Some(2), calm_from, happenings, ..Self::sweep(point) }
    }
}
