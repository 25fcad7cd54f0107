//! The lower bound that `cargo xtask bench --scale` compares a cold start with.

#[path = "../benches/scale/ideal.rs"]
mod ideal;

use ideal::{Bound, EXCHANGES, Line};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

const PERFECT: Line = Line { ack_timeout: 2.0, max_retransmit: 4, opening: 10.0, loss: 0.0 };
const BAD: Line = Line { loss: 0.2, ..PERFECT };

fn draws() -> impl FnMut() -> f64 {
    let mut random = StdRng::seed_from_u64(7);
    move || random.random()
}

#[test]
fn on_a_line_without_losses_nothing_but_writes_takes_time() {
    let bound = Bound::of(&PERFECT, 1_000, 512, 400.0, &mut draws());
    assert!(bound.window.abs() < 1e-9 && bound.schedule.abs() < 1e-9, "{bound:?}");
    assert!((bound.writes - 5.0).abs() < 1e-9 && (bound.seconds() - 5.0).abs() < 1e-9, "{bound:?}");
}

#[test]
fn the_mean_of_an_exchange_is_that_of_its_draws() {
    // A transmission is unanswered with 0.36; the next comes after 2.5, 7.5, 17.5, 37.5 s, and the end after 77.5.
    let expected =
        0.64 * (0.36 * 2.5 + 0.1296 * 7.5 + 0.046_656 * 17.5 + 0.016_796 * 37.5) + 0.006_046_6 * 77.5;
    assert!((BAD.mean() - expected).abs() < 1e-3, "{} s, not {expected}", BAD.mean());
    // The first exchange has three transmissions, and ends after 10 s.
    let first = 0.64 * (0.36 * 2.5 + 0.1296 * 7.5);
    let question = first + 0.046_656 * (10.0 + expected / (1.0 - 0.006_046_6));
    assert!((BAD.question() - question).abs() < 1e-3, "{} s, not {question}", BAD.question());
    let alone = BAD.schedule(5_000, 1, &mut draws()) / 5_000.0;
    assert!((alone / BAD.held() - 1.0).abs() < 0.02, "{alone} s a device, not {}", BAD.held());
}

#[test]
fn no_schedule_is_shorter_than_the_bound() {
    for (devices, window) in [(100, 512), (1_000, 64), (2_000, 128)] {
        let bound = Bound::of(&BAD, devices, window, 1e9, &mut draws());
        let ideal = BAD.schedule(devices, window, &mut draws());
        assert!(ideal > 0.9 * bound.seconds(), "{devices} devices, {window} slots: {ideal} s, {bound:?}");
        assert!(ideal < bound.window + 1.5 * bound.schedule, "{ideal} s, {bound:?}");
    }
    assert_eq!(EXCHANGES, 3, "asked, commanded, asked whether it is done");
}
