//! The rules of a fleet and of its rollout.

use super::{DURATION, EPOCH, Rule, rule};

/// Is this a number from 1 on or a percentage above zero?
macro_rules! is_amount {
    ($value:literal) => {
        concat!(
            "(type(",
            $value,
            ") == int ? ",
            $value,
            " >= 1 && ",
            $value,
            " <= 1000000 : type(",
            $value,
            ") == string && ",
            is_percent!($value),
            " && !",
            $value,
            ".matches('^0+([.]0*)?%$'))"
        )
    };
}

/// What must be said and has no default.
pub(crate) const FLEET_SPEC: &[Rule] = &[
    rule(
        "has(self.selector)",
        "selector: write which devices of this namespace are meant, such as {matchLabels: {model: px4}}",
    ),
    rule(
        "has(self.template)",
        "template: write what the devices shall run, such as {firmware: \"2.5.0\", config: {sampling-interval: 2s}}",
    ),
];

/// What a leader wrote no former leader overwrites.
pub(crate) const FLEET: &[Rule] = &[EPOCH];

/// Some devices, and not none.
pub(crate) const COUNT_OR_PERCENT: &[Rule] = &[rule(
    is_amount!("self"),
    "write a number of devices from 1 to 1000000, or a share above 0% as a string with the sign and at most four decimals, such as 3 or \"10%\"",
)];

/// Each larger than the one before, as far as that can be said without knowing how many devices there are; all in the end.
pub(crate) const BATCHES: &[Rule] = &[
    rule(
        "self.size() == 0 || (type(self[self.size() - 1]) == string && self[self.size() - 1].matches('^100([.]0+)?%$'))",
        "batches: write \"100%\" as the last one, so that no device is left out",
    ),
    rule(
        concat!(
            "self.exists(b, !",
            is_amount!("b"),
            ") || (self.map(b, type(b) == int ? 0 : 1).isSorted() && ",
            "self.filter(b, type(b) == int).map(b, int(b)).isSorted() && ",
            "self.filter(b, type(b) == string).map(b, double(b.replace('%', ''))).isSorted() && ",
            "self.all(a, self.exists_one(b, a == b)))"
        ),
        "batches: write numbers of devices first and shares of them then, each larger than the one before, such as [1, \"5%\", \"25%\", \"100%\"]",
    ),
];

/// Long enough for one device, and not for ever.
pub(crate) const PROGRESS_DEADLINE: &[Rule] = &[
    DURATION,
    rule(
        concat!(
            "!",
            is_duration!("self"),
            " || (duration(self) >= duration('1s') && duration(self) <= duration('720h'))"
        ),
        "progressDeadline: write how long no device may finish, from 1s to 720h (30 days)",
    ),
];
