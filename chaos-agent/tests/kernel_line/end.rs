//! The line's beginning, its heartbeat and its end.

use chaos_agent::line::tap::{MTU, dropped};
use nix::net::if_::if_nametoindex;

use crate::support::{
    LIMITS, Line, NAME, boot_ns, eventually, frame, give_up_the_right_to_make_interfaces, id,
    in_own_namespace, ip, tap,
};
use crate::wire::Wire;

const SECOND: u64 = 1_000_000_000;

#[test]
#[ignore = "kernel rung: needs root and /dev/net/tun"]
fn a_tap_is_up_silent_without_offloads_and_goes_with_its_owner() {
    in_own_namespace(|| {
        let tap = tap(1_234).unwrap();
        assert_eq!(if_nametoindex(NAME), Ok(tap.index()));
        let shown = ip(&format!("-details link show {NAME}"));
        for part in [&format!("mtu {MTU} "), "NOARP", "UP", "qlen 1234", "addrgenmode none", "persist off"] {
            assert!(shown.contains(part), "{part} in {shown}");
        }
        assert!(!shown.contains("MULTICAST"), "{shown}");
        assert_eq!(ip(&format!("addr show dev {NAME}")).matches("inet").count(), 0);
        drop(tap);
        assert!(if_nametoindex(NAME).is_err());
    });
}

#[test]
#[ignore = "kernel rung: needs root and /dev/net/tun"]
fn a_taken_name_is_refused_with_who_has_it() {
    in_own_namespace(|| {
        let first = tap(100).unwrap();
        let said = tap(100).unwrap_err().to_string();
        let own = format!("held by process {} (", std::process::id());
        assert!(said.contains(&own) && said.contains(NAME), "{said}");
        drop(first);
        ip(&format!("link add {NAME} type veth peer name edo-peer"));
        let said = tap(100).unwrap_err().to_string();
        assert!(said.contains("held by no process") && said.contains("remove the interface"), "{said}");
    });
}

#[test]
#[ignore = "kernel rung: needs root and /dev/net/tun"]
fn frames_beyond_the_queue_are_counted_as_dropped() {
    in_own_namespace(|| {
        let _tap = tap(10).unwrap();
        let wire = Wire::new(NAME);
        (0..25).for_each(|i| wire.put(&frame(i, 60), 0));
        assert_eq!(dropped(NAME).unwrap(), 15);
    });
}

#[test]
#[ignore = "kernel rung: needs root and /dev/net/tun"]
fn stopping_lets_everything_go_in_order_and_only_then_removes_the_tap() {
    in_own_namespace(|| {
        let line = Line::new(LIMITS);
        let wire = Wire::new(NAME);
        let ahead = boot_ns() + 60 * SECOND;
        // Every other one is due long since.
        for i in 0..500 {
            wire.put(&frame(i, 60), u64::from(i) + if i % 2 == 1 { 0 } else { ahead });
        }
        line.engine.stop().unwrap();
        let all = wire.receive(500);
        let order: Vec<u32> = all.iter().map(|got| id(got)).collect();
        let (past, ahead): (Vec<u32>, Vec<u32>) = order.iter().partition(|i| *i % 2 == 1);
        assert!(past.iter().is_sorted() && ahead.iter().is_sorted(), "{order:?}");
        assert_eq!((past.len(), ahead.len()), (250, 250));
        assert!(if_nametoindex(NAME).is_err());
    });
}

#[test]
#[ignore = "kernel rung: needs root and /dev/net/tun"]
fn an_idle_engine_renews_its_heartbeat_and_a_stopped_one_does_not() {
    in_own_namespace(|| {
        let before = boot_ns();
        let line = Line::new(LIMITS);
        line.eventually(|_| line.beats.lock().unwrap().len() >= 4);
        line.engine.stop().unwrap();
        let beats = line.beats.lock().unwrap();
        assert!(beats[0] >= before && *beats.last().unwrap() <= boot_ns());
        assert!(beats.windows(2).all(|two| two[1] - two[0] >= 100_000_000), "{beats:?}");
    });
}

#[test]
#[ignore = "kernel rung: needs root and /dev/net/tun"]
fn an_engine_whose_tap_somebody_removes_ends_and_says_so() {
    in_own_namespace(|| {
        let line = Line::new(LIMITS);
        Wire::new(NAME).put(&frame(1, 60), boot_ns() + 60 * SECOND);
        line.eventually(|engine| engine.stats().held_packets.get() == 1);
        ip(&format!("link del {NAME}"));
        eventually(|| !line.engine.is_running(), || format!("{:?}", line.engine));
        let said = line.engine.stop().unwrap_err().to_string();
        assert!(said.contains("TAP"), "{said}");
    });
}

#[test]
#[ignore = "kernel rung: needs root and /dev/net/tun"]
fn without_the_capability_the_refusal_names_it() {
    in_own_namespace(|| {
        give_up_the_right_to_make_interfaces();
        let said = tap(100).unwrap_err().to_string();
        assert!(said.contains("CAP_NET_ADMIN is missing") && said.contains("Add NET_ADMIN"), "{said}");
    });
}
