//! The rules of what a profile matches and of each fault.

use super::{DURATION, Rule, rule};

/// Never empty; ports only where there are some.
pub(crate) const MATCH: &[Rule] = &[
    rule(
        "has(self.protocol) || has(self.ports) || has(self.peers)",
        "match: write at least one of protocol, ports and peers; to match every packet, leave match out",
    ),
    rule(
        "!has(self.protocol) || self.protocol != 'ICMP' || !has(self.ports)",
        "match: ICMP has no ports; write ports with UDP, with TCP or without a protocol",
    ),
];

/// Exactly one kind of peer.
pub(crate) const PEER: &[Rule] = &[rule(
    "[has(self.cidr), has(self.service), has(self.pods)].filter(is, is).size() == 1",
    "peers: write exactly one of cidr, service and pods in each, such as {cidr: 10.0.0.0/8}, {service: broker} or {pods: {matchLabels: {app: broker}}}",
)];

/// A Service's name.
pub(crate) const SERVICE: &[Rule] = &[rule(
    "self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
    "service: write the name of a Service in the profile's namespace, without namespace or domain, such as broker",
)];

/// The duration of an optional field of an optional fault, or none.
macro_rules! part {
    ($fault:literal, $field:literal) => {
        concat!(
            "has(self.",
            $fault,
            ") && has(self.",
            $fault,
            ".",
            $field,
            ") ? self.",
            $fault,
            ".",
            $field,
            " : '0s'"
        )
    };
}

/// By how much a packet can be later.
macro_rules! later {
    () => {
        concat!(
            "[",
            part!("delay", "time"),
            ", ",
            part!("delay", "jitter"),
            ", ",
            part!("reorder", "by"),
            "]"
        )
    };
}

/// Never empty, and nothing later than a minute. The sum of large durations would overflow, so each is looked at first.
pub(crate) const FAULTS: &[Rule] = &[
    rule(
        "has(self.partition) || has(self.loss) || has(self.corrupt) || has(self.duplicate) || has(self.delay) || has(self.reorder) || has(self.rate)",
        "faults: write at least one of partition, loss, corrupt, duplicate, delay, reorder and rate, such as loss: {percent: \"20%\"}",
    ),
    rule(
        concat!(
            later!(),
            ".exists(d, !",
            is_duration!("d"),
            ") || (",
            later!(),
            ".all(d, duration(d) <= duration('60s')) && ",
            later!(),
            ".map(d, duration(d)).sum() <= duration('60s'))"
        ),
        "faults: write a delay's time, its jitter and a reorder's by so that they are at most 60s together",
    ),
];

/// Exactly one model.
pub(crate) const LOSS: &[Rule] = &[
    rule(
        "[has(self.percent), has(self.gilbertElliott), has(self.every)].filter(is, is).size() == 1",
        "loss: write exactly one of percent, gilbertElliott and every, such as percent: \"20%\"",
    ),
    rule(
        "!has(self.percent) || !has(self.scope)",
        "loss: with percent each packet is lost for itself; write scope with gilbertElliott or every only",
    ),
];

/// What has no default.
pub(crate) const GILBERT_ELLIOTT: &[Rule] = &[
    rule(
        "has(self.enterBurst)",
        "gilbertElliott: write how likely a burst begins behind a packet, such as enterBurst: \"1%\"",
    ),
    rule(
        "has(self.leaveBurst)",
        "gilbertElliott: write how likely a burst ends behind a packet, such as leaveBurst: \"25%\" for bursts of 4 packets on average",
    ),
];

/// What has no default.
pub(crate) const CORRUPT: &[Rule] = &[rule(
    "has(self.percent)",
    "corrupt: write which share of the packets arrives with a wrong bit, such as percent: \"0.1%\"",
)];

/// What has no default.
pub(crate) const DUPLICATE: &[Rule] = &[rule(
    "has(self.percent)",
    "duplicate: write which share of the packets arrives twice, such as percent: \"1%\"",
)];

