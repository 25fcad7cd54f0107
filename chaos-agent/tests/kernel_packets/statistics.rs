//! Statistics of a hundred thousand real packets: loss by each model, and delays by each distribution.
//!
//! Loss is judged by what arrives, and delays by what the kernel gave: draws depend on nothing but profile and packet, so the host makes
//! the same, and the kernel's counters agree with their sum to the nanosecond. Captures at both ends then show of each packet, from the
//! time at which the device's interface sent it to that at which the peer's received it, that it was held so long and how late it was, which
//! is as busy as the machine.

use std::collections::BTreeMap;
use std::time::Duration;

use chaos_agent::compile::draw_key;
use chaos_agent::kernel::LineLimits;
use chaos_agent::profile::Profile;
use fault_abi::counter::{Counter, DELAY_BUCKETS, Global, delay_bucket};
use fault_abi::delay;
use fault_abi::draw::{Draw, OF_TARGET, Position};
use fault_abi::key::{Direction, PROTOCOL_UDP};
use fault_abi::verdict::{Effect, Verdict};
use serde_json::{Value, json};
use statrs::distribution::{ContinuousCDF as _, Normal};

use crate::later::is_held;
use crate::support::agent::{Agent, Hooks, Start};
use crate::support::capture::{Capture, Frame};
use crate::support::cpu::OneCpu;
use crate::support::fault::{Fault, NAMESPACE};
use crate::support::numbers;
use crate::support::stage::{DEVICE_PORT, ETH, Family, Stage};
use crate::support::time::{Beat, eventually, is_emulated};

/// Packets of a story; an emulated machine would take minutes for as many.
fn count() -> u32 {
    if is_emulated() { 5_000 } else { 100_000 }
}

/// So many are sent with each beat: 20,000 a second.
const AT_ONCE: u32 = 20;
const BEAT: Duration = Duration::from_millis(1);
/// How far the normal distribution reaches at 99.9 %, in standard deviations.
const REACH: f64 = 3.290_53;
/// What the project asks for.
const KOLMOGOROV_SMIRNOV: f64 = 0.02;
/// Arrivals are judged where all but one in a hundred are so little late that this share of all delays lies in that time at most: what the
/// machine makes late is nothing that a profile asked for, and where it stands still a while, many are late at once.
const PUNCTUAL: f64 = 0.005;
/// Room for all that is under way at 20,000 packets a second and a second of delay.
const LIMITS: LineLimits =
    LineLimits { packets: 65_536, bytes: 64 << 20, target_packets: 65_536, target_bytes: 64 << 20 };

/// When each packet was sent and when it came, by number; in nanoseconds of the wall's clock.
#[derive(Default)]
struct Trip {
    sent_ns: BTreeMap<u32, u64>,
    came_ns: BTreeMap<u32, u64>,
    counter: Counter,
}

impl Trip {
    fn take(&mut self, at_device: &Capture, at_peer: &Capture) {
        let put = |frames: Vec<Frame>, is_outgoing, to: &mut BTreeMap<u32, u64>| {
            let frames = frames.into_iter().filter(|frame| frame.is_outgoing == is_outgoing);
            to.extend(frames.filter_map(|frame| Some((numbers::id(&frame.bytes)?.0, frame.at_ns))));
        };
        put(at_device.frames(), true, &mut self.sent_ns);
        put(at_peer.frames(), false, &mut self.came_ns);
    }

    /// How long each took that came, in the order in which they were sent, in nanoseconds.
    fn took_ns(&self) -> Vec<u64> {
        self.came_ns.iter().map(|(number, at)| at.saturating_sub(self.sent_ns[number])).collect()
    }

    /// Whether each was lost, in the order in which they were sent.
    fn fates(&self) -> Vec<bool> {
        self.sent_ns.keys().map(|number| !self.came_ns.contains_key(number)).collect()
    }
}

