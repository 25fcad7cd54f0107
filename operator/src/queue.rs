//! Fair, bounded reconciles: permits in order of arrival, what is new first, with the metrics that controller-runtime's users know.
//!
//! kube-runtime's own `concurrency(n)` starves objects under overload, since it takes waiting work out of a
//! hash set. So it is left unbounded, and each reconcile waits here first. After the wait the object must be
//! read again.

use std::sync::Arc;

use tokio::time::Instant;

use crate::metrics::ControllerMetrics;
use crate::slots::{Cause, Passes, Slot, Slots};

/// The permits of one controller.
pub struct Permits {
    permits: Slots,
    metrics: Arc<ControllerMetrics>,
}

/// The right to reconcile; given back when dropped.
pub struct Permit {
    /// None once it has given way.
    slot: Option<Slot>,
    metrics: Arc<ControllerMetrics>,
    since: Instant,
    number: u64,
    result: &'static str,
}

impl Permits {
    /// At most `workers` at once.
    pub fn new(workers: u16, metrics: Arc<ControllerMetrics>) -> Self {
        metrics.max_concurrent.set(i64::from(workers));
        Self { permits: Slots::new(usize::from(workers)), metrics }
    }

    /// Waits for a permit, first come, first served.
    pub async fn acquire(&self) -> Permit {
        self.acquire_for(Cause::Routine, &mut Passes::default()).await
    }

    /// As [`Self::acquire`], where what is new passes the rest.
    pub async fn acquire_for(&self, cause: Cause, passes: &mut Passes) -> Permit {
        let waiter = Waiter::new(&self.metrics);
        let slot = self.permits.acquire_fairly(cause, passes).await;
        drop(waiter);
        self.metrics.active.inc();
        let since = Instant::now();
        let number = self.metrics.running.begin(since);
        Permit { slot: Some(slot), metrics: self.metrics.clone(), since, number, result: "error" }
    }
}

/// Counts as queue depth while it lives, also when the wait is given up.
struct Waiter<'a> {
    metrics: &'a ControllerMetrics,
    since: Instant,
}

impl<'a> Waiter<'a> {
    fn new(metrics: &'a ControllerMetrics) -> Self {
        metrics.adds.inc();
        metrics.depth.inc();
        Self { metrics, since: Instant::now() }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.metrics.depth.dec();
        self.metrics.queue_seconds.observe(self.since.elapsed().as_secs_f64());
    }
}

impl Permit {
    /// Gives the permit to the next: what is left of this reconcile waits for something else. It lasts until it is dropped all the same.
    pub fn gives_way(&mut self) {
        if self.slot.take().is_some() {
            self.metrics.active.dec();
        }
    }

    /// Says how the reconcile ended (`success`, `requeue_after`, `error`); without it, it counts as an error.
    pub fn finish(mut self, result: &'static str) {
        self.result = result;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let seconds = self.since.elapsed().as_secs_f64();
        self.gives_way();
        self.metrics.running.end(self.number);
        self.metrics.work_seconds.observe(seconds);
        self.metrics.reconcile_seconds.observe(seconds);
        self.metrics.ended(self.result);
        if self.result == "error" {
            self.metrics.errors.inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Mutex;

    use tokio::task::JoinSet;

    use super::*;
    use crate::metrics::Metrics;

    #[tokio::test(start_paused = true)]
    async fn under_overload_every_object_gets_its_turn_equally_often() {
        let metrics = Metrics::new().unwrap().controller("test");
        let permits = Arc::new(Permits::new(4, metrics.clone()));
        let turns = Arc::new(Mutex::new(HashMap::new()));
        let mut tasks = JoinSet::new();
        for object in 0..100 {
            let (permits, turns) = (permits.clone(), turns.clone());
            tasks.spawn(async move {
                loop {
                    let permit = permits.acquire().await;
                    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                    let total = {
                        let mut turns = turns.lock().unwrap();
                        *turns.entry(object).or_insert(0_u32) += 1;
                        turns.values().sum::<u32>()
                    };
                    permit.finish("success");
                    if total >= 2000 {
                        return;
                    }
                }
            });
        }
        tasks.join_all().await;
        let turns = turns.lock().unwrap();
        assert_eq!(turns.len(), 100);
        assert!(turns.values().all(|turns| (19..=22).contains(turns)), "{turns:?}");
        assert_eq!(metrics.depth.get(), 0);
        assert_eq!(metrics.active.get(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reconcile_that_gives_way_lets_the_next_begin_and_is_measured_to_its_end() {
        let metrics = Metrics::new().unwrap().controller("test");
        let permits = Permits::new(1, metrics.clone());
        let mut first = permits.acquire().await;
        first.gives_way();
        assert_eq!(metrics.active.get(), 0);
        let second = permits.acquire().await;
        assert_eq!(metrics.active.get(), 1);
        tokio::time::sleep(std::time::Duration::from_secs(60)).await;
        first.finish("success");
        assert_eq!(metrics.active.get(), 1, "the one that gave way took another's place along");
        assert!(metrics.reconcile_seconds.get_sample_sum() > 59.0);
        second.finish("success");
        assert_eq!(metrics.active.get(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_is_the_depth_and_giving_up_ends_it() {
        let metrics = Metrics::new().unwrap().controller("test");
        let permits = Permits::new(1, metrics.clone());
        let held = permits.acquire().await;
        let gave_up = tokio::time::timeout(std::time::Duration::from_secs(1), async {
            assert_eq!(metrics.depth.get(), 0);
            permits.acquire().await.finish("success");
        });
        let (gave_up, ()) = tokio::join!(gave_up, async {
            tokio::task::yield_now().await;
            assert_eq!(metrics.depth.get(), 1);
        });
        assert!(gave_up.is_err());
        assert_eq!(metrics.depth.get(), 0);
        held.finish("success");
    }
}
