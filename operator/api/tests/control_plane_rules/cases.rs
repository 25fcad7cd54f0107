//! Bad objects, each a good one with one thing changed, and what the API server must answer.

mod faults;
pub(crate) mod fleets;
pub(crate) mod timelines;

use serde_json::{Value, json};

/// A device that is accepted.
pub(crate) fn device() -> Value {
    json!({
        "apiVersion": "edge-operator.dev/v1alpha1",
        "kind": "Device",
        "metadata": {"name": "pump-0017", "labels": {"site": "berlin"}},
        "spec": {
            "endpoint": {"host": "10.20.0.17", "port": 5683},
            "desired": {"firmware": "2.4.1", "config": {"sampling-interval": "5s"}},
            "liveness": {"probeInterval": "10s", "suspectAfter": "30s", "lostAfter": "2m"},
            "paused": false,
        },
    })
}

/// A profile that is accepted.
pub(crate) fn profile() -> Value {
    json!({
        "apiVersion": "edge-operator.dev/v1alpha1",
        "kind": "FaultProfile",
        "metadata": {"name": "lossy"},
        "spec": {
            "targets": {
                "devices": {"selector": {"matchLabels": {"site": "berlin"}}},
                "choose": {"percent": "25%"},
            },
            "match": {"protocol": "UDP", "ports": ["5683", "7000-7100"], "peers": [{"cidr": "10.0.0.0/8"}]},
            "direction": "Both",
            "faults": {"partition": {"mode": "Drop"}, "loss": {"percent": "20%"}},
            "seed": 7,
            "duration": "10m",
            "paused": false,
        },
    })
}

/// A bad object and part of the answer to it.
pub(crate) struct Case {
    /// What is bad, in words.
    pub(crate) story: &'static str,
    /// The whole object.
    pub(crate) object: Value,
    /// A part of the sentence.
    pub(crate) answer: &'static str,
}

/// The object with the value at `path` replaced or added, or removed when there is none.
pub(crate) fn with(mut object: Value, path: &str, value: Option<Value>) -> Value {
    if let (Some(value), Some(place)) = (&value, object.pointer_mut(path)) {
        *place = value.clone();
        return object;
    }
    let (parent, field) = path.rsplit_once('/').unwrap();
    let parent = object.pointer_mut(parent).unwrap_or_else(|| panic!("{path} is in no object"));
    match value {
        Some(value) => parent[field] = value,
        None => {
            let removed = parent.as_object_mut().unwrap().remove(field);
            assert!(removed.is_some(), "{path} is not there to be removed");
        }
    }
    object
}

