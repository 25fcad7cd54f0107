//! What takes minutes: only `cargo xtask test --all` has the time.

use super::super::operators::LeaseTimes;
use super::super::world::Story;
use super::{
    MOST, commands_are_under_way, new_firmware, rough, the_next_one_ends_it_well, the_standby_follows,
};

/// Those of the operator's flags.
const DEFAULT: LeaseTimes = ["15s", "10s", "2s"];

#[test]
#[ignore = "node rung: needs root and a cluster"]
fn with_the_default_lease_a_killed_leader_is_followed_within_it_and_nothing_is_commanded_twice() {
    let story = Story::with_lease(DEFAULT);
    let pair = story.both_operators();
    story.devices_are_ready();
    let process = story.process_of(&pair.leader, "edge-operator");
    story.apply(&rough(MOST));
    story.wait_for("Effective", &["fault/rough"]);
    let (before, firmware) = (story.truth(), new_firmware(&story, 10));
    commands_are_under_way(&story, &firmware);
    process.kill();
    the_standby_follows(&story, &pair);
    story.kubectl(&["-n", "edge-demo", "delete", "fault", "rough"]);
    the_next_one_ends_it_well(&story, &firmware, &before);
}
