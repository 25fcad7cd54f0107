//! The CEL rules of the resources, each with the sentence that a refused user reads. The types attach them to
//! their schemas; `tests/control_plane_rules.rs` sends bad objects to a real API server and reads the sentences.

use serde::Serialize;

/// One rule of `x-kubernetes-validations`.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Rule {
    /// CEL: true for a good value.
    pub rule: &'static str,
    /// What to write instead.
    pub message: &'static str,
}

const fn rule(rule: &'static str, message: &'static str) -> Rule {
    Rule { rule, message }
}

/// Is this text a duration? Asked first where `duration()` would fail on another.
macro_rules! is_duration {
    ($text:literal) => {
        concat!($text, ".matches('^([0-9]{1,6}([.][0-9]{1,6})?(us|ms|s|m|h))+$')")
    };
}

/// Is this optional field of `spec` as it was? (Of `?` the API server cannot tell the cost.)
macro_rules! is_kept {
    ($field:literal) => {
        concat!(
            "has(self.spec.",
            $field,
            ") == has(oldSelf.spec.",
            $field,
            ") && (!has(self.spec.",
            $field,
            ") || self.spec.",
            $field,
            " == oldSelf.spec.",
            $field,
            ")"
        )
    };
}

/// Is this text a percentage?
macro_rules! is_percent {
    ($text:literal) => {
        concat!($text, ".matches('^(100([.]0{1,4})?|[0-9]{1,2}([.][0-9]{1,4})?)%$')")
    };
}

/// What a leader wrote no former leader overwrites.
const EPOCH: Rule = rule(
    "!has(oldSelf.status) || !has(oldSelf.status.epoch) || (has(self.status) && has(self.status.epoch) && self.status.epoch >= oldSelf.status.epoch)",
    "status: epoch never falls; a leader with a higher epoch has written, read the object again",
);

mod faults;
mod fleet;

pub(crate) use faults::{
    BIT_RATE, BURST, CORRUPT, DELAY, DELAY_TIME, DUPLICATE, FAULTS, GILBERT_ELLIOTT, JITTER, LOSS, MATCH,
    PEER, QUEUE, RATE, REORDER, REORDER_BY, SERVICE,
};
pub(crate) use fleet::{BATCHES, COUNT_OR_PERCENT, FLEET, FLEET_SPEC, PROGRESS_DEADLINE};

/// A name or an address that can be one device's. Link-local ones need an interface and are nobody's for sure.
pub(crate) const HOST: &[Rule] = &[
    rule(
        "isIP(self) || (self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$') && !self.matches('(^|[.])[0-9]+$'))",
        "host: write an IPv4 address, an IPv6 address (without brackets or zone) or a DNS name in lower case, such as 10.20.0.17 or pump-17.example.com",
    ),
    rule(
        "!isIP(self) || ip(self).isGlobalUnicast() || ip(self).isLoopback()",
        "host: write the unicast address of one device; unspecified, broadcast, multicast and link-local addresses are none",
    ),
];

/// A firmware version that prints.
pub(crate) const FIRMWARE: &[Rule] = &[rule(
    "self.matches('^[A-Za-z0-9][-A-Za-z0-9._+]*$')",
    "firmware: write the version as the device reports it, of letters, digits, '.', '_', '+' and '-', such as \"2.4.1\"",
)];

/// CBOR heads of texts take 1 byte below 24 bytes, 2 below 256, else 3; that of the map takes 1 below 24 entries, else 2.
pub(crate) const CONFIG: &[Rule] = &[
    rule(
        "self.all(key, key.matches('^[A-Za-z0-9]([-A-Za-z0-9._]{0,61}[A-Za-z0-9])?$'))",
        "config: write names of at most 63 letters, digits, '-', '_' and '.', beginning and ending with a letter or digit, such as sampling-interval",
    ),
    rule(
        "self.map(key, [size(bytes(key)), size(bytes(self[key]))].map(n, n + (n < 24 ? 1 : n < 256 ? 2 : 3)).sum()).sum() + (size(self) < 24 ? 1 : 2) <= 900",
        "config: has more than 900 bytes when encoded as CBOR; write shorter or fewer entries, or let the device fetch the rest by a reference",
    ),
];

