//! The deadline is the kernel's: it holds while the agent is stopped, and a restarted agent resumes with it.

use std::collections::BTreeSet;
use std::time::Duration;

use fault_abi::key::Direction;
use serde_json::json;

use crate::support::agent::{Agent, Holds, Hooks};
use crate::support::child::{AgentProcess, play};
use crate::support::fault::Fault;
use crate::support::stage::{Family, Stage};
use crate::support::time::{Beat, boot_ns, eventually, ms, ms_here, patience};
use crate::support::traffic::End;
use crate::timeline::{Fate, tell};

/// A packet that was sent long before the deadline has met its hook by then, however busy the machine.
pub(crate) const SLACK_MS: u64 = 100;

/// The guarantee: so long after its last sign of life an engine counts as stopped.
const STALLED_NS: u64 = ms(500);

/// When each packet was sent: before and after the call, in CLOCK_BOOTTIME.
type Sent = Vec<(u64, u64)>;

/// Sends every two milliseconds, both ways, until then.
fn send_until(end_ns: u64, a: &End, b: &End) -> Sent {
    let mut beat = Beat::new(Duration::from_millis(2));
    let mut sent = Sent::new();
    while boot_ns() < end_ns {
        let number = u32::try_from(sent.len()).unwrap();
        let before = boot_ns();
        a.send(b, number).unwrap();
        b.send(a, number).unwrap();
        sent.push((before, boot_ns()));
        beat.wait();
    }
    sent
}

/// Waits until all packets sent at or after the deadline have come, and returns how many are missing.
fn missing(end: &End, sent: &Sent, deadline_ns: u64) -> u64 {
    let mut came = BTreeSet::new();
    let late = || (0_u32..).zip(sent).filter(|(_, (before, _))| *before >= deadline_ns);
    let all = || {
        came.extend(end.take());
        late().all(|(number, _)| came.contains(&number)).then_some(())
    };
    eventually(all, || "packets sent after the deadline are missing".to_owned());
    for (number, (_, after)) in (0..).zip(sent) {
        let is_early = after + ms_here(SLACK_MS) < deadline_ns;
        assert!(!(is_early && came.contains(&number)), "packet {number} escaped before the deadline");
    }
    (sent.len() - came.len()) as u64
}

