//! What one program tells another about a packet, in `skb->cb[1..=4]`, which line, splitter and queues leave alone.
//! `skb->mark` is not ours to use.
//!
//! | word | meaning |
//! | --- | --- |
//! | 4 | a random number of this load: the others are ours |
//! | 3 | bits 0–6: the errand; bit 7: it came in; 8–31: the interface that it is for |
//! | 2 | when it is to leave the line, in units of 1.024 µs, modulo 2³²; of one that has left it, when it was sent off, in ns, modulo 2³² |
//! | 1 | the state that has counted it into the line |

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::TcContext;
use fault_abi::key::Direction;

use crate::maps::LINE;

/// What a hook is told about a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Errand {
    /// Nothing.
    None,
    /// It has been decided on: it goes on.
    Done,
    /// The same, and the queue of the engine `fq` held it until then: CLOCK_BOOTTIME in nanoseconds, modulo 2³².
    Held(u32),
    /// It has passed the splitter: it is decided on now.
    Split,
    /// It is a duplicate, which goes into the line.
    Hold,
}

const DONE: u32 = 1;
const SPLIT: u32 = 2;
const HOLD: u32 = 3;
/// On its way to the splitter's far end.
const TO_SPLIT: u32 = 4;
/// In the line of the engine `fq`, where `skb->mark` is the number of its ticket.
const IN_LINE: u32 = 5;
/// There, too, and too late for the queue to hold it.
const LATE_IN_LINE: u32 = 6;
/// It was held in that line.
const HELD: u32 = 7;
const ERRAND: u32 = 0x7f;
const CAME_IN: u32 = 0x80;
const INTERFACE: u32 = 8;

/// Interfaces with a higher index have no room in the word: their packets are not split.
pub const MAX_INTERFACE: u32 = (1 << (32 - INTERFACE)) - 1;

/// Whether the words are ours.
#[inline(always)]
fn is_ours(skb: *mut __sk_buff) -> bool {
    // SAFETY: the context that the kernel gave, here and below.
    let mark = unsafe { (*skb).cb[4] };
    mark != 0 && magic() == mark
}

#[inline(always)]
fn magic() -> u32 {
    LINE.get(0).map_or(0, |line| line.magic as u32)
}

#[inline(always)]
fn write(skb: *mut __sk_buff, errand: u32) {
    // SAFETY: as above.
    unsafe {
        (*skb).cb[3] = errand;
        (*skb).cb[4] = magic();
    }
}

/// Whether the packet may have an errand: nobody has written where ours would say so.
#[inline(always)]
pub fn may_be(ctx: &TcContext) -> bool {
    // SAFETY: as above.
    unsafe { (*ctx.skb.skb).cb[4] != 0 }
}

/// Takes the errand off a packet, so that it is done once.
#[inline(always)]
pub fn take(ctx: &TcContext) -> Errand {
    let skb = ctx.skb.skb;
    if !is_ours(skb) {
        return Errand::None;
    }
    // SAFETY: as above.
    let (errand, departure) = unsafe { ((*skb).cb[3] & ERRAND, (*skb).cb[2]) };
    clear(ctx);
    match errand {
        DONE => Errand::Done,
        HELD => Errand::Held(departure),
        SPLIT => Errand::Split,
        HOLD => Errand::Hold,
        _ => Errand::None,
    }
}

/// Leaves no errand.
#[inline(always)]
pub fn clear(ctx: &TcContext) {
    // SAFETY: as above.
    unsafe {
        (*ctx.skb.skb).cb[3] = 0;
        (*ctx.skb.skb).cb[4] = 0;
    }
}

/// The next hook lets the packet go on.
#[inline(always)]
pub fn done(ctx: &TcContext) {
    write(ctx.skb.skb, DONE);
}

/// As [`done`], and tells the next hook until when the queue held the packet.
#[inline(always)]
pub fn done_at(ctx: &TcContext, departure_ns: u64) {
    write(ctx.skb.skb, HELD);
    // SAFETY: as above.
    unsafe { (*ctx.skb.skb).cb[2] = departure_ns as u32 };
}

/// The next hook puts the packet into the line, to leave it at `release_ns`.
#[inline(always)]
pub fn hold(ctx: &TcContext, release_ns: u64, state: u32) {
    let skb = ctx.skb.skb;
    write(skb, HOLD);
    // SAFETY: as above.
    unsafe {
        (*skb).cb[2] = (release_ns >> 10) as u32;
        (*skb).cb[1] = state;
    }
}

/// What [`hold`] said: when, and which state. `now_ns` is at most 36 minutes off.
#[inline(always)]
pub fn held(ctx: &TcContext, now_ns: u64) -> (u64, u32) {
    // SAFETY: as above.
    let (units, state) = unsafe { ((*ctx.skb.skb).cb[2], (*ctx.skb.skb).cb[1]) };
    let ahead = units.wrapping_sub((now_ns >> 10) as u32) as i32;
    (now_ns.wrapping_add_signed((ahead as i64) << 10), state)
}

/// The packet goes through the line of the engine `fq`.
#[inline(always)]
pub fn to_line(ctx: &TcContext) {
    write(ctx.skb.skb, IN_LINE);
}

/// The queue of that line will not hold the packet: when it came there its time was over.
#[inline(always)]
pub fn late_in_line(ctx: &TcContext) {
    write(ctx.skb.skb, LATE_IN_LINE);
}

/// Whether [`to_line`] said so; and if it did, whether [`late_in_line`] did not.
#[inline(always)]
pub fn in_line(ctx: &TcContext) -> Option<bool> {
    let skb = ctx.skb.skb;
    if !is_ours(skb) {
        return None;
    }
    // SAFETY: as above.
    match unsafe { (*skb).cb[3] } & ERRAND {
        IN_LINE => Some(true),
        LATE_IN_LINE => Some(false),
        _ => None,
    }
}

/// The splitter's far end sends the packet back to this hook.
#[inline(always)]
pub fn to_splitter(ctx: &TcContext, direction: Direction) {
    // SAFETY: as above.
    let interface = unsafe { (*ctx.skb.skb).ifindex };
    let came_in = match direction {
        Direction::FromDevice => CAME_IN,
        Direction::ToDevice => 0,
    };
    write(ctx.skb.skb, TO_SPLIT | came_in | interface << INTERFACE);
}

/// At the splitter's far end: which interface the packet goes back to, and whether it comes in there. `None`: it is not ours.
#[inline(always)]
pub fn from_splitter(ctx: &TcContext) -> Option<(u32, bool)> {
    let skb = ctx.skb.skb;
    if !is_ours(skb) {
        return None;
    }
    // SAFETY: as above.
    let word = unsafe { (*skb).cb[3] };
    if word & ERRAND != TO_SPLIT {
        return None;
    }
    write(skb, SPLIT);
    Some((word >> INTERFACE, word & CAME_IN != 0))
}
