//! What an operator in this process counts.

use std::time::Duration;

use control_plane::wait::WITHIN;
use tokio::time::{Instant, sleep};

use crate::in_process::Operator;

/// A sample's value, if it is one of these.
fn value(line: &str, wanted: &str) -> Option<f64> {
    let (sample, value) = line.rsplit_once(' ')?;
    let parts = |series: &'_ str| {
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let labels = labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty());
        (name.to_owned(), labels.map(str::to_owned).collect::<Vec<_>>())
    };
    let ((name, has), (wanted, labels)) = (parts(sample), parts(wanted));
    let is_it = name == wanted && labels.iter().all(|label| has.contains(label));
    is_it.then(|| value.parse().ok()).flatten()
}

impl Operator {
    /// The sum of the samples of a metric that have these labels: `name`, or `name{label="value",…}` in any order. Zero, too,
    /// where there is none.
    pub(crate) fn metric(&self, series: &str) -> f64 {
        self.scrape().lines().filter_map(|line| value(line, series)).sum()
    }

    /// Waits until a metric is as described.
    pub(crate) async fn until_metric(&self, series: &str, holds: impl Fn(f64) -> bool) -> f64 {
        let deadline = Instant::now() + WITHIN;
        loop {
            let value = self.metric(series);
            if holds(value) {
                return value;
            }
            assert!(Instant::now() < deadline, "{series} stays {value}");
            sleep(Duration::from_millis(20)).await;
        }
    }
}
