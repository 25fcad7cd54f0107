//! In each kind of fault, what captures inside the device's namespace and at its peer show is what the kernel has counted,
//! packet for packet: how many were missing, came twice, had a bit flipped, came late; and the bytes of all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fault_abi::counter::Counter;
use fault_abi::key::Direction;
use fault_abi::verdict::{Effect, Verdict};
use serde_json::{Value, json};

use crate::support::agent::{Agent, Hooks};
use crate::support::capture::{Capture, Frame};
use crate::support::fault::Fault;
use crate::support::numbers;
use crate::support::stage::{ETH, Family, Stage};
use crate::support::time::{Beat, eventually, ms};

/// Packets of a story, each way.
const COUNT: u32 = 1_000;
/// One is sent so often, each way.
const EVERY: Duration = Duration::from_micros(200);
/// Where IP begins, and the protocol in its header, by version.
const ETHERNET: usize = 14;
const ICMP: [u8; 2] = [1, 58];

/// What both captures saw of one direction, and what was counted.
struct Way {
    /// By number.
    sent: BTreeMap<u32, Frame>,
    /// In the order in which they came, with their numbers.
    came: Vec<(u32, Frame)>,
    /// What the sender got back about them.
    answers: usize,
    counter: Counter,
}

impl Way {
    fn effect(&self, effect: Effect) -> u64 {
        self.counter.effects[effect as usize]
    }

    /// How many packets the kernel says that it has dropped.
    fn dropped(&self) -> u64 {
        let verdicts = Verdict::ALL.into_iter().filter(|verdict| verdict.drops());
        let dropped: u64 = verdicts.map(|verdict| self.counter.packets[verdict as usize]).sum();
        dropped + self.effect(Effect::Overflow) + self.effect(Effect::LineFull)
    }

    /// How long each was under way, in nanoseconds.
    fn took_ns(&self) -> impl Iterator<Item = u64> {
        self.came.iter().map(|(number, frame)| frame.at_ns.saturating_sub(self.sent[number].at_ns))
    }

    fn later_than(&self, ns: u64) -> u64 {
        self.took_ns().filter(|took| *took >= ns).count() as u64
    }

    /// What must agree whatever the fault.
    fn agrees(&self, what: &str, is_finished: bool) {
        let mut times = BTreeMap::<u32, u64>::new();
        for (number, _) in &self.came {
            *times.entry(*number).or_default() += 1;
        }
        assert_eq!(self.sent.len(), COUNT as usize, "{what}: the capture at the sender is complete");
        let missing = self.sent.keys().filter(|number| !times.contains_key(number)).count() as u64;
        let again: u64 = times.values().map(|times| times - 1).sum();
        let flips = self.came.iter().map(|(number, frame)| {
            let sent = &self.sent[number].bytes;
            let of_checksum = if is_finished { wrong_bits_of_checksum(sent, &frame.bytes) } else { 0 };
            (number, flipped(sent, &frame.bytes) + of_checksum)
        });
        let flips: Vec<(&u32, u32)> = flips.filter(|(_, bits)| *bits > 0).collect();
        assert!(flips.iter().all(|(_, bits)| *bits == 1), "{what}: one bit each");
        // A duplicate of a packet that was to be corrupted is as well.
        let corrupt = flips.iter().map(|(number, _)| *number).collect::<BTreeSet<_>>().len() as u64;
        assert_eq!(missing, self.dropped(), "{what}: missing; {:?}", self.counter);
        assert_eq!(again, self.effect(Effect::Duplicate), "{what}: twice; {:?}", self.counter);
        assert_eq!(corrupt, self.effect(Effect::Corrupt), "{what}: flipped; {:?}", self.counter);
        let bytes: usize = self.sent.values().map(|frame| frame.bytes.len()).sum();
        assert_eq!(self.counter.bytes.iter().sum::<u64>(), bytes as u64, "{what}: bytes");
        let held: u64 = self.took_ns().sum();
        assert!(held >= self.counter.delay_ns, "{what}: held for {held}, counted {}", self.counter.delay_ns);
    }
}

/// Where UDP begins.
fn udp(frame: &[u8]) -> usize {
    ETHERNET + if frame[ETHERNET] >> 4 == 4 { 20 } else { 40 }
}

