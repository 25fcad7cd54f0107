//! Each way in which a device misbehaves by its own decision, without any I/O.

use std::collections::HashSet;
use std::time::Duration;

use device_sim::behaviour::{Behaviour, share};
use device_sim::device::{Input, Notice};
use device_sim::history::What;
use device_sim::lies::Lie;
use edge_protocol::Install;

use crate::device::{World, command, installs_in, secs};

fn all() -> edge_api::quantity::Share {
    share("100%").unwrap()
}

#[test]
fn a_reboot_in_the_middle_of_an_install_starts_it_again_until_the_misbehaviour_ends() {
    let mut world = World::new(Behaviour { reboot_in_install: all(), ..installs_in(10) });
    let boots = world.device.durable().boots;
    world.put(&command(1, 1, "2.0.0"));
    world.wait(secs(100));
    let durable = world.device.durable();
    assert!(durable.boots > boots + 5, "{} boots in 100 s", durable.boots - boots);
    assert_eq!((durable.running.generation, durable.history.of(What::Applied).count()), (0, 0));
    assert!(world.notices.contains(&Notice::InstallInterrupted));
    world.behaviour = installs_in(10);
    world.wait(secs(25));
    assert_eq!(world.device.durable().running.generation, 1);
}

#[test]
fn a_stale_report_is_an_earlier_one_and_the_history_stays_true() {
    let mut world = World::new(Behaviour::default());
    let before = world.report();
    world.put(&command(1, 1, "2.0.0"));
    world.wait(secs(1));
    world.behaviour.stale = all();
    let said = world.report();
    assert_eq!(said, before);
    assert!(world.notices.contains(&Notice::Lied(Lie::Stale)));
    assert_eq!(world.device.durable().running.generation, 1);
    world.behaviour.stale = Default::default();
    assert!(
        world.report().sequence > before.sequence + 1,
        "the true one that was not told had a number, too"
    );
}

#[test]
fn a_stale_report_may_be_of_a_boot_before() {
    let mut world = World::new(Behaviour::default());
    let before = world.report();
    world.step(Input::PowerCycle);
    world.wait(secs(1));
    world.behaviour.stale = all();
    assert_eq!(world.report().boot_id, before.boot_id);
}

#[test]
fn a_contradictory_report_differs_from_the_truth_and_changes_nothing_of_it() {
    let mut world = World::new(Behaviour::default());
    world.put(&command(3, 1, "2.0.0"));
    world.wait(secs(1));
    let (truth, durable) = (world.report(), world.device.durable().clone());
    world.behaviour.contradict = all();
    let mut seen = HashSet::new();
    for _ in 0..50 {
        let said = world.report();
        let content = (said.held_generation, said.applied_generation, said.config_digest, said.uid.clone());
        let true_content =
            (truth.held_generation, truth.applied_generation, truth.config_digest, truth.uid.clone());
        assert_ne!(content, true_content);
        seen.insert(content);
    }
    assert_eq!(seen.len(), 5, "all its kinds");
    assert_eq!(*world.device.durable(), durable);
}

#[test]
fn who_forgets_begins_an_install_again_and_keeps_its_boot_its_sequence_and_its_command() {
    let mut world = World::new(installs_in(10));
    world.put(&command(1, 1, "2.0.0"));
    world.wait(secs(8));
    let before = world.report();
    world.step(Input::Forget);
    let after = world.report();
    assert_eq!(
        (before.install, after.install),
        (Install::Running { percent: 80 }, Install::Running { percent: 0 })
    );
    assert_eq!((after.boot_id, after.sequence), (before.boot_id, before.sequence + 1));
    assert_eq!(after.held_generation, 1);
    world.wait(secs(10));
    assert_eq!(world.report().applied_generation, 1);
}

#[test]
fn a_clock_that_is_wrong_shows_in_uptime_and_in_the_time_of_an_install() {
    let mut speeds = Vec::new();
    for seed in 0..20 {
        let mut world =
            World::of_seed(Behaviour { clock_skew: share("50%").unwrap(), ..installs_in(10) }, seed);
        world.wait(secs(1_000));
        let uptime = u32::try_from(world.report().uptime_ms).unwrap();
        let speed = f64::from(uptime) / 1_000_000.0;
        assert!((0.5..=1.5).contains(&speed), "{speed}");
        speeds.push(speed);
        world.put(&command(1, 1, "2.0.0"));
        let ends = world.device.wake_at().unwrap();
        let took = (ends - secs(1_000)).as_secs_f64();
        assert!((took * speed - 10.0).abs() < 0.01, "10 s by a clock of speed {speed} took {took} s");
    }
    assert!(speeds.iter().any(|speed| *speed > 1.2) && speeds.iter().any(|speed| *speed < 0.8), "{speeds:?}");
}

#[test]
fn spontaneous_reboots_begin_and_end_when_the_behaviour_changes_and_not_at_the_next_boot() {
    let mut world = World::new(Behaviour::default());
    let boots = world.device.durable().boots;
    world.wait(secs(600));
    assert_eq!(world.device.durable().boots, boots);
    world.behaviour.reboot_every = Some(secs(60));
    world.step(Input::Tick);
    world.wait(secs(600));
    let now = world.device.durable().boots;
    assert!((5..20).contains(&(now - boots)), "{} boots in ten minutes", now - boots);
    world.behaviour.reboot_every = None;
    world.step(Input::Tick);
    world.wait(Duration::from_secs(600));
    assert_eq!(world.device.durable().boots, now);
}

#[test]
fn who_floods_says_in_turn_that_it_installs_and_that_it_does_not_until_the_misbehaviour_ends() {
    let mut world = World::new(Behaviour::default());
    world.put(&command(1, 1, "2.0.0"));
    world.wait(secs(1));
    let durable = world.device.durable().clone();
    world.behaviour.flood = Some(Duration::from_millis(100));
    world.step(Input::Tick);
    let (mut face, mut changes, mut last) = (world.device.face(), 0, world.report());
    for _ in 0..1_000 {
        world.wait(Duration::from_millis(10));
        if world.device.face() == face {
            continue;
        }
        let told = world.report();
        assert_ne!(
            told.install, last.install,
            "what observers are told differs from what they were told last"
        );
        assert!(told.sequence > last.sequence);
        (face, changes, last) = (world.device.face(), changes + 1, told);
    }
    assert!((70..140).contains(&changes), "{changes} changes in ten seconds");
    assert!(world.notices.contains(&Notice::Lied(Lie::Pretence)));
    assert_eq!(*world.device.durable(), durable, "nothing of it is so");
    world.behaviour.flood = None;
    world.step(Input::Tick);
    assert_eq!((world.report().install, world.device.wake_at()), (Install::Idle, None));
}

#[test]
fn the_same_seed_misbehaves_in_the_same_way() {
    let wild = Behaviour {
        stale: share("30%").unwrap(),
        contradict: share("30%").unwrap(),
        reboot_in_install: share("50%").unwrap(),
        install_fail: share("30%").unwrap(),
        clock_skew: share("5%").unwrap(),
        reboot_every: Some(secs(30)),
        flood: Some(secs(3)),
        ..installs_in(10)
    };
    let told = |seed| {
        let mut world = World::of_seed(wild.clone(), seed);
        let mut told = Vec::new();
        for generation in 1..20 {
            world.put(&command(generation, generation, &format!("{generation}.0.0")));
            world.wait(secs(7));
            told.push(world.report());
        }
        (told, world.device.durable().clone())
    };
    assert_eq!(told(7), told(7));
    assert_ne!(told(7).0, told(8).0);
}
