//! What happens to packets that are not lost: delay, reorder, rate, duplicate and corrupt, as both ends see it.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use fault_abi::counter::{Counter, Global};
use fault_abi::key::Direction;
use fault_abi::lead;
use fault_abi::line::Held;
use fault_abi::verdict::Effect;
use serde_json::{Value, json};

use crate::support::agent::{Agent, Holds, Hooks};
use crate::support::behind::{MARK, Shooter};
use crate::support::capture::Capture;
use crate::support::engines::for_each_engine;
use crate::support::fault::Fault;
use crate::support::stage::{ETH, Family, Stage, TO_DEVICE, TO_PEER};
use crate::support::time::{Beat, boot_ns, eventually, ms, wall};
use crate::support::traffic::End;

/// Packets of a story, each way.
pub(crate) const COUNT: u32 = 400;

/// Whether a packet was held for so long, as exactly as the line does it: the queue `fq` sends each off some microseconds before its time,
/// and one may be faster behind it than all before.
pub(crate) const fn is_held(took_ns: u64, delay_ns: u64) -> bool {
    took_ns + lead::MOST_NS >= delay_ns
}

/// A packet is sent so often.
const EVERY: Duration = Duration::from_micros(200);

for_each_engine! {
    a_delay_holds_every_packet_so_long_and_keeps_their_order,
    a_reordered_packet_comes_behind_those_sent_after_it_and_no_other_waits_for_it,
    in_one_flow_with_two_very_different_delays_none_waits_for_another,
    each_packet_comes_twice_under_a_duplicate_of_all_and_the_second_has_a_delay_of_its_own,
    a_rate_lets_its_burst_pass_makes_the_rest_wait_and_drops_what_would_wait_for_too_long,
    captures_at_both_ends_agree_with_what_was_counted_under_delay_and_duplicate,
    frames_of_9000_bytes_go_through_the_line_whole,
    a_mark_survives_line_and_splitter_and_a_program_behind_ours_on_tcx_decides_by_it,
    the_time_of_arrival_that_a_receiver_sees_is_that_behind_the_delay,
}

/// When each packet was sent and when it came, by number.
pub(crate) struct Trip {
    sent_ns: BTreeMap<u32, u64>,
    /// In the order in which they came.
    pub(crate) came: Vec<(u32, u64)>,
    counter: Counter,
}

impl Trip {
    pub(crate) fn effect(&self, effect: Effect) -> u64 {
        self.counter.effects[effect as usize]
    }

    /// How long each took, in nanoseconds.
    pub(crate) fn took_ns(&self) -> Vec<u64> {
        self.came.iter().map(|(number, at)| at - self.sent_ns[number]).collect()
    }
}

/// A node with an agent between a device and a peer.
pub(crate) struct Scene {
    pub(crate) stage: Stage,
    agent: Agent,
    /// Packets of a trip.
    count: u32,
    /// Time between two of them.
    every: Duration,
}

impl Scene {
    fn new(hooks: Hooks, holds: Holds) -> Self {
        Self::on(Stage::new(), hooks, holds)
    }

    /// The same on any stage.
    pub(crate) fn on(stage: Stage, hooks: Hooks, holds: Holds) -> Self {
        stage.ends_meet();
        let agent = Agent::start(&stage.node, (hooks, holds));
        Self { stage, agent, count: COUNT, every: EVERY }
    }

