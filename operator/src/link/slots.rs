//! How many exchanges are under way at once, and who is next. Devices that were silent last time hold a slot for all of an
//! exchange's patience, so they share half of the slots: those that answer never wait for those that do not. And a device that
//! does not run yet what it shall is asked and commanded before those that do are asked how they are: when there are more
//! devices than can be asked in time, as after a change of leaders, what is new does not wait for all of them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::sync::{Semaphore, SemaphorePermit, oneshot};

use crate::lock::lock;

/// Of so many slots that get free while both wait, one is for a routine question.
const ROUTINE_SHARE: u32 = 4;
/// Entries of a queue at which those that nobody waits for any more are taken out, at least.
const SWEEP: usize = 64;

/// Why a device is talked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It shall run something else than it does, as far as is known.
    Change,
    /// To see that it is still as it shall be.
    Routine,
}

/// The slots of all exchanges.
#[derive(Debug)]
pub struct Slots {
    all: Arc<Mutex<All>>,
    doubtful: Semaphore,
}

/// The right to one exchange; given back when dropped.
#[derive(Debug)]
pub struct Slot<'a> {
    _right: Right,
    _doubtful: Option<SemaphorePermit<'a>>,
}

/// One of the slots; given to the next when dropped.
#[derive(Debug)]
struct Right(Arc<Mutex<All>>);

#[derive(Debug)]
struct All {
    free: usize,
    changes: Queue,
    routine: Queue,
    /// Slots given to changes since one was given to a routine question, while one waited.
    passed: u32,
}

/// Who waits, in order of arrival.
#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<oneshot::Sender<Right>>,
    sweep_at: usize,
}

impl Queue {
    fn push(&mut self, next: oneshot::Sender<Right>) {
        if self.waiting.len() >= self.sweep_at.max(SWEEP) {
            self.waiting.retain(|waiter| !waiter.is_closed());
            self.sweep_at = 2 * self.waiting.len();
        }
        self.waiting.push_back(next);
    }

    /// The first that still waits.
    fn pop(&mut self) -> Option<oneshot::Sender<Right>> {
        std::iter::from_fn(|| self.waiting.pop_front()).find(|waiter| !waiter.is_closed())
    }
}

impl All {
    fn next(&mut self) -> Option<oneshot::Sender<Right>> {
        if self.passed + 1 >= ROUTINE_SHARE
            && let Some(next) = self.routine.pop()
        {
            self.passed = 0;
            return Some(next);
        }
        if let Some(next) = self.changes.pop() {
            self.passed = if self.routine.waiting.is_empty() { 0 } else { self.passed + 1 };
            return Some(next);
        }
        self.passed = 0;
        self.routine.pop()
    }
}

impl Drop for Right {
    fn drop(&mut self) {
        let next = {
            let mut all = lock(&self.0);
            let next = all.next();
            if next.is_none() {
                all.free += 1;
            }
            next
        };
        // Who gave up in this moment drops it, and so gives it to the next.
        if let Some(next) = next {
            let _gave_up = next.send(Self(self.0.clone()));
        }
    }
}

impl Slots {
    /// At most `limit` exchanges at once, and at most half of them with doubtful devices.
    pub fn new(limit: usize) -> Self {
        let all = All { free: limit, changes: Queue::default(), routine: Queue::default(), passed: 0 };
        Self { all: Arc::new(Mutex::new(all)), doubtful: Semaphore::new((limit / 2).max(1)) }
    }

