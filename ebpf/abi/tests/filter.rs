//! The filter: what it was told of it never denies, and it knows little else.

use std::net::{IpAddr, Ipv4Addr};

use fault_abi::filter::{Filter, Spot};
use fault_abi::key::{Address, Direction};
use fault_abi::packet;
use proptest::prelude::*;

/// An address of a few neighbours, of either family, or of IPv4 as IPv6 writes it.
fn address() -> impl Strategy<Value = IpAddr> {
    let (v4, v6) = (any::<u32>(), any::<u128>());
    prop_oneof![
        v4.prop_map(|bits| IpAddr::V4(bits.into())),
        (0..1_000_u32).prop_map(|host| IpAddr::V4((0x0a14_0000 + host).into())),
        v6.prop_map(|bits| IpAddr::V6(bits.into())),
        (0..1_000_u128).prop_map(|host| IpAddr::V6((0xfd00_0020_u128 << 96 | host).into())),
        any::<[u8; 4]>().prop_map(|octets| IpAddr::V6(Ipv4Addr::from(octets).to_ipv6_mapped())),
    ]
}

/// The beginning of a packet from `source` to `destination`, behind `tags` VLAN tags.
fn frame(source: IpAddr, destination: IpAddr, tags: usize) -> Vec<u8> {
    let mut frame = vec![0; 12];
    for _ in 0..tags {
        frame.extend([0x81, 0x00, 0x00, 0x07]);
    }
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            frame.extend([0x08, 0x00, 0x45]);
            frame.extend([0; 11]);
            frame.extend([source.octets(), destination.octets()].concat());
        }
        (source, destination) => {
            let wide = |ip: IpAddr| match ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
                IpAddr::V6(ip) => ip.octets(),
            };
            frame.extend([0x86, 0xdd, 0x60]);
            frame.extend([0; 7]);
            frame.extend([wide(source), wide(destination)].concat());
        }
    }
    frame
}

proptest! {
    #[test]
    fn what_was_added_is_known_whatever_else_is(all in proptest::collection::vec(address(), 1..50)) {
        let mut filter = Filter::NONE;
        for ip in &all {
            filter.add(&Address::from(*ip));
        }
        let later = Filter::NONE.or(&filter);
        prop_assert!(all.iter().all(|ip| filter.may_have(&Address::from(*ip)) && later.may_have(&Address::from(*ip))));
    }

    #[test]
    fn a_packet_is_looked_for_where_its_target_was_put(a in address(), b in address(), tags in 0_usize..4) {
        let frame = frame(a, b, tags);
        let link = packet::link(&frame[..]);
        for direction in Direction::ALL {
            let target = packet::target(&frame[..], link, direction);
            let spot = packet::spot(&frame[..], link, direction);
            prop_assert_eq!(spot, target.map(|target| Spot::of(&target)));
            let plain = packet::plain_spot(&frame[..], direction);
            prop_assert!(plain.is_none() || plain == spot, "{:?} and {:?}", plain, spot);
            prop_assert_eq!(plain.is_some(), tags == 0 && frame[12] == 8);
        }
    }

    #[test]
    fn of_what_is_cut_off_nothing_is_made_up(a in address(), b in address(), tags in 0_usize..3, kept in 0_usize..70) {
        let whole = frame(a, b, tags);
        let cut = &whole[..kept.min(whole.len())];
        for direction in Direction::ALL {
            let target = packet::target(cut, packet::link(cut), direction);
            prop_assert_eq!(packet::spot(cut, packet::link(cut), direction).is_some(), target.is_some());
            prop_assert!(packet::plain_spot(cut, direction).is_none() || target.is_some());
        }
    }
}

#[test]
fn of_strangers_few_are_looked_up_in_vain() {
    for (targets, most) in [(1_000, 0.01), (65_536, 0.25)] {
        let mut filter = Filter::NONE;
        for host in 0..targets {
            filter.add(&Ipv4Addr::from(0x0a80_0000 + host).into());
            filter.add(&IpAddr::V6((0xfd00_0020_u128 << 96 | u128::from(host)).into()).into());
        }
        // Both families together: twice as many.
        let strangers = (0..100_000_u32).map(|host| Ipv4Addr::from(0x0b00_0000 + host * 7).into());
        let others =
            (0..100_000_u128).map(|host| IpAddr::V6(((0x2001_0db8_u128 << 96) | (host * 7)).into()).into());
        let found = strangers.chain(others).filter(|address| filter.may_have(address)).count();
        let share = f64::from(u32::try_from(found).unwrap()) / 200_000.0;
        assert!(share <= 2.0 * most, "{share} of strangers with {targets} targets");
    }
}