    /// Sends numbered packets one way under these faults, and waits for `expected` to come.
    pub(crate) fn trip(
        &mut self,
        faults: Value,
        direction: Direction,
        family: Family,
        expected: Option<u32>,
    ) -> Trip {
        let target = family.host(1, 2);
        self.agent.set(&[]);
        self.agent.set(&[Fault::new("later", faults).on(std::slice::from_ref(&target))]);
        let (device, peer) = (self.stage.device_end(family), self.stage.peer_end(family));
        let (from, to) = match direction {
            Direction::FromDevice => (&device, &peer),
            Direction::ToDevice => (&peer, &device),
        };
        let (mut sent_ns, mut came, mut beat) = (BTreeMap::new(), Vec::new(), Beat::new(self.every));
        for number in 0..self.count {
            sent_ns.insert(number, boot_ns());
            from.send(to, number).unwrap();
            arrivals(to, &mut came);
            beat.wait();
        }
        let counter = || self.agent.counter("later", &target, direction);
        eventually(
            || (counter().seen() == u64::from(self.count)).then_some(()),
            || format!("{:?}", counter()),
        );
        let agreed = || {
            let effects = counter().effects;
            let dropped = effects[Effect::Overflow as usize] + effects[Effect::LineFull as usize];
            u64::from(self.count) + effects[Effect::Duplicate as usize] - dropped
        };
        // A packet's effects are counted a moment after it was seen: what is to come is asked anew each time.
        let expected = || expected.map_or_else(agreed, u64::from);
        let so_far = Cell::new(0);
        let all = || {
            arrivals(to, &mut came);
            so_far.set(came.len() as u64);
            (so_far.get() == expected()).then_some(())
        };
        eventually(all, || {
            let (so_far, expected, dropped) = (so_far.get(), expected(), self.agent.line.dropped());
            format!("{so_far} of {expected} packets came, the line dropped {dropped}; {:?}", counter())
        });
        for what in [Global::Stray, Global::LineFull, Global::EngineStalled, Global::Orphaned] {
            assert_eq!(self.agent.global(what), 0, "{what:?}");
        }
        let refused = self.agent.global(Global::LineRefused);
        assert_eq!(
            self.agent.line.dropped(),
            0,
            "packets lost in the line, {refused} of them on the way into it"
        );
        let held = || self.agent.line.held().unwrap().unwrap();
        eventually(
            || (held() == Held::default()).then_some(()),
            || format!("the line still has {:?}", held()),
        );
        arrivals(to, &mut came);
        assert_eq!(came.len() as u64, expected(), "one came that nobody expected: {:?}", counter());
        self.tell_lateness();
        Trip { sent_ns, came, counter: counter() }
    }

    fn tell_lateness(&self) {
        let late = self.agent.line.late().unwrap().unwrap().figures;
        let of = |per_mille| late.quantile(per_mille).unwrap_or_default() / 1_000;
        let [half, ninety, most] = [500, 900, 990].map(of);
        println!(
            "{:?}: {} packets left {half} µs late (p50), {ninety} (p90), {most} (p99)",
            self.agent.line.kind(),
            late.count()
        );
    }
}

/// What has come, with the time at which it was taken: late by as much as this looks seldom.
fn arrivals(end: &End, came: &mut Vec<(u32, u64)>) {
    let numbers = end.take();
    let now = boot_ns();
    came.extend(numbers.into_iter().map(|number| (number, now)));
}

fn a_delay_holds_every_packet_so_long_and_keeps_their_order(holds: Holds) {
    // Which hook it is makes no difference to the line, and loading takes long where a machine is emulated.
    let all = [Hooks::Tcx, Hooks::XdpNative, Hooks::Clsact];
    for hooks in all.into_iter().take(if holds == Holds::Fq { 1 } else { all.len() }) {
        let mut scene = Scene::new(hooks, holds);
        for (family, direction) in
            Family::BOTH.into_iter().flat_map(|family| Direction::ALL.map(|direction| (family, direction)))
        {
            let trip = scene.trip(json!({"delay": {"time": "30ms"}}), direction, family, None);
            assert!(
                trip.took_ns().iter().all(|ns| is_held(*ns, ms(30))),
                "{hooks:?} {family:?} {direction:?}"
            );
            assert!(trip.came.iter().map(|(number, _)| *number).eq(0..COUNT), "the order");
            assert_eq!(trip.effect(Effect::Delay), u64::from(COUNT));
            assert_eq!(trip.counter.delay_ns, u64::from(COUNT) * ms(30));
        }
    }
}