fn bad(
    base: fn() -> Value,
    rows: impl IntoIterator<Item = (&'static str, &'static str, Option<Value>, &'static str)>,
) -> Vec<Case> {
    let case = |(story, path, value, answer)| Case { story, object: with(base(), path, value), answer };
    rows.into_iter().map(case).collect()
}

const HOST: &str = "host: write an IPv4 address, an IPv6 address (without brackets or zone) or a DNS name";
const UNICAST: &str = "host: write the unicast address of one device";
const DURATION: &str = "write a duration as numbers with units us, ms, s, m or h";
const PERCENT: &str = "write a percentage from 0% to 100% as a string with the sign";
const PORT: &str = "write a port or a range of ports from 1 to 65535 as a string, the lower one first";
const CIDR: &str = "write a network with its prefix and no bits set behind it";
const LIVENESS: &str =
    "write probeInterval shorter than suspectAfter and suspectAfter shorter than lostAfter";
const TARGETS: &str = "targets: write exactly one of devices, pods and cidrs";
const SELECTOR: &str = "selector: write matchLabels or matchExpressions";
const EXPRESSION: &str =
    "matchExpressions: write operator In or NotIn with values, or Exists or DoesNotExist without";
const CHOOSE: &str = "choose: write exactly one of percent and count";
const MATCH: &str = "match: write at least one of protocol, ports and peers";
const LOSS: &str = "loss: write exactly one of percent, gilbertElliott and every";
const FAULTS: &str =
    "faults: write at least one of partition, loss, corrupt, duplicate, delay, reorder and rate";

/// Bad devices.
#[expect(clippy::too_many_lines, reason = "a table")]
pub(crate) fn devices() -> Vec<Case> {
    let large: serde_json::Map<String, Value> =
        (0..30).map(|n| (format!("key-{n}"), json!("x".repeat(28)))).collect();
    let many: serde_json::Map<String, Value> = (0..33).map(|n| (format!("k{n}"), json!(""))).collect();
    let host = "/spec/endpoint/host";
    let config = "/spec/desired/config";
    let probe = "/spec/liveness/probeInterval";
    bad(
        device,
        [
            ("no endpoint", "/spec/endpoint", None, "spec.endpoint: Required value"),
            ("no host", host, None, "spec.endpoint.host: Required value"),
            ("an empty host", host, Some(json!("")), HOST),
            ("a host with a space", host, Some(json!("pump 17")), HOST),
            ("a host in upper case", host, Some(json!("Pump.example.com")), HOST),
            ("an IPv4 address with a part above 255", host, Some(json!("10.20.0.300")), HOST),
            ("an IPv6 address in brackets", host, Some(json!("[2001:db8::1]")), HOST),
            ("an IPv6 address with a zone", host, Some(json!("fe80::1%eth0")), HOST),
            ("a URL for a host", host, Some(json!("coap://10.20.0.17")), HOST),
            ("the unspecified address", host, Some(json!("0.0.0.0")), UNICAST),
            ("a multicast address", host, Some(json!("224.0.1.187")), UNICAST),
            ("the broadcast address", host, Some(json!("255.255.255.255")), UNICAST),
            ("a link-local address", host, Some(json!("fe80::1")), UNICAST),
            ("a cloud's metadata service", host, Some(json!("169.254.169.254")), UNICAST),
            ("port 0", "/spec/endpoint/port", Some(json!(0)), "should be greater than or equal to 1"),
            (
                "port 65536",
                "/spec/endpoint/port",
                Some(json!(65536)),
                "should be less than or equal to 65535",
            ),
            ("no firmware", "/spec/desired/firmware", None, "spec.desired.firmware: Required value"),
            (
                "a firmware with a space",
                "/spec/desired/firmware",
                Some(json!("2.4 beta")),
                "firmware: write the version",
            ),
            ("a long firmware", "/spec/desired/firmware", Some(json!("1".repeat(65))), "Too long"),
            ("33 settings", config, Some(json!(many)), "must have at most 32"),
            (
                "settings of 1,000 bytes",
                config,
                Some(json!(large)),
                "config: has more than 900 bytes when encoded",
            ),
            (
                "a setting's name with a space",
                config,
                Some(json!({"a b": "c"})),
                "config: write names of at most 63",
            ),
            ("a number for a setting", config, Some(json!({"interval": 5})), "must be of type string"),
            ("a duration without a unit", probe, Some(json!("10")), DURATION),
            ("a duration in words", probe, Some(json!("10 seconds")), DURATION),
            ("a negative duration", probe, Some(json!("-10s")), DURATION),
            ("a duration in days", "/spec/liveness/lostAfter", Some(json!("2d")), DURATION),
            ("a number for a duration", probe, Some(json!(10)), "must be of type string"),
            ("a probe each millisecond", probe, Some(json!("1ms")), "write a duration from 100ms to 24h"),
            (
                "lost after a week",
                "/spec/liveness/lostAfter",
                Some(json!("168h")),
                "write a duration from 100ms to 24h",
            ),
            ("a probe later than the suspicion", probe, Some(json!("45s")), LIVENESS),
            ("lost before suspected", "/spec/liveness/lostAfter", Some(json!("20s")), LIVENESS),
            ("a word for paused", "/spec/paused", Some(json!("yes")), "must be of type boolean"),
        ],
    )
}

/// Bad profiles.
pub(crate) fn profiles() -> Vec<Case> {
    let mut cases = targets();
    cases.extend(matches_and_faults());
    cases.extend(faults::bad());
    cases.extend(timelines::bad());
    cases
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn targets() -> Vec<Case> {
    let targets = "/spec/targets";
    let selector = "/spec/targets/devices/selector";
    let expressions = |expression: Value| Some(json!({"matchExpressions": [expression]}));
    let choose = "/spec/targets/choose";
    bad(
        profile,
        [
            ("no targets", targets, None, "targets: write whose packets are meant"),
            ("empty targets", targets, Some(json!({})), TARGETS),
            ("misspelt targets", targets, Some(json!({"device": {"selector": {}}})), TARGETS),
            ("devices and networks", "/spec/targets/cidrs", Some(json!(["192.168.50.0/24"])), TARGETS),
            (
                "devices and pods",
                "/spec/targets/pods",
                Some(json!({"selector": {"matchLabels": {"a": "b"}}})),
                TARGETS,
            ),
            ("no selector", selector, None, "selector: Required value"),
            ("an empty selector", selector, Some(json!({})), SELECTOR),
            ("a misspelt selector", selector, Some(json!({"matchLabel": {"site": "berlin"}})), SELECTOR),
            (
                "a label's value with a space",
                selector,
                Some(json!({"matchLabels": {"site": "Berlin Mitte"}})),
                "matchLabels: write values as labels have them",
            ),
            (
                "an operator that is none",
                selector,
                expressions(json!({"key": "site", "operator": "Equals", "values": ["x"]})),
                EXPRESSION,
            ),
            (
                "In without values",
                selector,
                expressions(json!({"key": "site", "operator": "In"})),
                EXPRESSION,
            ),
            (
                "Exists with values",
                selector,
                expressions(json!({"key": "site", "operator": "Exists", "values": ["x"]})),
                EXPRESSION,
            ),
            ("no network", targets, Some(json!({"cidrs": []})), "should have at least 1 items"),
            ("a bare address for a network", targets, Some(json!({"cidrs": ["192.168.50.7"]})), CIDR),
            ("bits behind the prefix", targets, Some(json!({"cidrs": ["192.168.50.7/24"]})), CIDR),
            ("a prefix too long", targets, Some(json!({"cidrs": ["192.168.50.0/33"]})), CIDR),
            (
                "a choice among networks",
                targets,
                Some(json!({"cidrs": ["192.168.50.0/24"], "choose": {"count": 1}})),
                "targets: choose picks among devices or pods",
            ),
            ("an empty choice", choose, Some(json!({})), CHOOSE),
            ("a percentage and a count", choose, Some(json!({"percent": "25%", "count": 3})), CHOOSE),
            ("a choice of nobody", choose, Some(json!({"percent": "0.0%"})), "choose: 0% chooses nobody"),
            ("a count of zero", choose, Some(json!({"count": 0})), "should be greater than or equal to 1"),
            ("a bare number for a percentage", choose, Some(json!({"percent": 25})), PERCENT),
            ("more than everything", choose, Some(json!({"percent": "100.1%"})), PERCENT),
        ],
    )
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn matches_and_faults() -> Vec<Case> {
    let ports = "/spec/match/ports";
    let loss = "/spec/faults/loss";
    let percent = "/spec/faults/loss/percent";
    let duration = "/spec/duration";
    bad(
        profile,
        [
            ("an empty match", "/spec/match", Some(json!({})), MATCH),
            ("a misspelt match", "/spec/match", Some(json!({"port": ["5683"]})), MATCH),
            (
                "a protocol that is none of ours",
                "/spec/match/protocol",
                Some(json!("SCTP")),
                "supported values: \"UDP\", \"TCP\", \"ICMP\"",
            ),
            ("no ports", ports, Some(json!([])), "should have at least 1 items"),
            ("a bare number for a port", ports, Some(json!([5683])), PORT),
            ("port zero", ports, Some(json!(["0"])), PORT),
            ("a port above the last", ports, Some(json!(["65536"])), PORT),
            ("a range from high to low", ports, Some(json!(["7100-7000"])), PORT),
            ("a range without an end", ports, Some(json!(["7000-"])), PORT),
            ("a service's name for a port", ports, Some(json!(["coap"])), PORT),
            ("17 ranges of ports", ports, Some(json!(vec!["5683"; 17])), "must have at most 16 items"),
            (
                "a peer's name for its network",
                "/spec/match/peers",
                Some(json!([{"cidr": "example.com"}])),
                CIDR,
            ),
            (
                "a direction that is none",
                "/spec/direction",
                Some(json!("Up")),
                "supported values: \"Both\", \"ToDevice\", \"FromDevice\"",
            ),
            ("no faults", "/spec/faults", None, "faults: write what happens to the packets"),
            ("empty faults", "/spec/faults", Some(json!({})), FAULTS),
            ("a loss without an amount", loss, Some(json!({})), LOSS),
            ("two models of loss", loss, Some(json!({"every": 10, "percent": "1%"})), LOSS),
            ("a misspelt model", loss, Some(json!({"gilbertEliot": {"enterBurst": "1%"}})), LOSS),
            (
                "a scope of independent losses",
                loss,
                Some(json!({"percent": "1%", "scope": "Flow"})),
                "loss: with percent each packet is lost for itself",
            ),
            ("every zeroth packet", loss, Some(json!({"every": 0})), "should be greater than or equal to 1"),
            (
                "a scope that is none",
                loss,
                Some(json!({"every": 2, "scope": "Link"})),
                "supported values: \"Target\", \"Flow\"",
            ),
            (
                "bursts that never begin",
                loss,
                Some(json!({"gilbertElliott": {"leaveBurst": "25%"}})),
                "gilbertElliott: write how likely a burst begins",
            ),
            (
                "bursts that never end",
                loss,
                Some(json!({"gilbertElliott": {"enterBurst": "1%"}})),
                "gilbertElliott: write how likely a burst ends",
            ),
            (
                "a bare number in bursts",
                loss,
                Some(json!({"gilbertElliott": {"enterBurst": 1, "leaveBurst": "25%"}})),
                PERCENT,
            ),
            (
                "faults and a timeline",
                "/spec/timeline",
                Some(json!([{"for": "1s", "faults": {"partition": {}}}])),
                "timeline: write faults or a timeline, not both",
            ),
            (
                "a fraction for a percentage, which is no type that a rule gets to see",
                percent,
                Some(json!(0.2)),
                "spec.faults.loss.percent in body must be of type integer,string: \"number\"",
            ),
            ("a bare number for a loss", percent, Some(json!(20)), PERCENT),
            ("a loss without its sign", percent, Some(json!("20")), PERCENT),
            ("a negative loss", percent, Some(json!("-1%")), PERCENT),
            ("a loss with five decimals", percent, Some(json!("0.00001%")), PERCENT),
            ("a negative seed", "/spec/seed", Some(json!(-1)), "should be greater than or equal to 0"),
            ("no duration", duration, None, "duration: write how long the faults last, such as 10m"),
            (
                "a duration of nothing",
                duration,
                Some(json!("0s")),
                "duration: write how long the faults last, from 100ms to 720h",
            ),
            (
                "a fault for a year",
                duration,
                Some(json!("8760h")),
                "duration: write how long the faults last, from 100ms to 720h",
            ),
            ("a duration without unit", duration, Some(json!("600")), DURATION),
            ("a duration with a sign", duration, Some(json!("+10m")), DURATION),
        ],
    )
}
