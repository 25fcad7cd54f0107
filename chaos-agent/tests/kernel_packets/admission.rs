//! What hooks let into the delay line: packets that are lost in it do not take room there for good.

use fault_abi::key::Direction;
use serde_json::json;

use crate::support::agent::{Holds, Hooks, LINE_LIMITS};
use crate::support::child::{AgentProcess, Counted, play};
use crate::support::fault::Fault;
use crate::support::space::Namespace;
use crate::support::stage::{Family, Stage};
use crate::support::time::{boot_ns, eventually, ms_here};
use crate::support::traffic::paced;

/// Frames that the line's device holds for its reader, in this story.
const QUEUE: u32 = 16;
/// Packets that are sent into it while nobody reads.
const INTO_IT: u32 = 200;

/// Sets how many frames the line's device holds.
fn set_queue(node: &Namespace, length: u32) {
    node.ip(&format!("link set edo-line txqueuelen {length}\n"));
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn what_the_lines_device_has_dropped_takes_no_room_once_the_engine_goes_on() {
    play();
    let stage = Stage::new();
    let story = what_the_lines_device_has_dropped_takes_no_room_once_the_engine_goes_on;
    let mut agent = AgentProcess::with(story, &stage.node, Hooks::Tcx, Holds::Userspace);
    let (device, peer) = (stage.device_end(Family::V4), stage.peer_end(Family::V4));
    device.reaches(&peer, 10);
    let time = format!("{}ms", ms_here(5_000) / 1_000_000);
    let seconds = Fault::new("hold", json!({"delay": {"time": time}})).on(&[Family::V4.host(1, 2)]);
    agent.set(&[seconds]);
    let counted = |agent: &mut AgentProcess| -> Counted { agent.counted()[Direction::FromDevice as usize] };

    set_queue(&stage.node, QUEUE);
    agent.stop();
    let stopped_ns = boot_ns();
    for number in 0..INTO_IT {
        device.send(&peer, number).unwrap();
    }
    agent.go_on();
    // Once the programs notice that the engine stands they let packets pass.
    let held = eventually(
        || {
            let now = counted(&mut agent);
            (now.delayed + now.stalled == u64::from(INTO_IT)).then_some(now.delayed)
        },
        || "not all packets have met the hook".to_owned(),
    );
    assert!(
        held > u64::from(QUEUE),
        "the programs noticed that the engine stands when {held} packets were sent"
    );
    let lost = held - u64::from(QUEUE);
    set_queue(&stage.node, LINE_LIMITS.packets);
    eventually(
        || (counted(&mut agent).settled == lost).then_some(()),
        || format!("{lost} packets were lost in the line and are not counted out"),
    );

    // As many as the target may have there, and one more; those of before have left by now, or are lost.
    eventually(
        || (peer.take().is_empty() && boot_ns() > stopped_ns + ms_here(5_500)).then_some(()),
        || "packets of before still come".to_owned(),
    );
    let before = counted(&mut agent);
    let count = LINE_LIMITS.target_packets + 1;
    let seen = |now: Counted| now.delayed - before.delayed;
    let started_ns = boot_ns();
    paced(count, |number| device.send(&peer, number).unwrap(), || seen(counted(&mut agent)));
    eventually(
        || (seen(counted(&mut agent)) == u64::from(count)).then_some(()),
        || "not all packets have met the hook".to_owned(),
    );
    assert!(boot_ns() < started_ns + ms_here(5_000), "the first have left before the last came");
    let after = counted(&mut agent);
    assert_eq!(after.line_full - before.line_full, 1, "exactly what is beyond the limit: {after:?}");
}
