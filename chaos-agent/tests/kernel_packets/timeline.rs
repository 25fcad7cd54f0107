//! Phases follow each other by the kernel's clock, while the agent is stopped. A packet is judged by the phase in which it was sent; one
//! that was sent shortly before a phase's end may have met its hook behind it, and is not judged.

use std::collections::BTreeMap;
use std::time::Duration;

use fault_abi::key::Direction;
use serde_json::{Value, json};

use crate::deadline::SLACK_MS;
use crate::later::is_held;
use crate::support::agent::{Holds, Hooks};
use crate::support::child::{AgentProcess, Counted, play};
use crate::support::cpu::OneCpu;
use crate::support::fault::Fault;
use crate::support::stage::{Family, Stage};
use crate::support::time::{Beat, boot_ns, eventually, ms, ms_here};
use crate::support::traffic::End;

/// How long a phase holds packets that holds any, in nanoseconds.
const HELD_NS: u64 = ms(60);
/// How long a phase lasts in which the agent is stopped from its beginning on, on a real machine.
const PHASE_MS: u64 = 800;
/// So many packets of a phase are judged at least; a machine that never stands still sends 350 of them.
const ENOUGH: usize = 20;

/// What becomes of the packets of a phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// None is received.
    Lost,
    /// Each second one is not.
    EachSecondLost,
    /// All are received at once.
    Passed,
    /// All are received so late.
    Held,
}

/// A part of the story's time, in CLOCK_BOOTTIME.
struct Part {
    begins_ns: u64,
    ends_ns: u64,
    fate: Fate,
}

impl Part {
    /// Whether a packet met its hook in it, which was sent after the first of these times and before the second.
    fn has(&self, (before, after): (u64, u64)) -> bool {
        self.begins_ns <= before && after.saturating_add(ms_here(SLACK_MS)) < self.ends_ns
    }
}

/// Packets of both directions, by number.
#[derive(Default)]
struct Traffic {
    /// The times before and after the calls that sent it, one for each direction.
    sent: Vec<(u64, u64)>,
    /// When it was found to have come, by direction.
    came: [BTreeMap<u32, u64>; 2],
}

impl Traffic {
    /// Sends every two milliseconds until then, from one CPU, so that none overtakes another.
    fn send_until(&mut self, end_ns: u64, device: &End, peer: &End) {
        let _here = OneCpu::stay();
        let mut beat = Beat::new(Duration::from_millis(2));
        while boot_ns() < end_ns {
            let number = u32::try_from(self.sent.len()).unwrap();
            let before = boot_ns();
            device.send(peer, number).unwrap();
            peer.send(device, number).unwrap();
            self.sent.push((before, boot_ns()));
            self.take(device, peer);
            beat.wait();
        }
    }

    fn take(&mut self, device: &End, peer: &End) {
        for (direction, end) in [(Direction::FromDevice, peer), (Direction::ToDevice, device)] {
            let (numbers, now) = (end.take(), boot_ns());
            self.came[direction as usize].extend(numbers.into_iter().map(|number| (number, now)));
        }
    }

    /// Waits until all have come that are sure to come.
    fn settle(&mut self, parts: &[Part], device: &End, peer: &End) {
        let sure = |part: &&Part| matches!(part.fate, Fate::Passed | Fate::Held);
        let due = |sent: &(u64, u64)| parts.iter().filter(sure).any(|part| part.has(*sent));
        let due: Vec<u32> =
            (0..).zip(&self.sent).filter(|(_, sent)| due(sent)).map(|(number, _)| number).collect();
        let all = || {
            self.take(device, peer);
            let has_all = |came: &BTreeMap<u32, u64>| due.iter().all(|number| came.contains_key(number));
            self.came.iter().all(has_all).then_some(())
        };
        eventually(all, || "packets are missing that nothing should have dropped".to_owned());
    }

    /// Asserts what became of those that met their hook in this part.
    fn judge(&self, part: &Part, direction: Direction) {
        let of_part = (0..).zip(&self.sent).filter(|(_, sent)| part.has(**sent));
        let took = |(number, (before, _)): (u32, &(u64, u64))| {
            self.came[direction as usize].get(&number).map(|at| at - before)
        };
        let took: Vec<Option<u64>> = of_part.map(took).collect();
        let what = format!("{:?} {direction:?}: {took:?}", part.fate);
        assert!(took.len() >= ENOUGH, "too few packets to judge: {what}");
        match part.fate {
            Fate::Lost => assert!(took.iter().all(Option::is_none), "{what}"),
            Fate::EachSecondLost => {
                assert!(took.windows(2).all(|two| two[0].is_some() != two[1].is_some()), "{what}");
            }
            Fate::Passed => {
                assert!(took.iter().all(Option::is_some), "{what}");
                assert!(took.iter().flatten().any(|ns| !is_held(*ns, HELD_NS)), "all are late: {what}");
            }
            Fate::Held => {
                assert!(took.iter().all(|took| took.is_some_and(|ns| is_held(ns, HELD_NS))), "{what}");
            }
        }
        println!("{:?} {direction:?}: {} packets judged", part.fate, took.len());
    }
}

