//! How many devices of a fleet are under way at most, whatever its settings say.

use edge_api::FleetPhase;
use edge_api::fleet::MAX_RESERVED;
use serde_json::json;

use super::story::Story;

#[test]
fn no_more_devices_are_reserved_than_a_status_may_name_and_the_others_wait_for_their_turn() {
    const DEVICES: usize = MAX_RESERVED + 20;
    let rollout = json!({"batches": ["100%"], "maxInFlight": DEVICES, "maxUnavailable": "100%"});
    let mut story = Story::complete(DEVICES, rollout);
    story.wants("2").settles();
    assert_eq!((story.status().reserved.len(), story.told("2")), (MAX_RESERVED, MAX_RESERVED));
    // Where one has ended, one of the others begins.
    let first = story.ranked()[0];
    story.device_ends(first);
    story.settles();
    assert_eq!((story.status().reserved.len(), story.told("2")), (MAX_RESERVED, MAX_RESERVED + 1));
    story.runs_until_quiet();
    assert_eq!((story.phase(), story.told("2")), (FleetPhase::Complete, DEVICES));
    assert_eq!(story.status().reserved, Vec::<String>::new());
}
