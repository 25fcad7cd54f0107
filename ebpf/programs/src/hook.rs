//! What becomes of the packet that `gather` has written into `SCRATCH`: lookup, protection, pass. The same for XDP and TC, so that both give
//! the same fate.

use fault_abi::counter::Global;
use fault_abi::key::Direction;
use fault_abi::later::{self, COPY_DROPPED, MAX_COPIES, Moment, Plan};
use fault_abi::line::bytes_before;
use fault_abi::pass::{self, Bindings, Stage, World};
use fault_abi::rule::{Binding, CONFIG_HAS_LATER, CONFIG_HAS_REWRITES, MAX_BINDINGS, NO_RULE};
use fault_abi::verdict::Verdict;

use crate::entry::{find, protected, read};
use crate::frame::within;
use crate::maps::{CONFIG, HANDLES, MALFORMED, SCRATCH, SPLITTER_AHEAD, SPLITTER_BEHIND, Scratch};
use crate::note;
use crate::world::Maps;

/// What becomes of a packet at a hook.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It goes on as it is.
    Pass = 0,
    /// It is dropped.
    Drop = 1,
    /// It is dropped, and its sender is told.
    Reject = 2,
    /// It passes the splitter before anything is decided.
    Split = 3,
    /// What the plan in `SCRATCH` says.
    Plan = 4,
}

impl Outcome {
    /// The outcome of this number.
    #[inline(always)]
    pub const fn of(number: u32) -> Self {
        match number {
            1 => Self::Drop,
            2 => Self::Reject,
            3 => Self::Split,
            4 => Self::Plan,
            _ => Self::Pass,
        }
    }
}

/// Which way the packet in `SCRATCH` goes, and whether it has no Ethernet header.
#[inline(always)]
pub fn arrived() -> Option<(Direction, bool)> {
    let scratch = SCRATCH.get_ptr_mut(0)?;
    // SAFETY: this CPU's own memory, written by `gather`.
    unsafe { Some(((*scratch).packet.direction, (*scratch).network == 0)) }
}

/// The state of the binding by which the packet in `SCRATCH` goes to the splitter, or is answered.
#[inline(always)]
pub fn author() -> u32 {
    // SAFETY: this CPU's own memory.
    SCRATCH.get_ptr(0).map_or(0, |scratch| unsafe { (*scratch).author })
}

/// What becomes of the packet in `SCRATCH`, at TC.
#[inline(always)]
pub fn outcome() -> Outcome {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return Outcome::Pass };
    // SAFETY: this CPU's own memory.
    noted(judge(unsafe { (*scratch).stage }))
}

/// What becomes of it at XDP.
#[inline(always)]
pub fn early_outcome() -> Outcome {
    noted(judge_early())
}

#[inline(always)]
fn noted(outcome: u32) -> Outcome {
    if note::is_wanted() {
        note::note(outcome);
    }
    Outcome::of(outcome)
}

/// What becomes of the packet in `SCRATCH`, as the number of an [`Outcome`].
///
/// It looks up the entry once more, so that the verifier need not walk what follows for each way on which the packet's bytes
/// were read. All functions here with numbers for arguments are global ones, with their own entries in BTF: it walks each once.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn judge(stage: u32) -> u32 {
    let count = meets_bindings();
    if count == 0 {
        return Outcome::Pass as u32;
    }
    if split(count) != 0 {
        return Outcome::Split as u32;
    }
    match met_loss(count, stage) {
        Verdict::Pass => later(count),
        Verdict::Reject => Outcome::Reject as u32,
        Verdict::Loss | Verdict::Partition => Outcome::Drop as u32,
    }
}

/// As [`judge`], of partition and loss alone.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn judge_early() -> u32 {
    let count = meets_bindings();
    if count == 0 {
        return Outcome::Pass as u32;
    }
    match met_loss(count, Stage::Early as u32) {
        Verdict::Pass | Verdict::Reject => Outcome::Pass as u32,
        Verdict::Loss | Verdict::Partition => Outcome::Drop as u32,
    }
}

