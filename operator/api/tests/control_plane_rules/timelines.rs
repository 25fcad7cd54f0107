//! Bad timelines.

use serde_json::{Value, json};

use super::{Case, DURATION, FAULTS, profile, with};

/// A profile that is accepted, with phases instead of one set of faults.
pub(crate) fn timeline() -> Value {
    let phases = json!([
        {"for": "60s", "faults": {"loss": {"percent": "5%"}}},
        {"for": "30s", "faults": {"partition": {}}},
    ]);
    let plain = with(with(profile(), "/spec/faults", None), "/spec/duration", None);
    with(plain, "/spec/timeline", Some(phases))
}

/// Profiles whose timeline is refused.
pub(crate) fn bad() -> Vec<Case> {
    let all = "/spec/timeline";
    let first = "/spec/timeline/0";
    let lasts = "/spec/timeline/0/for";
    let days = |n: usize| json!(vec![json!({"for": "720h", "faults": {"partition": {}}}); n]);
    super::bad(
        timeline,
        [
            ("no phases", all, Some(json!([])), "should have at least 1 items"),
            (
                "65 phases",
                all,
                Some(json!(vec![json!({"for": "1s", "faults": {"partition": {}}}); 65])),
                "must have at most 64 items",
            ),
            (
                "a timeline with a duration",
                "/spec/duration",
                Some(json!("10m")),
                "duration: write none with a timeline, which is as long as its phases together",
            ),
            (
                "a phase without a length",
                first,
                Some(json!({"faults": {"partition": {}}})),
                "timeline: write in each phase how long it lasts",
            ),
            (
                "a phase in which nothing is said to happen",
                first,
                Some(json!({"for": "1s"})),
                "timeline: write in each phase what happens to the packets",
            ),
            ("a phase with empty faults", first, Some(json!({"for": "1s", "faults": {}})), FAULTS),
            ("a length without a unit", lasts, Some(json!("60")), DURATION),
            (
                "a phase of a microsecond",
                lasts,
                Some(json!("1us")),
                "for: write how long the phase lasts, from 100ms to 720h",
            ),
            (
                "two months of phases",
                all,
                Some(days(2)),
                "timeline: its phases may last 720h (30 days) together",
            ),
        ],
    )
}
