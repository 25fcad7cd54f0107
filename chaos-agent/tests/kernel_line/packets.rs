//! Packets in the line.

use chaos_agent::line::pool::Limits;
use chaos_agent::line::tap::dropped;
use fault_abi::ticket::TICKET;

use crate::support::{LIMITS, Line, MAGIC, NAME, boot_ns, frame, id, in_own_namespace, release_ns, ticket};
use crate::tag::{TAG, Tagger};
use crate::wire::Wire;

const MS: u64 = 1_000_000;

/// Late enough for a busy machine to have put everything in before.
fn later() -> u64 {
    2_000 * MS * fault_rig::slower()
}

#[test]
#[ignore = "kernel rung: needs root and /dev/net/tun"]
fn packets_leave_by_their_times_and_in_order_where_those_are_equal() {
    in_own_namespace(|| {
        let line = Line::new(LIMITS);
        let wire = Wire::new(NAME);
        let start = boot_ns() + later();
        // The first wait the longest; three at each time.
        let sent: Vec<(u64, u32)> =
            (0..1_500).map(|i| (start + u64::from(500 - i / 3) * MS / 10, i)).collect();
        for (at, i) in &sent {
            wire.put(&frame(*i, 60), *at);
        }
        let mut wanted = sent;
        wanted.sort_unstable();
        for (at, i) in wanted {
            let got = wire.receive(1).remove(0);
            let now = boot_ns();
            assert_eq!((release_ns(&got), id(&got)), (at, i), "{:?}", line.engine);
            assert!(now >= at, "{i} came {} ns early", at - now);
        }
        let stats = line.engine.stats();
        assert_eq!(
            (stats.in_packets.get(), stats.malformed.get(), stats.write_failures.get()),
            (1_500, 0, 0)
        );
        line.eventually(|engine| {
            let stats = engine.stats();
            stats.out_packets.get() == 1_500 && stats.held_packets.get() == 0 && stats.held_bytes.get() == 0
        });
        assert_eq!(stats.lateness.figures().count(), 1_500);
    });
}

#[test]
#[ignore = "kernel rung: needs root and /dev/net/tun"]
fn a_packet_waits_for_none_that_came_before_it() {
    in_own_namespace(|| {
        let line = Line::new(LIMITS);
        let wire = Wire::new(NAME);
        let hour = boot_ns() + 3_600_000 * MS;
        (0..100).for_each(|i| wire.put(&frame(i, 60), hour));
        for i in 100..200 {
            wire.put(&frame(i, 60), boot_ns() + MS);
            assert_eq!(id(&wire.receive(1)[0]), i);
        }
        line.eventually(|engine| engine.stats().held_packets.get() == 100);
        assert_eq!(line.engine.stats().held_bytes.get(), 6_000);
    });
}

#[test]
#[ignore = "kernel rung: needs root and /dev/net/tun"]
fn frames_of_any_length_come_out_whole_with_their_tickets_behind() {
    in_own_namespace(|| {
        let _line = Line::new(LIMITS);
        let wire = Wire::new(NAME);
        // Up to what a packet socket can send: the MTU and an Ethernet header.
        let longest = 65_535 - TICKET;
        for length in [18, 60, 1_514, 2_007, 2_008, 2_009, 4_056, 9_014, 40_000, longest - 1, longest] {
            let at = boot_ns() + MS;
            let frame = frame(u32::try_from(length).unwrap(), length);
            wire.put(&frame, at);
            let got = wire.receive(1).remove(0);
            assert!(got == [&frame[..], &ticket(at)].concat(), "{length} bytes came out as {}", got.len());
        }
    });
}

#[test]
#[ignore = "kernel rung: needs root and /dev/net/tun"]
fn a_vlan_tag_that_a_tcx_program_put_beside_the_frame_is_back_in_its_place() {
    in_own_namespace(|| {
        let line = Line::new(LIMITS);
        let wire = Wire::new(NAME);
        let tagger = Tagger::new(NAME);
        for length in [18, 60, 1_514, 9_014] {
            let at = boot_ns() + MS;
            let frame = frame(5, length);
            wire.put(&frame, at);
            let wanted = [&frame[..12], &TAG, &frame[12..], &ticket(at)].concat();
            assert!(wire.receive(1)[0] == wanted, "{length} bytes");
        }
        drop(tagger);
        let at = boot_ns();
        wire.put(&frame(6, 60), at);
        assert_eq!(wire.receive(1)[0], [&frame(6, 60)[..], &ticket(at)].concat());
        let stats = line.engine.stats();
        assert_eq!((stats.in_packets.get(), stats.malformed.get()), (5, 0));
        // The tag is part of the frame: four bytes each.
        assert_eq!(stats.in_bytes.get(), 22 + 64 + 1_518 + 9_018 + 60);
    });
}

#[test]
#[ignore = "kernel rung: needs root and /dev/net/tun"]
fn what_has_no_ticket_of_this_load_is_counted_and_goes_nowhere() {
    in_own_namespace(|| {
        let line = Line::new(LIMITS);
        let wire = Wire::new(NAME);
        wire.send(&frame(1, 60));
        wire.send(&[&(MAGIC ^ 1).to_ne_bytes()[..], &ticket(0)[8..], &frame(2, 60)].concat());
        wire.send(&[&MAGIC.to_ne_bytes()[..], &[0; 60]].concat());
        wire.send(&ticket(0));
        wire.put(&frame(3, 60), boot_ns());
        assert_eq!(id(&wire.receive(1)[0]), 3);
        let stats = line.engine.stats();
        // No more than those four: the kernel sends nothing of its own by this interface.
        assert_eq!((stats.malformed.get(), stats.in_packets.get()), (4, 1));
        assert_eq!(wire.next(), None);
    });
}

#[test]
#[ignore = "kernel rung: needs root and /dev/net/tun"]
fn what_does_not_fit_the_line_waits_in_the_queue_and_is_not_lost() {
    in_own_namespace(|| {
        let line = Line::new(Limits { packets: 10, bytes: 1_000 });
        let wire = Wire::new(NAME);
        let at = boot_ns() + later();
        (0..100).for_each(|i| wire.put(&frame(i, 60), at));
        let all = wire.receive(100);
        assert!(all.iter().map(|got| id(got)).eq(0..100));
        assert!(line.engine.stats().full.get() > 0);
        assert_eq!(dropped(NAME).unwrap(), 0);
    });
}