    /// Waits for a slot, first come, first served among those of one cause. `doubtful`: the device's last exchange ended in
    /// silence; these wait for one another first. None when all ends.
    pub async fn acquire(&self, doubtful: bool, cause: Cause) -> Option<Slot<'_>> {
        let half = if doubtful { Some(self.doubtful.acquire().await.ok()?) } else { None };
        let right = match self.take(cause) {
            Ok(right) => right,
            Err(turn) => turn.await.ok()?,
        };
        Some(Slot { _right: right, _doubtful: half })
    }

    /// A slot that is free, or what brings one.
    fn take(&self, cause: Cause) -> Result<Right, oneshot::Receiver<Right>> {
        let mut all = lock(&self.all);
        if all.free > 0 {
            all.free -= 1;
            return Ok(Right(self.all.clone()));
        }
        let (sender, turn) = oneshot::channel();
        match cause {
            Cause::Change => all.changes.push(sender),
            Cause::Routine => all.routine.push(sender),
        }
        Err(turn)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::Cause::{Change, Routine};
    use super::*;

    #[tokio::test]
    async fn devices_that_do_not_answer_hold_half_of_the_slots_at_most() {
        let slots = Slots::new(4);
        let held = [slots.acquire(true, Change).await.unwrap(), slots.acquire(true, Change).await.unwrap()];
        let mut third = Box::pin(slots.acquire(true, Change));
        assert!(third.as_mut().now_or_never().is_none());
        let healthy =
            [slots.acquire(false, Routine).now_or_never(), slots.acquire(false, Routine).now_or_never()];
        assert!(
            healthy.iter().all(Option::is_some),
            "slots are free, and those before them wait in another queue"
        );
        drop(held);
        assert!(third.await.is_some());
    }

    #[tokio::test]
    async fn what_is_new_passes_routine_questions_and_every_fourth_slot_is_theirs() {
        let slots = Slots::new(1);
        let mut held = slots.acquire(false, Routine).await;
        let routine: Vec<_> = (0..3).map(|number| (Routine, number)).collect();
        let changes: Vec<_> = (0..8).map(|number| (Change, number)).collect();
        let mut waiting: Vec<_> = [routine, changes]
            .concat()
            .into_iter()
            .map(|(cause, number)| ((cause, number), Box::pin(slots.acquire(false, cause))))
            .collect();
        assert!(waiting.iter_mut().all(|(_, turn)| turn.as_mut().now_or_never().is_none()));
        let mut order = Vec::new();
        while !waiting.is_empty() {
            drop(held.take());
            let turns = waiting.iter_mut().map(|(_, turn)| turn.as_mut().now_or_never());
            let (at, slot) = turns.enumerate().find_map(|(at, slot)| Some((at, slot?))).expect("one is next");
            held = slot;
            order.push(waiting.remove(at).0);
        }
        let expected = [
            (Change, 0),
            (Change, 1),
            (Change, 2),
            (Routine, 0),
            (Change, 3),
            (Change, 4),
            (Change, 5),
            (Routine, 1),
            (Change, 6),
            (Change, 7),
            (Routine, 2),
        ];
        assert_eq!(order, expected);
    }

    #[tokio::test]
    async fn a_slot_that_nobody_waits_for_any_more_goes_to_the_next_and_is_never_lost() {
        let slots = Slots::new(1);
        let held = slots.acquire(false, Change).await;
        let mut gives_up = Box::pin(slots.acquire(false, Change));
        let mut too_late = Box::pin(slots.acquire(false, Change));
        let mut patient = Box::pin(slots.acquire(false, Routine));
        for turn in [&mut gives_up, &mut too_late, &mut patient] {
            assert!(turn.as_mut().now_or_never().is_none());
        }
        drop(gives_up);
        drop(held);
        assert!(patient.as_mut().now_or_never().is_none());
        // It was given the slot, and ends before it looks.
        drop(too_late);
        drop(patient.as_mut().now_or_never().expect("it is next"));
        assert_eq!(lock(&slots.all).free, 1);
    }

    #[tokio::test]
    async fn who_gave_up_takes_no_room() {
        let slots = Slots::new(1);
        let _held = slots.acquire(false, Change).await;
        for _ in 0..10 * SWEEP {
            assert!(slots.acquire(false, Change).now_or_never().is_none());
        }
        assert!(lock(&slots.all).changes.waiting.len() <= SWEEP);
    }
}
