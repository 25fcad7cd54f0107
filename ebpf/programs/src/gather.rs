//! What is decided by about one packet at one hook, read off the packet and written into `SCRATCH`.

use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use fault_abi::decide;
use fault_abi::key::{Address, Direction};
use fault_abi::line::passes_whole;
use fault_abi::packet::{self, Link, Transport};
use fault_abi::pass::Stage;

use crate::entry::find;
use crate::frame::{Forgetful, Linear};
use crate::maps::{CONFIG, LATER_FRAGMENT, MALFORMED, RESET, SCRATCH, TOO_BIG};

/// How a packet came to a hook, beside its bytes.
#[derive(Clone, Copy)]
pub struct Arrival {
    /// Which way it goes.
    pub direction: Direction,
    /// What is decided here.
    pub stage: Stage,
}

/// Notes when a packet has come to this hook, and where the splitter is, seen from there: `SPLITTER_AHEAD`, `SPLITTER_BEHIND`, or 0
/// where there is none. To be called first: what is done with a packet takes time, and where the splitter is is remembered where the
/// verifier forgets it, which would else walk all that follows once for each.
#[inline(always)]
pub fn note_arrival(splitter: u32) {
    if let Some(scratch) = SCRATCH.get_ptr_mut(0) {
        // SAFETY: this CPU's own memory; a helper without arguments.
        unsafe {
            (&raw mut (*scratch).now_ns).write_volatile(bpf_ktime_get_boot_ns());
            (&raw mut (*scratch).splitter).write_volatile(splitter);
        }
    }
}

/// Whether profiles act on this address, alone or as part of a CIDR.
#[inline(always)]
pub fn is_target(address: &Address) -> bool {
    CONFIG.get(0).is_some_and(|config| find(address, config).is_some())
}

/// Writes into `SCRATCH` what is decided by about a packet whose IP header is where `link` says; `false`: it cannot be read.
/// `measure` says the packet's length and, of a super-packet, that of its segments' payload, else 0.
#[inline(always)]
pub fn gather(frame: &Linear, link: Link, arrival: Arrival, measure: impl FnOnce() -> (u64, u32)) -> bool {
    let Some(target) = packet::target(frame, link, arrival.direction) else { return false };
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return false };
    let transport = packet::transport(&Forgetful::new(frame, scratch), link);
    let direction = arrival.direction;
    let peer = packet::peer(frame, link, direction).unwrap_or_default();
    let (target_port, peer_port) = transport.ports(direction);
    let network = match link {
        Link::Ipv4(offset) | Link::Ipv6(offset) => offset as u32,
        Link::Other => 0,
    };
    let (bytes, segment) = measure();
    let is_whole = segment != 0 && passes_whole(bytes, network);
    let (packets, headers) = if is_whole { parts(frame, &transport, bytes, segment) } else { (1, 0) };
    let later = if transport.is_later_fragment { LATER_FRAGMENT } else { 0 };
    let too_big = if transport.is_too_big { TOO_BIG } else { 0 };
    let reset = if transport.is_reset { RESET } else { 0 };
    let malformed = if transport.malformed { MALFORMED } else { 0 };
    // SAFETY: this CPU's own memory; volatile, so that it is really written, and below really read again: the verifier
    // would else walk all that follows once for each way on which the values came about.
    unsafe {
        // Field by field: as a whole it would take the stack's room first.
        let packet = &raw mut (*scratch).packet;
        (&raw mut (*packet).direction).write_volatile(direction);
        let mut i = 0;
        while i < 4 {
            (&raw mut (*packet).target.words[i]).write_volatile(target.words[i]);
            (&raw mut (*packet).peer.words[i]).write_volatile(peer.words[i]);
            i += 1;
        }
        (&raw mut (*packet).protocol).write_volatile(transport.protocol);
        (&raw mut (*packet).has_ports).write_volatile(transport.has_ports);
        (&raw mut (*packet).target_port).write_volatile(target_port);
        (&raw mut (*packet).peer_port).write_volatile(peer_port);
        (&raw mut (*packet).bytes).write_volatile(bytes);
        (&raw mut (*packet).gso).write_volatile(segment != 0);
        (&raw mut (*packet).packets).write_volatile(packets);
        (&raw mut (*packet).headers).write_volatile(headers);
        (&raw mut (*scratch).network).write_volatile(network);
        (&raw mut (*scratch).payload).write_volatile(transport.payload as u32);
        (&raw mut (*scratch).end).write_volatile(transport.end as u32);
        let notes = transport.icmp_type as u32 | later | reset | too_big | malformed;
        (&raw mut (*scratch).notes).write_volatile(notes);
        (&raw mut (*scratch).stage).write_volatile(arrival.stage as u32);
    }
    true
}

/// How many packets on the wire a super-packet is and how long the headers of each are; (1, 0) where that is not known. Of what is no
/// TCP it is not, since it may carry another packet with headers of its own.
#[inline(always)]
fn parts(frame: &Linear, transport: &Transport, bytes: u64, segment: u32) -> (u32, u32) {
    match packet::headers_of_tcp(frame, transport) {
        Some(headers) => (decide::segments(bytes as u32, headers as u32, segment), headers as u32),
        None => (1, 0),
    }
}
