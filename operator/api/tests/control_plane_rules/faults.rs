//! Bad peers, and bad faults beside partition and loss.

use serde_json::{Value, json};

use super::{Case, DURATION, FAULTS, PERCENT, SELECTOR, profile};

const PEERS: &str = "peers: write exactly one of cidr, service and pods in each";
const SERVICE: &str = "service: write the name of a Service in the profile's namespace";
const TIME: &str = "delay: write a time of 1us or more, such as 0.5ms; 0s only beside a jitter";
const LATER: &str =
    "faults: write a delay's time, its jitter and a reorder's by so that they are at most 60s together";
const BIT_RATE: &str = "bitsPerSecond: write 1k to 100G";
const BURST: &str = "burst: write whole bytes from 1600 (a full frame) to 16Mi";

type Row = (&'static str, &'static str, Option<Value>, &'static str);

/// Profiles with a bad peer or a bad fault.
pub(super) fn bad() -> Vec<Case> {
    let rows = [peers(), shares(), delays(), later(), rates()];
    super::bad(profile, rows.into_iter().flatten())
}

/// A row about the whole of `faults`.
fn fault(story: &'static str, faults: Value, answer: &'static str) -> Row {
    (story, "/spec/faults", Some(faults), answer)
}

fn peers() -> Vec<Row> {
    let row = |story, peer: Value, answer| (story, "/spec/match/peers", Some(json!([peer])), answer);
    vec![
        row("an empty peer", json!({}), PEERS),
        row("a misspelt peer", json!({"svc": "broker"}), PEERS),
        row("a network and a Service", json!({"cidr": "10.0.0.0/8", "service": "broker"}), PEERS),
        row("a Service and pods", json!({"service": "a", "pods": {"matchLabels": {"a": "b"}}}), PEERS),
        row("a Service without a name", json!({"service": ""}), SERVICE),
        row("a Service with its namespace", json!({"service": "demo/broker"}), SERVICE),
        row("a Service's domain", json!({"service": "broker.demo.svc"}), SERVICE),
        row("a long name of a Service", json!({"service": "a".repeat(64)}), "Too long"),
        row("pods without a selector", json!({"pods": {}}), SELECTOR),
        (
            "ports of ICMP",
            "/spec/match/protocol",
            Some(json!("ICMP")),
            "match: ICMP has no ports; write ports with UDP, with TCP or without a protocol",
        ),
    ]
}

fn shares() -> Vec<Row> {
    vec![
        (
            "a mode that is none",
            "/spec/faults/partition/mode",
            Some(json!("Reset")),
            "supported values: \"Drop\", \"Reject\"",
        ),
        fault("a fault that is none", json!({"jitter": "20ms"}), FAULTS),
        fault("a corruption of none", json!({"corrupt": {}}), "corrupt: write which share of the packets"),
        fault("a bare number for a corruption", json!({"corrupt": {"percent": 1}}), PERCENT),
        fault(
            "a duplication of none",
            json!({"duplicate": {}}),
            "duplicate: write which share of the packets",
        ),
        fault("a duplicate without its sign", json!({"duplicate": {"percent": "1"}}), PERCENT),
        fault(
            "a reordering of none",
            json!({"reorder": {"by": "30ms"}}),
            "reorder: write which share of the packets",
        ),
        fault(
            "a reordering by nothing",
            json!({"reorder": {"percent": "5%"}}),
            "reorder: write how much later",
        ),
        fault("more reordered than all", json!({"reorder": {"percent": "101%", "by": "30ms"}}), PERCENT),
        fault(
            "a reordering by 0",
            json!({"reorder": {"percent": "5%", "by": "0s"}}),
            "by: write 1us or more",
        ),
        fault("a reordering without a unit", json!({"reorder": {"percent": "5%", "by": "30"}}), DURATION),
    ]
}

fn delays() -> Vec<Row> {
    let row = |story, delay: Value, answer| fault(story, json!({"delay": delay}), answer);
    vec![
        row(
            "a delay without a time",
            json!({"jitter": "20ms"}),
            "delay: write how much later the packets arrive",
        ),
        row("a delay without a unit", json!({"time": "80"}), DURATION),
        row("a number for a delay", json!({"time": 80}), "must be of type string"),
        row("no delay and no jitter", json!({"time": "0s"}), TIME),
        row("a delay that is shorter than a microsecond", json!({"time": "0.9us"}), TIME),
        row("a delay that rounds to nothing", json!({"time": "0.0001us", "jitter": "1ms"}), TIME),
        row("a jitter of nothing", json!({"time": "80ms", "jitter": "0ms"}), "jitter: write 1us or more"),
        row("a jitter without a unit", json!({"time": "80ms", "jitter": "20"}), DURATION),
        row(
            "a distribution of nothing",
            json!({"time": "80ms", "distribution": "Normal"}),
            "delay: write distribution beside a jitter only",
        ),
        row(
            "a distribution that is none",
            json!({"time": "80ms", "jitter": "20ms", "distribution": "Gauss"}),
            "supported values: \"Uniform\", \"Normal\", \"Pareto\"",
        ),
        row(
            "a correlation of nothing",
            json!({"time": "80ms", "correlation": "25%"}),
            "delay: write correlation beside a jitter only",
        ),
        row(
            "a bare number for a correlation",
            json!({"time": "80ms", "jitter": "20ms", "correlation": 25}),
            PERCENT,
        ),
        row(
            "a scope of nothing",
            json!({"time": "80ms", "jitter": "20ms", "scope": "Flow"}),
            "delay: write scope beside a correlation only",
        ),
        row(
            "packets that leave before they came",
            json!({"time": "10ms", "jitter": "20ms", "distribution": "Uniform"}),
            "delay: with Uniform, write a jitter no longer than time",
        ),
    ]
}

fn later() -> Vec<Row> {
    vec![
        fault("a delay of more than a minute", json!({"delay": {"time": "60.000001s"}}), LATER),
        fault("a delay and a jitter of more", json!({"delay": {"time": "50s", "jitter": "11s"}}), LATER),
        fault(
            "a delay and a reordering of more",
            json!({"delay": {"time": "50s", "jitter": "5s"}, "reorder": {"percent": "1%", "by": "6s"}}),
            LATER,
        ),
        fault("a reordering by more", json!({"reorder": {"percent": "1%", "by": "61s"}}), LATER),
        fault(
            "centuries, which overflow",
            json!({
                "delay": {"time": "999999h999999h", "jitter": "999999h999999h"},
                "reorder": {"percent": "1%", "by": "999999h999999h"},
            }),
            LATER,
        ),
        ("a delay of minutes beside other faults", "/spec/faults/delay", Some(json!({"time": "2m"})), LATER),
    ]
}

fn rates() -> Vec<Row> {
    let row = |story, bits: Value| fault(story, json!({"rate": {"bitsPerSecond": bits}}), BIT_RATE);
    let more = |story, field: &str, value: Value, answer| {
        fault(story, json!({"rate": {"bitsPerSecond": "1M", field: value}}), answer)
    };
    vec![
        fault(
            "a rate of nothing",
            json!({"rate": {"burst": "16Ki"}}),
            "rate: write how much gets through, in bits",
        ),
        row("a rate below the lowest", json!("999")),
        row("a rate above the highest", json!("100.001G")),
        row("a bare number below the lowest", json!(10)),
        row("a negative rate", json!(-1_000_000)),
        row("a rate in words", json!("1Mbit")),
        row("a rate in kibibits", json!("256Ki")),
        row("a rate in capitals", json!("256K")),
        row("a rate with a part of a bit", json!("1.0001k")),
        more("a burst that no frame fits into", "burst", json!("1Ki"), BURST),
        more("a burst as a small number", "burst", json!(1_500), BURST),
        more("a burst above the largest", "burst", json!("17Mi"), BURST),
        more("a burst in thousands", "burst", json!("16k"), BURST),
        more("a burst with decimals", "burst", json!("1.5Mi"), BURST),
        more("a queue of minutes", "queue", json!("2m"), "queue: write how long a packet may wait its turn"),
        more("a queue without a unit", "queue", json!("1"), DURATION),
    ]
}