/// Bits that are wrong in the checksum of what was sent, once it was finished on the way (RFC 768, RFC 8200 §8.1).
fn wrong_bits_of_checksum(sent: &[u8], came: &[u8]) -> u32 {
    let header = udp(sent);
    let addresses = if sent[ETHERNET] >> 4 == 4 { ETHERNET + 12..header } else { ETHERNET + 8..header };
    let length = u32::try_from(sent.len() - header).unwrap();
    let words = |bytes: &[u8]| {
        bytes
            .chunks(2)
            .map(|two| u32::from(two[0]) << 8 | two.get(1).map_or(0, |low| u32::from(*low)))
            .sum::<u32>()
    };
    let without = [&sent[header..header + 6], &sent[header + 8..]].concat();
    let mut sum = words(&sent[addresses]) + words(&without) + length + 17;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let right = !u16::try_from(sum).unwrap();
    let found = u16::from_be_bytes([came[header + 6], came[header + 7]]);
    (if right == 0 { 0xffff } else { right } ^ found).count_ones()
}

/// Bits that differ behind the IP header, but for the checksum, which is finished on the way.
fn flipped(sent: &[u8], came: &[u8]) -> u32 {
    let header = udp(sent);
    let checksum = header + 6..header + 8;
    assert_eq!(sent.len(), came.len());
    let behind = (header..sent.len()).filter(|at| !checksum.contains(at));
    behind.map(|at| (sent[at] ^ came[at]).count_ones()).sum()
}

/// The number that most repetitions in a frame agree on, whichever bit is wrong.
fn number(frame: &Frame) -> Option<u32> {
    numbers::id(&frame.bytes)?;
    let mut found: Vec<u32> = numbers::all(&frame.bytes);
    found.sort_unstable();
    Some(found[found.len() / 2])
}

/// Whether it says that something cannot be reached (RFC 792, RFC 4443).
fn is_refusal(frame: &Frame) -> bool {
    let (protocol, kind) = if frame.bytes[ETHERNET] >> 4 == 4 { (9, 3) } else { (6, 1) };
    ICMP.contains(&frame.bytes[ETHERNET + protocol]) && frame.bytes[udp(&frame.bytes)] == kind
}

/// Sends both ways under these faults until all is counted and has come.
fn exchange(stage: &Stage, agent: &mut Agent, faults: &Value, family: Family) -> [Way; 2] {
    let target = family.host(1, 2);
    agent.set(&[]);
    agent.set(&[Fault::new("agree", faults.clone()).on(std::slice::from_ref(&target))]);
    let captures = [Capture::new(&stage.device, ETH), Capture::new(&stage.peer, ETH)];
    let (device, peer) = (stage.device_end(family), stage.peer_end(family));
    let mut beat = Beat::new(EVERY);
    for number in 0..COUNT {
        // Under a rejection a sender is told of what became of an earlier one, in place of sending.
        for (from, to) in [(&device, &peer), (&peer, &device)] {
            assert!((0..10).any(|_| from.send(to, number).is_ok()), "packet {number} cannot be sent");
        }
        beat.wait();
    }
    let counters = Direction::ALL.map(|direction| {
        let counter = || agent.counter("agree", &target, direction);
        let all = || (counter().seen() == u64::from(COUNT)).then(counter);
        eventually(all, || format!("{direction:?} of {COUNT} under {faults}: {:?}", counter()))
    });
    let mut ways =
        counters.map(|counter| Way { sent: BTreeMap::new(), came: Vec::new(), answers: 0, counter });
    let is_complete = || {
        for (own, capture) in captures.iter().enumerate() {
            capture.frames().into_iter().for_each(|frame| sort(&mut ways, own, frame));
        }
        let has_all = |way: &Way| {
            let due = u64::from(COUNT) + way.effect(Effect::Duplicate) - way.dropped();
            way.sent.len() == COUNT as usize && way.came.len() as u64 >= due
        };
        ways.iter().all(has_all).then_some(())
    };
    eventually(is_complete, || format!("what passed has not arrived under {faults}: {counters:?}"));
    ways
}

