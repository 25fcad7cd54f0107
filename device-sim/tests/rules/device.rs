//! The state machine of a device: single rules, and what holds after any sequence of happenings.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use device_sim::behaviour::{Behaviour, Span, share};
use device_sim::device::{Device, Identity, Input, Notice, Now, Reply};
use device_sim::durable::Durable;
use device_sim::history::What;
use device_sim::random::Dice;
use edge_protocol::{BootId, CommandId, DesiredCommand, Install, Report};
use proptest::prelude::*;

/// A device with a clock that only the test moves and a disk that only fails when asked to.
pub(crate) struct World {
    pub(crate) device: Device,
    pub(crate) behaviour: Behaviour,
    dice: Dice,
    elapsed: Duration,
    disk_fails: bool,
    /// All that was to be counted.
    pub(crate) notices: Vec<Notice>,
}

impl World {
    pub(crate) fn new(behaviour: Behaviour) -> Self {
        Self::of_seed(behaviour, 7)
    }

    pub(crate) fn of_seed(behaviour: Behaviour, seed: u64) -> Self {
        let identity = Identity { namespace: "edge".into(), name: "pump".into() };
        let device = Device::new(identity, seed, Durable::factory("1.0.0", 99));
        let dice = Dice::new(seed, "pump", 0);
        let mut world =
            Self { device, behaviour, dice, elapsed: Duration::ZERO, disk_fails: false, notices: vec![] };
        world.step(Input::PowerCycle);
        world.wait(Duration::ZERO);
        world
    }

    pub(crate) fn step(&mut self, input: Input<'_>) -> Option<Reply> {
        let now = Now { elapsed: self.elapsed, unix_ms: 0 };
        let plan = self.device.decide(input, now, &self.behaviour, &mut self.dice);
        self.notices.extend(&plan.notices);
        if self.disk_fails && plan.durable.is_some() {
            return None;
        }
        let reply = plan.reply.clone();
        self.device.adopt(plan);
        reply
    }

    /// Lets time pass; the device is told at each moment that it asked for.
    pub(crate) fn wait(&mut self, time: Duration) {
        let until = self.elapsed + time;
        while let Some(at) = self.device.wake_at().filter(|at| *at <= until) {
            self.elapsed = at.max(self.elapsed);
            self.step(Input::Tick);
            if self.disk_fails {
                break;
            }
        }
        self.elapsed = until;
    }

    pub(crate) fn put(&mut self, command: &DesiredCommand) -> Option<Reply> {
        self.step(Input::Put(command))
    }

    pub(crate) fn report(&mut self) -> Report {
        match self.step(Input::Get) {
            Some(Reply::State(report)) => report,
            other => panic!("{other:?} is no report"),
        }
    }
}

pub(crate) fn command(generation: u64, id: u64, firmware: &str) -> DesiredCommand {
    DesiredCommand {
        namespace: "edge".into(),
        name: "pump".into(),
        uid: "a".into(),
        generation,
        epoch: 1,
        command_id: CommandId(id),
        firmware: firmware.into(),
        config: BTreeMap::new(),
    }
}

pub(crate) fn installs_in(seconds: u64) -> Behaviour {
    Behaviour { install_time: Span::exactly(Duration::from_secs(seconds)), ..Behaviour::default() }
}

pub(crate) fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn an_install_reports_its_progress_and_takes_its_time() {
    let mut world = World::new(installs_in(10));
    assert_eq!(world.put(&command(1, 1, "2.0.0")), Some(Reply::Stored));
    world.wait(secs(4));
    assert_eq!(world.report().install, Install::Running { percent: 40 });
    world.wait(secs(5));
    assert_eq!((world.report().applied_generation, world.report().firmware.as_str()), (0, "1.0.0"));
    world.wait(secs(1));
    let done = world.report();
    assert_eq!((done.applied_generation, done.install, done.firmware.as_str()), (1, Install::Idle, "2.0.0"));
    assert_eq!(done.uptime_ms, 10_000);
}

#[test]
fn a_configuration_alone_is_applied_at_once() {
    let mut world = World::new(installs_in(10));
    let config = BTreeMap::from([("sampling-interval".into(), "1s".into())]);
    world.put(&DesiredCommand { config: config.clone(), ..command(1, 1, "1.0.0") });
    let report = world.report();
    assert_eq!((report.applied_generation, report.install), (1, Install::Idle));
    assert_eq!(report.config_digest, edge_protocol::config_digest(&config));
}