/// Copies the bindings that the packet in `SCRATCH` meets; returns how many.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn meets_bindings() -> u32 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return 0 };
    let Some(config) = CONFIG.get(0) else { return 0 };
    // SAFETY: this CPU's own memory, which nobody else writes to while a program holds a packet.
    let Scratch { packet, bindings, notes, protection, stage, splitter, .. } = unsafe { &mut *scratch };
    // Behind XDP and the splitter it has been counted there. What is protected never goes to the splitter.
    let count = |what| {
        if *stage != Stage::Rest as u32 && *splitter != SPLITTER_BEHIND {
            Maps.count_global(what);
        }
    };
    if *notes & MALFORMED != 0 {
        count(Global::Malformed);
    }
    if pass::is_link_upkeep(packet, *notes as u8) {
        count(Global::Protected);
        return 0;
    }
    *protection = protected(packet, *notes, config);
    if pass::is_untouchable(*protection) {
        count(Global::Protected);
        return 0;
    }
    let Some(entry) = find(&packet.target, config) else { return 0 };
    if !read(packet, entry, config, bindings) {
        return 0;
    }
    find_rules(bindings);
    u32::from(bindings.count)
}

/// Puts into each binding the slot that its handle stands for now: one rule for all that becomes of the packet, whatever the agent
/// writes meanwhile. One that stands for none gets a slot that there is not.
#[inline(always)]
fn find_rules(bindings: &mut Bindings) {
    let mut i = 0;
    while i < MAX_BINDINGS {
        if i >= bindings.count as usize {
            break;
        }
        let binding = &mut bindings.bindings[i];
        // SAFETY: a word of a live map value, read once.
        let slot = HANDLES.get_ptr(binding.rule).map_or(NO_RULE, |slot| unsafe { slot.read_volatile() });
        binding.rule = slot.wrapping_sub(1);
        i += 1;
    }
}

/// Partition and loss of the packet in `SCRATCH` by its first `count` bindings.
#[inline(always)]
fn met_loss(count: u32, stage: u32) -> Verdict {
    pass::run(&mut Maps, count as u16, Stage::of(stage), |_, i| match bind(i as u32, stage) {
        SPARED => None,
        number => Some(Verdict::of(number).unwrap_or(Verdict::Pass)),
    })
}

/// What [`bind`] returns for a conversation that the rule leaves alone; else a verdict's number.
const SPARED: u32 = u32::MAX;

/// What functions of one binding need: the packet's working memory, and its binding of this number.
#[inline(always)]
fn at_hand(index: u32) -> Option<(&'static mut Scratch, Binding)> {
    let scratch = SCRATCH.get_ptr_mut(0)?;
    // SAFETY: this CPU's own memory, which nobody else writes to while a program holds a packet.
    let scratch = unsafe { &mut *scratch };
    let i = within::<{ MAX_BINDINGS as u64 - 1 }>(u64::from(index));
    // SAFETY: below MAX_BINDINGS, the length.
    let binding = unsafe { *scratch.bindings.bindings.get_unchecked(i) };
    Some((scratch, binding))
}

/// Takes the packet in `SCRATCH` through partition and loss of one binding.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn bind(index: u32, stage: u32) -> u32 {
    let Some((scratch, binding)) = at_hand(index) else { return Verdict::Pass as u32 };
    let (packet, protection, now_ns) = (&scratch.packet, scratch.protection, scratch.now_ns);
    let verdict = pass::bind(&mut Maps, &binding, packet, protection, Stage::of(stage), now_ns);
    if verdict == Some(Verdict::Reject) {
        scratch.author = binding.state;
    }
    verdict.map_or(SPARED, |verdict| verdict as u32)
}

/// Whether the packet in `SCRATCH` goes to the splitter before its first `count` bindings decide: one of them wants it, and it
/// has not been there.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn split(count: u32) -> u32 {
    let Some((scratch, _)) = at_hand(0) else { return 0 };
    let has_rewrites = CONFIG.get(0).is_some_and(|config| config.flags & CONFIG_HAS_REWRITES != 0);
    let is_gso = scratch.packet.gso;
    let is_wanted = (is_gso || has_rewrites) && scratch.splitter != SPLITTER_BEHIND;
    if !is_wanted {
        return 0;
    }
    let mut i = 0;
    while i < MAX_BINDINGS as u32 {
        if i >= count {
            break;
        }
        if one_wants_splitter(i) != 0 {
            if scratch.splitter == SPLITTER_AHEAD {
                return 1;
            }
            Maps.count_global(if is_gso { Global::GsoFrames } else { Global::Unsplit });
            scratch.packet.packets = 1;
            return 0;
        }
        i += 1;
    }
    // Its segments have one fate, and are counted one by one.
    scratch.packet.gso = false;
    0
}

