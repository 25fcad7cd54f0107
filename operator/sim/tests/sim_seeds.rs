//! Many seeds of the simulation, each in a process of its own.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a hand that slips ends the story")]

use std::process::{Command, Output};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use edge_sim::AGAIN;

/// Seeds that run where nobody says how many (`EDGE_SIM_SEEDS`).
const SEEDS: u64 = 200;
/// What all seeds but one in twenty take of a processor at most, in seconds: a few are longer plans than others.
const AIM: f64 = 2.0;
/// Lines of a failed seed's timeline that are shown; all of them are one command away.
const SHOWN: usize = 120;

fn simulate(seed: u64) -> Output {
    Command::new(env!("CARGO_BIN_EXE_edge-sim")).arg("--seed").arg(seed.to_string()).output().unwrap()
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

#[test]
#[ignore = "sim rung: takes minutes"]
fn every_seed_converges_and_breaks_no_promise() {
    let seeds = number("EDGE_SIM_SEEDS").unwrap_or(SEEDS);
    // EDGE_SIM_LIMIT is the longest that one may take; edge-sim itself heeds it.
    let first = number("EDGE_SIM_FIRST").unwrap_or(0);
    let (next, failed) = (AtomicU64::new(first), Mutex::new(Vec::new()));
    let costs = Mutex::new(Vec::new());
    let [waits, by_process, by_device] = [(); 3].map(|()| AtomicU64::new(0));
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + seeds {
                        return;
                    }
                    let output = simulate(seed);
                    costs.lock().unwrap_or_else(PoisonError::into_inner).extend(cost(&output));
                    for (sum, words) in [
                        (&waits, "waits"),
                        (&by_process, "refused by process buckets"),
                        (&by_device, "refused by device buckets"),
                    ] {
                        sum.fetch_add(count(&output, words).unwrap_or(0), Ordering::Relaxed);
                    }
                    if !output.status.success() {
                        failed.lock().unwrap_or_else(PoisonError::into_inner).push((seed, output));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    for (seed, output) in &failed {
        show(*seed, output);
    }
    let named: Vec<u64> = failed.iter().map(|(seed, _)| *seed).collect();
    assert!(failed.is_empty(), "{} of {seeds} seeds failed: {named:?}", named.len());
    // Where nobody waits nobody is overtaken, and that none is overtaken too often says nothing.
    let [waits, by_process, by_device] = [waits, by_process, by_device].map(AtomicU64::into_inner);
    assert!(waits > seeds, "devices waited {waits} times for their turn, in {seeds} seeds");
    // And where no retry has to wait nobody could use too many. Each fourth seed has few retries; not all of a few are used up.
    for refused in [by_process, by_device] {
        assert!(
            refused > seeds || seeds < 40,
            "{by_process} and {by_device} looks found no token, in {seeds} seeds"
        );
    }
    let mut costs = costs.into_inner().unwrap_or_else(PoisonError::into_inner);
    costs.sort_unstable();
    let [median, nearly_all, most] = [costs.len() / 2, costs.len() * 19 / 20, costs.len() - 1]
        .map(|at| Duration::from_micros(costs[at]).as_secs_f64());
    println!(
        "told: {seeds} seeds, 0 violations; {waits} waits for a turn, {by_process} and {by_device} looks without a token of the process and of the device; half of them took up to {median:.2} s of a processor, all but one in \
         twenty {nearly_all:.2} s, the longest {most:.2} s"
    );
    assert!(nearly_all < AIM, "one seed in twenty took more than {nearly_all:.2} s of a processor");
}

/// What a run took of a processor, in microseconds.
fn cost(output: &Output) -> Option<u64> {
    let said = String::from_utf8_lossy(&output.stderr);
    let line = said.lines().rev().find_map(|line| line.strip_prefix("took "))?;
    line.split(' ').next()?.parse().ok()
}

/// The number before these words of the last line.
fn count(output: &Output, words: &str) -> Option<u64> {
    let said = String::from_utf8_lossy(&output.stdout);
    let (before, _) = said.rsplit_once(&format!(" {words}, "))?;
    before.rsplit(' ').next()?.parse().ok()
}

/// The verdict, how to see the same again, and the end of what happened.
fn show(seed: u64, output: &Output) {
    let said = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<&str> = said.lines().collect();
    let (verdict, timeline): (Vec<&str>, Vec<&str>) =
        lines.iter().partition(|line| line.starts_with("seed "));
    eprintln!("\n--- seed {seed}; the same again: {AGAIN} --seed {seed}");
    let hidden = timeline.len().saturating_sub(SHOWN);
    eprintln!("({hidden} earlier lines)\n{}\n{}", timeline[hidden..].join("\n"), verdict.join("\n"));
    // A run that hangs says nothing, and is killed by SIGALRM.
    eprintln!("it ended with {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
}

#[test]
#[ignore = "sim rung: takes seconds"]
fn a_seed_is_the_same_run_in_each_process() {
    for seed in [3, 14] {
        let timelines = [0, 1].map(|_| {
            let output = Command::new(env!("CARGO_BIN_EXE_edge-sim"))
                .args(["--timeline", "--seed"])
                .arg(seed.to_string())
                .output()
                .unwrap();
            assert!(!String::from_utf8_lossy(&output.stderr).contains("does not repeat"), "{output:?}");
            String::from_utf8(output.stdout).unwrap()
        });
        let differs = timelines[0].lines().zip(timelines[1].lines()).find(|(one, other)| one != other);
        assert_eq!(differs, None, "seed {seed}");
        assert!(timelines[0].lines().count() > 50, "{}", timelines[0]);
    }
}
