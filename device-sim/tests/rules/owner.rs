//! Whom a device obeys, told one command at a time.

use device_sim::behaviour::Behaviour;
use device_sim::device::{Input, Reply};
use device_sim::history::What;
use edge_protocol::{DesiredCommand, Held, Install, OwnerChange, OwnerCommand, RefusalReason};

use crate::device::{World, command, installs_in, secs};

fn owner_command(uid: &str, epoch: u64, change: OwnerChange) -> OwnerCommand {
    OwnerCommand { namespace: "edge".into(), name: "pump".into(), uid: uid.into(), epoch, change }
}

fn release(uid: &str, epoch: u64) -> OwnerCommand {
    owner_command(uid, epoch, OwnerChange::Release)
}

fn adopt(uid: &str, epoch: u64, from: (&str, u64)) -> OwnerCommand {
    let from = Held { uid: from.0.into(), epoch: from.1 };
    owner_command(uid, epoch, OwnerChange::Adopt(from))
}

/// Stored, or why not.
fn own(world: &mut World, command: &OwnerCommand) -> Result<(), RefusalReason> {
    judged(world.step(Input::Own(command)))
}

fn judged(reply: Option<Reply>) -> Result<(), RefusalReason> {
    match reply {
        Some(Reply::Stored) => Ok(()),
        Some(Reply::Refused(refusal)) => Err(refusal.reason),
        other => panic!("{other:?}"),
    }
}

fn of(uid: &str, generation: u64, epoch: u64, firmware: &str) -> DesiredCommand {
    DesiredCommand { uid: uid.into(), epoch, ..command(generation, generation, firmware) }
}

/// A device that runs generation 5 of the object `a`, by the leader of epoch 100.
fn owned() -> World {
    let mut world = World::new(Behaviour::default());
    world.put(&of("a", 5, 100, "2.0.0"));
    world.wait(secs(1));
    world
}

#[test]
fn a_released_device_runs_on_and_obeys_whoever_commands_it_next_but_never_its_former_owner() {
    let mut world = owned();
    assert_eq!(own(&mut world, &release("a", 100)), Ok(()));
    let report = world.report();
    assert_eq!(
        (report.uid, report.held_generation, report.applied_generation, report.epoch),
        (None, 0, 0, 0)
    );
    assert_eq!((report.firmware.as_str(), report.install), ("2.0.0", Install::Idle));
    assert_eq!(judged(world.put(&of("a", 6, 100, "3.0.0"))), Err(RefusalReason::Released), "it comes late");
    assert_eq!(judged(world.put(&of("b", 1, 7, "3.0.0"))), Ok(()), "a lower epoch of another owner");
    world.wait(secs(1));
    assert_eq!(world.report().firmware, "3.0.0");
    assert_eq!(judged(world.put(&of("a", 6, 100, "2.0.0"))), Err(RefusalReason::ForeignUid));
    let history = &world.device.durable().history;
    assert_eq!(history.of(What::Released).count(), 1);
}

#[test]
fn a_release_is_refused_from_another_owner_an_older_leader_and_for_another_name() {
    let mut world = owned();
    assert_eq!(own(&mut world, &release("b", 200)), Err(RefusalReason::ForeignUid));
    assert_eq!(own(&mut world, &release("a", 99)), Err(RefusalReason::LowerEpoch));
    let wrong = OwnerCommand { name: "other".into(), ..release("a", 200) };
    assert_eq!(own(&mut world, &wrong), Err(RefusalReason::WrongName));
    assert_eq!(world.report().held_generation, 5);
    assert_eq!(own(&mut world, &release("a", 200)), Ok(()));
    assert_eq!(own(&mut world, &release("a", 200)), Ok(()), "twice is once");
    assert_eq!(world.device.durable().history.of(What::Released).count(), 1);
}

#[test]
fn a_release_survives_a_power_cut_and_ends_an_install() {
    let mut world = World::new(installs_in(10));
    world.put(&of("a", 1, 100, "2.0.0"));
    world.wait(secs(5));
    assert_eq!(own(&mut world, &release("a", 100)), Ok(()));
    world.step(Input::PowerCycle);
    world.wait(secs(60));
    assert_eq!((world.report().firmware.as_str(), world.report().uid), ("1.0.0", None));
    assert_eq!(judged(world.put(&of("a", 1, 100, "2.0.0"))), Err(RefusalReason::Released));
}

#[test]
fn an_adoption_takes_a_device_that_holds_exactly_what_it_names_and_is_done_once() {
    let mut world = owned();
    assert_eq!(own(&mut world, &adopt("b", 7, ("c", 100))), Err(RefusalReason::ForeignUid));
    assert_eq!(own(&mut world, &adopt("b", 7, ("a", 99))), Err(RefusalReason::LowerEpoch));
    assert_eq!(world.report().uid.as_deref(), Some("a"));
    let adoption = adopt("b", 7, ("a", 100));
    assert_eq!(own(&mut world, &adoption), Ok(()));
    assert_eq!(own(&mut world, &adoption), Ok(()), "its answer was lost");
    let report = world.report();
    assert_eq!((report.uid.as_deref(), report.epoch), (Some("b"), 7));
    assert_eq!(
        (report.held_generation, report.applied_generation, report.firmware.as_str()),
        (0, 0, "2.0.0")
    );
    assert_eq!(judged(world.put(&of("a", 9, 101, "9.0.0"))), Err(RefusalReason::ForeignUid));
    assert_eq!(judged(world.put(&of("b", 1, 6, "3.0.0"))), Err(RefusalReason::LowerEpoch));
    assert_eq!(judged(world.put(&of("b", 1, 8, "3.0.0"))), Ok(()));
    assert_eq!(own(&mut world, &adoption), Err(RefusalReason::ForeignUid), "a late copy of it");
    assert_eq!(world.device.durable().history.of(What::Adopted).count(), 1);
}

#[test]
fn the_same_object_adopts_its_device_again_when_its_epochs_and_generations_fell() {
    let mut world = owned();
    assert_eq!(judged(world.put(&of("a", 2, 30, "1.5.0"))), Err(RefusalReason::LowerGeneration));
    assert_eq!(own(&mut world, &adopt("a", 30, ("a", 100))), Ok(()));
    world.step(Input::PowerCycle);
    world.wait(secs(1));
    assert_eq!(judged(world.put(&of("a", 2, 30, "1.5.0"))), Ok(()));
    world.wait(secs(1));
    assert_eq!((world.report().firmware.as_str(), world.report().applied_generation), ("1.5.0", 2));
}

#[test]
fn nobodys_device_is_not_adopted_but_by_an_object_that_released_it_and_is_there_again() {
    let mut world = World::new(Behaviour::default());
    assert_eq!(own(&mut world, &adopt("b", 7, ("a", 100))), Err(RefusalReason::ForeignUid));
    let mut world = owned();
    own(&mut world, &release("a", 100)).unwrap();
    assert_eq!(own(&mut world, &adopt("a", 30, ("a", 0))), Ok(()));
    assert_eq!(judged(world.put(&of("a", 2, 30, "1.5.0"))), Ok(()));
}

#[test]
fn only_the_latest_owners_that_released_it_are_remembered() {
    let mut world = World::new(Behaviour::default());
    for number in 0..20 {
        let uid = format!("u{number}");
        assert_eq!(judged(world.put(&of(&uid, 1, 1, "2.0.0"))), Ok(()));
        own(&mut world, &release(&uid, 1)).unwrap();
    }
    assert_eq!(world.device.durable().released, ["u16", "u17", "u18", "u19"]);
}
