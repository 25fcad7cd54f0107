//! The oracle itself: each of its rules is broken on purpose once, and that rule, and no other, says so.

#![expect(clippy::unwrap_used, reason = "a hand that slips ends the story")]

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use clap::ValueEnum as _;
use edge_sim::rule::Rule;

/// The rules that a run names as broken, and all that it said.
fn simulate(breaks: Option<Rule>) -> (BTreeSet<String>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_edge-sim"));
    match breaks.and_then(|rule| rule.to_possible_value()) {
        Some(rule) => command.args(["--break", rule.get_name()]),
        None => command.arg("--unbroken"),
    };
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let named = said.lines().filter_map(|line| line.split_once("VIOLATED: ")?.1.split(':').next());
    let verdict = said.lines().last().unwrap_or_default().contains(": ok;");
    assert_eq!(output.status.success(), verdict, "{breaks:?} ended with {}: {said}", output.status);
    (named.map(str::to_owned).collect(), said)
}

#[test]
#[ignore = "sim rung: takes a minute"]
fn each_rule_finds_the_fault_that_it_is_for_and_no_other_rule_does() {
    let cases: Vec<Option<Rule>> =
        std::iter::once(None).chain(Rule::value_variants().iter().copied().map(Some)).collect();
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (named, said) = simulate(*case);
                    let meant: BTreeSet<String> = case.iter().map(|rule| format!("{rule:?}")).collect();
                    if named != meant {
                        failed.lock().unwrap().push(format!("{case:?} was reported by {named:?}\n{said}"));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    println!("{} rules, each found by itself alone", cases.len() - 1);
}
