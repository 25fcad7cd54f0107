//! A million random packets, malformed ones included, through the kernel and through the host: each gets the same fate, and
//! the same is counted.
//!
//! ```text
//!  frames.rs   the packets
//!  way.rs      the hooks that they come to
//!  rules.rs    the rules and targets, in the kernel's maps and on the host
//!  host.rs     the host's twin of the programs
//! ```

#[path = "differential/frames.rs"]
mod frames;
#[path = "differential/host.rs"]
mod host;
#[path = "differential/rules.rs"]
mod rules;
#[path = "differential/way.rs"]
mod way;

use std::collections::BTreeMap;

use fault_abi::counter::{Counter, Global};
use fault_abi::key::Direction;
use fault_abi::verdict::{Effect, Verdict};
use fault_rig::{Outcome, Rig};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

use self::frames::{any_frame, has_ip_header};
use self::host::{Fate, Host};
use self::rules::{CLOCK, PHASES, TIMELINE, filled};
use self::way::{BARE, ETHERNET, Layer, Way};
use crate::stage::*;

const PACKETS: u32 = 1_000_000;
const KUBELET: u16 = 10_250;
/// Marks what is ours on a packet.
const MAGIC: u64 = 0x5eed_0000_0000_5eed;

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn the_kernel_and_the_host_give_a_million_random_packets_the_same_fates_and_count_the_same() {
    compare(packets(PACKETS), true);
}

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn where_the_filter_sorts_out_most_packets_the_kernel_and_the_host_still_give_each_the_same_fate() {
    compare(packets(PACKETS / 4), false);
}

