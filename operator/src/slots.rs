//! How many exchanges, or reconciles, are under way at once, and who is next. Devices that were silent last time hold a slot for all
//! of an exchange's patience, so they get half of the slots at most: those that answer never wait for those that do not. And a
//! device that does not run yet what it shall is looked at, asked and commanded before those that do are asked how they are: when there
//! are more devices than can be asked in time, as after a change of leaders, what is new does not wait for all of them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;

use crate::lock::lock;

/// Of so many slots that get free while both wait, one is for a routine question.
const ROUTINE_SHARE: u32 = 4;
/// Entries of a line at which those that nobody waits for any more are taken out, at least.
const SWEEP: usize = 64;

/// Why a device is talked to, or looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It shall run something else than it does, as far as is known.
    Change,
    /// To see that it is still as it shall be.
    Routine,
}

/// When an object had its last two turns, in arrivals of others: so nobody sees it pass a third time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passes([u64; 2]);

/// The slots of all exchanges, or of all reconciles of a controller.
#[derive(Debug)]
pub struct Slots {
    all: Arc<Mutex<All>>,
    limit: usize,
}

/// The right to one of them; given to the next when dropped.
#[derive(Debug)]
pub struct Slot {
    all: Arc<Mutex<All>>,
    doubtful: bool,
}

#[derive(Debug)]
struct All {
    free: usize,
    /// Of the free ones so many may go to doubtful devices.
    free_for_doubtful: usize,
    changes: Queue,
    routine: Queue,
    /// Slots given to changes since one was given to a routine question, while one could have had them.
    passed: u32,
    /// How many waited so far: the number of the next.
    arrivals: u64,
}

/// Who waits for one cause. Doubtful devices stand in a line of their own, so that nobody waits behind one that may not go.
#[derive(Debug, Default)]
struct Queue {
    certain: Line,
    doubtful: Line,
}

/// Who waits, in order of arrival.
#[derive(Debug, Default)]
struct Line {
    waiting: VecDeque<Waiter>,
    sweep_at: usize,
}

#[derive(Debug)]
struct Waiter {
    arrival: u64,
    turn: oneshot::Sender<Slot>,
}

impl Line {
    fn push(&mut self, next: Waiter) {
        if self.waiting.len() >= self.sweep_at.max(SWEEP) {
            self.waiting.retain(|waiter| !waiter.turn.is_closed());
            self.sweep_at = 2 * self.waiting.len();
        }
        self.waiting.push_back(next);
    }

    /// When the first came that still waits.
    fn arrival(&mut self) -> Option<u64> {
        while self.waiting.pop_front_if(|waiter| waiter.turn.is_closed()).is_some() {}
        self.waiting.front().map(|waiter| waiter.arrival)
    }
}

impl Queue {
    fn line(&mut self, doubtful: bool) -> &mut Line {
        if doubtful { &mut self.doubtful } else { &mut self.certain }
    }

    /// Of the lines that may go, the one whose first came first; as whether it is the doubtful one.
    fn next_line(&mut self, doubtful_may_go: bool) -> Option<bool> {
        let certain = self.certain.arrival();
        let doubtful = self.doubtful.arrival().filter(|_| doubtful_may_go);
        match (certain, doubtful) {
            (None, None) => None,
            (Some(certain), Some(doubtful)) => Some(doubtful < certain),
            (certain, _) => Some(certain.is_none()),
        }
    }

    /// When the first came of all that wait.
    fn arrival(&mut self) -> Option<u64> {
        self.certain.arrival().into_iter().chain(self.doubtful.arrival()).min()
    }

    fn is_empty(&self) -> bool {
        self.certain.waiting.is_empty() && self.doubtful.waiting.is_empty()
    }
}

