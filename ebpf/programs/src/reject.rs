//! Answers a packet in its target's stead: a TCP reset, or an ICMP error that says that somebody forbids it. The packet itself
//! becomes the answer, and goes back by the interface that it came by or was to leave by.
//!
//! It has passed the splitter: its checksum is whole, so that the kernel fills none into the answer.

use aya_ebpf::helpers::{bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes};
use aya_ebpf::programs::TcContext;
use fault_abi::decide::Packet;
use fault_abi::key::{Address, Direction, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP};
use fault_abi::remake;

use crate::errand;
use crate::hook;
use crate::line::redirect;
use crate::maps::SCRATCH;
use crate::tc::drop;
use crate::trouble::stray;

/// Bytes of an IPv4 header, of an IPv6 header, of a TCP header, all without options, and of the head of an ICMP error.
const IPV4: usize = 20;
const IPV6: usize = 40;
const TCP: usize = 20;
const ICMP: usize = 8;
/// What an error quotes behind the IP header.
const QUOTED: usize = remake::QUOTED as usize;

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// Hops that an answer may take (RFC 1700).
const HOPS: u8 = 64;

/// What an answer is made from.
struct Question {
    network: u32,
    payload: u32,
    /// Who asked, and who is to have answered.
    from: Address,
    to: Address,
}

/// Answers the packet in `SCRATCH`, which is one that can be answered.
#[inline(always)]
pub fn reject(ctx: &TcContext, direction: Direction) -> i32 {
    match answer(ctx, direction) {
        Some(()) => {
            errand::done(ctx);
            // SAFETY: the context that the kernel gave.
            redirect(unsafe { (*ctx.skb.skb).ifindex }, matches!(direction, Direction::ToDevice))
        }
        // The kernel had no memory for it.
        None => {
            stray(ctx, hook::author(), direction);
            drop(direction)
        }
    }
}

#[inline(always)]
fn answer(ctx: &TcContext, direction: Direction) -> Option<()> {
    let scratch = SCRATCH.get_ptr_mut(0)?;
    // SAFETY: this CPU's own memory, which nobody else writes to while a program holds a packet.
    let (packet, network, payload): (&Packet, u32, u32) =
        unsafe { (&(*scratch).packet, (*scratch).network, (*scratch).payload) };
    let (from, to) = match direction {
        Direction::FromDevice => (packet.target, packet.peer),
        Direction::ToDevice => (packet.peer, packet.target),
    };
    let question = Question { network, payload, from, to };
    let is_ipv4 = question.to.is_ipv4();
    match packet.protocol {
        PROTOCOL_TCP if is_ipv4 => reset::<IPV4, { IPV4 + TCP }>(ctx, &question)?,
        PROTOCOL_TCP => reset::<IPV6, { IPV6 + TCP }>(ctx, &question)?,
        _ if is_ipv4 => forbid::<IPV4, { IPV4 + ICMP + IPV4 + QUOTED }>(ctx, &question)?,
        _ => forbid::<IPV6, { IPV6 + ICMP + IPV6 + QUOTED }>(ctx, &question)?,
    }
    // In front of IP there is an Ethernet header, or nothing.
    if network == 0 { Some(()) } else { turn_around(ctx) }
}

/// A reset that the sender takes: RFC 9293 §3.10.7.1, what a closed port answers.
#[inline(always)]
fn reset<const IP: usize, const LENGTH: usize>(ctx: &TcContext, question: &Question) -> Option<()> {
    let mut asked = [0_u8; TCP];
    load(ctx, question.payload, &mut asked)?;
    let flags = asked[13];
    let words = |at: usize| [asked[at], asked[at + 1], asked[at + 2], asked[at + 3]];
    let (sequence, acknowledged) = (words(4), words(8));
    let mut answer = [0_u8; LENGTH];
    let tcp = IP;
    answer[tcp] = asked[2];
    answer[tcp + 1] = asked[3];
    answer[tcp + 2] = asked[0];
    answer[tcp + 3] = asked[1];
    answer[tcp + 12] = 5 << 4;
    if flags & ACK != 0 {
        put(&mut answer, tcp + 4, acknowledged);
        answer[tcp + 13] = RST;
    } else {
        let header = u32::from(asked[12] >> 4) * 4;
        let length = ip_payload::<IP>(ctx, question)?.wrapping_sub(header)
            + u32::from(flags & SYN != 0)
            + u32::from(flags & FIN != 0);
        let next = u32::from_be_bytes(sequence).wrapping_add(length);
        put(&mut answer, tcp + 8, next.to_be_bytes());
        answer[tcp + 13] = RST | ACK;
    }
    head::<IP, LENGTH>(&mut answer, question, PROTOCOL_TCP);
    let sum = pseudo(question, PROTOCOL_TCP, TCP as u32) + sum_of(&answer, IP);
    put16(&mut answer, tcp + 16, fold(sum));
    write(ctx, question.network, &answer)
}

/// An error that says that somebody forbids it: type 3 code 13 (RFC 1812 §5.2.7.1), in IPv6 type 1 code 1 (RFC 4443 §3.1).
#[inline(always)]
fn forbid<const IP: usize, const LENGTH: usize>(ctx: &TcContext, question: &Question) -> Option<()> {
    let mut answer = [0_u8; LENGTH];
    let quoted = (IP + QUOTED) as u32;
    // SAFETY: the context that the kernel gave; the helper checks where it reads, and fills exactly what is there.
    let failed = unsafe {
        let into = answer.as_mut_ptr().add(IP + ICMP).cast();
        bpf_skb_load_bytes(ctx.skb.skb.cast(), question.network, into, quoted)
    };
    if failed != 0 {
        return None;
    }
    let (protocol, kind, code) = if IP == IPV4 { (PROTOCOL_ICMP, 3, 13) } else { (PROTOCOL_ICMPV6, 1, 1) };
    answer[IP] = kind;
    answer[IP + 1] = code;
    head::<IP, LENGTH>(&mut answer, question, protocol);
    let begin = if IP == IPV4 { 0 } else { pseudo(question, protocol, (LENGTH - IP) as u32) };
    let sum = begin + sum_of(&answer, IP);
    put16(&mut answer, IP + 2, fold(sum));
    write(ctx, question.network, &answer)
}

