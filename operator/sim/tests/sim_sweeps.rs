//! Each moment of one scenario in turn (Sieve's perturbations): an operator dies at it, misses an event, or hands over to one
//! whose view is old. The end is the same, and no command is carried out twice.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a hand that slips ends the story")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use edge_sim::AGAIN;

fn simulate(scenario: &[&str], kind: &str, number: u64) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_edge-sim"));
    command.args(["--sweep", &format!("{kind}:{number}")]).args(scenario).output().unwrap()
}

/// What each fleet came to, what each device runs, and what was said of both.
fn end(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stdout);
    let end = said.lines().find_map(|line| line.split_once(": ends with "));
    end.map(|(_, end)| end.to_owned()).unwrap_or_default()
}

/// What people were told by Events. A leader that dies between a status and its Event tells it to nobody: what lasts is in the status.
fn told(output: &Output) -> BTreeSet<String> {
    let said = String::from_utf8_lossy(&output.stdout);
    let told =
        said.lines().find_map(|line| line.split_once(": people were told ")).map_or("", |(_, told)| told);
    told.split(", ").filter(|one| !one.is_empty()).map(str::to_owned).collect()
}

/// What devices carried out, and how often.
fn deeds(output: &Output) -> BTreeMap<String, u64> {
    let said = String::from_utf8_lossy(&output.stdout);
    let deeds =
        said.lines().find_map(|line| line.split_once(": carried out ")).map_or("", |(_, deeds)| deeds);
    let deeds = deeds.split(' ').filter_map(|deed| deed.rsplit_once('='));
    deeds.map(|(deed, count)| (deed.to_owned(), count.parse().unwrap())).collect()
}

/// What devices carried out more often than in calm. Once is what a device does that has the time for it: in calm it was perhaps told
/// the next thing before. And after such a thing it is told once more what it ran before.
fn overdone(done: &BTreeMap<String, u64>, calm: &BTreeMap<String, u64>) -> Vec<String> {
    let device = |deed: &str| deed.split('/').next().unwrap_or_default().to_owned();
    let extra = |name: &str| {
        let new = done.keys().filter(|deed| !calm.contains_key(*deed) && deed.contains("/Applied/"));
        new.filter(|deed| device(deed) == name).count() as u64
    };
    let most = |deed: &str| calm.get(deed).copied().unwrap_or_default().max(1) + extra(&device(deed));
    let more = done.iter().filter(|(deed, count)| {
        calm.contains_key(*deed) && **count > most(deed) || !calm.contains_key(*deed) && **count > 1
    });
    more.map(|(deed, count)| format!("{deed}={count}")).collect()
}

/// The number before a word of the last line.
fn count(output: &Output, word: &str) -> u64 {
    let said = String::from_utf8_lossy(&output.stdout);
    let before = said.split_once(&format!(" {word}, ")).map(|(before, _)| before);
    let number = before.and_then(|before| before.rsplit(' ').next()).and_then(|number| number.parse().ok());
    number.unwrap_or_else(|| panic!("no {word} in {said}"))
}