/// Puts a frame of a capture where it belongs: `own` is the direction of what leaves there.
fn sort(ways: &mut [Way; 2], own: usize, frame: Frame) {
    if frame.bytes.len() < ETHERNET + 40 {
        return;
    }
    if is_refusal(&frame) {
        ways[own].answers += usize::from(!frame.is_outgoing);
        return;
    }
    let Some(number) = number(&frame) else { return };
    if frame.is_outgoing {
        ways[own].sent.insert(number, frame);
    } else {
        ways[1 - own].came.push((number, frame));
    }
}

/// Runs faults in both families and looks at both directions.
fn agrees(faults: &Value, more: impl Fn(&Way, &str)) {
    let stage = Stage::new();
    let mut agent = Agent::start(&stage.node, Hooks::Tcx);
    for family in Family::BOTH {
        for (way, direction) in exchange(&stage, &mut agent, faults, family).iter().zip(Direction::ALL) {
            let what = format!("{faults} {family:?} {direction:?}");
            // What may be corrupted has passed the splitter, which finishes checksums.
            way.agrees(&what, faults.get("corrupt").is_some());
            more(way, &what);
        }
        assert_eq!(agent.line.dropped(), 0, "packets lost in the line");
    }
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn captures_agree_with_the_counters_under_a_partition_silent_or_answered() {
    for (mode, answers) in [("Drop", 0), ("Reject", COUNT)] {
        agrees(&json!({"partition": {"mode": mode}}), |way, what| {
            assert_eq!((way.dropped(), way.answers), (u64::from(COUNT), answers as usize), "{what}");
        });
    }
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn captures_agree_with_the_counters_under_corrupt() {
    agrees(&json!({"corrupt": {"percent": "30%"}}), |way, what| {
        assert!((200..400).contains(&way.effect(Effect::Corrupt)), "{what}: {:?}", way.counter);
    });
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn captures_agree_with_the_counters_under_duplicate() {
    agrees(&json!({"duplicate": {"percent": "30%"}}), |way, what| {
        assert!((200..400).contains(&way.effect(Effect::Duplicate)), "{what}: {:?}", way.counter);
    });
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn captures_agree_with_the_counters_under_delay() {
    agrees(&json!({"delay": {"time": "100ms", "jitter": "20ms", "distribution": "Uniform"}}), |way, what| {
        assert_eq!(way.effect(Effect::Delay), u64::from(COUNT), "{what}");
        assert_eq!(way.later_than(ms(80)), u64::from(COUNT), "{what}");
    });
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn captures_agree_with_the_counters_under_reorder() {
    // No machine is so busy that another packet takes half a second.
    agrees(&json!({"reorder": {"percent": "10%", "by": "500ms"}}), |way, what| {
        let late = way.effect(Effect::Reorder);
        assert!((50..150).contains(&late), "{what}: {:?}", way.counter);
        assert_eq!(way.later_than(ms(500)), late, "{what}");
        let overtaken = way.came.windows(2).filter(|two| two[0].0 > two[1].0).count();
        assert!(overtaken > 0, "{what}: nobody was overtaken");
    });
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn captures_agree_with_the_counters_under_rate() {
    // A frame of 64 bytes and its headers has some 900 bits: 57 a second may pass, and thousands come, or hundreds on a busy machine that is
    // emulated.
    agrees(&json!({"rate": {"bitsPerSecond": "50k", "burst": "4Ki", "queue": "200ms"}}), |way, what| {
        assert!(
            way.effect(Effect::Rate) > 0 && way.effect(Effect::Overflow) > 0,
            "{what}: {:?}",
            way.counter
        );
        assert!(way.came.is_sorted_by_key(|(number, _)| *number), "{what}: nobody overtakes");
        let waited = way.came.len() as u64 - way.effect(Effect::Rate);
        assert!(waited >= 4096 / 128, "{what}: the burst passes at once");
    });
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn captures_agree_with_the_counters_under_all_that_packets_survive_at_once() {
    let faults = json!({
        "loss": {"percent": "10%"},
        "corrupt": {"percent": "10%"},
        "duplicate": {"percent": "10%"},
        "delay": {"time": "20ms", "jitter": "5ms"},
        "reorder": {"percent": "5%", "by": "50ms"},
    });
    agrees(&faults, |way, what| assert!(way.dropped() > 0, "{what}"));
}