#[test]
fn a_newer_command_for_the_same_firmware_does_not_start_the_install_again() {
    let mut world = World::new(installs_in(10));
    world.put(&command(1, 1, "2.0.0"));
    world.wait(secs(6));
    world.put(&command(2, 2, "2.0.0"));
    assert_eq!(world.report().install, Install::Running { percent: 60 });
    world.wait(secs(4));
    assert_eq!(world.report().applied_generation, 2);
}

#[test]
fn a_newer_command_for_another_firmware_replaces_the_install() {
    let mut world = World::new(installs_in(10));
    world.put(&command(1, 1, "2.0.0"));
    world.wait(secs(6));
    world.put(&command(2, 2, "3.0.0"));
    world.wait(secs(9));
    assert_eq!(world.report().install, Install::Running { percent: 90 });
    world.wait(secs(1));
    let applied: Vec<_> =
        world.device.durable().history.of(What::Applied).map(|e| e.firmware.clone()).collect();
    assert_eq!(applied, ["3.0.0"]);
}

#[test]
fn going_back_to_what_runs_ends_the_install() {
    let mut world = World::new(installs_in(10));
    world.put(&command(1, 1, "2.0.0"));
    world.wait(secs(6));
    world.put(&command(2, 2, "1.0.0"));
    assert_eq!((world.report().install, world.report().applied_generation), (Install::Idle, 2));
    world.wait(secs(60));
    assert_eq!(world.report().firmware, "1.0.0");
}

#[test]
fn a_failed_install_stays_failed_over_a_reboot_and_counts_attempts_for_its_generation() {
    let mut world = World::new(Behaviour { install_fail: share("100%").unwrap(), ..installs_in(1) });
    world.put(&command(1, 1, "2.0.0"));
    world.wait(secs(1));
    world.step(Input::PowerCycle);
    world.wait(secs(60));
    assert_eq!(world.report().install, Install::Failed { attempts: 1 });
    world.put(&command(1, 2, "2.0.0"));
    world.wait(secs(1));
    assert_eq!(world.report().install, Install::Failed { attempts: 2 });
    world.put(&command(2, 3, "2.0.1"));
    world.wait(secs(1));
    assert_eq!(world.report().install, Install::Failed { attempts: 1 }, "another generation, another count");
}

#[test]
fn spontaneous_reboots_come_about_as_often_as_asked() {
    let mut world = World::new(Behaviour { reboot_every: Some(secs(60)), ..Behaviour::default() });
    world.step(Input::PowerCycle);
    world.wait(secs(60 * 200));
    let boots = world.device.durable().boots;
    assert!((170..240).contains(&boots), "{boots} boots in 200 minutes");
}

#[test]
fn what_could_not_be_stored_did_not_happen() {
    let mut world = World::new(Behaviour::default());
    let before = world.device.durable().clone();
    world.disk_fails = true;
    assert_eq!(world.put(&command(1, 1, "2.0.0")), None);
    assert_eq!(world.step(Input::PowerCycle), None);
    assert_eq!(*world.device.durable(), before);
    assert!(world.device.is_up());
}

#[derive(Debug, Clone)]
enum Happening {
    Put(DesiredCommand),
    Get,
    Wait(u64),
    PowerCycle,
    Disk { fails: bool },
}

fn happening() -> impl Strategy<Value = Happening> {
    let put = (0..4u64, 0..3u64, 0..4u64, 0..3u8, prop::bool::weighted(0.9)).prop_map(
        |(generation, epoch, id, firmware, ours)| {
            Happening::Put(DesiredCommand {
                epoch,
                uid: if ours { "a" } else { "b" }.into(),
                ..command(generation, id, &format!("{firmware}.0.0"))
            })
        },
    );
    prop_oneof![
        6 => put,
        2 => Just(Happening::Get),
        3 => (0..5_000u64).prop_map(Happening::Wait),
        1 => Just(Happening::PowerCycle),
        1 => prop::bool::weighted(0.2).prop_map(|fails| Happening::Disk { fails }),
    ]
}

/// What was seen of a device from outside so far.
#[derive(Default)]
struct Seen {
    boots: HashSet<BootId>,
    last: Option<(BootId, u64)>,
}