fn the_deadline_holds_while_the_agent_is_stopped(story: impl Fn(), hooks: Hooks) {
    let stage = Stage::new();
    let starts_ns = boot_ns();
    let mut agent = AgentProcess::start(story, &stage.node, hooks);
    let (device, peer) = (stage.device_end(Family::V4), stage.peer_end(Family::V4));
    device.reaches(&peer, 10);
    // Long enough for the rule to come, on a machine as busy as this one is.
    let deadline_ns = boot_ns() + (boot_ns() - starts_ns) + ms_here(1_500);
    agent.set(&[Fault::partition().on(&[Family::V4.host(1, 2)]).until(deadline_ns)]);
    agent.stop();
    assert!(boot_ns() + 4 * ms_here(SLACK_MS) < deadline_ns, "the agent took too long");
    let sent = send_until(deadline_ns + ms(300), &device, &peer);
    let lost = [missing(&peer, &sent, deadline_ns), missing(&device, &sent, deadline_ns)];
    agent.go_on();
    for (direction, counted) in Direction::ALL.into_iter().zip(agent.counted()) {
        assert_eq!(counted.partitioned, lost[direction as usize], "{direction:?}");
        assert!(counted.last_seen_ns < deadline_ns, "the last drop came before the deadline");
        assert_eq!(counted.passed, 0, "past its deadline a rule counts nothing");
        println!(
            "{hooks:?} {direction:?}: {} dropped, the last {:.3} ms before the deadline",
            counted.partitioned,
            (deadline_ns - counted.last_seen_ns) as f64 / 1e6
        );
    }
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn a_fault_ends_at_its_deadline_while_the_agent_is_stopped() {
    play();
    let story = a_fault_ends_at_its_deadline_while_the_agent_is_stopped;
    the_deadline_holds_while_the_agent_is_stopped(story, Hooks::Tcx);
    the_deadline_holds_while_the_agent_is_stopped(story, Hooks::XdpNative);
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn a_fault_behind_loss_ends_at_its_deadline_while_the_agent_is_stopped() {
    play();
    let story = a_fault_behind_loss_ends_at_its_deadline_while_the_agent_is_stopped;
    // No receiver takes a packet with a wrong checksum.
    let corrupt = (json!({"corrupt": {"percent": "100%"}}), Fate::Lost);
    tell(story, (Hooks::Tcx, Holds::Userspace), &[corrupt]);
}

mod fq {
    use super::*;

    #[test]
    #[ignore = "kernel rung: needs root, the eBPF object and the kernel's queue fq"]
    fn a_delay_ends_at_its_deadline_while_the_agent_is_stopped() {
        play();
        let story = a_delay_ends_at_its_deadline_while_the_agent_is_stopped;
        tell(story, (Hooks::Tcx, Holds::Fq), &[(json!({"delay": {"time": "60ms"}}), Fate::Held)]);
    }
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn an_agent_that_is_killed_and_started_again_resumes_with_the_original_deadline() {
    play();
    let story = an_agent_that_is_killed_and_started_again_resumes_with_the_original_deadline;
    let stage = Stage::new();
    let starts_ns = boot_ns();
    let mut first = AgentProcess::start(story, &stage.node, Hooks::Tcx);
    // Long enough for the second to start, on a machine as busy as this one is.
    let deadline_ns = boot_ns() + 3 * (boot_ns() - starts_ns) + ms_here(2_000);
    let fault = Fault::partition().on(&[Family::V4.host(1, 2)]).until(deadline_ns);
    first.set(std::slice::from_ref(&fault));
    let killed_ns = boot_ns();
    drop(first);
    let (device, peer) = (stage.device_end(Family::V4), stage.peer_end(Family::V4));
    device.reaches(&peer, 100);
    let mut second = Agent::start(&stage.node, Hooks::Tcx);
    second.set(std::slice::from_ref(&fault));
    let start_ns = boot_ns();
    println!("{} ms without faults, from SIGKILL to the next agent's rules", (start_ns - killed_ns) / ms(1));
    assert!(start_ns + 4 * ms_here(SLACK_MS) < deadline_ns, "the second agent took too long to start");
    let sent = send_until(deadline_ns + ms(300), &device, &peer);
    for (direction, end) in [(Direction::FromDevice, &peer), (Direction::ToDevice, &device)] {
        let lost = missing(end, &sent, deadline_ns);
        let counter = second.total(direction);
        assert_eq!(counter.seen(), lost, "{direction:?}");
        assert!(start_ns < counter.last_seen_ns && counter.last_seen_ns < deadline_ns);
    }
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn a_stopped_agent_is_no_partition_packets_pass_undelayed_and_are_counted() {
    play();
    let stage = Stage::new();
    let story = a_stopped_agent_is_no_partition_packets_pass_undelayed_and_are_counted;
    let mut agent = AgentProcess::with(story, &stage.node, Hooks::Tcx, Holds::Userspace);
    let (device, peer) = (stage.device_end(Family::V4), stage.peer_end(Family::V4));
    let long = json!({"delay": {"time": "20s"}});
    agent.set(&[Fault::new("hold", long).on(&[Family::V4.host(1, 2)])]);
    agent.stop();
    let (mut came, mut sent, mut beat) = (BTreeSet::new(), Vec::new(), Beat::new(Duration::from_millis(2)));
    let stopped_ns = boot_ns();
    // Until the programs notice, packets go into the line; none of those comes out in this story's time.
    while came.is_empty() {
        assert!(boot_ns() < stopped_ns + patience(), "{} packets, none came: a partition", sent.len());
        let number = u32::try_from(sent.len()).unwrap();
        sent.push(boot_ns());
        device.send(&peer, number).unwrap();
        beat.wait();
        came.extend(peer.take());
    }
    let first = *came.first().unwrap() as usize;
    // The programs look at their clock after the sender has, and the agent that is stopped says nothing more: no machine is too busy for that.
    let held_ns = sent[..first].last().map_or(0, |last| last - stopped_ns);
    println!("{first} packets went into the line before, for {:.1} ms", held_ns as f64 / 1e6);
    assert!(held_ns <= STALLED_NS, "a packet was held {held_ns} ns after the stop");
    let begun = u32::try_from(sent.len()).unwrap();
    for more in begun..begun + 100 {
        device.send(&peer, more).unwrap();
    }
    let all = || {
        came.extend(peer.take());
        (came.len() > 100).then_some(())
    };
    eventually(all, || "packets behind the first are missing".to_owned());
    agent.go_on();
    let counted = agent.counted()[Direction::FromDevice as usize];
    assert_eq!(counted.stalled, came.len() as u64, "{counted:?}");
    assert_eq!(counted.delayed + counted.stalled, u64::from(begun + 100), "{counted:?}");
}
