use proptest::prelude::*;
use serde_json::json;

use super::*;

fn rate(text: &str) -> Option<u64> {
    BitRate::new(text).parse().ok()
}

fn size(text: &str) -> Option<u64> {
    ByteSize::new(text).parse().ok()
}

#[test]
fn rates_are_exact_bits_a_second() {
    for (text, bits) in [
        ("256k", 256_000),
        ("1k", 1_000),
        ("1000", 1_000),
        ("1.001k", 1_001),
        ("1.5M", 1_500_000),
        ("0.001M", 1_000),
        ("1G", 1_000_000_000),
        ("100G", 100_000_000_000),
        ("100000000000", 100_000_000_000),
    ] {
        assert_eq!(rate(text), Some(bits), "{text}");
    }
    for text in [
        "",
        "k",
        "999",
        "0.999k",
        "1.0001k",
        "1000.5",
        "101G",
        "100.001G",
        "256K",
        "256Ki",
        "256kbit",
        "-1M",
        "+1M",
        "1e6",
        "1.M",
        ".5M",
        "1 M",
        "1T",
        "99999999999999999999",
    ] {
        assert_eq!(rate(text), None, "{text}");
    }
}

#[test]
fn sizes_are_exact_bytes() {
    for (text, bytes) in [("0", 0), ("1600", 1_600), ("16Ki", 16_384), ("16Mi", 16_777_216)] {
        assert_eq!(size(text), Some(bytes), "{text}");
    }
    for text in
        ["", "Ki", "16K", "16k", "16KiB", "1.5Ki", "-1", "+1", "1Gi", "16 Ki", "18446744073709551615Ki"]
    {
        assert_eq!(size(text), None, "{text}");
    }
}

#[test]
fn a_bare_number_is_kept_as_its_text() {
    let rate: BitRate = serde_json::from_value(json!(100_000_000_000_u64)).unwrap();
    assert_eq!(rate, BitRate::new("100000000000"));
    let size: ByteSize = serde_json::from_value(json!(1600)).unwrap();
    assert_eq!((size.parse(), serde_json::to_value(&size).unwrap()), (Ok(1_600), json!("1600")));
    assert!(serde_json::from_value::<BitRate>(json!(0.5)).is_err());
    assert!(serde_json::from_value::<BitRate>(json!(-1)).is_err());
}

proptest! {
    /// What the API server's pattern lets through, the parser understands.
    #[test]
    fn every_rate_that_the_api_server_accepts_is_understood(
        text in "([0-9]{4,11}|[0-9]{1,2}([.][0-9]{1,3})?[kMG])"
    ) {
        let number: f64 = text.trim_end_matches(['k', 'M', 'G']).parse().unwrap();
        let scale = match text.chars().last() { Some('k') => 1e3, Some('M') => 1e6, Some('G') => 1e9, _ => 1.0 };
        let bits = (number * scale).round();
        prop_assert_eq!(rate(&text).map(|rate| rate as f64), (bits >= 1e3).then_some(bits), "{}", text);
    }

    #[test]
    fn every_size_that_the_api_server_accepts_is_understood(number in 0u64..=99_999, suffix in "(|Ki|Mi)") {
        let scale = match suffix.as_str() { "Ki" => 1024, "Mi" => 1_048_576, _ => 1 };
        prop_assert_eq!(size(&format!("{number}{suffix}")), Some(number * scale));
    }

    #[test]
    fn any_text_is_read_or_refused_and_never_a_panic(text in ".{0,40}") {
        let _ = (rate(&text), size(&text));
    }
}
