//! Orders and contradictions of reports, told one report at a time.

use std::collections::BTreeMap;

use edge_protocol::config_digest;
use proptest::prelude::*;

use super::*;

fn target() -> Target {
    let config = BTreeMap::new();
    Target { firmware: "2.0.0".into(), digest: config_digest(&config), config: [].into() }
}

/// A device that runs what generation 3 asked for.
fn report(boot: u64, sequence: u64) -> Report {
    Report {
        namespace: "edge-demo".into(),
        name: "pump-0".into(),
        uid: Some("u1".into()),
        firmware: "2.0.0".into(),
        config_digest: config_digest(&BTreeMap::new()),
        applied_generation: 3,
        held_generation: 3,
        epoch: 50,
        command_id: None,
        boot_id: BootId(boot),
        sequence,
        uptime_ms: 0,
        install: Install::Idle,
        last_error: None,
    }
}

fn weigh(evidence: &mut Evidence, report: &Report) -> Disposition {
    let target = target();
    let context = Context {
        identity: ("edge-demo", "pump-0", "u1"),
        generation: 4,
        epoch: 50,
        acknowledged: Some(3),
        commanded: (Some(3), Some(&target)),
    };
    evidence.weigh(report, &context)
}

#[test]
fn reports_of_one_boot_are_believed_in_their_order_and_older_ones_ignored() {
    let mut evidence = Evidence::default();
    assert_eq!(weigh(&mut evidence, &report(1, 5)), Disposition::Accepted);
    assert_eq!(weigh(&mut evidence, &report(1, 5)), Disposition::Stale);
    assert_eq!(
        weigh(&mut evidence, &Report { firmware: "1.0.0".into(), ..report(1, 4) }),
        Disposition::Stale
    );
    assert_eq!(evidence.believed().unwrap().firmware, "2.0.0");
    assert_eq!(weigh(&mut evidence, &report(1, 6)), Disposition::Accepted);
}

#[test]
fn a_new_boot_is_believed_when_it_is_seen_twice_and_the_old_one_never_again() {
    let mut evidence = Evidence::default();
    weigh(&mut evidence, &report(1, 5));
    assert_eq!(weigh(&mut evidence, &report(2, 1)), Disposition::Rebooted);
    assert!(!evidence.believed().unwrap().fresh, "what was known is of the boot before");
    assert_eq!(weigh(&mut evidence, &report(2, 1)), Disposition::Stale);
    assert_eq!(weigh(&mut evidence, &report(2, 2)), Disposition::Accepted);
    assert_eq!(weigh(&mut evidence, &report(1, 99)), Disposition::Stale);
    assert_eq!(evidence.reported().unwrap().boot_id, BootId(2).to_string());
}

#[test]
fn a_report_of_the_current_boot_between_two_of_a_new_one_is_believed_by_its_order() {
    let mut evidence = Evidence::default();
    weigh(&mut evidence, &report(1, 5));
    assert_eq!(weigh(&mut evidence, &report(2, 1)), Disposition::Rebooted);
    assert_eq!(weigh(&mut evidence, &report(1, 6)), Disposition::Accepted);
}

#[test]
fn what_was_written_before_a_restart_orders_what_comes_after_it() {
    let mut before = Evidence::default();
    weigh(&mut before, &report(1, 5));
    let mut after = Evidence::restored(before.reported().as_ref());
    assert!(!after.believed().unwrap().fresh);
    assert_eq!(weigh(&mut after, &report(1, 5)), Disposition::Stale);
    assert_eq!(weigh(&mut after, &report(2, 1)), Disposition::Rebooted);
    assert_eq!(weigh(&mut after, &report(1, 6)), Disposition::Accepted);
}

#[test]
fn another_device_and_another_owner_are_foreign() {
    let mut evidence = Evidence::default();
    let other = Report { name: "pump-1".into(), ..report(1, 1) };
    assert_eq!(weigh(&mut evidence, &other), Disposition::Foreign(Foreign::Name));
    let other = Report { namespace: "default".into(), ..report(1, 1) };
    assert_eq!(weigh(&mut evidence, &other), Disposition::Foreign(Foreign::Name));
    let owned = Report { uid: Some("u0".into()), ..report(1, 1) };
    assert_eq!(weigh(&mut evidence, &owned), Disposition::Foreign(Foreign::Owner));
    assert!(evidence.believed().is_none());
    let never_commanded = Report {
        uid: None,
        firmware: "1.0.0".into(),
        applied_generation: 0,
        held_generation: 0,
        epoch: 0,
        ..report(1, 2)
    };
    assert_eq!(
        weigh(&mut evidence, &never_commanded),
        Disposition::Contradictory(Contradiction::LostCommand),
        "generation 3 was acknowledged"
    );
}

#[test]
fn each_contradiction_is_told_by_its_name() {
    let installing = Install::Running { percent: 10 };
    let cases = [
        (Report { applied_generation: 4, ..report(1, 1) }, Contradiction::AppliedAboveHeld),
        (Report { applied_generation: 2, ..report(1, 1) }, Contradiction::IdleNotApplied),
        (
            Report { held_generation: 5, install: installing.clone(), ..report(1, 1) },
            Contradiction::GenerationAhead,
        ),
        (Report { epoch: 51, ..report(1, 1) }, Contradiction::EpochAhead),
        (Report { held_generation: 2, applied_generation: 2, ..report(1, 1) }, Contradiction::LostCommand),
        (Report { firmware: "1.0.0".into(), ..report(1, 1) }, Contradiction::WrongResult),
    ];
    for (report, expected) in cases {
        let mut evidence = Evidence::default();
        assert_eq!(weigh(&mut evidence, &report), Disposition::Contradictory(expected), "{report:?}");
        assert!(evidence.believed().is_none());
    }
    let mut evidence = Evidence::default();
    let busy =
        Report { firmware: "1.0.0".into(), applied_generation: 2, install: installing, ..report(1, 1) };
    assert_eq!(
        weigh(&mut evidence, &busy),
        Disposition::Accepted,
        "an install under way is no contradiction"
    );
}

proptest! {
    /// Whatever arrives in whatever order, within one boot the sequence that is believed only rises, and a
    /// boot that was left is never believed again.
    #[test]
    fn belief_only_moves_forward(reports in prop::collection::vec((1_u64..4, 1_u64..20), 1..60)) {
        let mut evidence = Evidence::default();
        let mut believed: Vec<(BootId, u64)> = Vec::new();
        for (boot, sequence) in reports {
            if weigh(&mut evidence, &report(boot, sequence)) == Disposition::Accepted {
                let boot = BootId(boot);
                if let Some((last, before)) = believed.last() {
                    prop_assert!(*last != boot || *before < sequence);
                    prop_assert!(*last == boot || believed.iter().all(|(former, _)| *former != boot));
                }
                believed.push((boot, sequence));
            }
            prop_assert!(evidence.former.len() <= FORMER_BOOTS);
        }
    }
}
