//! What a rate lets through, by the kernel's own clock: no more than the time that has gone by allows, and no less.

use fault_abi::counter::Counter;
use fault_abi::key::Direction;
use fault_abi::names::{TC_EGRESS_DISPATCH, TC_INGRESS_DISPATCH};
use fault_abi::rule::{CONFIG_HAS_LATER, Config, Phase};
use fault_abi::verdict::Effect;
use fault_rig::Rig;

use crate::stage::*;

/// So few that a packet takes four milliseconds: longer than this machine takes to offer the next one, also where it is emulated.
const BITS_A_SECOND: u64 = 200_000;
const BURST_NS: u64 = 100_000_000;
/// How long packets are offered.
const OFFERED_NS: u64 = 500_000_000;
/// Packets between two looks at the clock.
const AT_A_TIME: u32 = 200;

/// Asks for much more than the rate lets through, all the time.
struct Offer {
    rig: Rig,
    hook: &'static str,
    direction: Direction,
    frame: Vec<u8>,
}

impl Offer {
    fn new(hook: &'static str, direction: Direction, queue_ns: u64) -> Self {
        let phase = Phase { rate: BITS_A_SECOND, burst_ns: BURST_NS, queue_ns, ..Phase::default() };
        let mut rig = rig_with(&[rule_of(phase)]);
        rig.line(&roomy_line()).unwrap();
        rig.config(&Config { flags: CONFIG_HAS_LATER, ..Config::default() }).unwrap();
        let frame = match direction {
            Direction::FromDevice => from_device().bytes(),
            Direction::ToDevice => from_device().reversed().bytes(),
        };
        Self { rig, hook, direction, frame }
    }

    /// How long a packet takes at the rate.
    fn cost_ns(&self) -> u64 {
        self.frame.len() as u64 * 8_000_000_000 / BITS_A_SECOND
    }

    fn send(&mut self, packets: u32) -> Counter {
        self.rig.run(self.hook, &self.frame, packets).unwrap();
        self.rig.counter(0, self.direction).unwrap()
    }

    /// Offers packets until the kernel's clock shows this time or a later one, and then one by one until one is refused: at that moment there
    /// are no tokens for a packet left over. Returns what was counted by then, and for how long nobody came for longer than `room_ns`, so
    /// that the bucket ran over.
    fn until_refused(&mut self, end_ns: u64, room_ns: u64) -> (Counter, u64) {
        let mut last = self.rig.counter(0, self.direction).unwrap();
        let mut lost_ns = 0;
        loop {
            let is_over = last.last_seen_ns >= end_ns;
            let now = self.send(if is_over { 1 } else { AT_A_TIME });
            lost_ns += (now.last_seen_ns - last.last_seen_ns).saturating_sub(room_ns);
            let refused = [now, last].map(|counter| counter.effects[Effect::Overflow as usize]);
            last = now;
            if is_over && refused[0] > refused[1] {
                return (last, lost_ns);
            }
        }
    }
}

fn let_through(counter: &Counter) -> u64 {
    counter.seen() - counter.effects[Effect::Overflow as usize]
}

/// From one refused packet to another tokens are given out as they come in, since there is always somebody who takes them: what was let
/// through is worth the time that has gone by, to a packet. Where nobody came for longer than bucket and queue last, because this machine
/// stood still, what then ran over is lost.
fn tokens_are_given_out_as_they_come_in(hook: &'static str, direction: Direction, queue_ns: u64) {
    let mut offer = Offer::new(hook, direction, queue_ns);
    let (cost_ns, room_ns) = (offer.cost_ns(), BURST_NS + queue_ns);
    let first_ns = offer.send(1).last_seen_ns;
    let (begin, _) = offer.until_refused(first_ns, room_ns);
    let (end, lost_ns) = offer.until_refused(begin.last_seen_ns + OFFERED_NS, room_ns);
    let elapsed_ns = end.last_seen_ns - begin.last_seen_ns;
    let given_ns = (let_through(&end) - let_through(&begin)) * cost_ns;
    let story =
        format!("{hook}, a queue of {queue_ns} ns: {given_ns} ns given out in {elapsed_ns}, {lost_ns} lost");
    println!("{story}: {} of {} packets", let_through(&end), end.seen());
    assert!(given_ns <= elapsed_ns + cost_ns, "{story}");
    assert!(given_ns + cost_ns + lost_ns >= elapsed_ns, "{story}");
    // Beside that there was the full bucket, and the queue.
    let in_all_ns = let_through(&end) * cost_ns;
    assert!(in_all_ns <= end.last_seen_ns - first_ns + room_ns, "{story}: {in_all_ns} ns in all");
    assert!(let_through(&begin) * cost_ns + cost_ns >= room_ns, "{story}: the bucket was full");
    assert!(end.seen() > 2 * let_through(&end), "{story}: too little was offered to show anything");
    let waited = end.effects[Effect::Rate as usize];
    assert_eq!(waited > 0, queue_ns > 0, "{story}: {waited} waited");
}

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn a_rate_gives_out_all_of_its_tokens_and_no_more_to_those_who_do_not_wait() {
    for (hook, direction) in
        [(TC_INGRESS_DISPATCH, Direction::FromDevice), (TC_EGRESS_DISPATCH, Direction::ToDevice)]
    {
        tokens_are_given_out_as_they_come_in(hook, direction, 0);
    }
}

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn a_rate_gives_out_all_of_its_tokens_and_no_more_to_those_who_wait_for_theirs() {
    for (hook, direction) in
        [(TC_INGRESS_DISPATCH, Direction::FromDevice), (TC_EGRESS_DISPATCH, Direction::ToDevice)]
    {
        tokens_are_given_out_as_they_come_in(hook, direction, 150_000_000);
    }
}
