//! Seeded draws. The same seed, device and boot draw the same on every machine and in every version.

use std::time::Duration;

use edge_api::quantity::Share;

/// One device's sequence of draws during one boot (SplitMix64, Steele, Lea and Flood 2014).
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Dice for the device `name` in its boot number `boot`.
    #[must_use]
    pub fn new(seed: u64, name: &str, boot: u64) -> Self {
        Self(mix(mix(mix(seed) ^ fnv1a(name)) ^ boot))
    }

    /// A number that is evenly distributed over all 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// True in this share of all calls.
    pub fn happens(&mut self, share: Share) -> bool {
        self.draw() % 1_000_000 < u64::from(share.ppm())
    }

    /// A duration from `min` to `max`, evenly distributed, in whole microseconds.
    pub fn between(&mut self, min: Duration, max: Duration) -> Duration {
        let width = max.saturating_sub(min).as_micros();
        // 64 random bits times the width, divided by 2^64: even, and without a division.
        let extra = (u128::from(self.draw()) * (width + 1)) >> 64;
        min + Duration::from_micros(u64::try_from(extra).unwrap_or(u64::MAX))
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn fnv1a(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_name_and_boot_draw_the_same() {
        let draws = |seed, name, boot| {
            let mut dice = Dice::new(seed, name, boot);
            [dice.draw(), dice.draw(), dice.draw()]
        };
        assert_eq!(draws(7, "pump-0", 1), draws(7, "pump-0", 1));
        for other in [draws(8, "pump-0", 1), draws(7, "pump-1", 1), draws(7, "pump-0", 2)] {
            assert_ne!(other, draws(7, "pump-0", 1));
        }
    }

    #[test]
    fn a_share_happens_about_as_often_as_it_says() {
        let mut dice = Dice::new(1, "pump", 1);
        let share = Share::from_ppm(200_000).unwrap();
        let hits = (0..10_000).filter(|_| dice.happens(share)).count();
        assert!((1_850..2_150).contains(&hits), "{hits} of 10,000 at 20 %");
        assert!(!(0..1_000).any(|_| dice.happens(Share::default())));
        assert!((0..1_000).all(|_| dice.happens(Share::ALL)));
    }

    #[test]
    fn durations_stay_between_their_ends_and_reach_both_halves() {
        let mut dice = Dice::new(1, "pump", 1);
        let [min, middle, max] = [1, 2, 3].map(Duration::from_secs);
        let drawn: Vec<_> = (0..1_000).map(|_| dice.between(min, max)).collect();
        assert!(drawn.iter().all(|d| (min..=max).contains(d)));
        assert!(drawn.iter().any(|d| *d < middle) && drawn.iter().any(|d| *d > middle));
        assert_eq!(dice.between(middle, middle), middle);
    }
}