fn a_reordered_packet_comes_behind_those_sent_after_it_and_no_other_waits_for_it(holds: Holds) {
    let mut scene = Scene::new(Hooks::Tcx, holds);
    let faults = json!({"delay": {"time": "5ms"}, "reorder": {"percent": "10%", "by": "60ms"}});
    let trip = scene.trip(faults, Direction::FromDevice, Family::V4, None);
    let late = trip.took_ns().iter().filter(|ns| is_held(**ns, ms(65))).count() as u64;
    assert!(trip.effect(Effect::Reorder) > 0);
    assert!(late >= trip.effect(Effect::Reorder));
    let in_order = trip.came.is_sorted_by_key(|(number, _)| *number);
    assert!(!in_order, "some came behind those that were sent after them");
}

/// A queue that looks at the head of a flow alone would hold up those behind a late one: of 50 packets a second ten in 200 ms,
/// and five of them for longer than 100 ms. Machines that stand still hold up some, too, but not so many.
fn in_one_flow_with_two_very_different_delays_none_waits_for_another(holds: Holds) {
    let mut scene = Scene::new(Hooks::Tcx, holds);
    let faults = json!({"delay": {"time": "10ms"}, "reorder": {"percent": "5%", "by": "200ms"}});
    (scene.count, scene.every) = (150, Duration::from_millis(20));
    let trip = scene.trip(faults, Direction::FromDevice, Family::V4, None);
    let took = trip.took_ns();
    let longer_than = |limit| took.iter().filter(|ns| is_held(**ns, limit)).count() as u64;
    let reordered = trip.effect(Effect::Reorder);
    assert!(longer_than(ms(10)) == 150 && longer_than(ms(210)) >= reordered && reordered > 0, "{took:?}");
    assert!(longer_than(ms(110)) < 3 * reordered, "{reordered} were reordered: {took:?}");
}

fn each_packet_comes_twice_under_a_duplicate_of_all_and_the_second_has_a_delay_of_its_own(holds: Holds) {
    let mut scene = Scene::new(Hooks::Tcx, holds);
    for direction in Direction::ALL {
        let plain = scene.trip(json!({"duplicate": {"percent": "100%"}}), direction, Family::V6, None);
        assert_eq!(plain.effect(Effect::Duplicate), u64::from(COUNT));
        let faults = json!({"duplicate": {"percent": "50%"}, "delay": {"time": "20ms", "jitter": "5ms"}});
        let both = scene.trip(faults, direction, Family::V4, None);
        assert_eq!(both.effect(Effect::Delay), u64::from(COUNT) + both.effect(Effect::Duplicate));
    }
}

