//! The delay line and the splitter as the programs see them.

use crate::packet::ETHERNET;

/// Array of one: what there is, and how much the line may hold. All zero: nothing of it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Line {
    /// A random number of this load, never 0: the first half of [`Ticket::magic`](crate::ticket::Ticket::magic) and the
    /// mark of ours in `skb->cb`.
    pub magic: u64,
    /// Index of the device that leads into the delay line; 0: there is none.
    pub entry: u32,
    /// Index of the device that leads into the splitter; 0: there is none.
    pub splitter: u32,
    /// Packets in the line at most; this and the next three are below 2^63 − 1, since counts are compared as signed.
    pub packets: u64,
    /// Bytes in the line at most.
    pub bytes: u64,
    /// Packets of one target (under one profile) at most.
    pub target_packets: u64,
    /// Bytes of one target at most.
    pub target_bytes: u64,
    /// `LINE_*`.
    pub flags: u64,
}

/// [`Line::flags`]: the engine is `fq`. Packets go in as clones with a number, and `line_start` is at [`Line::entry`].
pub const LINE_IS_FQ: u64 = 1;

/// No packet is held longer, in nanoseconds; profiles ask for a minute at most.
pub const LONGEST_STAY_NS: u64 = 70_000_000_000;

/// How much is in the line now, changed atomically.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Packets.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The engine is taken for stopped when its last sign of life is this old.
pub const STALLED_NS: u64 = 500_000_000;

/// The sign of an engine that is the kernel itself: always fresh.
pub const KERNEL_LIVES: u64 = u64::MAX;

/// Whether the engine lives, by its last sign of life (CLOCK_BOOTTIME; 0: none yet).
#[inline(always)]
#[must_use]
pub const fn is_alive(sign_ns: u64, now_ns: u64) -> bool {
    sign_ns != 0 && now_ns < sign_ns.saturating_add(STALLED_NS)
}

/// How much longer a packet is in the line than at its hook, by where its IP header begins there: where it has no Ethernet header it
/// gets one.
#[inline(always)]
#[must_use]
pub const fn bytes_before(network: u32) -> u64 {
    if network == 0 { ETHERNET as u64 } else { 0 }
}

/// A super-packet that is longer than this the kernel takes apart on its way through the line, where only one of the parts has a ticket:
/// one of as many bytes as an interface's `gso_max_size` (65,536 by default: `GSO_LEGACY_MAX_SIZE` of linux/netdevice.h), which
/// `gso_features_check` of net/core/dev.c compares with all of it, headers included.
const MOST_WHOLE: u64 = 65_535;

/// Whether the line takes a super-packet of so many bytes at its hook as it is. `network`: as for [`bytes_before`].
///
/// VLAN tags make no difference: that the kernel takes packets with two of them apart (`vlan_features_check`) does not hold for a
/// veth, which has a check of its own (`passthru_features_check`).
#[inline(always)]
#[must_use]
pub const fn passes_whole(bytes: u64, network: u32) -> bool {
    bytes + bytes_before(network) <= MOST_WHOLE
}

#[cfg(feature = "user")]
mod user {
    use super::{Held, Line};

    // SAFETY: `repr(C)`, integers only, no padding (tests/layout.rs), every bit pattern valid.
    unsafe impl aya::Pod for Line {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Held {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_lives_until_its_last_sign_is_half_a_second_old() {
        let sign = 7_000_000_000;
        for (now, lives) in [
            (sign, true),
            (sign + 499_999_999, true),
            (sign + 500_000_000, false),
            (sign + 500_000_001, false),
            (u64::MAX, false),
        ] {
            assert_eq!(is_alive(sign, now), lives, "{} ns after its sign", now - sign);
        }
        assert!(is_alive(sign, sign - 1), "a sign that came while the packet was on its way");
    }

    #[test]
    fn an_engine_that_has_given_no_sign_yet_does_not_live() {
        for now in [0, 1, STALLED_NS - 1, STALLED_NS] {
            assert!(!is_alive(0, now), "{now} ns after the machine was booted");
        }
    }

    #[test]
    fn the_kernel_is_an_engine_that_always_lives() {
        for now in [0, 1, u64::MAX - STALLED_NS, u64::MAX - 1] {
            assert!(is_alive(KERNEL_LIVES, now), "at {now}");
        }
    }

    #[test]
    fn the_ethernet_header_that_a_packet_gets_for_the_line_counts_for_what_passes_it_whole() {
        for network in [14, 18, 22] {
            assert!(passes_whole(65_535, network) && !passes_whole(65_536, network));
        }
        assert!(passes_whole(65_521, 0));
        assert!((65_522..=65_535).all(|bytes| !passes_whole(bytes, 0)));
    }
}
