//! Fleets.

use serde_json::{Value, json};

use super::{Case, bad, with};

const AMOUNT: &str = "write a number of devices from 1 to 1000000, or a share above 0%";
const LAST: &str = "batches: write \"100%\" as the last one";
const ASCENDING: &str = "batches: write numbers of devices first and shares of them then";
const DEADLINE: &str = "progressDeadline: write how long no device may finish, from 1s to 720h";

/// A fleet that is accepted.
pub(crate) fn fleet() -> Value {
    json!({
        "apiVersion": "edge-operator.dev/v1alpha1",
        "kind": "DeviceFleet",
        "metadata": {"name": "px4"},
        "spec": {
            "selector": {"matchLabels": {"model": "px4"}},
            "template": {"firmware": "2.5.0", "config": {"sampling-interval": "2s"}},
            "rollout": {
                "batches": ["5%", "25%", "100%"],
                "maxInFlight": 50,
                "maxUnavailable": "10%",
                "failureBudget": {"percent": "5%", "minimumSample": 20},
                "onBudgetExceeded": "Rollback",
                "progressDeadline": "10m",
            },
            "paused": false,
        },
    })
}

/// Batches and amounts at the ends of their ranges.
pub(crate) fn good() -> impl Iterator<Item = Value> {
    let batches = [
        json!(["100%"]),
        json!([1, "100%"]),
        json!([1, 10, 1_000_000, "0.0001%", "5%", "12.5%", "100.0%"]),
        json!([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, "100%"]),
        json!(["9%", "10%", "100%"]),
    ];
    let batches = batches.into_iter().map(|batches| with(fleet(), "/spec/rollout/batches", Some(batches)));
    let unavailable = [json!(1), json!("100%"), json!("0.5%")];
    let unavailable =
        unavailable.into_iter().map(|most| with(fleet(), "/spec/rollout/maxUnavailable", Some(most)));
    let rest = [
        with(fleet(), "/spec/rollout", None),
        with(fleet(), "/spec/rollout", Some(json!({"maxInFlight": 500, "onBudgetExceeded": "Pause"}))),
        with(fleet(), "/spec/rollout/failureBudget", Some(json!({"percent": "0%"}))),
        with(fleet(), "/spec/rollout/progressDeadline", Some(json!("1s"))),
        with(fleet(), "/spec/template", Some(json!({"firmware": "2.5.0"}))),
    ];
    batches.chain(unavailable).chain(rest)
}

/// Bad fleets.
#[expect(clippy::too_many_lines, reason = "a table")]
pub(crate) fn bad_ones() -> Vec<Case> {
    let batches = "/spec/rollout/batches";
    let unavailable = "/spec/rollout/maxUnavailable";
    bad(
        fleet,
        [
            ("no selector", "/spec/selector", None, "selector: write which devices of this namespace"),
            ("an empty selector", "/spec/selector", Some(json!({})), "selector: write matchLabels"),
            ("no template", "/spec/template", None, "template: write what the devices shall run"),
            (
                "a firmware with a space",
                "/spec/template/firmware",
                Some(json!("2.5 beta")),
                "firmware: write the version",
            ),
            ("no batch", batches, Some(json!([])), "should have at least 1 items"),
            ("17 batches", batches, Some(json!(vec!["100%"; 17])), "must have at most 16 items"),
            ("batches that leave devices out", batches, Some(json!(["5%", "25%"])), LAST),
            ("a number as the last batch", batches, Some(json!(["5%", 100])), LAST),
            ("a smaller share after a larger one", batches, Some(json!(["25%", "5%", "100%"])), ASCENDING),
            ("shares in the order of their letters", batches, Some(json!(["10%", "9%", "100%"])), ASCENDING),
            ("a smaller number after a larger one", batches, Some(json!([10, 3, "100%"])), ASCENDING),
            ("a number after a share", batches, Some(json!(["5%", 10, "100%"])), ASCENDING),
            ("one batch twice", batches, Some(json!(["5%", "5%", "100%"])), ASCENDING),
            ("a batch of nobody", batches, Some(json!([0, "100%"])), AMOUNT),
            ("a batch of no share", batches, Some(json!(["0.0%", "100%"])), AMOUNT),
            ("a batch without its sign", batches, Some(json!(["5", "100%"])), AMOUNT),
            (
                "nobody in flight",
                "/spec/rollout/maxInFlight",
                Some(json!(0)),
                "should be greater than or equal to 1",
            ),
            (
                "501 in flight",
                "/spec/rollout/maxInFlight",
                Some(json!(501)),
                "should be less than or equal to 500",
            ),
            ("nobody unavailable", unavailable, Some(json!(0)), AMOUNT),
            ("no share unavailable", unavailable, Some(json!("0%")), AMOUNT),
            ("more than all unavailable", unavailable, Some(json!("101%")), AMOUNT),
            (
                "a bare number of failures",
                "/spec/rollout/failureBudget/percent",
                Some(json!(5)),
                "write a percentage from 0% to 100% as a string",
            ),
            (
                "a sample of nobody",
                "/spec/rollout/failureBudget/minimumSample",
                Some(json!(0)),
                "should be greater than or equal to 1",
            ),
            (
                "an action that is none",
                "/spec/rollout/onBudgetExceeded",
                Some(json!("Panic")),
                "supported values: \"Rollback\", \"Pause\"",
            ),
            ("no time at all", "/spec/rollout/progressDeadline", Some(json!("10ms")), DEADLINE),
            ("a year's patience", "/spec/rollout/progressDeadline", Some(json!("8760h")), DEADLINE),
            (
                "a deadline without a unit",
                "/spec/rollout/progressDeadline",
                Some(json!("600")),
                "write a duration as numbers with units",
            ),
        ],
    )
}