/// Between 100 ms and a day.
pub(crate) const LIVENESS_DURATION: &[Rule] = &[
    DURATION,
    rule(
        concat!(
            "!",
            is_duration!("self"),
            " || (duration(self) >= duration('100ms') && duration(self) <= duration('24h'))"
        ),
        "write a duration from 100ms to 24h",
    ),
];

/// Shorter than the next.
pub(crate) const LIVENESS: &[Rule] = &[rule(
    concat!(
        "[self.probeInterval, self.suspectAfter, self.lostAfter].exists(d, !",
        is_duration!("d"),
        ") || (duration(self.probeInterval) < duration(self.suspectAfter) && duration(self.suspectAfter) < duration(self.lostAfter))"
    ),
    "liveness: write probeInterval shorter than suspectAfter and suspectAfter shorter than lostAfter, such as 10s, 30s, 2m",
)];

/// As long as a profile, or shorter.
pub(crate) const PHASE_DURATION: &[Rule] = &[
    DURATION,
    rule(
        concat!(
            "!",
            is_duration!("self"),
            " || (duration(self) >= duration('100ms') && duration(self) <= duration('720h'))"
        ),
        "for: write how long the phase lasts, from 100ms to 720h (30 days)",
    ),
];

/// Never empty: a misspelt field is pruned, and a phase would be calm that is not meant to be.
pub(crate) const TIMELINE_PHASE: &[Rule] = &[
    rule("has(self.__for__)", "timeline: write in each phase how long it lasts, such as for: 60s"),
    rule(
        "has(self.faults)",
        "timeline: write in each phase what happens to the packets, such as faults: {loss: {percent: \"20%\"}}; for a calm phase, 0%",
    ),
];

const DURATION: Rule = rule(
    is_duration!("self"),
    "write a duration as numbers with units us, ms, s, m or h, such as \"80ms\", \"1.5s\" or \"10m\"",
);

/// Long enough to matter, and not for ever.
pub(crate) const PROFILE_DURATION: &[Rule] = &[
    DURATION,
    rule(
        concat!(
            "!",
            is_duration!("self"),
            " || (duration(self) >= duration('100ms') && duration(self) <= duration('720h'))"
        ),
        "duration: write how long the faults last, from 100ms to 720h (30 days)",
    ),
];

/// 0 to 100, at most four decimals, the sign.
pub(crate) const PERCENT: &[Rule] = &[rule(
    concat!("type(self) == string && ", is_percent!("self")),
    "write a percentage from 0% to 100% as a string with the sign and at most four decimals, such as \"12.5%\"",
)];

/// A port or a range.
pub(crate) const PORTS: &[Rule] = &[rule(
    "type(self) == string && self.matches('^[1-9][0-9]{0,4}(-[1-9][0-9]{0,4})?$') && self.split('-').all(port, int(port) <= 65535) && int(self.split('-')[0]) <= int(self.split('-')[size(self.split('-')) - 1])",
    "write a port or a range of ports from 1 to 65535 as a string, the lower one first, such as \"5683\" or \"7000-7100\"",
)];

/// A network without bits behind its prefix.
pub(crate) const CIDR: &[Rule] = &[rule(
    "isCIDR(self) && cidr(self) == cidr(self).masked()",
    "write a network with its prefix and no bits set behind it, such as 192.168.50.0/24, 2001:db8::/64 or, for one address, 192.168.50.7/32",
)];

/// Exactly one kind of target. A misspelt field is pruned, so an empty one is never "all".
pub(crate) const TARGETS: &[Rule] = &[
    rule(
        "[has(self.devices), has(self.pods), has(self.cidrs)].filter(is, is).size() == 1",
        "targets: write exactly one of devices, pods and cidrs, such as devices: {selector: {matchLabels: {site: berlin}}}",
    ),
    rule(
        "!has(self.choose) || !has(self.cidrs)",
        "targets: choose picks among devices or pods; with cidrs, write only the networks that you mean",
    ),
];

