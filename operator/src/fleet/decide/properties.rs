//! Whatever happens in whatever order, these hold.

use edge_api::{FleetPhase, choose};
use proptest::prelude::*;

use super::super::validate::plan;
use super::story::{Fate, Sim, Story};
use super::*;

#[derive(Clone, Debug)]
enum Step {
    /// The leader looks at the fleet.
    Look,
    /// … and dies after so many of the things that it wanted to do.
    LookAndDie(usize),
    /// The cache catches up with one device, or with all.
    Sees(usize),
    SeesAll,
    /// A device ends what it tries.
    Ends(usize),
    /// A device is lost, or answers again.
    Leaves(usize),
    Returns(usize),
    /// A person pauses a device, or gives it back.
    Withholds(usize, bool),
    /// Time passes, in seconds.
    Passes(u16),
    /// Whether what can wait may be written.
    Pace(bool),
    Paused(bool),
    Wants(u8),
    /// A second leader takes over in good order.
    Handover,
    /// A person takes a device out of the fleet, by its labels or for ever, or puts it in again.
    Selects(usize, bool),
    /// A Device is there that has the name of one that was deleted, whether anybody has seen that go or not.
    IsMadeAgain(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let device = 0usize..24;
    prop_oneof![
        12 => Just(Step::Look),
        2 => (0usize..8).prop_map(Step::LookAndDie),
        8 => device.clone().prop_map(Step::Sees),
        3 => Just(Step::SeesAll),
        10 => device.clone().prop_map(Step::Ends),
        2 => device.clone().prop_map(Step::Leaves),
        3 => device.clone().prop_map(Step::Returns),
        2 => (device, any::<bool>()).prop_map(|(number, back)| Step::Withholds(number, back)),
        1 => (0u16..400).prop_map(Step::Passes),
        2 => any::<bool>().prop_map(Step::Pace),
        1 => any::<bool>().prop_map(Step::Paused),
        1 => (2u8..5).prop_map(Step::Wants),
        1 => Just(Step::Handover),
    ]
}

/// As [`step`], among devices that come and go.
fn step_of_some() -> impl Strategy<Value = Step> {
    let device = 0usize..24;
    prop_oneof![
        24 => step(),
        1 => device.clone().prop_map(|number| Step::Selects(number, false)),
        2 => device.clone().prop_map(|number| Step::Selects(number, true)),
        1 => device.prop_map(Step::IsMadeAgain),
    ]
}

fn rollout() -> impl Strategy<Value = serde_json::Value> {
    let batches = prop_oneof![
        Just(serde_json::json!(["100%"])),
        Just(serde_json::json!([1, "25%", "100%"])),
        Just(serde_json::json!(["10%", "50%", "100%"])),
        Just(serde_json::json!([2, 3, 100, "100%"])),
    ];
    let unavailable = prop_oneof![
        (1u32..12).prop_map(|count| serde_json::json!(count)),
        (1u32..=100).prop_map(|share| serde_json::json!(format!("{share}%"))),
    ];
    let failures = (0u32..=100, 1u32..30);
    (batches, 1u32..12, unavailable, failures, any::<bool>()).prop_map(
        |(batches, in_flight, unavailable, (percent, sample), pause)| {
            serde_json::json!({
                "batches": batches, "maxInFlight": in_flight, "maxUnavailable": unavailable,
                "failureBudget": {"percent": format!("{percent}%"), "minimumSample": sample},
                "onBudgetExceeded": if pause { "Pause" } else { "Rollback" }, "progressDeadline": "5m",
            })
        },
    )
}

fn fates() -> impl Strategy<Value = Vec<(usize, u8, Fate)>> {
    let fate = prop_oneof![3 => Just(Fate::Works), 2 => Just(Fate::Fails), 1 => Just(Fate::Dies)];
    prop::collection::vec((0usize..24, 1u8..5, fate), 0..40)
}

fn begin(devices: usize, rollout: serde_json::Value, fates: &[(usize, u8, Fate)]) -> Story {
    let mut story = Story::of(devices, rollout);
    for (number, version, fate) in fates {
        story.fate(*number % devices, &version.to_string(), *fate);
    }
    story
}

fn take(story: &mut Story, step: Step) {
    let devices = story.devices.len();
    match step {
        Step::Look => {
            story.look();
        }
        Step::LookAndDie(after) => {
            story.dies_after = Some(after);
            story.look();
            story.dies_after = None;
        }
        Step::Sees(number) => story.sees(number % devices),
        Step::SeesAll => {
            story.sees_all();
        }
        Step::Ends(number) => story.device_ends(number % devices),
        Step::Leaves(number) => {
            story.leaves(number % devices);
        }
        Step::Returns(number) => story.returns(number % devices),
        Step::Withholds(number, back)
            if (story.devices[number % devices].contact == Contact::Withheld) == back =>
        {
            let contact = if back { Contact::Answering } else { Contact::Withheld };
            story.withholds(number % devices, contact);
        }
        Step::Withholds(..) => {}
        Step::Passes(seconds) => {
            story.after(i64::from(seconds));
        }
        Step::Pace(free) => story.write_in = if free { Duration::ZERO } else { Duration::from_secs(1) },
        Step::Paused(paused) if story.spec.paused != paused => {
            story.edit(|spec| spec.paused = paused);
        }
        Step::Paused(_) => {}
        Step::Wants(version) if story.spec.template.firmware != version.to_string() => {
            story.wants(&version.to_string());
        }
        Step::Wants(_) => {}
        Step::Handover => story.another_leads(),
        Step::Selects(number, is_in) => {
            story.selects(number % devices, is_in);
        }
        Step::IsMadeAgain(number) => {
            story.is_made_again(number % devices);
        }
    }
}

impl Story {
    /// What is true of the devices themselves, whatever anybody's cache says: those that were changed and are neither in
    /// sync nor failed nor lost; all that were changed and are not in sync; and those of them that failed. One that was lost and
    /// is back tries again, whoever has taken its place, and so does one that a person gives back, or declares anew: no
    /// controller could help that.
    fn truly(&self) -> [usize; 3] {
        let is_ours = |device: &&Sim| {
            device.is_member && self.changed.contains(&device.name) && !self.withheld.contains(&device.name)
        };
        let changed = self.devices.iter().filter(is_ours);
        let changed: Vec<&Sim> = changed.collect();
        let is_trying =
            |device: &&&Sim| device.outcome == Outcome::Trying && !self.revived.contains(&device.name);
        let trying = changed.iter().filter(is_trying).count();
        let unavailable = changed.iter().filter(|device| device.outcome != Outcome::InSync).count();
        let failed = changed.iter().filter(|device| device.outcome == Outcome::Failed).count();
        [trying, unavailable, failed]
    }
}

/// The budgets, measured on the devices themselves.
fn within_budgets(story: &Story) -> Result<(), TestCaseError> {
    let plan = plan(&story.spec).unwrap();
    let [trying, unavailable, failed] = story.truly();
    prop_assert!(trying <= plan.max_in_flight, "{trying} under way: {:#?}", story.status);
    let field = Field { ours: Vec::new(), foreign: 0 };
    let may = match plan.max_unavailable {
        Amount::Share(share) => (story.devices.len() * share.ppm() as usize / 1_000_000).max(1),
        _ => field.may_be_unavailable(&plan),
    };
    let Some(status) = &story.status else { return Ok(()) };
    if is_true(&status.conditions, types::COMPLETE) && !revision::is_given_up(status) {
        // Who failed within the failure budget holds nobody up any more; beyond it, those under way by then may fail, too.
        let out = unavailable - failed;
        prop_assert!(out <= may, "{out} of {may} are on the way: {status:#?}");
        let most = may.max(story.devices.len() * plan.failures.ppm() as usize / 1_000_000) + may;
        prop_assert!(failed <= most, "{failed} of {most} failed: {status:#?}");
    } else {
        prop_assert!(unavailable <= may, "{unavailable} of {may} unavailable: {status:#?}");
    }
    let withheld = |name: &&String| story.withheld.contains(*name);
    let reserved = status.reserved.iter().filter(|name| !withheld(name)).count();
    prop_assert!(reserved <= may, "{:?}", status.reserved);
    prop_assert!(story.revisions.len() <= 4, "{:?}", story.revisions.keys());
    // Nobody beyond the batch, but for those that were under way when the template changed.
    if !revision::is_given_up(status) && !is_true(&status.conditions, types::COMPLETE) && status.batch > 0 {
        let size = choose::wanted(plan.batches[status.batch as usize - 1], story.devices.len());
        let told = story.changed.len();
        let most = size + story.carried + story.joined;
        prop_assert!(told <= most, "{told} of {most}: {status:#?}");
    }
    Ok(())
}

/// Nobody is lost any more, and nothing waits: the rollout ends, and is silent.
fn in_calm_it_ends(story: &mut Story) -> Result<(), TestCaseError> {
    story.write_in = Duration::ZERO;
    if story.spec.paused {
        story.edit(|spec| spec.paused = false);
    }
    let mut before = usize::MAX;
    while story.writes != before {
        before = story.writes;
        // Longer than the deadline.
        story.after(301);
        for number in 0..story.devices.len() {
            story.returns(number);
            take(story, Step::Withholds(number, true));
        }
        story.runs_until_quiet();
        within_budgets(story)?;
    }
    let phase = story.phase();
    let ended = [FleetPhase::Complete, FleetPhase::RolledBack, FleetPhase::Paused, FleetPhase::RollingBack];
    let nobody = phase == FleetPhase::Pending && !story.devices.iter().any(|device| device.is_member);
    prop_assert!(nobody || ended.contains(&phase), "{:#?}", story.status);
    if phase == FleetPhase::RollingBack {
        // Only where what is brought back fails as well, so often that no budget is left.
        prop_assert!(story.status().counts.failed > 0, "{:#?}", story.status);
    }
    prop_assert!(story.revisions.len() <= 3, "{:?}", story.revisions.keys());
    let writes = story.writes;
    story.after(1_000_000).runs_until_quiet();
    prop_assert_eq!(story.writes, writes);
    Ok(())
}

proptest! {
    // Some seconds of them; `PROPTEST_CASES=2000` for more.
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Devices fail, die and come back; leaders die between any two writes and see the devices late; templates change.
    #[test]
    fn no_budget_is_ever_exceeded_and_in_calm_the_rollout_ends_and_is_silent(
        devices in 1usize..24,
        rollout in rollout(),
        fates in fates(),
        steps in prop::collection::vec(step(), 0..250),
    ) {
        let mut story = begin(devices, rollout, &fates);
        for step in steps {
            take(&mut story, step);
            within_budgets(&story)?;
        }
        in_calm_it_ends(&mut story)?;
    }

    /// The same, of a fleet whose devices come and go, and are made again under the same names.
    #[test]
    fn whoever_joins_leaves_and_is_made_again_no_budget_is_exceeded_and_in_calm_it_ends_and_is_silent(
        devices in 1usize..24,
        rollout in rollout(),
        fates in fates(),
        steps in prop::collection::vec(step_of_some(), 0..250),
    ) {
        let mut story = begin(devices, rollout, &fates);
        for step in steps {
            take(&mut story, step);
            within_budgets(&story)?;
        }
        in_calm_it_ends(&mut story)?;
    }

    /// All that a leader needs is in the status and the revisions: whenever the leader dies, the next one ends the rollout
    /// with the same device at the same version, and the same words.
    #[test]
    fn a_rollout_ends_the_same_whenever_its_leader_dies(
        devices in 1usize..24,
        rollout in rollout(),
        fates in fates(),
        dies_after in 0usize..60,
        again in 0usize..60,
    ) {
        let run = |deaths: &[usize]| {
            let mut story = begin(devices, rollout.clone(), &fates);
            story.runs_until_quiet();
            story.wants("2");
            for after in deaths {
                story.dies_after = Some(*after);
                story.settles();
                story.after(1).devices_end();
            }
            story.dies_after = None;
            story.runs_until_quiet();
            story.after(301).runs_until_quiet();
            story
        };
        let (calm, stormy) = (run(&[usize::MAX, usize::MAX]), run(&[dies_after, again]));
        let devices = |story: &Story| -> Vec<_> {
            story.devices.iter().map(|device| (device.desired.clone(), device.outcome)).collect()
        };
        prop_assert_eq!(devices(&calm), devices(&stormy));
        let words = |story: &Story| DeviceFleetStatus { epoch: None, ..story.status().clone() };
        prop_assert_eq!(words(&calm), words(&stormy));
        prop_assert_eq!(&calm.revisions, &stormy.revisions);
    }
}

/// A rollout that is given up, from its first write to its last, with a leader that dies right before each of them.
#[test]
fn a_leader_may_die_before_any_of_its_writes() {
    let rollout = serde_json::json!({
        "batches": [1, "50%", "100%"], "maxInFlight": 3, "maxUnavailable": "50%",
        "failureBudget": {"percent": "10%", "minimumSample": 5}, "progressDeadline": "5m",
    });
    let run = |dies_after: usize| {
        let mut story = begin(10, rollout.clone(), &[]);
        story.runs_until_quiet();
        let late = story.ranked()[3..6].to_vec();
        for number in late {
            story.fate(number, "2", Fate::Fails);
        }
        story.wants("2");
        story.dies_after = Some(dies_after);
        story.runs_until_quiet();
        let left = story.dies_after.take();
        let words = DeviceFleetStatus { epoch: None, ..story.status().clone() };
        let devices: Vec<_> =
            story.devices.iter().map(|device| (device.desired.clone(), device.outcome)).collect();
        ((words, devices, story.revisions.clone()), left.map(|left| dies_after - left))
    };
    let (calm, points) = run(usize::MAX);
    let points = points.unwrap();
    assert_eq!(calm.0.phase, FleetPhase::RolledBack);
    assert!(points >= 15, "{points} points");
    for point in 0..points {
        let (stormy, survived) = run(point);
        assert_eq!(survived, None, "nobody died at point {point}");
        assert_eq!(stormy, calm, "another end after a death at point {point} of {points}");
    }
    eprintln!("measured: {points} points at which a leader died, all with the same end");
}