/// The IP header of an answer.
#[inline(always)]
fn head<const IP: usize, const LENGTH: usize>(answer: &mut [u8; LENGTH], question: &Question, protocol: u8) {
    let (source, destination) = (question.to, question.from);
    if IP == IPV4 {
        answer[0] = 0x45;
        answer[2] = (LENGTH >> 8) as u8;
        answer[3] = LENGTH as u8;
        // Do not fragment: then it needs no identification (RFC 6864 §4.1).
        answer[6] = 0x40;
        answer[8] = HOPS;
        answer[9] = protocol;
        put(answer, 12, source.words[3].to_ne_bytes());
        put(answer, 16, destination.words[3].to_ne_bytes());
        let mut sum = 0;
        let mut i = 0;
        while i < IPV4 {
            sum += u32::from(u16::from_ne_bytes([answer[i], answer[i + 1]]));
            i += 2;
        }
        put16(answer, 10, fold(sum));
    } else {
        answer[0] = 0x60;
        answer[4] = ((LENGTH - IPV6) >> 8) as u8;
        answer[5] = (LENGTH - IPV6) as u8;
        answer[6] = protocol;
        answer[7] = HOPS;
        let mut i = 0;
        while i < 4 {
            put(answer, 8 + i * 4, source.words[i].to_ne_bytes());
            put(answer, 24 + i * 4, destination.words[i].to_ne_bytes());
            i += 1;
        }
    }
}

/// How many bytes stand behind IP and its extension headers, as IP says.
#[inline(always)]
fn ip_payload<const IP: usize>(ctx: &TcContext, question: &Question) -> Option<u32> {
    let mut length = [0_u8; 2];
    let at = if IP == IPV4 { 2 } else { 4 };
    load(ctx, question.network + at, &mut length)?;
    let before = if IP == IPV4 { question.network } else { question.network + IPV6 as u32 };
    Some(u32::from(u16::from_be_bytes(length)).wrapping_sub(question.payload - before))
}

/// The sum of the pseudo header (RFC 9293 §3.1, RFC 8200 §8.1), in this machine's order, as all sums here.
#[inline(always)]
fn pseudo(question: &Question, protocol: u8, length: u32) -> u32 {
    let mut sum = u32::from(u16::from(protocol).to_be()) + u32::from((length as u16).to_be());
    // An IPv4 address is the last word; what stands before it would be summed up, too.
    let mut i = if question.to.is_ipv4() { 3 } else { 0 };
    while i < 4 {
        for word in [question.from.words[i], question.to.words[i]] {
            sum += (word & 0xffff) + (word >> 16);
        }
        i += 1;
    }
    sum
}

/// The sum from an offset on; both it and the length are even.
#[inline(always)]
fn sum_of<const LENGTH: usize>(bytes: &[u8; LENGTH], from: usize) -> u32 {
    let mut sum = 0;
    let mut i = from;
    while i < LENGTH {
        sum += u32::from(u16::from_ne_bytes([bytes[i], bytes[i + 1]]));
        i += 2;
    }
    sum
}

#[inline(always)]
const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}

#[inline(always)]
fn put<const LENGTH: usize>(into: &mut [u8; LENGTH], at: usize, bytes: [u8; 4]) {
    let mut i = 0;
    while i < 4 {
        into[at + i] = bytes[i];
        i += 1;
    }
}

#[inline(always)]
fn put16<const LENGTH: usize>(into: &mut [u8; LENGTH], at: usize, value: u16) {
    let bytes = value.to_ne_bytes();
    into[at] = bytes[0];
    into[at + 1] = bytes[1];
}

#[inline(always)]
fn load<const LENGTH: usize>(ctx: &TcContext, at: u32, into: &mut [u8; LENGTH]) -> Option<()> {
    // SAFETY: the context that the kernel gave; the helper checks where it reads.
    let failed =
        unsafe { bpf_skb_load_bytes(ctx.skb.skb.cast(), at, into.as_mut_ptr().cast(), LENGTH as u32) };
    (failed == 0).then_some(())
}

/// Makes the packet as long as the answer, and the answer out of it.
#[inline(always)]
fn write<const LENGTH: usize>(ctx: &TcContext, network: u32, answer: &[u8; LENGTH]) -> Option<()> {
    let skb = ctx.skb.skb;
    // SAFETY: as above.
    let failed = unsafe {
        bpf_skb_change_tail(skb, network + LENGTH as u32, 0) != 0
            || bpf_skb_store_bytes(skb, network, answer.as_ptr().cast(), LENGTH as u32, 0) != 0
    };
    (!failed).then_some(())
}

/// Exchanges the addresses of the Ethernet header.
#[inline(always)]
fn turn_around(ctx: &TcContext) -> Option<()> {
    let mut addresses = [0_u8; 12];
    load(ctx, 0, &mut addresses)?;
    let mut turned = [0_u8; 12];
    let mut i = 0;
    while i < 6 {
        turned[i] = addresses[i + 6];
        turned[i + 6] = addresses[i];
        i += 1;
    }
    // SAFETY: as above.
    let failed = unsafe { bpf_skb_store_bytes(ctx.skb.skb, 0, turned.as_ptr().cast(), 12, 0) };
    (failed == 0).then_some(())
}