fn target() -> String {
    Family::V4.host(1, 2)
}

/// These faults on the device.
fn on_device(faults: Value) -> Fault {
    Fault::new("many", faults).on(&[target()])
}

/// Sends the device's packets under a fault, and waits until all that passed have come.
fn trip(stage: &Stage, agent: &mut Agent, fault: Fault) -> Trip {
    let target = target();
    agent.set(&[]);
    agent.set(&[fault]);
    let (at_device, at_peer) = (Capture::new(&stage.device, ETH), Capture::new(&stage.peer, ETH));
    let (device, peer) = (stage.device_end(Family::V4), stage.peer_end(Family::V4));
    let (mut trip, mut beat) = (Trip::default(), Beat::new(BEAT));
    let sending = OneCpu::stay();
    let counter = || agent.counter("many", &target, Direction::FromDevice);
    for number in 0..count() {
        device.send(&peer, number).unwrap();
        if number % AT_ONCE == AT_ONCE - 1 {
            trip.take(&at_device, &at_peer);
            peer.take();
            beat.wait();
        }
    }
    drop(sending);
    eventually(|| (counter().seen() == u64::from(count())).then_some(()), || format!("{:?}", counter()));
    trip.counter = counter();
    let lost = trip.counter.packets[Verdict::Loss as usize];
    let due = u64::from(count()) - lost;
    let (sent, came) = (count() as usize, usize::try_from(due).unwrap());
    eventually(
        || {
            trip.take(&at_device, &at_peer);
            (trip.sent_ns.len() == sent && trip.came_ns.len() == came).then_some(())
        },
        || format!("what passed has not arrived: {:?}", counter()),
    );
    for what in [Global::Stray, Global::LineFull, Global::EngineStalled, Global::Orphaned] {
        assert_eq!(agent.global(what), 0, "{what:?}");
    }
    trip
}

/// Whether a mean of so many values is within the 99.9 % interval around the one that is asked.
fn assert_plausible(what: &str, found: f64, asked: f64, variance: f64, values: usize) {
    let margin = REACH * (variance / values as f64).sqrt();
    println!("{what}: {found:.5}, asked {asked:.5} ± {margin:.5}");
    assert!((found - asked).abs() <= margin, "{what}: {found}, asked {asked} ± {margin}");
}

fn share(part: usize, of: usize) -> f64 {
    part as f64 / of as f64
}

fn assert_share(what: &str, part: usize, of: usize, asked: f64, spread: f64) {
    assert_plausible(what, share(part, of), asked, spread * asked * (1.0 - asked), of);
}

fn losses(fates: &[bool]) -> usize {
    fates.iter().filter(|lost| **lost).count()
}

/// The lengths of the runs of lost packets.
fn bursts(fates: &[bool]) -> Vec<usize> {
    fates.chunk_by(|a, b| a == b).filter(|run| run[0]).map(<[bool]>::len).collect()
}

