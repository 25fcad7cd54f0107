//! The later faults of a packet that is not lost: corrupt, duplicate, delay, reorder and rate, under each binding in its
//! order. What comes of it is a [`Plan`], which the kernel program carries out.
//!
//! They come behind partition and loss of all bindings, and count packets apart from those: so XDP may decide about loss
//! and TC about the rest, and the fates are the same as where TC decides about all.

#![expect(
    clippy::cast_possible_truncation,
    reason = "numbers of phases, copies and deviations, which are small"
)]

use crate::correlation;
use crate::counter::Global;
use crate::decide::Packet;
use crate::delay;
use crate::draw::{Draw, Kind, Position};
use crate::pass::{Channel, Sequence, World, acting, draw_of};
use crate::rule::{Binding, MAX_BINDINGS, MAX_DELAY_NS, MAX_PHASES, PHASE_DELAY_PER_FLOW, Phase};
use crate::verdict::Effect;

/// A packet and its duplicates at most.
pub const MAX_COPIES: usize = 4;

/// How often a word is tried to be replaced that other CPUs change at the same time.
const ATTEMPTS: usize = 8;

/// [`Copy::flags`]: it is dropped after all.
pub const COPY_DROPPED: u32 = 1;
/// [`Copy::flags`]: the bit [`Copy::bit`] is flipped.
pub const COPY_CORRUPT: u32 = 2;

/// What becomes of a packet, or of one of its duplicates.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copy {
    /// How long it is held, in nanoseconds, at most [`MAX_DELAY_NS`].
    pub delay_ns: u64,
    /// The state of the first binding that holds it.
    pub state: u32,
    /// `COPY_*`.
    pub flags: u32,
    /// Which bit of what stands behind the IP header is flipped: this share (in 2⁻³²) of its length.
    pub bit: u32,
    /// The state of the binding that flips it.
    pub corrupter: u32,
    /// The state of the binding that made it, where it is a duplicate.
    pub maker: u32,
    /// Always 0.
    pub zero: u32,
}

/// What becomes of a packet: the first `count` go out, number 0 is the packet itself.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// At least 1.
    pub count: u32,
    /// Always 0.
    pub zero: u32,
    /// All of them.
    pub copies: [Copy; MAX_COPIES],
}

impl Plan {
    /// The packet goes on as it is.
    pub const AS_IT_IS: Self = Self {
        count: 1,
        zero: 0,
        copies: [Copy { delay_ns: 0, state: 0, flags: 0, bit: 0, corrupter: 0, maker: 0, zero: 0 };
            MAX_COPIES],
    };
}

/// A packet that meets a binding's later faults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Met {
    /// The number of the rule's phase.
    pub phase: u64,
    /// Where the packet stands among those that met them.
    pub position: Position,
    /// Its deviation, where delays are correlated.
    pub deviation: i64,
}

/// A packet, and when it came: CLOCK_BOOTTIME in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Moment<'p> {
    /// The packet.
    pub packet: &'p Packet,
    /// When it came.
    pub now_ns: u64,
}

/// Whether this binding has later faults for the packet, and where it stands among those that met them.
#[inline(always)]
pub fn meet<'r, W: World<'r>>(
    world: &mut W,
    binding: &Binding,
    packet: &Packet,
    protection: u32,
    now_ns: u64,
) -> Option<Met> {
    let rule = acting(world, binding, packet, protection, now_ns).ok()?;
    let number = world.forget(rule.phase_at(now_ns)) & (MAX_PHASES - 1);
    let phase = &rule.phases[number];
    if !phase.has_later() {
        return None;
    }
    let mut met = Met { phase: number as u64, ..Met::default() };
    if !draws(phase) {
        return Some(met);
    }
    let is_correlated = phase.correlation != 0;
    let of_target = is_correlated && phase.flags & PHASE_DELAY_PER_FLOW == 0;
    let Some(track) = world.track(binding, packet, Sequence::Later, of_target) else {
        world.count_global(Global::Orphaned);
        return None;
    };
    met.position.ordinal = track.ordinal;
    let mut attempt = 0;
    loop {
        attempt += 1;
        let word = if is_correlated { track.channel.load() } else { track.channel.add(correlation::STEP) };
        met.position.index = correlation::index(word);
        if !is_correlated {
            return Some(met);
        }
        let last = correlation::last(word, number);
        let deviation = delay::deviation(phase, binding.key, &draw_of(packet, met.position, 0), last);
        met.deviation = deviation as i64;
        if track.channel.replace(word, correlation::after(word, number, deviation)) {
            return Some(met);
        }
        if attempt == ATTEMPTS {
            world.count_global(Global::Contended);
            return Some(met);
        }
    }
}

/// Whether packets draw in this phase's later faults.
#[inline(always)]
const fn draws(phase: &Phase) -> bool {
    phase.corrupt | phase.duplicate | phase.jitter_ns != 0 || phase.reorders()
}