/// When each phase is on, from `begins_ns` on, and what is behind the last.
fn parts(begins_ns: u64, phases: &[(Value, u64)], fates: impl Iterator<Item = Fate>) -> Vec<Part> {
    let mut ends_ns = begins_ns;
    let of_phase = |((_, milliseconds), fate): (&(Value, u64), Fate)| {
        let begins_ns = ends_ns;
        ends_ns += ms(*milliseconds);
        Part { begins_ns, ends_ns, fate }
    };
    let mut parts: Vec<Part> = phases.iter().zip(fates).map(of_phase).collect();
    parts.push(Part { begins_ns: ends_ns, ends_ns: u64::MAX, fate: Fate::Passed });
    parts
}

/// Stops the agent in the first of these phases, sends both ways until some time behind the last, and judges all packets. Returns
/// what was counted, and the first packet of each direction that came.
pub(crate) fn tell(
    story: impl Fn(),
    (hooks, holds): (Hooks, Holds),
    phases: &[(Value, Fate)],
) -> [(Counted, u32); 2] {
    let stage = Stage::new();
    let starts_ns = boot_ns();
    let mut agent = AgentProcess::with(story, &stage.node, hooks, holds);
    let (device, peer) = (stage.device_end(Family::V4), stage.peer_end(Family::V4));
    device.reaches(&peer, 10);
    peer.reaches(&device, 10);
    let begins_ns = boot_ns();
    // The first is long enough for the rule to come, on a machine as busy as this one is.
    let first_ns = (begins_ns - starts_ns) + ms_here(1_500);
    let lasts = |at: usize| if at == 0 { first_ns } else { ms_here(PHASE_MS) } / ms(1);
    let timed: Vec<_> =
        phases.iter().enumerate().map(|(at, (faults, _))| (faults.clone(), lasts(at))).collect();
    let parts = parts(begins_ns, &timed, phases.iter().map(|(_, fate)| *fate));
    agent.set(&[Fault::timeline(begins_ns, &timed).on(&[Family::V4.host(1, 2)])]);
    agent.stop();
    assert!(boot_ns() + 4 * ms_here(SLACK_MS) < parts[0].ends_ns, "the agent took too long");
    let mut traffic = Traffic::default();
    let deadline_ns = parts[phases.len()].begins_ns;
    traffic.send_until(deadline_ns + ms_here(300), &device, &peer);
    traffic.settle(&parts, &device, &peer);
    for direction in Direction::ALL {
        parts.iter().for_each(|part| traffic.judge(part, direction));
    }
    agent.go_on();
    let counted = agent.counted();
    Direction::ALL.map(|direction| {
        let (counted, came) = (counted[direction as usize], &traffic.came[direction as usize]);
        assert!(counted.last_seen_ns < deadline_ns, "past its end a rule counts nothing: {counted:?}");
        assert_eq!((counted.stalled, counted.line_full), (0, 0), "{direction:?}");
        (counted, *came.keys().next().unwrap())
    })
}

fn partition_and(more: [(Value, Fate); 2]) -> [(Value, Fate); 3] {
    let [second, third] = more;
    [(json!({"partition": {}}), Fate::Lost), second, third]
}

fn each_second() -> (Value, Fate) {
    (json!({"loss": {"every": 2}}), Fate::EachSecondLost)
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn phases_follow_each_other_while_the_agent_is_stopped() {
    play();
    let story = phases_follow_each_other_while_the_agent_is_stopped;
    for hooks in [Hooks::Tcx, Hooks::XdpNative] {
        let phases = partition_and([(json!({}), Fate::Passed), each_second()]);
        for (counted, first) in tell(story, (hooks, Holds::Userspace), &phases) {
            assert_eq!(counted.partitioned, u64::from(first), "all before the first that came");
            assert!(counted.passed > 0, "a phase without faults counts");
        }
    }
}

mod fq {
    use super::*;

    #[test]
    #[ignore = "kernel rung: needs root, the eBPF object and the kernel's queue fq"]
    fn a_partition_becomes_a_delay_and_that_a_loss_while_the_agent_is_stopped() {
        play();
        let story = a_partition_becomes_a_delay_and_that_a_loss_while_the_agent_is_stopped;
        let delay = json!({"delay": {"time": format!("{}ms", HELD_NS / ms(1))}});
        let phases = partition_and([(delay, Fate::Held), each_second()]);
        for (counted, first) in tell(story, (Hooks::Tcx, Holds::Fq), &phases) {
            assert_eq!(counted.partitioned, u64::from(first), "all before the first that came");
            assert!(counted.delayed >= ENOUGH as u64, "{counted:?}");
        }
    }
}
