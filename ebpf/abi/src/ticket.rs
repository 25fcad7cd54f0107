//! What a packet carries through the delay line: where it goes on, and when.
//!
//! Into the line it stands before the frame, since what the kernel knows of a packet beside its bytes does not survive
//! a TAP; out of the line it stands behind the frame, where it is cut off without moving anything:
//!
//! ```text
//! hook ──[Ticket][Ethernet frame]──▶ TAP ──▶ engine ──[Ethernet frame][Ticket]──▶ TAP ──▶ far end ──▶ interface
//! ```
//!
//! Through the line of the engine `fq`, a veth pair, packets go as they are: what the kernel knows of one goes along. There its
//! `skb->mark` is a number, and the table `TICKETS` has its ticket under that. (A ticket behind the frame was tried. The
//! packet's memory grows by it, which receivers count against their buffers: TCP with a window of 64 KiB got less than half of
//! what it gets without.)
//!
//! Where the kernel keeps a packet's VLAN tag beside the frame, a TAP puts it behind the first 12 bytes of what it hands
//! out. Those are not the frame's here but the ticket's; [`GUARD`] stands behind them, so that a tag is told apart.

/// [`Ticket::guard`]: the first two bytes are no VLAN tag's (IEEE 802.1Q: 0x8100, 0x88a8).
pub const GUARD: u32 = u32::from_ne_bytes([0xff, 0xff, 0xed, 0x0d]);

/// [`Ticket::flags`]: the packet goes on as one that came in by the interface; else as one that goes out.
pub const TICKET_INGRESS: u32 = 1;
/// [`Ticket::flags`]: from this bit on they are how many bytes have been counted into the line. A tag may go from the frame
/// to beside it on the way, so that its length does not tell.
pub const TICKET_BYTES: u32 = 8;

/// [`Ticket::flags`]: no packet, but the agent's word that some were lost in the line: so many as
/// [`Ticket::interface`] says, and as many bytes as [`Ticket::release_ns`] does (both signed), are counted out of the line
/// and of [`Ticket::state`].
pub const TICKET_SETTLES: u32 = 2;

/// A packet's way out of the line.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ticket {
    /// A random number of this load, so that nobody else's frames go anywhere.
    pub magic: u64,
    /// Index of the interface that it goes on at.
    pub interface: u32,
    /// Always [`GUARD`].
    pub guard: u32,
    /// When it leaves the line: CLOCK_BOOTTIME in nanoseconds.
    pub release_ns: u64,
    /// The state slot that has counted it into the line.
    pub state: u32,
    /// Its `skb->mark`.
    pub mark: u32,
    /// Its `skb->priority`.
    pub priority: u32,
    /// `TICKET_*`.
    pub flags: u32,
}

impl Ticket {
    /// How many bytes have been counted into the line.
    #[inline(always)]
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        (self.flags >> TICKET_BYTES) as u64
    }
}

/// What the programs know of a packet in the line of the engine `fq`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Queued {
    /// Its way out.
    pub ticket: Ticket,
    /// How much before its time it is sent off, in nanoseconds: see [`Lead`](crate::lead::Lead).
    pub lead_ns: u64,
}

impl Queued {
    /// When the queue lets it go, if it came before that.
    #[inline(always)]
    #[must_use]
    pub const fn departure_ns(&self) -> u64 {
        self.ticket.release_ns.saturating_sub(self.lead_ns)
    }
}

/// Length of a ticket, in bytes.
pub const TICKET: usize = size_of::<Ticket>();

#[cfg(feature = "user")]
mod user {
    use super::{Queued, Ticket};

    // SAFETY: `repr(C)`, integers only, no padding (tests/layout.rs), every bit pattern valid.
    unsafe impl aya::Pod for Ticket {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Queued {}
}