/// One binding's later faults for one copy of the packet. `is_new`: the binding has just made it, so that it is neither
/// duplicated nor corrupted by it once more.
#[inline(always)]
pub fn shape<'r, W: World<'r>>(
    world: &mut W,
    binding: &Binding,
    met: &Met,
    moment: Moment<'_>,
    plan: &mut Plan,
    number: usize,
    is_new: bool,
) {
    let packet = moment.packet;
    let Some(rule) = world.rule(binding.rule) else { return };
    let number = world.forget(number) & (MAX_COPIES - 1);
    let phase = &rule.phases[world.forget(met.phase as usize) & (MAX_PHASES - 1)];
    let draw = draw_of(packet, met.position, number as u8);
    let mut copy = plan.copies[number];
    if copy.flags & COPY_DROPPED != 0 {
        return;
    }
    let mut effects = 0_u64;
    if !is_new {
        if phase.corrupt != 0
            && world.is_flippable(packet)
            && draw.happens(binding.key, Kind::Corrupt, phase.corrupt)
        {
            effects |= u64::from(Effect::Corrupt.bit());
            copy.flags |= COPY_CORRUPT;
            copy.bit = (draw.bits(binding.key, Kind::Bit) >> 32) as u32;
            copy.corrupter = binding.state;
        }
        if phase.duplicate != 0 && draw.happens(binding.key, Kind::Duplicate, phase.duplicate) {
            effects |= u64::from(duplicate(world, plan, Copy { maker: binding.state, ..copy }));
        }
    }
    let mut effects = world.blur(effects);
    let before = copy.delay_ns;
    if phase.delays() {
        effects |= u64::from(hold(world, binding, phase, &draw, moment, met.deviation as i32, &mut copy));
    }
    plan.copies[number] = copy;
    let effects = world.blur(effects);
    world.effects(binding, packet, effects as u32, copy.delay_ns - before);
}

/// Adds a copy to the plan.
#[inline(always)]
fn duplicate<'r, W: World<'r>>(world: &mut W, plan: &mut Plan, copy: Copy) -> u32 {
    if plan.count as usize >= MAX_COPIES {
        world.count_global(Global::Unduplicated);
        return Effect::Unduplicated.bit();
    }
    plan.copies[world.forget(plan.count as usize) & (MAX_COPIES - 1)] = copy;
    plan.count += 1;
    Effect::Duplicate.bit()
}

/// Adds this binding's delay to that of a copy; returns the effects.
#[inline(always)]
fn hold<'r, W: World<'r>>(
    world: &mut W,
    binding: &Binding,
    phase: &Phase,
    draw: &Draw,
    moment: Moment<'_>,
    deviation: i32,
    copy: &mut Copy,
) -> u32 {
    if !world.is_line_alive(moment.now_ns) {
        world.count_global(Global::EngineStalled);
        return Effect::Stalled.bit();
    }
    let mut effects = 0;
    let mut late = 0;
    if phase.delay_ns | phase.jitter_ns != 0 {
        late = delay::delay_ns(phase, binding.key, draw, deviation);
        effects |= Effect::Delay.bit();
    }
    late = world.blur(late);
    effects = world.blur(u64::from(effects)) as u32;
    if phase.reorders() && draw.happens(binding.key, Kind::Reorder, phase.reorder) {
        late += phase.reorder_ns;
        effects |= Effect::Reorder.bit();
    }
    late = world.blur(late);
    effects = world.blur(u64::from(effects)) as u32;
    if phase.rate != 0 {
        match wait(world, binding, phase, moment) {
            Some(0) => {}
            Some(ns) => {
                late += ns;
                effects |= Effect::Rate.bit();
            }
            None => {
                copy.flags |= COPY_DROPPED;
                return Effect::Overflow.bit();
            }
        }
    }
    if late == 0 {
        return effects;
    }
    if copy.delay_ns == 0 {
        copy.state = binding.state;
    }
    copy.delay_ns = (copy.delay_ns + late).min(MAX_DELAY_NS);
    effects
}

/// How long the packet waits for its turn; `None`: for too long.
///
/// Turns are given in the order of arrival at the hook. That is the same as shaping behind the delay where all packets have
/// the same one; where they do not, shaping behind it would hold up the early ones behind the late.
#[inline(always)]
fn wait<'r, W: World<'r>>(
    world: &mut W,
    binding: &Binding,
    phase: &Phase,
    moment: Moment<'_>,
) -> Option<u64> {
    let Moment { packet, now_ns } = moment;
    let Some(departure) = world.departure(binding, packet.direction) else {
        world.count_global(Global::Orphaned);
        return Some(0);
    };
    let mut attempt = 0;
    loop {
        attempt += 1;
        let word = departure.load();
        let turn = delay::turn(phase, packet.bytes, word, now_ns);
        if turn.wait_ns.is_none() || departure.replace(word, turn.full_ns) {
            return turn.wait_ns;
        }
        if attempt == ATTEMPTS {
            world.count_global(Global::Contended);
            return turn.wait_ns;
        }
    }
}

/// Lets into the line what is to be held, as far as it may hold it. `false`: the copy is dropped.
#[inline(always)]
pub fn admit<'r, W: World<'r>>(world: &mut W, copy: &Copy, packet: &Packet) -> bool {
    if world.enter_line(copy.state, packet.bytes) {
        return true;
    }
    world.count_global(Global::LineFull);
    world.effects(&Binding { state: copy.state, ..Binding::default() }, packet, Effect::LineFull.bit(), 0);
    false
}

/// Takes a packet through the later faults of `count` bindings; the host's way to do it.
pub fn run<'r, W: World<'r>>(
    world: &mut W,
    bindings: &[Binding],
    packet: &Packet,
    protection: u32,
    now_ns: u64,
) -> Plan {
    let mut plan = Plan::AS_IT_IS;
    for binding in bindings.iter().take(MAX_BINDINGS) {
        let Some(met) = meet(world, binding, packet, protection, now_ns) else { continue };
        let before = plan.count as usize;
        let mut number = 0;
        while number < plan.count as usize {
            shape(world, binding, &met, Moment { packet, now_ns }, &mut plan, number, number >= before);
            number += 1;
        }
    }
    plan
}