/// Whether one binding wants it.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn one_wants_splitter(index: u32) -> u32 {
    let Some((scratch, binding)) = at_hand(index) else { return 0 };
    scratch.author = binding.state;
    pass::wants_splitter(&Maps, &binding, &scratch.packet, scratch.protection, scratch.now_ns) as u32
}

/// The later faults of the first `count` bindings: the number of an [`Outcome`].
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn later(count: u32) -> u32 {
    if CONFIG.get(0).is_none_or(|config| config.flags & CONFIG_HAS_LATER == 0) {
        return Outcome::Pass as u32;
    }
    reset();
    let mut i = 0;
    while i < MAX_BINDINGS as u32 {
        if i >= count {
            break;
        }
        if meet(i) != 0 {
            // All copies that there are, and those that this binding makes.
            let mut number = 0;
            while number < MAX_COPIES as u32 && shape(i, number) != 0 {
                number += 1;
            }
        }
        i += 1;
    }
    settle()
}

/// Makes the plan one that does nothing.
#[inline(always)]
fn reset() {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return };
    // SAFETY: this CPU's own memory. Word by word and volatile: as one it would be a call of `memset`.
    unsafe {
        let words = (&raw mut (*scratch).plan).cast::<u64>();
        let mut i = 1;
        while i < size_of::<Plan>() / 8 {
            words.add(i).write_volatile(0);
            i += 1;
        }
        words.write_volatile(1);
    }
}

/// Whether the packet in `SCRATCH` meets later faults of this binding; writes where it stands.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn meet(index: u32) -> u32 {
    let Some((scratch, binding)) = at_hand(index) else { return 0 };
    scratch.before = scratch.plan.count;
    let (protection, now_ns) = (scratch.protection, scratch.now_ns);
    match later::meet(&mut Maps, &binding, &scratch.packet, protection, now_ns) {
        Some(met) => {
            scratch.met = met;
            1
        }
        None => 0,
    }
}

/// Takes one copy through the later faults of one binding; 0: there is no copy of this number.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn shape(index: u32, number: u32) -> u32 {
    let Some((scratch, binding)) = at_hand(index) else { return 0 };
    let Scratch { packet, plan, met, before, now_ns, .. } = scratch;
    if number >= plan.count {
        return 0;
    }
    let moment = Moment { packet, now_ns: *now_ns };
    later::shape(&mut Maps, &binding, met, moment, plan, number as usize, number >= *before);
    1
}

/// Counts into the line what is to be held, and says what is left to do.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn settle() -> u32 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return Outcome::Pass as u32 };
    // SAFETY: this CPU's own memory, which nobody else writes to while a program holds a packet.
    let Scratch { packet, plan, network, .. } = unsafe { &mut *scratch };
    // What is counted into the line is counted out of it, where the packet has an Ethernet header: see `bare`.
    packet.bytes += bytes_before(*network);
    let (mut number, mut left, mut touched) = (0, 0, 0);
    while number < MAX_COPIES {
        if number as u32 >= plan.count {
            break;
        }
        let copy = &mut plan.copies[number];
        if copy.flags & COPY_DROPPED == 0 && copy.delay_ns != 0 && !later::admit(&mut Maps, copy, packet) {
            copy.flags |= COPY_DROPPED;
        }
        left |= u32::from(copy.flags & COPY_DROPPED == 0);
        touched |= copy.flags | u32::from(copy.delay_ns != 0);
        number += 1;
    }
    // Who reads the length later wants it as it is at this hook. Where the header is, is read again, so that the verifier need not
    // walk the copies once for each length of it.
    // SAFETY: as above.
    packet.bytes -= bytes_before(unsafe { (&raw const *network).read_volatile() });
    match (left, touched, plan.count) {
        (0, _, _) => Outcome::Drop as u32,
        (_, 0, 1) => Outcome::Pass as u32,
        _ => Outcome::Plan as u32,
    }
}