/// How often each thing came up.
#[derive(Debug, Default)]
struct Met {
    fates: BTreeMap<Fate, u32>,
    ways: BTreeMap<(&'static str, bool), u32>,
    /// Packets of a timeline, by what its phase does.
    phases: [u32; PHASES.len()],
    bare: u32,
    /// Super-packets that were decided on as a whole, and went on or were dropped, of several packets on the wire each.
    whole: u32,
}

fn compare(packets: u32, has_network: bool) {
    let (mut rig, mut host) = filled(has_network);
    let mut dice = StdRng::seed_from_u64(7);
    let mut met = Met::default();
    for i in 0..packets {
        let (frame, way) = any_packet(&mut dice, &host);
        let story = || format!("packet {i} through {way:?}: {frame:02x?}");
        let is_timed = host.is_timed(&frame, &way);
        let before = is_timed.then(|| moment(&mut rig, &way));
        let ran = run(&rig, &frame, &way);
        let now_ns = before.map_or(1, |before| came(&mut rig, &host, &frame, &way, (before, ran.code)));
        let fate = host.fate(&frame, &way, now_ns);
        assert_eq!(ran.code, way.code(fate), "{} was to be {fate:?}", story());
        *met.fates.entry(fate).or_default() += 1;
        *met.ways.entry((way.hook, way.is_split)).or_default() += 1;
        met.whole += u32::from(fate != Fate::Split && host.parts(&frame, &way) > 1);
        met.bare += u32::from(way.layer == Layer::Ip && host.target(&frame, &way).is_some());
        if is_timed {
            met.phases[host.rules[TIMELINE].phase_at(now_ns) % PHASES.len()] += 1;
        }
    }
    counted_alike(&mut rig, &host);
    all_came_up(&met, packets, &host);
}

/// A packet, and a hook that the kernel lets it come to.
fn any_packet(dice: &mut StdRng, host: &Host) -> (Vec<u8>, Way) {
    let layer = if dice.random_bool(0.2) { Layer::Ip } else { Layer::Ethernet };
    let frame = any_frame(dice, layer);
    // The kernel runs no TC program on half an IP header.
    let ways = match layer {
        _ if !has_ip_header(&frame) => &ETHERNET[..1],
        Layer::Ethernet => &ETHERNET[..],
        Layer::Ip => &BARE[..],
    };
    let mut way = *ways.choose(dice).unwrap();
    if way.hook == ETHERNET[3].hook && host.is_timed(&frame, &way) {
        // When it came would not be known: behind XDP it is not counted once more.
        way = ETHERNET[1];
    }
    way.is_split = way.hook != ETHERNET[0].hook && dice.random_bool(0.4);
    // XDP has no super-packets, and the splitter lets none out.
    if way.hook != ETHERNET[0].hook && !way.is_split && dice.random_bool(0.3) {
        way.gso_size = dice.random_range(1..=60);
    }
    (frame, way)
}

fn run(rig: &Rig, frame: &[u8], way: &Way) -> Outcome {
    let ran = match way {
        Way { is_split: true, .. } => rig.run_split(way.hook, frame, MAGIC),
        Way { gso_size: 1.., .. } => rig.run_gso(way.hook, frame, way.gso_size),
        _ => rig.run(way.hook, frame, 1),
    };
    ran.map_err(|error| format!("{frame:02x?} through {way:?}: {error}")).unwrap()
}

/// The time, and when the last packet of a timed target came, both in nanoseconds.
fn moment(rig: &mut Rig, way: &Way) -> (u64, u64) {
    let seen = rig.counter(CLOCK, way.direction).unwrap().last_seen_ns;
    (fault_rig::now_ns().unwrap(), seen)
}

/// When a packet came that the kernel has just answered by `code`: as its counter says; where nothing was counted at a time when it goes
/// to the splitter if it does, before or behind the border of a phase.
fn came(
    rig: &mut Rig,
    host: &Host,
    frame: &[u8],
    way: &Way,
    ((begin_ns, seen_before_ns), code): ((u64, u64), u32),
) -> u64 {
    let (end_ns, seen_ns) = moment(rig, way);
    if seen_ns != seen_before_ns {
        assert!((begin_ns..=end_ns).contains(&seen_ns), "{seen_ns}, between {begin_ns} and {end_ns}");
        return seen_ns;
    }
    let is_split = code == REDIRECT;
    [begin_ns, end_ns].into_iter().find(|now| host.splits(frame, way, *now) == is_split).unwrap_or(begin_ns)
}

fn counted_alike(rig: &mut Rig, host: &Host) {
    for slot in (0..).take(host.rules.len()) {
        for direction in Direction::ALL {
            let kernel = Counter { last_seen_ns: 0, ..rig.counter(slot, direction).unwrap() };
            let expected = host.counters.get(&(slot, direction)).copied().unwrap_or_default();
            assert_eq!(kernel, expected, "rule {slot}, {direction:?}");
        }
    }
    for what in [
        Global::Protected,
        Global::Malformed,
        Global::Untracked,
        Global::Orphaned,
        Global::Unsplit,
        Global::Unduplicated,
        Global::EngineStalled,
        Global::LineFull,
        Global::Stray,
    ] {
        let expected = host.globals.get(&what).copied().unwrap_or_default();
        assert_eq!(rig.global(what).unwrap(), expected, "{what:?}");
    }
}

/// Says what came up how often; what never does would be compared by nobody.
fn all_came_up(met: &Met, packets: u32, host: &Host) {
    let mut sum = Counter::default();
    host.counters.values().for_each(|counter| sum.add(counter));
    let verdicts = Verdict::ALL.map(|verdict| (verdict, sum.packets[verdict as usize]));
    let effects = Effect::ALL.map(|effect| (effect, sum.effects[effect as usize]));
    println!("{packets} packets: {met:?}\n{verdicts:?}\n{effects:?}");
    for fate in [
        Fate::Passes,
        Fate::Lost,
        Fate::Partitioned,
        Fate::Rejected,
        Fate::Split,
        Fate::Planned,
        Fate::Overflows,
    ] {
        assert!(met.fates.contains_key(&fate), "no packet {fate:?}");
    }
    assert!(verdicts.iter().all(|(_, count)| *count > 0), "a verdict was never given: {verdicts:?}");
    // The line is never full here, its engine never stands, at most two rules of a target duplicate, and plans are not carried out.
    let never = [Effect::LineFull, Effect::Stalled, Effect::Unduplicated, Effect::Stray];
    for (effect, count) in effects {
        assert_eq!(count == 0, never.contains(&effect), "{effect:?}: {count}");
    }
    for (slot, direction) in
        (0..).take(host.rules.len()).flat_map(|slot| Direction::ALL.map(|direction| (slot, direction)))
    {
        let is_about = host.rules[slot as usize].acts(direction);
        assert_eq!(host.counters.contains_key(&(slot, direction)), is_about, "rule {slot}, {direction:?}");
    }
    assert_eq!(met.ways.len(), 1 + 2 * (ETHERNET.len() - 1 + BARE.len()), "{:?}", met.ways);
    assert!(met.phases.iter().all(|count| *count > 0), "{PHASES:?}: {:?}", met.phases);
    assert!(met.whole > packets / 20_000, "too few of several segments with one fate: {}", met.whole);
    assert!(met.bare > packets / 100, "too few of a target without an Ethernet header: {}", met.bare);
}
