use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn duration(text: &str) -> Option<Duration> {
    DurationString::new(text).parse().ok()
}

fn ppm(text: &str) -> Option<u32> {
    Percent::new(text).parse().ok().map(Share::ppm)
}

fn ports(text: &str) -> Option<RangeInclusive<u16>> {
    PortRange::new(text).parse().ok()
}

fn network(text: &str) -> Option<Network> {
    Cidr::new(text).parse().ok()
}

#[test]
fn durations_are_read_as_kubernetes_users_write_them() {
    for (text, nanos) in [
        ("80ms", 80_000_000),
        ("1.5s", 1_500_000_000),
        ("10m", 600_000_000_000),
        ("1h30m", 5_400_000_000_000),
        ("0.5us", 500),
        ("0s", 0),
        ("0.000000001s", 1),
    ] {
        assert_eq!(duration(text), Some(Duration::from_nanos(nanos)), "{text}");
    }
    for text in
        ["", "10", "s", "10 s", "-1s", "+1s", "1.s", ".5s", "1d", "1S", "1e3s", "99999999999h", "1.2.3s"]
    {
        assert_eq!(duration(text), None, "{text}");
    }
}

#[test]
fn a_duration_is_written_in_the_unit_that_fits() {
    for (nanos, text) in [
        (0, "0us"),
        (500, "0.5us"),
        (12_000, "12us"),
        (999_999, "999.999us"),
        (1_000_000, "1ms"),
        (1_000_001, "1.000001ms"),
        (1_500_000_000, "1.5s"),
        (100_000_000_000, "100s"),
    ] {
        assert_eq!(DurationString::from(Duration::from_nanos(nanos)).as_str(), text);
    }
}

#[test]
fn percentages_are_exact_to_a_millionth() {
    for (text, parts) in [
        ("0%", 0),
        ("12.5%", 125_000),
        ("0.0001%", 1),
        ("100%", 1_000_000),
        ("100.0000%", 1_000_000),
        ("00%", 0),
    ] {
        assert_eq!(ppm(text), Some(parts), "{text}");
    }
    for text in
        ["", "%", "20", "0.2", "-1%", "+1%", "100.0001%", "101%", "0.00001%", "1.%", ".5%", "1e1%", "20 %"]
    {
        assert_eq!(ppm(text), None, "{text}");
    }
}

#[test]
fn ports_are_single_or_a_range_from_low_to_high() {
    assert_eq!(ports("5683"), Some(5683..=5683));
    assert_eq!(ports("7000-7100"), Some(7000..=7100));
    assert_eq!(ports("1-65535"), Some(1..=65535));
    for text in ["", "0", "65536", "7100-7000", "7000-", "-7000", "1-2-3", "+1", "01", "coap", "1 - 2"] {
        assert_eq!(ports(text), None, "{text}");
    }
}

#[test]
fn networks_have_no_bits_behind_their_prefix() {
    for text in ["192.168.50.0/24", "0.0.0.0/0", "10.0.0.1/32", "2001:db8::/64", "::/0", "2001:db8::1/128"] {
        assert_eq!(network(text).map(|network| network.to_string()).as_deref(), Some(text));
    }
    for text in ["", "10.0.0.1", "10.0.0.1/24", "10.0.0.0/33", "::1/64", "10.0.0.0/08", "10.0.0.0/+8", "x/8"]
    {
        assert_eq!(network(text), None, "{text}");
    }
}

#[test]
fn networks_know_what_they_contain_and_overlap() {
    let [wide, narrow, other, v6] =
        ["10.0.0.0/8", "10.20.0.0/16", "192.168.0.0/16", "::/0"].map(|text| network(text).unwrap());
    let address: IpAddr = "10.20.0.17".parse().unwrap();
    assert!(wide.contains(address) && narrow.contains(address) && !other.contains(address));
    assert!(!v6.contains(address), "an IPv6 network has no IPv4 addresses");
    assert!(wide.covers(narrow) && !narrow.covers(wide) && wide.covers(wide));
    assert!(wide.overlaps(narrow) && narrow.overlaps(wide) && !wide.overlaps(other) && !wide.overlaps(v6));
    assert!(Network::host(address).is_host() && !wide.is_host());
}

#[test]
fn an_error_says_what_to_write() {
    let error = DurationString::new("10").parse().unwrap_err().to_string();
    assert_eq!(
        error,
        "\"10\" is no duration: write a number and a unit, such as \"80ms\", \"1.5s\" or \"10m\""
    );
}

proptest! {
    /// What the API server's pattern lets through, the parser understands: agents never meet a text they cannot read.
    #[test]
    fn every_duration_that_the_api_server_accepts_is_understood(
        text in "([0-9]{1,6}([.][0-9]{1,6})?(us|ms|s|m|h)){1,3}"
    ) {
        prop_assert!(text.len() > 16 || duration(&text).is_some(), "{text}");
    }

    #[test]
    fn every_percentage_that_the_api_server_accepts_is_understood(
        text in "(100([.]0{1,4})?|[0-9]{1,2}([.][0-9]{1,4})?)%"
    ) {
        prop_assert!(ppm(&text).is_some(), "{text}");
    }

    #[test]
    fn every_range_of_ports_is_understood(first in 1u16.., length in 0u16..) {
        let last = first.saturating_add(length);
        prop_assert_eq!(ports(&format!("{first}-{last}")), Some(first..=last));
    }

    #[test]
    fn milliseconds_survive(millis in 0u64..1_000_000) {
        prop_assert_eq!(duration(&format!("{millis}ms")), Some(Duration::from_millis(millis)));
    }

    #[test]
    fn a_duration_that_is_written_is_read_again(nanos in 0u64..=60_000_000_000) {
        let (duration, text) = (Duration::from_nanos(nanos), DurationString::from(Duration::from_nanos(nanos)));
        prop_assert!(text.as_str().len() <= 16, "{}", text);
        let read = text.parse().unwrap();
        let lost = if nanos < 1_000_000_000 { Duration::ZERO } else { Duration::from_nanos(nanos % 1_000) };
        prop_assert_eq!(read + lost, duration, "{}", text);
    }

    #[test]
    fn any_text_is_read_or_refused_and_never_a_panic(text in ".{0,40}") {
        let _ = (duration(&text), ppm(&text), ports(&text), network(&text));
    }

    #[test]
    fn a_network_contains_exactly_the_addresses_with_its_prefix(bits: u32, other: u32, prefix in 0u8..=32) {
        let mask = if prefix == 0 { 0 } else { u32::MAX << (32 - prefix) };
        let network = Network::new(IpAddr::V4((bits & mask).into()), prefix).unwrap();
        prop_assert_eq!(network.contains(IpAddr::V4(other.into())), bits & mask == other & mask);
    }

    #[test]
    fn a_share_is_rounded_up_and_never_more_than_all(parts in 0u32..=1_000_000, total in 0usize..100_000) {
        let chosen = Share::from_ppm(parts).unwrap().of_rounded_up(total);
        prop_assert!(chosen <= total);
        prop_assert!(chosen as u128 * 1_000_000 >= total as u128 * u128::from(parts));
        prop_assert!(chosen == 0 || (chosen as u128 - 1) * 1_000_000 < total as u128 * u128::from(parts));
    }
}