impl All {
    /// Who may have a slot that is free.
    fn next(&mut self) -> Option<(bool, oneshot::Sender<Slot>)> {
        let doubtful_may_go = self.free_for_doubtful > 0;
        let change = self.changes.next_line(doubtful_may_go);
        let routine = self.routine.next_line(doubtful_may_go);
        let (queue, doubtful) = match (change, routine) {
            (Some(_), Some(line)) if self.passed + 1 >= ROUTINE_SHARE => (&mut self.routine, line),
            (Some(line), _) => (&mut self.changes, line),
            (None, line) => (&mut self.routine, line?),
        };
        let turn = queue.line(doubtful).waiting.pop_front()?.turn;
        self.passed = match (change, routine) {
            (Some(_), Some(_)) => (self.passed + 1) % ROUTINE_SHARE,
            // Those that wait may not go now: their turn is not forgotten.
            (Some(_), None) if !self.routine.is_empty() => self.passed,
            _ => 0,
        };
        Some((doubtful, turn))
    }

    fn take(&mut self, doubtful: bool) {
        self.free -= 1;
        self.free_for_doubtful -= usize::from(doubtful);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let next = {
            let mut all = lock(&self.all);
            all.free += 1;
            all.free_for_doubtful += usize::from(self.doubtful);
            all.next().inspect(|(doubtful, _)| all.take(*doubtful))
        };
        // Who gave up in this moment drops it, and so gives it to the next.
        if let Some((doubtful, turn)) = next {
            let _gave_up = turn.send(Self { all: self.all.clone(), doubtful });
        }
    }
}

impl Slots {
    /// At most `limit` exchanges at once, and at most half of them with doubtful devices.
    pub fn new(limit: usize) -> Self {
        let all = All {
            free: limit,
            free_for_doubtful: (limit / 2).max(1),
            changes: Queue::default(),
            routine: Queue::default(),
            passed: 0,
            arrivals: 0,
        };
        Self { all: Arc::new(Mutex::new(all)), limit }
    }

    /// How many are in use, for a metric that outlives this.
    pub fn usage(&self) -> impl Fn() -> usize + Send + Sync + use<> {
        let (all, limit) = (self.all.clone(), self.limit);
        move || limit.saturating_sub(lock(&all).free)
    }

    /// Waits for a slot, first come, first served among those of one cause that may have it. `doubtful`: the device's last exchange
    /// ended in silence. None when all ends.
    pub async fn acquire(&self, doubtful: bool, cause: Cause) -> Option<Slot> {
        let turn = self.take(&mut lock(&self.all), doubtful, cause);
        match turn {
            Ok(slot) => Some(slot),
            Err(turn) => turn.await.ok(),
        }
    }

    /// As [`Self::acquire`], for one of many objects that come again and again: it passes nobody more than twice who waits all the
    /// while, whatever its cause.
    pub async fn acquire_fairly(&self, cause: Cause, passes: &mut Passes) -> Option<Slot> {
        let turn = {
            let mut all = lock(&self.all);
            let [before_last, _] = passes.0;
            let passed_twice = all.routine.arrival().is_some_and(|oldest| before_last > oldest);
            self.take(&mut all, false, if passed_twice { Cause::Routine } else { cause })
        };
        let slot = match turn {
            Ok(slot) => slot,
            Err(turn) => turn.await.ok()?,
        };
        passes.0 = [passes.0[1], lock(&self.all).arrivals];
        Some(slot)
    }

