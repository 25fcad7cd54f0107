//! How long a packet is held: the decisions about delay, reorder and rate. Pure.

#![expect(clippy::cast_possible_truncation, reason = "clamped to what fits")]

use crate::draw::{Draw, Kind};
use crate::quantile::{self, SIGMA};
use crate::rule::{MAX_DELAY_NS, PHASE_PARETO, PHASE_UNIFORM, Phase, WHOLE};

/// The deviations that a normal one may have, in [`SIGMA`]: as far as the table goes.
const FARTHEST: i64 = 4 * SIGMA as i64;

/// The next deviation of a sequence, as a normal one: a first-order autoregressive process, so that any two of its values
/// that follow each other have the correlation that was asked, and each by itself is normal.
#[inline(always)]
#[must_use]
pub fn deviation(phase: &Phase, key: [u64; 2], draw: &Draw, last: Option<i32>) -> i32 {
    let fresh = quantile::normal(draw.bits(key, Kind::Delay));
    let Some(last) = last else { return fresh };
    let next = (phase.correlation as i64 * last as i64 + phase.innovation as i64 * fresh as i64) >> 16;
    next.clamp(-FARTHEST, FARTHEST) as i32
}

/// The delay that `faults.delay` gives, in nanoseconds. `deviation` is the one of a correlated sequence.
#[inline(always)]
#[must_use]
pub fn delay_ns(phase: &Phase, key: [u64; 2], draw: &Draw, deviation: i32) -> u64 {
    if phase.jitter_ns == 0 {
        return phase.delay_ns;
    }
    let is_plain = phase.flags & (PHASE_UNIFORM | PHASE_PARETO) == 0;
    let away = if phase.correlation != 0 && is_plain {
        deviation
    } else {
        // The same share of another distribution: its values are as like each other as their ranks are.
        let bits = if phase.correlation != 0 {
            quantile::share_of_normal(deviation)
        } else {
            draw.bits(key, Kind::Delay)
        };
        if phase.flags & PHASE_UNIFORM != 0 {
            quantile::uniform(bits)
        } else if phase.flags & PHASE_PARETO != 0 {
            quantile::pareto(bits)
        } else {
            quantile::normal(bits)
        }
    };
    let late = phase.delay_ns as i64 + ((phase.jitter_ns as i64 * away as i64) >> 16);
    if late < 0 { 0 } else { (late as u64).min(MAX_DELAY_NS) }
}

/// What a token bucket does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// How long the packet waits, in nanoseconds; none: for too long, it is dropped.
    pub wait_ns: Option<u64>,
    /// When the bucket is full again: the word behind the packet.
    pub full_ns: u64,
}

/// A token bucket (as `tc tbf` has it; in the form of the virtual schedule of ITU-T I.371, which needs one word and no timer).
///
/// `full_ns` is when the bucket would be full if no more packets came. Time at the rate stands for bytes: a packet of so many
/// leaves when the bucket holds its tokens.
#[inline(always)]
#[must_use]
pub fn turn(phase: &Phase, bytes: u64, full_ns: u64, now_ns: u64) -> Turn {
    // A frame has less than 2²⁰ bytes: no overflow.
    let cost = (bytes & 0xf_ffff) * 8_000_000_000 / phase.rate.max(1);
    let full = if full_ns > now_ns { full_ns } else { now_ns };
    let behind = full.saturating_add(cost);
    let wait = behind.saturating_sub(phase.burst_ns).saturating_sub(now_ns);
    if wait > phase.queue_ns {
        return Turn { wait_ns: None, full_ns };
    }
    Turn { wait_ns: Some(wait), full_ns: behind }
}

/// What is new in a deviation with this correlation, both in 2⁻¹⁶: √(1 − correlation²), so that the variance stays.
#[must_use]
pub fn innovation(correlation: u32) -> u32 {
    let whole = u64::from(WHOLE);
    let correlation = u64::from(correlation).min(whole);
    u32::try_from((whole * whole - correlation * correlation).isqrt()).unwrap_or(WHOLE)
}
