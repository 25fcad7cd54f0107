//! Two operators, and what comes between them: whoever is killed, stopped or cut off, one leads, what was begun is brought to its end,
//! and no device is commanded twice.
//!
//! ```text
//!  cuts     the leader cannot reach the API server, or its devices
//!  deaths   its process, its node
//!  outages  the API server, etcd
//!  rollout  a fleet is under way
//!  at_length  what takes minutes: `cargo xtask test --all`
//! ```

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use xtask::wait;

use super::deaths::in_sync;
use super::letters::Letters;
use super::operators::{LeaseTimes, Pair};
use super::truth::Truth;
use super::world::{LAYOUT, PATIENCE, Story, World};

mod at_length;
mod cuts;
mod deaths;
mod outages;
mod rollout;

/// Short, so that stories are: a Lease of 3 s, whose holder gives up 2 s after it renewed it last, and renews it every half of a second.
const SHORT: LeaseTimes = ["3s", "2s", "500ms"];

/// What a busy machine takes to see the end of a Lease and to take it.
const TO_FOLLOW: SignedDuration = SignedDuration::from_secs(4);

/// A story on devices that are all ready.
fn begin() -> Story {
    let story = Story::with_lease(SHORT);
    story.both_operators();
    story.devices_are_ready();
    story
}

/// A firmware that no story has declared before.
fn new_firmware(world: &World, major: u8) -> String {
    let latest = world.devices().iter().filter_map(|device| device.metadata.generation).max();
    format!("{major}.{}.0", latest.unwrap_or_default())
}

/// So many packets of a hundred are lost where many commands shall still be on their way when something happens.
const MOST: u8 = 70;

/// Each packet between operators and devices is lost with this probability, so that a command takes its time.
fn rough(percent: u8) -> Value {
    json!({
        "apiVersion": "edge-operator.dev/v1alpha1",
        "kind": "FaultProfile",
        "metadata": {"name": "rough"},
        "spec": {
            "targets": {"devices": {"selector": {"matchLabels": {"model": "px4"}}}},
            "faults": {"loss": {"percent": format!("{percent}%")}},
            "seed": 3,
            "duration": "10m",
        },
    })
}

/// Declares a firmware, and waits until some devices have been commanded it.
fn commands_are_under_way(world: &World, firmware: &str) {
    world.declare(firmware);
    wait::until("the first command", PATIENCE, Duration::from_millis(5), || {
        Ok((world.truth().count("stored", firmware) > 0).then_some(()))
    })
    .unwrap();
}

/// Waits until all devices run a firmware and two operators are there, and judges what truly happened since `before`. Returns the epochs
/// of the leaders that commanded it.
fn all_ends_well(world: &World, firmware: &str, before: &Truth) -> Vec<u64> {
    let began = Instant::now();
    in_sync(world, firmware);
    println!("all devices are in sync after {} ms", began.elapsed().as_millis());
    world.both_operators();
    println!("two operators are ready after {} ms", began.elapsed().as_millis());
    let since = world.truth().since(before);
    since.assert_commanded_once(firmware);
    let epochs = since.assert_epochs_follow_each_other();
    println!("commands of the epochs {epochs:?}");
    epochs
}

/// As [`all_ends_well`], where one leader began and the next one had to go on.
fn the_next_one_ends_it_well(world: &World, firmware: &str, before: &Truth) {
    let epochs = all_ends_well(world, firmware, before);
    assert!(epochs.len() >= 2, "the first leader commanded all: nothing was tested");
}

/// Whoever stood by leads, as soon as the Lease of who led before ends: by the operators' own times, so that a test that is slow to
/// look spoils nothing.
fn the_standby_follows(world: &World, pair: &Pair) {
    let (last, next) = world.followed(&pair.term);
    let gap = next.renewed.duration_since(last.renewed);
    println!("another leads {gap:#} after the last renewal");
    assert!(next.is_of(&pair.standby), "{next:?} follows, and not the standby {:?}", pair.standby);
    let lease = last.ends.duration_since(last.renewed);
    assert!(gap < lease + TO_FOLLOW, "a Lease of {lease:#} held for {gap:#}");
}

/// None of these datagrams was sent after `end`, when the right of whoever sent them was over at the latest.
fn silent_after(end: Timestamp, letters: &mut Letters, whose: &str) {
    let sent = letters.sent();
    let ahead = sent
        .last()
        .map_or_else(|| "never".to_owned(), |last| format!("{:#} before the end", end.duration_since(*last)));
    println!("{whose} sent {} datagrams to devices, the last one {ahead}", sent.len());
    let late: Vec<_> = sent.iter().filter(|at| **at > end).collect();
    assert!(late.is_empty(), "{whose} sent {} datagrams after its Lease ended ({end}): {late:?}", late.len());
}

/// How many devices there are.
fn all() -> usize {
    LAYOUT.total() as usize
}
