use futures::FutureExt as _;
use futures::future::BoxFuture;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::Cause::{Change, Routine};
use super::*;

#[tokio::test]
async fn devices_that_do_not_answer_hold_half_of_the_slots_at_most() {
    let slots = Slots::new(4);
    let held = [slots.acquire(true, Change).await, slots.acquire(true, Change).await];
    let mut third = Box::pin(slots.acquire(true, Change));
    assert!(third.as_mut().now_or_never().is_none());
    let healthy =
        [slots.acquire(false, Routine).now_or_never(), slots.acquire(false, Routine).now_or_never()];
    assert!(
        healthy.iter().all(Option::is_some),
        "slots are free, and those before them wait in another queue"
    );
    drop(held);
    assert!(third.now_or_never().is_some());
}

#[tokio::test]
async fn what_is_new_passes_routine_questions_and_every_fourth_slot_is_theirs() {
    let slots = Slots::new(1);
    let mut held = Some(slots.acquire(false, Routine).await);
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
        held = Some(slot);
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
    none_is_passed_a_third_time(Change, Routine).await;
}

#[tokio::test]
async fn whoever_is_asked_again_and_again_passes_no_change_a_third_time() {
    none_is_passed_a_third_time(Routine, Change).await;
}

/// One comes again and again for one cause, and others wait for the other.
async fn none_is_passed_a_third_time(hurried: Cause, waited: Cause) {
    let slots = Slots::new(1);
    let mut held = Some(slots.acquire(false, Routine).await);
    // Some wait before the one who hurries comes, and some come while it does.
    let mut patient: Vec<_> = (0..20).map(|_| Box::pin(slots.acquire(false, waited))).collect();
    assert!(patient.iter_mut().all(|turn| turn.as_mut().now_or_never().is_none()));
    let (mut passes, mut passed, mut more) = (Passes::default(), vec![0; patient.len()], 40);
    while !passed.is_empty() {
        let mut hurries = Box::pin(slots.acquire_fairly(hurried, &mut passes));
        assert!(hurries.as_mut().now_or_never().is_none());
        loop {
            drop(held.take());
            if let Some(slot) = hurries.as_mut().now_or_never() {
                held = Some(slot);
                passed.iter_mut().for_each(|times| *times += 1);
                break;
            }
            let mut turns = patient.iter_mut().map(|turn| turn.as_mut().now_or_never()).enumerate();
            let (at, slot) = turns.find_map(|(at, slot)| Some((at, slot?))).expect("one is next");
            drop(turns);
            held = Some(slot);
            drop(patient.remove(at));
            let times = passed.remove(at);
            assert!(times <= 2, "one was passed {times} times");
            if more > 0 {
                more -= 1;
                patient.push(Box::pin(slots.acquire(false, waited)));
                assert!(patient.last_mut().unwrap().as_mut().now_or_never().is_none());
                passed.push(0);
            }
        }
    }
}

/// One that wants a slot, has one, or neither.
struct Object<'a> {
    cause: Cause,
    passes: Passes,
    waits: Option<BoxFuture<'a, (Slot, Passes)>>,
    holds: Option<Slot>,
    /// By whom it was passed since it waits, and how often.
    passed: [u32; OBJECTS],
}

const OBJECTS: usize = 24;

proptest! {
    /// Whoever comes when and for whatever cause: none is passed by the same other one a third time, and who waits has its turn
    /// as long as slots are given back.
    #[test]
    fn none_is_passed_by_the_same_other_one_a_third_time(
        limit in 1_usize..3,
        causes in prop::collection::vec(prop::bool::weighted(0.8), OBJECTS),
        steps in prop::collection::vec((0..OBJECTS, prop::bool::weighted(0.05)), 1..800),
    ) {
        let slots = Slots::new(limit);
        let new = |change: bool| Object {
            cause: if change { Change } else { Routine },
            passes: Passes::default(),
            waits: None,
            holds: None,
            passed: [0; OBJECTS],
        };
        let mut objects: Vec<Object<'_>> = causes.into_iter().map(new).collect();
        for (at, changes_its_mind) in steps {
            let object = &mut objects[at];
            if object.holds.take().is_none() && object.waits.is_none() {
                if changes_its_mind {
                    object.cause = if object.cause == Change { Routine } else { Change };
                }
                let (slots, cause, mut passes) = (&slots, object.cause, object.passes);
                object.passed = [0; OBJECTS];
                object.waits = Some(Box::pin(async move {
                    let slot = slots.acquire_fairly(cause, &mut passes).await;
                    (slot, passes)
                }));
            }
            begin(&mut objects)?;
        }
        for _ in 0..OBJECTS * OBJECTS {
            let holds = objects.iter_mut().find_map(|object| object.holds.take());
            drop(holds);
            begin(&mut objects)?;
        }
        prop_assert!(objects.iter().all(|object| object.waits.is_none()), "one waits for ever");
    }
}

/// Those whose turn it is begin, and pass those that wait.
fn begin(objects: &mut [Object<'_>]) -> Result<(), TestCaseError> {
    for at in 0..objects.len() {
        let object = &mut objects[at];
        let Some((slot, passes)) = object.waits.as_mut().and_then(|turn| turn.now_or_never()) else {
            continue;
        };
        (object.waits, object.holds, object.passes) = (None, Some(slot), passes);
        for other in objects.iter_mut().filter(|other| other.waits.is_some()) {
            other.passed[at] += 1;
            prop_assert!(other.passed[at] <= 2, "one was passed {} times by {at}", other.passed[at]);
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_silent_device_that_shall_change_waits_for_no_routine_question_of_another_one() {
    let slots = Slots::new(4);
    let mut held: Vec<_> = (0..4).map(|_| slots.acquire(false, Change).now_or_never().unwrap()).collect();
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
        let held = (0..2).map(|_| slots.acquire(doubtful, Change).now_or_never().unwrap());
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
            answering.extend(turn.as_mut().now_or_never());
        }
        half.pop_front();
        let turns = causes.iter_mut().map(|(_, turn)| turn.as_mut().now_or_never());
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
