//! How many exchanges are under way at once. Devices that were silent last time hold a slot for all of an
//! exchange's patience, so they share half of the slots: those that answer never wait for those that do not.

use tokio::sync::{Semaphore, SemaphorePermit};

/// The slots of all exchanges.
#[derive(Debug)]
pub struct Slots {
    all: Semaphore,
    doubtful: Semaphore,
}

/// The right to one exchange; given back when dropped.
#[derive(Debug)]
pub struct Slot<'a> {
    _all: SemaphorePermit<'a>,
    _doubtful: Option<SemaphorePermit<'a>>,
}

impl Slots {
    /// At most `limit` exchanges at once, and at most half of them with doubtful devices.
    pub fn new(limit: usize) -> Self {
        Self { all: Semaphore::new(limit), doubtful: Semaphore::new((limit / 2).max(1)) }
    }

    /// Waits for a slot, first come, first served among the doubtful and among the others. `doubtful`: the
    /// device's last exchange ended in silence. None when all ends.
    pub async fn acquire(&self, doubtful: bool) -> Option<Slot<'_>> {
        let half = if doubtful { Some(self.doubtful.acquire().await.ok()?) } else { None };
        Some(Slot { _all: self.all.acquire().await.ok()?, _doubtful: half })
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn devices_that_do_not_answer_hold_half_of_the_slots_at_most() {
        let slots = Slots::new(4);
        let held = [slots.acquire(true).await.unwrap(), slots.acquire(true).await.unwrap()];
        let mut third = Box::pin(slots.acquire(true));
        assert!(third.as_mut().now_or_never().is_none());
        let healthy = [slots.acquire(false).now_or_never(), slots.acquire(false).now_or_never()];
        assert!(
            healthy.iter().all(Option::is_some),
            "slots are free, and those before them wait in another queue"
        );
        drop(held);
        assert!(third.await.is_some());
    }
}
