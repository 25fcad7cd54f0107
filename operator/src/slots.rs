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
    /// Those who passed somebody twice: none of these goes before whom it passed.
    last: Line,
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
    /// In the last line: not before those who came earlier than this.
    after: u64,
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

    /// The first that still waits has its turn.
    fn pop(&mut self) -> Option<oneshot::Sender<Slot>> {
        self.arrival()?;
        Some(self.waiting.pop_front()?.turn)
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

    /// When the first came of all that wait, or of those that may go.
    fn arrival(&mut self, doubtful_may_go: bool) -> Option<u64> {
        let doubtful = self.doubtful.arrival().filter(|_| doubtful_may_go);
        self.certain.arrival().into_iter().chain(doubtful).min()
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
        let (cause, doubtful) = match (change, routine) {
            (Some(_), Some(line)) if self.passed + 1 >= ROUTINE_SHARE => (Cause::Routine, line),
            (Some(line), _) => (Cause::Change, line),
            (None, Some(line)) => (Cause::Routine, line),
            (None, None) => return Some((false, self.last.pop()?)),
        };
        let came = self.queue(cause).line(doubtful).arrival()?;
        if self.last_goes_before(came, doubtful_may_go) {
            // It is of no cause now, and changes nothing about whose share is next.
            return Some((false, self.last.pop()?));
        }
        let turn = self.queue(cause).line(doubtful).pop()?;
        self.passed = match (change, routine) {
            (Some(_), Some(_)) => (self.passed + 1) % ROUTINE_SHARE,
            // Those that wait may not go now: their turn is not forgotten.
            (Some(_), None) if !self.routine.is_empty() => self.passed,
            _ => 0,
        };
        Some((doubtful, turn))
    }

    fn queue(&mut self, cause: Cause) -> &mut Queue {
        match cause {
            Cause::Change => &mut self.changes,
            Cause::Routine => &mut self.routine,
        }
    }

    /// One more waits.
    fn arrives(&mut self, after: u64) -> (Waiter, oneshot::Receiver<Slot>) {
        let (turn, brings) = oneshot::channel();
        let waiter = Waiter { arrival: self.arrivals, after, turn };
        self.arrivals += 1;
        (waiter, brings)
    }

    /// Has the first of the last line waited longer than who came then, and has everybody had a turn whom it passed twice?
    fn last_goes_before(&mut self, came: u64, doubtful_may_go: bool) -> bool {
        let queues = [&mut self.changes, &mut self.routine];
        let oldest = queues.into_iter().filter_map(|queue| queue.arrival(doubtful_may_go)).min();
        let arrival = self.last.arrival();
        let first = self.last.waiting.front().filter(|_| arrival.is_some_and(|arrival| arrival < came));
        first.is_some_and(|first| oldest.is_none_or(|oldest| first.after <= oldest))
    }

    /// Does somebody wait who came before this, and would be passed by who waits for this cause?
    fn would_be_passed(&mut self, cause: Cause, since: u64) -> bool {
        let others = match cause {
            Cause::Change => &mut self.routine,
            Cause::Routine => &mut self.changes,
        };
        let oldest = others.arrival(true).into_iter().chain(self.last.arrival()).min();
        oldest.is_some_and(|oldest| oldest < since)
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
            last: Line::default(),
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
    /// ended in silence.
    pub async fn acquire(&self, doubtful: bool, cause: Cause) -> Slot {
        let turn = self.take(&mut lock(&self.all), doubtful, cause);
        comes(turn).await
    }

    /// As [`Self::acquire`], for one of many objects that come again and again: it passes nobody more than twice who waits all the
    /// while, whatever its cause.
    pub async fn acquire_fairly(&self, cause: Cause, passes: &mut Passes) -> Slot {
        let [before_last, _] = passes.0;
        let turn = self.take_fairly(&mut lock(&self.all), cause, before_last);
        let slot = comes(turn).await;
        passes.0 = [passes.0[1], lock(&self.all).arrivals];
        slot
    }

    /// A slot that is free, or what brings one.
    fn take(&self, all: &mut All, doubtful: bool, cause: Cause) -> Result<Slot, oneshot::Receiver<Slot>> {
        self.free(all, doubtful).ok_or_else(|| {
            let (waiter, brings) = all.arrives(0);
            all.queue(cause).line(doubtful).push(waiter);
            brings
        })
    }

    /// As [`Self::take`], for one who had its turn twice since `before_last`.
    fn take_fairly(
        &self,
        all: &mut All,
        cause: Cause,
        before_last: u64,
    ) -> Result<Slot, oneshot::Receiver<Slot>> {
        if !all.would_be_passed(cause, before_last) {
            return self.take(all, false, cause);
        }
        self.free(all, false).ok_or_else(|| {
            let (waiter, brings) = all.arrives(before_last);
            all.last.push(waiter);
            brings
        })
    }

    /// Nobody waits for what is free and may be had.
    fn free(&self, all: &mut All, doubtful: bool) -> Option<Slot> {
        if all.free == 0 || (doubtful && all.free_for_doubtful == 0) {
            return None;
        }
        all.take(doubtful);
        Some(Slot { all: self.all.clone(), doubtful })
    }
}

/// The slot that is there, or the one that is brought.
async fn comes(turn: Result<Slot, oneshot::Receiver<Slot>>) -> Slot {
    match turn {
        Ok(slot) => slot,
        Err(turn) => match turn.await {
            Ok(slot) => slot,
            // Who brings it is taken out of a line to bring it, or once nobody waits: this wait has ended then.
            Err(_) => std::future::pending().await,
        },
    }
}

#[cfg(test)]
mod tests;