/// Lengths of runs that end after each packet with the same chance.
fn assert_geometric(what: &str, lengths: &[usize], ends: f64) {
    let mean = share(lengths.iter().sum(), lengths.len());
    assert_plausible(
        &format!("{what}, mean length"),
        mean,
        1.0 / ends,
        (1.0 - ends) / (ends * ends),
        lengths.len(),
    );
    for length in 1..=6 {
        let asked = ends * (1.0 - ends).powi(length - 1);
        let found = lengths.iter().filter(|one| **one == usize::try_from(length).unwrap()).count();
        assert_share(&format!("{what}, length {length}"), found, lengths.len(), asked, 1.0);
    }
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn a_hundred_thousand_packets_are_lost_as_often_and_in_such_bursts_as_each_model_asks() {
    let stage = Stage::new();
    let mut agent = Agent::start(&stage.node, Start { limits: LIMITS, ..Hooks::Tcx.into() });
    let fates = trip(&stage, &mut agent, on_device(json!({"loss": {"percent": "20%"}}))).fates();
    assert_share("independent", losses(&fates), fates.len(), 0.2, 1.0);
    assert_geometric("independent", &bursts(&fates), 0.8);

    let (enter, leave) = (0.05, 0.25);
    let model = json!({"gilbertElliott": {"enterBurst": "5%", "leaveBurst": "25%"}});
    let fates = trip(&stage, &mut agent, on_device(json!({"loss": model}))).fates();
    // Packets in a burst share their fate: a mean of theirs varies more (Kemeny and Snell 1960).
    let alike = 1.0 - enter - leave;
    let spread = (1.0 + alike) / (1.0 - alike);
    assert_share("bursts", losses(&fates), fates.len(), enter / (enter + leave), spread);
    let lengths = bursts(&fates);
    assert_geometric("bursts", &lengths, leave);
    assert_share("bursts, beginnings", lengths.len(), fates.len() - losses(&fates), enter, 1.0);

    let fates = trip(&stage, &mut agent, on_device(json!({"loss": {"every": 7}}))).fates();
    let is_seventh = |(number, lost): (usize, &bool)| *lost == (number % 7 == 6);
    assert!(fates.iter().enumerate().all(is_seventh), "each seventh and no other");
}

/// A distribution that is asked: the mean and the standard deviation (or half the width), in milliseconds.
struct Asked {
    name: &'static str,
    mean: f64,
    jitter: f64,
    correlation: u32,
}

impl Asked {
    fn faults(&self) -> Value {
        json!({"delay": {
            "time": format!("{}ms", self.mean), "jitter": format!("{}ms", self.jitter),
            "distribution": self.name, "correlation": format!("{}%", self.correlation),
        }})
    }

    /// The share of delays below so many milliseconds.
    fn below(&self, ms: f64) -> f64 {
        let away = (ms - self.mean) / self.jitter;
        match self.name {
            "Uniform" => f64::midpoint(away, 1.0).clamp(0.0, 1.0),
            "Pareto" => {
                let value = 1.5 + away * 0.75_f64.sqrt();
                if value <= 1.0 { 0.0 } else { 1.0 - value.powi(-3) }
            }
            _ => Normal::standard().cdf(away),
        }
    }

    /// The largest share of delays in a millisecond.
    fn steepest(&self) -> f64 {
        let in_jitter = match self.name {
            "Uniform" => 0.5,
            "Pareto" => 3.0 * 0.75_f64.sqrt(),
            _ => (2.0 * std::f64::consts::PI).sqrt().recip(),
        };
        in_jitter / self.jitter
    }

    /// Of a delay, in ms².
    fn variance(&self) -> f64 {
        let spread = if self.name == "Uniform" { 1.0 / 3.0 } else { 1.0 };
        spread * self.jitter.powi(2)
    }
}

/// The largest difference between the shares found and asked.
fn distance(took: &[f64], asked: &Asked) -> f64 {
    let mut sorted = took.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len() as f64;
    (0..).zip(&sorted).fold(0.0, |most: f64, (i, ms)| {
        let share = asked.below(*ms);
        most.max((share - f64::from(i) / n).abs()).max((f64::from(i + 1) / n - share).abs())
    })
}

/// The coefficient of correlation between values that follow each other.
fn autocorrelation(values: &[f64]) -> f64 {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>();
    values.windows(2).map(|pair| (pair[0] - mean) * (pair[1] - mean)).sum::<f64>() / variance
}

/// The delays that a fault is to give to the device's packets, in the order in which they are sent, in nanoseconds.
fn drawn(fault: &Fault) -> Vec<u64> {
    let profile = Profile::parse(&fault.object()).unwrap();
    let phase = &profile.rule.phases[0];
    let key = draw_key(profile.seed, &profile.name, NAMESPACE, &target());
    let is_correlated = phase.correlation != 0;
    let ordinal = if is_correlated { OF_TARGET } else { 0 };
    let mut last = None;
    let delay = |index: u32| {
        let (direction, position) = (Direction::FromDevice, Position { ordinal, index: index.into() });
        let draw = Draw { direction, protocol: PROTOCOL_UDP, target_port: DEVICE_PORT, position, copy: 0 };
        last = is_correlated.then(|| delay::deviation(phase, key, &draw, last));
        delay::delay_ns(phase, key, &draw, last.unwrap_or_default())
    };
    (0..count()).map(delay).collect()
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn a_hundred_thousand_delays_are_distributed_and_correlated_as_asked() {
    let stage = Stage::new();
    let mut agent = Agent::start(&stage.node, Start { limits: LIMITS, ..Hooks::Tcx.into() });
    for (name, mean, jitter, correlation) in [
        ("Uniform", 250.0, 200.0, 0),
        ("Normal", 650.0, 150.0, 0),
        ("Normal", 650.0, 150.0, 25),
        ("Pareto", 300.0, 200.0, 0),
    ] {
        let asked = Asked { name, mean, jitter, correlation };
        let fault = on_device(asked.faults());
        let given_ns = drawn(&fault);
        let trip = trip(&stage, &mut agent, fault);
        let what = format!("{name}, correlation {correlation} %");
        assert_eq!(trip.counter.effects[Effect::Delay as usize], u64::from(count()));
        assert_eq!(
            trip.counter.delay_ns,
            given_ns.iter().sum::<u64>(),
            "{what}: the kernel's draws and these"
        );
        let mut buckets = [0; DELAY_BUCKETS];
        given_ns.iter().filter(|ns| **ns != 0).for_each(|ns| buckets[delay_bucket(*ns)] += 1);
        assert_eq!(trip.counter.delays, buckets, "{what}: the kernel's draws and these");
        let took_ns = trip.took_ns();
        let both = || took_ns.iter().zip(&given_ns);
        let early = both().filter(|(took, given)| !is_held(**took, **given)).count();
        assert_eq!(early, 0, "{what}: packets that came before their time");
        let mut late: Vec<u64> = both().map(|(took, given)| took.saturating_sub(*given)).collect();
        late.sort_unstable();
        let late_ms = [500, 990].map(|per_mille| late[late.len() * per_mille / 1_000] as f64 / 1e6);

        let given: Vec<f64> = given_ns.iter().map(|ns| *ns as f64 / 1e6).collect();
        let alike = f64::from(correlation) / 100.0;
        let spread = (1.0 + alike) / (1.0 - alike);
        let average = given.iter().sum::<f64>() / given.len() as f64;
        assert_plausible(&format!("{what}: mean"), average, mean, spread * asked.variance(), given.len());
        let (found, like) = (distance(&given, &asked), autocorrelation(&given));
        println!("{what}: distance {found:.4}, correlation {like:.4}; {late_ms:.3?} ms late (p50, p99)");
        assert!(found <= KOLMOGOROV_SMIRNOV, "{what}: distance {found}");
        let margin = REACH / (given.len() as f64).sqrt();
        assert!((like - alike).abs() <= margin, "{what}: correlation {like} ± {margin}");
        let took: Vec<f64> = took_ns.iter().map(|ns| *ns as f64 / 1e6).collect();
        let arrived = distance(&took, &asked);
        let is_punctual = late_ms[1] * asked.steepest() <= PUNCTUAL;
        println!(
            "{what}: distance of arrivals {arrived:.4}{}",
            if is_punctual { "" } else { ", of a busy machine" }
        );
        assert!(!is_punctual || arrived <= KOLMOGOROV_SMIRNOV, "{what}: distance of arrivals {arrived}");
        // A packet that is late by as much as the jitter says nothing about its delay any more.
        assert!(late_ms[0] < jitter / 10.0, "{what}: half of the packets were late by {late_ms:?} ms");
    }
}