/// Never empty: a misspelt `matchLabels` is pruned and would select everything.
pub(crate) const SELECTOR: &[Rule] = &[
    rule(
        "(has(self.matchLabels) && size(self.matchLabels) > 0) || (has(self.matchExpressions) && size(self.matchExpressions) > 0)",
        "selector: write matchLabels or matchExpressions, such as matchLabels: {site: berlin}; for every one in the namespace, matchExpressions: [{key: none, operator: DoesNotExist}]",
    ),
    rule(
        "!has(self.matchLabels) || self.matchLabels.all(key, self.matchLabels[key].matches('^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$'))",
        "matchLabels: write values as labels have them, of letters, digits, '-', '_' and '.', beginning and ending with a letter or digit, such as berlin",
    ),
];

/// Values where the operator takes them, and only there.
pub(crate) const SELECTOR_REQUIREMENT: &[Rule] = &[rule(
    "(self.operator in ['In', 'NotIn'] && has(self.values) && size(self.values) > 0) || (self.operator in ['Exists', 'DoesNotExist'] && (!has(self.values) || size(self.values) == 0))",
    "matchExpressions: write operator In or NotIn with values, or Exists or DoesNotExist without",
)];

/// Exactly one amount.
pub(crate) const CHOOSE: &[Rule] = &[
    rule(
        "[has(self.percent), has(self.count)].filter(is, is).size() == 1",
        "choose: write exactly one of percent and count, such as percent: \"25%\" or count: 3",
    ),
    rule(
        "!has(self.percent) || type(self.percent) != string || !self.percent.matches('^0+([.]0*)?%$')",
        "choose: 0% chooses nobody; write more than 0%, or pause the profile",
    ),
];

/// What must be said and has no default.
pub(crate) const PROFILE_SPEC: &[Rule] = &[
    rule(
        "has(self.targets)",
        "targets: write whose packets are meant, such as devices: {selector: {matchLabels: {site: berlin}}}",
    ),
    rule(
        "has(self.faults) || has(self.timeline)",
        "faults: write what happens to the packets, such as loss: {percent: \"20%\"}, or a timeline of phases",
    ),
    rule(
        "!has(self.faults) || !has(self.timeline)",
        "timeline: write faults or a timeline, not both; each phase of a timeline has its own faults",
    ),
    rule("has(self.duration) || has(self.timeline)", "duration: write how long the faults last, such as 10m"),
    rule(
        "!has(self.duration) || !has(self.timeline)",
        "duration: write none with a timeline, which is as long as its phases together",
    ),
    rule(
        concat!(
            "!has(self.timeline) || self.timeline.exists(phase, !has(phase.__for__) || !",
            is_duration!("phase.__for__"),
            ") || self.timeline.map(phase, duration(phase.__for__)).sum() <= duration('720h')"
        ),
        "timeline: its phases may last 720h (30 days) together; write shorter ones",
    ),
];

/// What was started stays what it was; what a leader wrote no former leader overwrites.
pub(crate) const PROFILE: &[Rule] = &[
    rule(
        concat!(
            "!has(oldSelf.status) || !has(oldSelf.status.startedAt) || (",
            "self.spec.targets == oldSelf.spec.targets && self.spec.direction == oldSelf.spec.direction && self.spec.seed == oldSelf.spec.seed && ",
            is_kept!("match"),
            " && ",
            is_kept!("faults"),
            " && ",
            is_kept!("timeline"),
            " && ",
            is_kept!("duration"),
            ")"
        ),
        "spec: this profile has started, and only paused can change; to run something else, delete it and apply another",
    ),
    rule(
        "!has(oldSelf.status) || !has(oldSelf.status.startedAt) || (has(self.status) && self.status.?startedAt == oldSelf.status.?startedAt && self.status.?expiresAt == oldSelf.status.?expiresAt)",
        "status: startedAt and expiresAt never change once set; to run the profile again, delete and apply it",
    ),
    EPOCH,
];