impl Seen {
    /// Reports of a boot rise, and no boot id comes back.
    fn message(&mut self, boot: BootId, sequence: u64) {
        match self.last {
            Some((last, before)) if last == boot => assert!(sequence > before),
            _ => assert!(self.boots.insert(boot) && sequence == 1),
        }
        self.last = Some((boot, sequence));
    }
}

fn go_through(happenings: &[Happening]) -> World {
    let install_time: Span = "1s..3s".parse().unwrap();
    let install_fail = share("20%").unwrap();
    let mut world = World::new(Behaviour { install_time, install_fail, ..Behaviour::default() });
    let mut seen = Seen::default();
    for happening in happenings {
        let before = world.device.durable().held.clone();
        let reply = match happening {
            Happening::Put(command) => {
                let reply = world.put(command);
                if reply == Some(Reply::Stored) {
                    assert_eq!(world.device.durable().held.as_ref(), Some(command));
                } else {
                    assert_eq!(world.device.durable().held, before);
                }
                reply
            }
            Happening::Get => world.step(Input::Get),
            Happening::Wait(milliseconds) => {
                world.wait(Duration::from_millis(*milliseconds));
                None
            }
            Happening::PowerCycle => world.step(Input::PowerCycle),
            Happening::Disk { fails } => {
                world.disk_fails = *fails;
                None
            }
        };
        match reply {
            Some(Reply::State(report)) => seen.message(report.boot_id, report.sequence),
            Some(Reply::Refused(refusal)) => seen.message(refusal.boot_id, refusal.sequence),
            Some(Reply::Stored) | None => (),
        }
        if let (Some(before), Some(held)) = (before, &world.device.durable().held) {
            assert_eq!(held.uid, before.uid, "a device never changes hands by itself");
            assert!(held.generation >= before.generation && held.epoch >= before.epoch);
        }
    }
    world
}

#[test]
fn the_same_command_from_a_later_leader_is_obeyed_and_not_carried_out_again() {
    let mut world = World::new(Behaviour::default());
    let first = command(1, 1, "2.0.0");
    assert_eq!(world.put(&first), Some(Reply::Stored));
    world.wait(Duration::from_secs(3600));
    let done = world.device.durable().history.clone();
    let again = DesiredCommand { epoch: 2, ..first.clone() };
    assert_eq!(world.put(&again), Some(Reply::Stored));
    world.wait(Duration::from_secs(3600));
    assert_eq!(world.device.durable().history, done);
    assert_eq!(world.report().epoch, 2);
    assert!(
        matches!(world.put(&first), Some(Reply::Refused(_))),
        "the leader before it is not obeyed any more"
    );
}

proptest! {
    #[test]
    fn whatever_happens_no_old_command_wins_and_the_history_is_complete(
        happenings in prop::collection::vec(happening(), 0..80),
    ) {
        let world = go_through(&happenings);
        let durable = world.device.durable();
        let mut stored = HashSet::new();
        let mut applied = 0;
        for entry in &durable.history.entries {
            match entry.what {
                What::Stored => { stored.insert((entry.generation, entry.command_id)); }
                What::Applied => {
                    prop_assert!(stored.contains(&(entry.generation, entry.command_id)));
                    prop_assert!(entry.generation >= applied);
                    applied = entry.generation;
                }
                What::InstallFailed => prop_assert!(stored.contains(&(entry.generation, entry.command_id))),
                What::Booted | What::Refused | What::Released | What::Adopted => (),
            }
        }
        prop_assert_eq!(durable.running.generation, applied);
    }

    #[test]
    fn when_faults_stop_a_device_runs_what_it_holds(
        happenings in prop::collection::vec(happening(), 0..80),
    ) {
        let mut world = go_through(&happenings);
        world.disk_fails = false;
        world.behaviour = Behaviour::default();
        let held = world.device.durable().held.clone();
        if let Some(held) = held {
            let again = DesiredCommand { command_id: CommandId(1_000), generation: held.generation, ..held };
            world.wait(secs(10));
            prop_assert_eq!(world.put(&again), Some(Reply::Stored));
            world.wait(secs(10));
            let running = &world.device.durable().running;
            prop_assert_eq!((&running.firmware, running.generation), (&again.firmware, again.generation));
        }
    }

    #[test]
    fn the_same_happenings_give_the_same_history(
        happenings in prop::collection::vec(happening(), 0..80),
    ) {
        let (one, other) = (go_through(&happenings), go_through(&happenings));
        prop_assert_eq!(one.device.durable(), other.device.durable());
    }
}