fn a_rate_lets_its_burst_pass_makes_the_rest_wait_and_drops_what_would_wait_for_too_long(holds: Holds) {
    let mut scene = Scene::new(Hooks::Tcx, holds);
    // Frames of 106 bytes (64 and headers), of 848 bits each: one in 34 ms, which a busy machine that is emulated sends faster, too.
    let faults = json!({"rate": {"bitsPerSecond": "25k", "burst": "2120", "queue": "400ms"}});
    let trip = scene.trip(faults, Direction::ToDevice, Family::V4, None);
    let (waited, dropped) = (trip.effect(Effect::Rate), trip.effect(Effect::Overflow));
    assert!(dropped > 0 && waited > 0, "{waited} waited, {dropped} were dropped");
    assert_eq!(trip.came.len() as u64, u64::from(COUNT) - dropped);
    assert!(trip.came.is_sorted_by_key(|(number, _)| *number), "nobody overtakes");
    // What came within any time is no more than the bucket and what the rate filled in.
    let first_sent = trip.sent_ns[&0];
    for (i, (_, at)) in (1_u64..).zip(&trip.came) {
        let allowed = 20.0 + (at - first_sent) as f64 / 33_920_000.0 + 1.0;
        assert!(i as f64 <= allowed, "{i} packets after {} ns", at - first_sent);
    }
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn corrupted_packets_reach_the_receivers_stack_and_are_counted_there_as_wrong_checksums() {
    let mut scene = Scene::new(Hooks::Tcx, Holds::Best);
    flipped_bits_are_wrong_checksums(&mut scene);
}

/// Every packet has a bit flipped, of both families and both ways, and the receiver's stack counts it as a wrong checksum.
pub(crate) fn flipped_bits_are_wrong_checksums(scene: &mut Scene) {
    for (family, direction) in
        Family::BOTH.into_iter().flat_map(|family| Direction::ALL.map(|direction| (family, direction)))
    {
        let errors = |scene: &Scene| match direction {
            Direction::FromDevice => checksum_errors(&scene.stage.peer, family),
            Direction::ToDevice => checksum_errors(&scene.stage.device, family),
        };
        let before = errors(scene);
        let trip = scene.trip(json!({"corrupt": {"percent": "100%"}}), direction, family, Some(0));
        assert_eq!(trip.effect(Effect::Corrupt), u64::from(COUNT));
        let all = || (errors(scene) == before + u64::from(COUNT)).then_some(());
        let state = || format!("{} wrong checksums {family:?} {direction:?}", errors(scene) - before);
        eventually(all, state);
    }
}

/// How many UDP packets of this family had a wrong checksum in a namespace.
pub(crate) fn checksum_errors(space: &crate::support::space::Namespace, family: Family) -> u64 {
    let name = if family == Family::V4 { "snmp" } else { "snmp6" };
    let path = format!("/proc/thread-self/net/{name}");
    let table = space.run(|| std::fs::read_to_string(path)).unwrap();
    if family == Family::V6 {
        let value = table.lines().find_map(|line| line.strip_prefix("Udp6InCsumErrors"));
        return value.unwrap().trim().parse().unwrap();
    }
    let mut lines = table.lines().filter(|line| line.starts_with("Udp:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let at = names.split_whitespace().position(|name| name == "InCsumErrors").unwrap();
    values.split_whitespace().nth(at).unwrap().parse().unwrap()
}

fn captures_at_both_ends_agree_with_what_was_counted_under_delay_and_duplicate(holds: Holds) {
    let mut scene = Scene::new(Hooks::Tcx, holds);
    let (mut at_device, mut at_peer) =
        (Capture::new(&scene.stage.device, ETH), Capture::new(&scene.stage.peer, ETH));
    let faults = json!({"duplicate": {"percent": "20%"}, "delay": {"time": "10ms"}});
    let trip = scene.trip(faults, Direction::FromDevice, Family::V4, None);
    let duplicates = trip.effect(Effect::Duplicate);
    at_device.look();
    let all = || {
        at_peer.look();
        (at_peer.received.len() as u64 + u64::from(at_peer.repeated) == u64::from(COUNT) + duplicates)
            .then_some(())
    };
    eventually(all, || format!("{duplicates} duplicates are not all there"));
    assert_eq!((at_device.sent.len(), at_device.repeated), (COUNT as usize, 0));
    assert_eq!(u64::from(at_peer.repeated), duplicates);
    assert_eq!(at_peer.received, at_device.sent, "the same packets, as long as they were");
}

/// Jumbo frames, and none of them in the linear part of its packet alone.
fn frames_of_9000_bytes_go_through_the_line_whole(holds: Holds) {
    const LENGTH: usize = 8_900;
    let mut scene = Scene::new(Hooks::Tcx, holds);
    scene.stage.node.ip(&format!("link set {TO_DEVICE} mtu 9000\nlink set {TO_PEER} mtu 9000\n"));
    for space in [&scene.stage.device, &scene.stage.peer] {
        space.ip(&format!("link set {ETH} mtu 9000\n"));
    }
    let target = Family::V4.host(1, 2);
    scene.agent.set(&[Fault::new("later", json!({"delay": {"time": "5ms"}})).on(&[target])]);
    let (device, peer) = (scene.stage.device_end(Family::V4), scene.stage.peer_end(Family::V4));
    for (from, to) in [(&device, &peer), (&peer, &device)] {
        let mut came = Vec::new();
        for number in 0..50 {
            from.send_long(to, number, LENGTH).unwrap();
            came.extend(to.take());
        }
        let all = || {
            came.extend(to.take());
            (came.len() == 50).then_some(())
        };
        eventually(all, || format!("{:?} and no more came", scene.agent.global(Global::Stray)));
    }
    for direction in Direction::ALL {
        let counter = scene.agent.total(direction);
        assert_eq!(counter.effects[Effect::Delay as usize], 50, "{direction:?}: none in fragments");
    }
}

/// `skb->mark` is kube-proxy's and others': it comes out of line and splitter as it went in.
fn a_mark_survives_line_and_splitter_and_a_program_behind_ours_on_tcx_decides_by_it(holds: Holds) {
    let stage = Stage::new();
    let _behind = Shooter::by_mark(&stage.node, TO_DEVICE, Direction::ToDevice);
    let mut agent = Agent::start(&stage.node, (Hooks::Tcx, holds));
    // So seldom that it never happens here; but each packet passes the splitter.
    let all = [json!({"delay": {"time": "5ms"}}), json!({"corrupt": {"percent": "0.0001%"}})];
    for (family, faults) in
        Family::BOTH.into_iter().flat_map(|family| all.iter().map(move |one| (family, one)))
    {
        let target = family.host(1, 2);
        agent.set(&[]);
        agent.set(&[Fault::new("later", faults.clone()).on(std::slice::from_ref(&target))]);
        let device = stage.device_end(family);
        let node = End::new(&stage.node, SocketAddr::new(family.ip(1, 1), 0));
        node.mark(MARK);
        for number in 0..50 {
            node.send(&device, number).unwrap();
        }
        node.mark(0);
        for number in 50..100 {
            node.send(&device, number).unwrap();
        }
        let mut came = Vec::new();
        let all = || {
            came.extend(device.take());
            (came.len() >= 50).then_some(())
        };
        eventually(all, || format!("{family:?}: packets without a mark are missing under {faults}"));
        came.sort_unstable();
        assert!(came.iter().copied().eq(50..100), "{family:?}, {faults}: {came:?}");
        let seen = agent.counter("later", &target, Direction::ToDevice).seen();
        assert_eq!(seen, 100, "{family:?}, {faults}: those with a mark were decided on, too");
    }
}

/// `ping` says "time of day goes back" where a packet brings the time along at which it was to leave. On the node a packet that comes in is
/// received as the line has left it; in another namespace it has crossed a wire before.
fn the_time_of_arrival_that_a_receiver_sees_is_that_behind_the_delay(holds: Holds) {
    let stage = Stage::new();
    let mut agent = Agent::start(&stage.node, (Hooks::Tcx, holds));
    for family in Family::BOTH {
        let target = family.host(1, 2);
        agent.set(&[]);
        agent.set(&[Fault::new("later", json!({"delay": {"time": "30ms"}})).on(&[target])]);
        let (device, peer) = (stage.device_end(family), stage.peer_end(family));
        let node = End::new(&stage.node, SocketAddr::new(family.ip(1, 1), 0));
        for (story, from, to) in [
            ("from the device to the node", &device, &node),
            ("from the node to the device", &node, &device),
            ("from the device to the peer", &device, &peer),
            ("from the peer to the device", &peer, &device),
        ] {
            let times = to.times_of_arrival();
            let before = wall();
            from.send(to, 0).unwrap();
            let arrived = eventually(times, || format!("{family:?}: the packet {story} has not come"));
            let after = wall();
            let took = arrived.duration_since(before).unwrap();
            let is_late = is_held(u64::try_from(took.as_nanos()).unwrap(), ms(30));
            assert!(is_late, "{family:?}, {story}: {arrived:?}, sent at {before:?}");
            assert!(arrived <= after, "{family:?}, {story}: {arrived:?}, taken at {after:?}");
        }
    }
}