/// Takes each moment of a kind in turn, as many as an undisturbed run has.
fn sweep(scenario: &[&str], kind: &str, moments: &str) {
    // Moments count from 1: nothing happens at 0.
    let undisturbed = simulate(scenario, kind, 0);
    assert!(undisturbed.status.success(), "{}", String::from_utf8_lossy(&undisturbed.stdout));
    let all = count(&undisturbed, moments);
    let calm = end(&undisturbed);
    assert!(calm.contains("device-0"), "{calm}");
    let (done, people) = (deeds(&undisturbed), told(&undisturbed));
    assert!(done.keys().any(|deed| deed.starts_with("device-0/Applied/")), "{done:?}");
    let (next, failed) = (AtomicU64::new(1), Mutex::new(Vec::new()));
    let old_views = AtomicU64::new(0);
    // Whoever does not know yet that a deleted object was given up may still release its device, which is nobody's then and needs no adoption.
    let may_differ = kind == "stale" && scenario.contains(&"--lives");
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number > all {
                        return;
                    }
                    let output = simulate(scenario, kind, number);
                    old_views.fetch_add(count(&output, "old views"), Ordering::Relaxed);
                    let mut more = overdone(&deeds(&output), &done);
                    more.extend(told(&output).difference(&people).cloned());
                    let differs = !may_differ && (end(&output) != calm || !more.is_empty());
                    if !output.status.success() || differs {
                        let said = format!(
                            "{}(in calm it ends with {calm}; more than there: {more:?})",
                            String::from_utf8_lossy(&output.stdout)
                        );
                        failed.lock().unwrap_or_else(PoisonError::into_inner).push((number, said));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    for (number, said) in &failed {
        eprintln!("--- the same again: {AGAIN} --sweep {kind}:{number} {}\n{said}", scenario.join(" "));
    }
    let old_views = old_views.into_inner();
    let seen =
        if kind == "stale" { format!(", {old_views} leaders with an old view") } else { String::new() };
    println!("told: sweep {kind}{}: {all} points{seen}, {} violations", scenario.concat(), failed.len());
    assert!(all > 10, "only {all} {moments} in the scenario");
    assert!(failed.is_empty(), "{} of {all} points", failed.len());
    assert!(kind != "stale" || old_views * 4 >= all * 3, "{old_views} of {all} views were old");
}

#[test]
fn what_is_carried_out_more_often_than_in_calm_is_found_and_what_a_device_had_the_time_for_is_not() {
    let all = |deeds: &[(&str, u64)]| -> BTreeMap<String, u64> {
        deeds.iter().map(|(deed, count)| (format!("device-0/{deed}"), *count)).collect()
    };
    let calm = all(&[("Stored/2.0", 1), ("Applied/2.0", 1)]);
    let more = |deeds: &[(&str, u64)]| overdone(&all(deeds), &calm);
    assert_eq!(more(&[("Stored/2.0", 1), ("Applied/2.0", 1)]), Vec::<String>::new());
    assert_eq!(
        more(&[("Applied/1.0", 1), ("Applied/2.0", 2)]),
        Vec::<String>::new(),
        "it ran another one before"
    );
    assert_eq!(more(&[("Stored/2.0", 2)]), ["device-0/Stored/2.0=2"]);
    assert_eq!(more(&[("Applied/3.0", 2)]), ["device-0/Applied/3.0=2"]);
}

#[test]
#[ignore = "sim rung: takes a minute"]
fn a_crash_before_the_answer_to_any_effect_changes_nothing_in_the_end() {
    sweep(&[], "unanswered", "effects");
}

#[test]
#[ignore = "sim rung: takes a minute"]
fn a_crash_right_after_any_effect_changes_nothing_in_the_end() {
    sweep(&[], "after", "effects");
}

#[test]
#[ignore = "sim rung: takes a minute"]
fn an_event_that_is_missed_changes_nothing_in_the_end() {
    sweep(&[], "lost", "events");
}

#[test]
#[ignore = "sim rung: takes a minute"]
fn a_leader_that_follows_with_an_old_view_changes_nothing_in_the_end() {
    sweep(&[], "stale", "effects");
}

#[test]
#[ignore = "sim rung: takes a minute"]
fn a_leader_that_follows_with_an_old_view_goes_on_with_a_rollout_where_it_was() {
    sweep(&["--rollout"], "stale", "effects");
}

#[test]
#[ignore = "sim rung: takes a minute"]
fn that_a_fleet_is_taken_over_without_catching_up_is_found_by_the_sweep_of_old_views() {
    let scenario = ["--rollout", "--hasty"];
    let undisturbed = simulate(&scenario, "stale", 0);
    assert!(undisturbed.status.success(), "{}", String::from_utf8_lossy(&undisturbed.stdout));
    let all = count(&undisturbed, "effects");
    let is_found = |output: Output| {
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ["Ends", "InFlight", "Unavailable", "Once"]
            .iter()
            .any(|rule| said.contains(&format!("VIOLATED: {rule}")))
    };
    let found: Vec<u64> =
        (1..=all).filter(|number| is_found(simulate(&scenario, "stale", *number))).collect();
    println!("told: {} of {all} points find that a fleet does not catch up", found.len());
    assert!(!found.is_empty(), "none of {all} points");
}

#[test]
#[ignore = "sim rung: takes a minute"]
fn a_crash_before_the_answer_to_any_effect_of_a_rollout_changes_nothing_in_the_end() {
    sweep(&["--rollout"], "unanswered", "effects");
}

#[test]
#[ignore = "sim rung: takes a minute"]
fn a_crash_right_after_any_effect_of_a_rollout_changes_nothing_in_the_end() {
    sweep(&["--rollout"], "after", "effects");
}

#[test]
#[ignore = "sim rung: takes a minute"]
fn an_event_of_a_rollout_that_is_missed_changes_nothing_in_the_end() {
    sweep(&["--rollout"], "lost", "events");
}

#[test]
#[ignore = "sim rung: takes a minute"]
fn a_crash_before_the_answer_to_any_effect_on_a_device_that_goes_and_comes_back_changes_nothing_in_the_end() {
    sweep(&["--lives"], "unanswered", "effects");
}

#[test]
#[ignore = "sim rung: takes a minute"]
fn a_crash_right_after_any_effect_on_a_device_that_goes_and_comes_back_changes_nothing_in_the_end() {
    sweep(&["--lives"], "after", "effects");
}

#[test]
#[ignore = "sim rung: takes a minute"]
fn an_event_of_a_device_that_goes_and_comes_back_that_is_missed_changes_nothing_in_the_end() {
    sweep(&["--lives"], "lost", "events");
}

#[test]
#[ignore = "sim rung: takes a minute"]
fn a_leader_that_follows_with_an_old_view_of_devices_that_go_and_come_back_breaks_no_promise() {
    sweep(&["--lives"], "stale", "effects");
}

#[test]
#[ignore = "sim rung: takes a minute"]
fn an_event_of_the_lease_that_is_missed_while_leaders_give_it_away_changes_nothing_in_the_end() {
    sweep(&["--handover"], "lost-lease", "lease events");
}

#[test]
#[ignore = "sim rung: takes a minute"]
fn a_leader_that_dies_before_the_answer_to_a_write_of_its_lease_changes_nothing_in_the_end() {
    for scenario in [&[][..], &["--rollout"], &["--lives"], &["--handover"]] {
        sweep(scenario, "lease-unanswered", "leases");
    }
}

#[test]
#[ignore = "sim rung: takes a minute"]
fn a_leader_that_dies_right_after_a_write_of_its_lease_changes_nothing_in_the_end() {
    for scenario in [&[][..], &["--rollout"], &["--lives"], &["--handover"]] {
        sweep(scenario, "lease-after", "leases");
    }
}
