//! Reconciles under way, with when each began: what client-go's work queues show of stuck work. Read when it is scraped.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{GaugeVec, Opts};
use tokio::time::Instant;

use crate::lock::lock;

/// The reconciles of one controller that are under way: as many as it has workers, and those that gave way to others and wait for a write,
/// one an object at most.
#[derive(Debug, Default)]
pub struct Running(Mutex<Begun>);

#[derive(Debug, Default)]
struct Begun {
    number: u64,
    since: BTreeMap<u64, Instant>,
}

impl Running {
    /// One begins; gives its number.
    pub fn begin(&self, now: Instant) -> u64 {
        let mut begun = lock(&self.0);
        begun.number += 1;
        let number = begun.number;
        begun.since.insert(number, now);
        number
    }

    /// It ends.
    pub fn end(&self, number: u64) {
        lock(&self.0).since.remove(&number);
    }

    /// Seconds worked on all that is under way, and on the one that began first.
    fn seconds(&self, now: Instant) -> (f64, f64) {
        let begun = lock(&self.0);
        let ages = begun.since.values().map(|since| now.saturating_duration_since(*since).as_secs_f64());
        ages.fold((0.0, 0.0), |(sum, longest): (f64, f64), age| (sum + age, longest.max(age)))
    }
}

/// Shows what is under way in all controllers.
#[derive(Clone)]
pub struct AllRunning {
    controllers: Arc<Mutex<BTreeMap<String, Arc<Running>>>>,
    desc: Arc<[Desc]>,
}

impl AllRunning {
    /// # Errors
    /// When a name is no name, which a test excludes.
    pub fn new() -> Result<Self, prometheus::Error> {
        let (unfinished, longest) = gauges()?;
        let desc = [unfinished.desc(), longest.desc()].concat().into_iter().cloned().collect();
        Ok(Self { controllers: Arc::default(), desc })
    }

    /// Those of the controller of this name.
    pub fn of(&self, name: &str) -> Arc<Running> {
        lock(&self.controllers).entry(name.to_owned()).or_default().clone()
    }
}

fn gauges() -> Result<(GaugeVec, GaugeVec), prometheus::Error> {
    let gauge = |name, help| GaugeVec::new(Opts::new(name, help), &["name"]);
    Ok((
        gauge(
            "workqueue_unfinished_work_seconds",
            "Seconds worked so far on reconciles that have not ended.",
        )?,
        gauge(
            "workqueue_longest_running_processor_seconds",
            "Seconds worked so far on the reconcile that began first of those that have not ended.",
        )?,
    ))
}

impl Collector for AllRunning {
    fn desc(&self) -> Vec<&Desc> {
        self.desc.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Ok((unfinished, longest)) = gauges() else { return Vec::new() };
        let now = Instant::now();
        for (name, running) in lock(&self.controllers).iter() {
            let (sum, most) = running.seconds(now);
            unfinished.with_label_values(&[name.as_str()]).set(sum);
            longest.with_label_values(&[name.as_str()]).set(most);
        }
        [unfinished.collect(), longest.collect()].concat()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_under_way_has_its_age_and_what_ended_has_none() {
        let (running, start) = (Running::default(), Instant::now());
        let first = running.begin(start);
        running.begin(start + Duration::from_secs(3));
        assert_eq!(running.seconds(start + Duration::from_secs(5)), (7.0, 5.0));
        running.end(first);
        assert_eq!(running.seconds(start + Duration::from_secs(5)), (2.0, 2.0));
    }
}
