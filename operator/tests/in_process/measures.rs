//! What an operator in this process counts.

use std::time::Duration;

use control_plane::wait::WITHIN;
use tokio::time::{Instant, sleep};

use crate::in_process::Operator;

impl Operator {
    /// The sum of the samples whose line begins so.
    pub(crate) fn metric(&self, series: &str) -> f64 {
        let text = self.scrape();
        let lines = text.lines().filter(|line| line.starts_with(series));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
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
