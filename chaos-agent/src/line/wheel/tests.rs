use std::cmp::Reverse;
use std::collections::BinaryHeap;

use proptest::prelude::*;

use super::*;

const CAPACITY: u32 = 64;
const SECOND: u64 = 1_000_000_000;

#[derive(Clone, Debug)]
enum Step {
    /// Release so long after (or before) now, in nanoseconds.
    Insert(i64),
    /// At this very time.
    InsertAt(u64),
    /// Time passes, and what is due leaves.
    Expire(u64),
    /// Time passes, and one leaves if it is due.
    Pop(u64),
}

fn step() -> impl Strategy<Value = Step> {
    // Of each order of magnitude as many.
    let far = (0u32..37, any::<u64>()).prop_map(|(bits, number)| number & ((1 << bits) - 1));
    let near = 0u64..200;
    let ahead = prop_oneof![near.clone(), far, Just(70 * SECOND)];
    prop_oneof![
        6 => ahead.clone().prop_map(|ns| Step::Insert(i64::try_from(ns).unwrap())),
        2 => ahead.clone().prop_map(|ns| Step::Insert(-i64::try_from(ns).unwrap())),
        1 => prop_oneof![Just(0), Just(u64::MAX), any::<u64>()].prop_map(Step::InsertAt),
        2 => ahead.prop_map(Step::Expire),
        3 => near.prop_map(Step::Pop),
        1 => Just(Step::Expire(3600 * SECOND)),
    ]
}

/// What the wheel must do, at O(log n) a step.
#[derive(Default)]
struct Model {
    heap: BinaryHeap<Reverse<(u64, u64, u32)>>,
    inserted: u64,
}

impl Model {
    fn insert(&mut self, release_ns: u64, slot: u32) {
        self.heap.push(Reverse((release_ns, self.inserted, slot)));
        self.inserted += 1;
    }

    fn next_deadline(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse((release_ns, ..))| *release_ns)
    }

    fn pop(&mut self, now_ns: u64) -> Option<Due> {
        self.next_deadline().filter(|at| *at <= now_ns)?;
        self.heap.pop().map(|Reverse((release_ns, _, slot))| Due { release_ns, slot })
    }
}

/// Both, with the slots that are free.
struct Pair {
    wheel: Wheel,
    model: Model,
    free: Vec<u32>,
    now_ns: u64,
}

impl Pair {
    fn new(now_ns: u64) -> Self {
        Self { wheel: Wheel::new(CAPACITY), model: Model::default(), free: (0..CAPACITY).collect(), now_ns }
    }

    fn insert(&mut self, release_ns: u64) {
        if let Some(slot) = self.free.pop() {
            self.wheel.insert(release_ns, slot);
            self.model.insert(release_ns, slot);
        }
    }

    /// One that both give out.
    fn pop(&mut self) -> Result<Option<Due>, TestCaseError> {
        let due = self.wheel.pop(self.now_ns);
        prop_assert_eq!(due, self.model.pop(self.now_ns));
        self.free.extend(due.map(|due| due.slot));
        Ok(due)
    }

    fn take(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match *step {
            Step::Insert(ns) => self.insert(self.now_ns.saturating_add_signed(ns)),
            Step::InsertAt(at) => self.insert(at),
            Step::Expire(ns) => {
                self.now_ns = self.now_ns.saturating_add(ns);
                while self.pop()?.is_some() {}
            }
            Step::Pop(ns) => {
                self.now_ns = self.now_ns.saturating_add(ns);
                self.pop()?;
            }
        }
        prop_assert_eq!(self.wheel.next_deadline(), self.model.next_deadline());
        prop_assert_eq!(self.wheel.len(), self.model.heap.len());
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_wheel_gives_out_what_a_sorted_heap_does(
        start in prop_oneof![Just(0), 0..1_000_000 * SECOND],
        steps in prop::collection::vec(step(), 1..300),
    ) {
        let mut pair = Pair::new(start);
        for step in &steps {
            pair.take(step)?;
        }
        pair.now_ns = u64::MAX;
        while pair.pop()?.is_some() {}
        prop_assert!(pair.wheel.is_empty() && pair.model.heap.is_empty());
    }
}

#[test]
fn nothing_leaves_early_and_what_is_due_leaves_at_once() {
    let mut wheel = Wheel::new(2);
    wheel.insert(1_000, 0);
    assert_eq!(wheel.pop(999), None);
    assert_eq!(wheel.pop(1_000), Some(Due { release_ns: 1_000, slot: 0 }));
    wheel.insert(3, 1);
    assert_eq!(wheel.pop(1_000), Some(Due { release_ns: 3, slot: 1 }), "long past");
}

#[test]
fn equal_times_leave_in_the_order_in_which_they_came_however_far_the_hand_has_gone_in_between() {
    let mut wheel = Wheel::new(4);
    let at = 50 * SECOND;
    wheel.insert(at, 3);
    wheel.insert(at - 300, 2);
    assert_eq!(wheel.pop(at - 1).map(|due| due.slot), Some(2));
    wheel.insert(at, 1);
    wheel.insert(at, 0);
    let mut order = Vec::new();
    wheel.expire(at, |due| order.push(due.slot));
    assert_eq!(order, [3, 1, 0]);
}