/// A duration; how long it may be depends on the others.
pub(crate) const DELAY_TIME: &[Rule] = &[DURATION];

/// A microsecond or more.
pub(crate) const JITTER: &[Rule] = &[
    DURATION,
    rule(
        concat!("!", is_duration!("self"), " || duration(self) >= duration('1us')"),
        "jitter: write 1us or more, such as 20ms; for none, leave it out",
    ),
];

/// What goes with what. A time of less than a nanosecond is not zero for who wrote it.
pub(crate) const DELAY: &[Rule] = &[
    rule("has(self.time)", "delay: write how much later the packets arrive, such as time: 80ms"),
    rule(
        concat!(
            "!has(self.time) || !",
            is_duration!("self.time"),
            " || duration(self.time) >= duration('1us') || (has(self.jitter) && !self.time.matches('[1-9]'))"
        ),
        "delay: write a time of 1us or more, such as 0.5ms; 0s only beside a jitter",
    ),
    rule(
        "!has(self.distribution) || has(self.jitter)",
        "delay: write distribution beside a jitter only, such as jitter: 20ms",
    ),
    rule(
        "!has(self.correlation) || has(self.jitter)",
        "delay: write correlation beside a jitter only, such as jitter: 20ms",
    ),
    rule(
        "!has(self.scope) || has(self.correlation)",
        "delay: write scope beside a correlation only, such as correlation: \"25%\"; without one each delay is drawn for itself",
    ),
    rule(
        concat!(
            "!has(self.distribution) || self.distribution != 'Uniform' || !has(self.time) || !has(self.jitter) || [self.time, self.jitter].exists(d, !",
            is_duration!("d"),
            ") || duration(self.jitter) <= duration(self.time)"
        ),
        "delay: with Uniform, write a jitter no longer than time; a packet cannot leave before it came",
    ),
];

/// What has no default.
pub(crate) const REORDER: &[Rule] = &[
    rule(
        "has(self.percent)",
        "reorder: write which share of the packets comes late, such as percent: \"5%\"",
    ),
    rule(
        "has(self.by)",
        "reorder: write how much later than the rest these packets arrive, such as by: 30ms",
    ),
];

/// A microsecond or more.
pub(crate) const REORDER_BY: &[Rule] = &[
    DURATION,
    rule(
        concat!("!", is_duration!("self"), " || duration(self) >= duration('1us')"),
        "by: write 1us or more, such as 30ms",
    ),
];

/// What has no default.
pub(crate) const RATE: &[Rule] = &[rule(
    "has(self.bitsPerSecond)",
    "rate: write how much gets through, in bits a second, such as bitsPerSecond: 256k",
)];

/// Whole bits, in bounds.
pub(crate) const BIT_RATE: &[Rule] = &[rule(
    "string(self).matches('^([0-9]{1,12}|[0-9]{1,9}([.][0-9]{1,3})?[kMG])$') && !quantity(string(self)).isLessThan(quantity('1k')) && !quantity(string(self)).isGreaterThan(quantity('100G'))",
    "bitsPerSecond: write 1k to 100G (thousands of bits a second, with at most three decimals), such as 256k, 1.5M or 1G",
)];

/// Whole bytes, in bounds.
pub(crate) const BURST: &[Rule] = &[rule(
    "string(self).matches('^[0-9]{1,8}(Ki|Mi)?$') && !quantity(string(self)).isLessThan(quantity('1600')) && !quantity(string(self)).isGreaterThan(quantity('16Mi'))",
    "burst: write whole bytes from 1600 (a full frame) to 16Mi, such as 1600, 16Ki or 1Mi",
)];

/// Nothing waits for ever.
pub(crate) const QUEUE: &[Rule] = &[
    DURATION,
    rule(
        concat!("!", is_duration!("self"), " || duration(self) <= duration('60s')"),
        "queue: write how long a packet may wait its turn, from 0s (what comes too fast is lost) to 60s",
    ),
];
