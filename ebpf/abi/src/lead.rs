//! How much before its time the engine `fq` sends a packet off, so that it is back at its hook at its time and not later: the
//! kernel's timer, the queue and the way through the line's far end take some microseconds, which the programs measure by each packet.
//!
//! What is subtracted is the least of that, so that no packet is early: one that is slower than the fastest is late by the difference.

/// So many packets are looked at before the least of them counts.
pub const WINDOW: u64 = 64;
/// By so much the lead grows with a packet at most, in nanoseconds: less than a packet takes, so that none overtakes the one before it
/// that was sent off by a smaller lead.
pub const STEP_NS: u64 = 256;
/// The lead is at most this, in nanoseconds: what takes longer is a machine that is busy, not the way.
pub const MOST_NS: u64 = 50_000;

/// Array of one. The CPUs change it without a lock: what one writes may be lost, and each value that is ever in it was right once.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lead {
    /// How much before its time a packet is sent off, in nanoseconds.
    pub ns: u64,
    /// What that grows to.
    pub goal_ns: u64,
    /// The least that one took of those looked at now.
    pub least_ns: u64,
    /// How many are looked at now.
    pub seen: u64,
}

impl Lead {
    /// Behind a packet that took so long from its departure on. One that was not held teaches nothing: its departure was over when
    /// it came to the queue, by more the larger the lead is, so that the lead would grow with itself.
    #[inline(always)]
    #[must_use]
    pub const fn after(self, took_ns: u64, was_held: bool) -> Self {
        if !was_held {
            return self;
        }
        let least_ns = if self.seen == 0 { took_ns } else { lesser(self.least_ns, took_ns) };
        let is_over = self.seen + 1 >= WINDOW;
        let goal_ns = lesser(if is_over { lesser(least_ns, MOST_NS) } else { self.goal_ns }, took_ns);
        Self {
            ns: lesser(self.ns + STEP_NS, goal_ns),
            goal_ns,
            least_ns,
            seen: if is_over { 0 } else { self.seen + 1 },
        }
    }
}

#[inline(always)]
const fn lesser(one: u64, other: u64) -> u64 {
    if one < other { one } else { other }
}

#[cfg(feature = "user")]
mod user {
    use super::Lead;

    // SAFETY: `repr(C)`, integers only, no padding (tests/layout.rs), every bit pattern valid.
    unsafe impl aya::Pod for Lead {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn behind(lead: Lead, packets: u64, took: impl Fn(u64) -> u64) -> Lead {
        (0..packets).fold(lead, |lead, number| lead.after(took(number), true))
    }

    #[test]
    fn the_lead_becomes_what_the_fastest_packet_takes() {
        let varied = |number: u64| 8_000 + number * 7_919 % 30_000;
        assert_eq!(behind(Lead::default(), WINDOW - 1, varied).ns, 0, "too few to know");
        let learnt = behind(Lead::default(), 10 * WINDOW, varied);
        let fastest = (9 * WINDOW..10 * WINDOW).map(varied).min().unwrap();
        assert!((8_000..=fastest).contains(&learnt.goal_ns), "{learnt:?}");
    }

    #[test]
    fn a_faster_packet_lowers_it_at_once_and_it_grows_by_less_than_a_packet_takes() {
        let learnt = behind(Lead::default(), 4 * WINDOW, |_| 8_000);
        assert_eq!(learnt.ns, 8_000);
        let lowered = learnt.after(5_000, true);
        assert_eq!(lowered.ns, 5_000);
        let mut last = lowered;
        for number in 0..4 * WINDOW {
            let next = last.after(8_000, true);
            assert!(next.ns <= last.ns + STEP_NS, "packet {number}");
            last = next;
        }
        assert_eq!(last.ns, 8_000, "and comes back");
    }

    #[test]
    fn the_lead_is_never_more_than_the_last_packet_took_nor_than_is_plausible() {
        let slow = behind(Lead::default(), 100 * WINDOW, |_| 3_000_000);
        assert_eq!(slow.ns, MOST_NS);
        let mut lead = Lead::default();
        for number in 0..20 * WINDOW {
            let took = 4_000 + number * number * 31 % 9_000;
            lead = lead.after(took, true);
            assert!(lead.ns <= took, "packet {number}");
        }
    }
    /// Nanoseconds to the beginning of the queue, and from its end to the line's far end.
    const WAY: [u64; 2] = [2_000, 6_000];

    /// A packet through a line with this lead; returns the next, and by how much it was early.
    fn through(lead: Lead, delay_ns: u64) -> (Lead, u64) {
        let departure = delay_ns.saturating_sub(lead.ns);
        let (came, left) = (WAY[0], departure.max(WAY[0]) + WAY[1]);
        (lead.after(left - departure, came < departure), delay_ns.saturating_sub(left))
    }

    #[test]
    fn packets_with_delays_shorter_than_the_way_make_no_other_packet_early() {
        for short in [0, 1_000, 3_000, 7_000, 9_000] {
            let mut lead = Lead::default();
            for number in 0..100 * WINDOW {
                let (next, early) = through(lead, if number % 500 == 499 { 5_000_000 } else { short });
                assert_eq!(early, 0, "packet {number} among such with {short} ns");
                lead = next;
            }
            assert!(lead.ns <= WAY[1], "{lead:?} among such with {short} ns");
        }
    }
}