    /// A slot that is free, or what brings one.
    fn take(&self, all: &mut All, doubtful: bool, cause: Cause) -> Result<Slot, oneshot::Receiver<Slot>> {
        // Nobody waits for what is free and may be had.
        if all.free > 0 && (!doubtful || all.free_for_doubtful > 0) {
            all.take(doubtful);
            return Ok(Slot { all: self.all.clone(), doubtful });
        }
        let (turn, brings) = oneshot::channel();
        let waiter = Waiter { arrival: all.arrivals, turn };
        all.arrivals += 1;
        let queue = match cause {
            Cause::Change => &mut all.changes,
            Cause::Routine => &mut all.routine,
        };
        queue.line(doubtful).push(waiter);
        Err(brings)
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
    async fn whoever_comes_again_and_again_passes_nobody_a_third_time() {
        let slots = Slots::new(1);
        let mut held = slots.acquire(false, Routine).await;
        // Some wait before the one who hurries comes, and some come while it does.
        let mut patient: Vec<_> = (0..8).map(|_| Box::pin(slots.acquire(false, Routine))).collect();
        assert!(patient.iter_mut().all(|turn| turn.as_mut().now_or_never().is_none()));
        let (mut passes, mut passed, mut more) = (Passes::default(), vec![0; patient.len()], 40);
        while !passed.is_empty() {
            let mut hurries = Box::pin(slots.acquire_fairly(Change, &mut passes));
            assert!(hurries.as_mut().now_or_never().is_none());
            loop {
                drop(held.take());
                if let Some(slot) = hurries.as_mut().now_or_never() {
                    held = slot;
                    passed.iter_mut().for_each(|times| *times += 1);
                    break;
                }
                let mut turns = patient.iter_mut().map(|turn| turn.as_mut().now_or_never()).enumerate();
                let (at, slot) = turns.find_map(|(at, slot)| Some((at, slot?))).expect("one is next");
                drop(turns);
                held = slot;
                drop(patient.remove(at));
                let times = passed.remove(at);
                assert!(times <= 2, "one was passed {times} times");
                if more > 0 {
                    more -= 1;
                    patient.push(Box::pin(slots.acquire(false, Routine)));
                    assert!(patient.last_mut().unwrap().as_mut().now_or_never().is_none());
                    passed.push(0);
                }
            }
        }
    }

    #[tokio::test]
    async fn a_silent_device_that_shall_change_waits_for_no_routine_question_of_another_one() {
        let slots = Slots::new(4);
        let mut held: Vec<_> =
            (0..4).map(|_| slots.acquire(false, Change).now_or_never().flatten().unwrap()).collect();
        let mut routine: Vec<_> = (0..10).map(|_| Box::pin(slots.acquire(true, Routine))).collect();
        assert!(routine.iter_mut().all(|turn| turn.as_mut().now_or_never().is_none()));
        let mut change = Box::pin(slots.acquire(true, Change));
        assert!(change.as_mut().now_or_never().is_none());
        held.pop();
        assert!(change.as_mut().now_or_never().is_some(), "others wait before it, who hold nothing");
    }

    #[tokio::test]
    async fn where_silent_devices_alone_wait_every_fourth_of_their_slots_is_for_a_routine_question() {
        let slots = Slots::new(4);
        let [mut half, mut answering]: [VecDeque<_>; 2] = [true, false].map(|doubtful| {
            let held = (0..2).map(|_| slots.acquire(doubtful, Change).now_or_never().flatten().unwrap());
            held.collect()
        });
        let mut causes: Vec<_> = [Routine, Routine, Change, Change, Change, Change, Change]
            .into_iter()
            .map(|cause| (cause, Box::pin(slots.acquire(true, cause))))
            .collect();
        assert!(causes.iter_mut().all(|(_, turn)| turn.as_mut().now_or_never().is_none()));
        let mut order = Vec::new();
        while !causes.is_empty() {
            // What is given meanwhile to those that answer takes nothing from anybody's turn.
            for _ in 0..3 {
                let mut turn = Box::pin(slots.acquire(false, Change));
                assert!(turn.as_mut().now_or_never().is_none());
                answering.pop_front();
                answering.extend(turn.as_mut().now_or_never().flatten());
            }
            half.pop_front();
            let turns = causes.iter_mut().map(|(_, turn)| turn.as_mut().now_or_never().flatten());
            let (at, slot) = turns.enumerate().find_map(|(at, slot)| Some((at, slot?))).expect("one is next");
            half.push_back(slot);
            order.push(causes.remove(at).0);
        }
        assert_eq!(order, [Change, Change, Change, Routine, Change, Change, Routine]);
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
        assert!(lock(&slots.all).changes.certain.waiting.len() <= SWEEP);
    }
}
