//! In a machine in qemu whose clock counts instructions: what the kernel and the agent execute for a packet and for a byte, and how
//! exactly a delay is kept, beside bare interfaces and beside `tc netem`. Nothing there varies with what else the host does.

use std::process::Command;
use std::time::{Duration, SystemTime};

use chaos_agent::args::EngineChoice;
use fault_abi::key::Direction;
use fault_abi::verdict::{Effect, Verdict};
use fault_rig::figures::{Aim, Figure, Report};
use serde_json::json;

use crate::measure::{Stream, float, median, quantile};
use crate::soak::{Soak, ticks_of_an_instruction};
use crate::speed::{self, Wires};
use crate::support::agent::{Agent, Hooks, Start};
use crate::support::fault::Fault;
use crate::support::space::Namespace;
use crate::support::stage::{Family, Stage, TO_DEVICE};
use crate::support::time::{Beat, wall};
use crate::support::traffic::End;

/// How much is measured.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) engine: EngineChoice,
    /// Rounds through all cases.
    pub(crate) rounds: u32,
    /// Datagrams of a case in a round.
    pub(crate) packets: u32,
    /// Datagrams of a case in a round, each of which is alone under way.
    pub(crate) apart: u32,
    /// Bytes by TCP of a case in a round.
    pub(crate) bytes: u64,
}

/// Some minutes, emulated.
pub(crate) const WHOLE: Plan =
    Plan { engine: EngineChoice::Auto, rounds: 3, packets: 2_000, apart: 300, bytes: 64 << 20 };

/// Between two datagrams: 10,000 a second with what it takes to send one. Never the same twice in a row: of packets on a beat that
/// their delay is a multiple of, each would be due at the same moment of another's way, which is then all that is measured.
fn pause(number: u32) -> Beat {
    Beat::new(Duration::from_micros(u64::from(24 + number * 37 % 80)))
}

/// The same, so long that a packet has left the line before the next one comes: none waits for what the processor does for another.
fn apart(number: u32) -> Beat {
    Beat::new(DELAY + Duration::from_micros(u64::from(500 + number * 37 % 80)))
}

/// What datagrams come to.
const A_SECOND: u32 = 10_000;
/// What packets are delayed by.
const DELAY: Duration = Duration::from_millis(5);
/// What the project wants of TCP with the agent attached and no match, as a ratio to bare.
const AIM_TCP: f64 = 1.02;

/// Who does what to the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    Bare,
    Unmatched,
    NetemLoss,
    Loss,
    NetemDelay,
    Delay,
}

impl Case {
    const ALL: [Self; 6] =
        [Self::Bare, Self::Unmatched, Self::NetemLoss, Self::Loss, Self::NetemDelay, Self::Delay];

    const fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Unmatched => "hooks, no match",
            Self::NetemLoss => "tc netem, 20 % loss",
            Self::Loss => "20 % loss",
            Self::NetemDelay => "tc netem, 5 ms delay",
            Self::Delay => "5 ms delay",
        }
    }

    const fn netem(self) -> Option<&'static [&'static str]> {
        match self {
            Self::NetemLoss => Some(&["loss", "20%"]),
            Self::NetemDelay => Some(&["delay", "5ms", "limit", "100000"]),
            _ => None,
        }
    }

    fn fault(self) -> Option<Fault> {
        let [here, elsewhere] = [2, 3].map(|host| [Family::V4.host(1, host)]);
        let fault = match self {
            Self::Bare | Self::NetemLoss | Self::NetemDelay => return None,
            Self::Unmatched => Fault::partition().on(&elsewhere),
            Self::Loss => Fault::loss("20%").on(&here),
            Self::Delay => Fault::new("delay", json!({"delay": {"time": "5ms"}})).on(&here),
        };
        Some(fault.direction("ToDevice"))
    }

    const fn is_late(self) -> bool {
        matches!(self, Self::NetemDelay | Self::Delay)
    }
}

/// What happens to bytes by TCP, and what that is called there: those in step beside the first, those under delay beside netem's.
const STREAMS: [(Case, &str); 5] = [
    (Case::Bare, "bare"),
    (Case::Unmatched, "hooks, no match"),
    (Case::Loss, "hit, no loss, by the splitter"),
    (Case::NetemDelay, "tc netem, 5 ms delay"),
    (Case::Delay, "5 ms delay"),
];

/// What came of a run of datagrams.
struct Run {
    /// Instructions of all but the thread that soaks up the rest.
    instructions: u64,
    /// How long each that arrived was under way, in nanoseconds.
    under_way: Vec<u64>,
}

/// Figures of a case, a value for each round.
#[derive(Default)]
struct Sums {
    instructions: Vec<u64>,
    under_way: Vec<u64>,
    /// Of those that were alone.
    alone: Vec<u64>,
}

/// A machine with one processor, two sets of wires, and an agent at one of them.
struct World {
    bare: Stage,
    ours: Stage,
    agent: Agent,
    soak: Soak,
}

/// Measures.
pub(crate) fn measure(plan: &Plan) -> Report {
    let (bare, ours) = (Stage::new(), Stage::new());
    let start = Start { engine: plan.engine, ..Start::from(Hooks::Tcx) };
    let agent = Agent::start(&ours.node, start);
    let mut world = World { bare, ours, agent, soak: Soak::start() };
    let mut sums: [Sums; Case::ALL.len()] = Default::default();
    let (mut idle, mut tcp): (Vec<u64>, [Vec<u64>; STREAMS.len()]) = Default::default();
    for round in 0..plan.rounds {
        for (case, sums) in Case::ALL.into_iter().zip(&mut sums) {
            eprintln!("round {} of {}: {}", round + 1, plan.rounds, case.name());
            let Run { instructions, under_way } = world.datagrams(case, plan.packets, pause);
            sums.instructions.push(instructions);
            sums.under_way.extend(under_way);
            if case == Case::Bare || case.is_late() {
                sums.alone.extend(world.datagrams(case, plan.apart, apart).under_way);
            }
        }
        idle.push(world.idle(plan.packets));
        for ((case, name), instructions) in STREAMS.into_iter().zip(&mut tcp) {
            eprintln!("round {} of {}: TCP, {name}", round + 1, plan.rounds);
            instructions.push(world.stream(case, plan.bytes));
        }
    }
    let mut report = report(plan, &world, median(&idle), &sums, &tcp);
    // Where nobody counts, the clock may jump.
    let World { bare, ours, mut agent, soak } = world;
    drop(soak);
    let wires = Wires { bare: &bare, ours: &ours, agent: &mut agent };
    speed::add(&mut report, wires, plan.rounds, 2 * plan.bytes);
    report
}

impl World {
    fn stage(&self, case: Case) -> &Stage {
        if case.fault().is_some() { &self.ours } else { &self.bare }
    }

    /// Steady datagrams from peer to device.
    fn datagrams(&mut self, case: Case, packets: u32, pause: fn(u32) -> Beat) -> Run {
        if let Some(fault) = case.fault() {
            self.agent.set(&[fault]);
        }
        let stage = self.stage(case);
        let _netem = case.netem().map(|what| Netem::new(&stage.node, what));
        let (peer, device) = (stage.peer_end(Family::V4), stage.device_end(Family::V4));
        let mut times = device.times_of_arrival();
        // Neighbours, and whatever is made at its first use.
        send(&peer, &device, 20, pause);
        Beat::new(DELAY * 2).wait();
        while times().is_some() {}
        let before = self.soak.others();
        let sent = send(&peer, &device, packets, pause);
        Beat::new(DELAY * 2).wait();
        let instructions = self.soak.others() - before;
        let arrived: Vec<SystemTime> = std::iter::from_fn(times).collect();
        self.check(case, packets, arrived.len());
        // Packets keep their order; where some are lost nobody asks.
        let under_way = sent.iter().zip(&arrived).filter(|_| sent.len() == arrived.len());
        let nanoseconds = |(sent, arrived): (&SystemTime, &SystemTime)| {
            u64::try_from(arrived.duration_since(*sent).unwrap().as_nanos()).unwrap()
        };
        Run { instructions, under_way: under_way.map(nanoseconds).collect() }
    }

    /// The same time and the same waits without packets.
    fn idle(&self, packets: u32) -> u64 {
        let before = self.soak.others();
        (0..packets).for_each(|number| pause(number).wait());
        Beat::new(DELAY * 2).wait();
        self.soak.others() - before
    }

    /// Bytes by TCP.
    fn stream(&mut self, case: Case, bytes: u64) -> u64 {
        match case {
            // Each packet is decided on for itself, and in all runs together not one is lost.
            Case::Loss => self.agent.set(&[Fault::loss("0.0001%").on(&[Family::V4.host(1, 2)])]),
            _ => self.agent.set(&case.fault().into_iter().collect::<Vec<_>>()),
        }
        let stage = self.stage(case);
        let _netem = case.netem().map(|what| Netem::new(&stage.node, what));
        let mut stream = Stream::open(&stage.peer, (&stage.device, Family::V4.ip(1, 2)));
        let send = if case.is_late() { Stream::flow } else { Stream::in_step };
        send(&mut stream, bytes / 8);
        let before = self.soak.others();
        send(&mut stream, bytes);
        self.soak.others() - before
    }

    /// A case that measured something else than it says is worse than none.
    fn check(&self, case: Case, packets: u32, arrived: usize) {
        let arrived = u32::try_from(arrived).unwrap();
        let counter = self.agent.total(Direction::ToDevice);
        let (all, some) = (arrived == packets, packets / 10..packets * 95 / 100);
        let is_so = match case {
            Case::Bare | Case::Unmatched | Case::NetemDelay => all,
            Case::NetemLoss => some.contains(&arrived),
            Case::Loss => some.contains(&arrived) && counter.packets[Verdict::Loss as usize] > 0,
            Case::Delay => all && counter.effects[Effect::Delay as usize] >= u64::from(packets),
        };
        assert!(is_so, "{case:?}: {arrived} of {packets} arrived, {counter:?}");
    }
}

/// Sends with pauses, numbered from 0; returns when each was sent.
fn send(peer: &End, device: &End, packets: u32, pause: fn(u32) -> Beat) -> Vec<SystemTime> {
    let send = |number| {
        pause(number).wait();
        let at = wall();
        peer.send(device, number).unwrap();
        at
    };
    (0..packets).map(send).collect()
}

/// `tc netem` at an interface, until this is dropped.
pub(crate) struct Netem<'a> {
    space: &'a Namespace,
    interface: &'static str,
}

impl<'a> Netem<'a> {
    /// At the node's interface to the device.
    fn new(node: &'a Namespace, what: &[&str]) -> Self {
        Self::at(node, TO_DEVICE, what)
    }

    pub(crate) fn at(space: &'a Namespace, interface: &'static str, what: &[&str]) -> Self {
        let netem = Self { space, interface };
        netem.tc(&[&["add", "dev", interface, "root", "netem"], what].concat());
        netem
    }

    fn tc(&self, arguments: &[&str]) {
        let ran = self.space.run(|| Command::new("tc").arg("qdisc").args(arguments).output());
        let ran = ran.expect("iproute2 is needed");
        assert!(ran.status.success(), "tc qdisc {arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
    }
}

impl Drop for Netem<'_> {
    fn drop(&mut self) {
        self.tc(&["del", "dev", self.interface, "root"]);
    }
}

fn report(
    plan: &Plan,
    world: &World,
    idle: u64,
    sums: &[Sums; Case::ALL.len()],
    tcp: &[Vec<u64>; STREAMS.len()],
) -> Report {
    let engine = world.agent.line.kind().as_str();
    let method = format!(
        "qemu -icount, {:.2} ns an instruction, median of {} rounds of {} datagrams at some {}/s and {} MiB by TCP, delay line: {engine}",
        ticks_of_an_instruction(),
        plan.rounds,
        plan.packets,
        A_SECOND,
        plan.bytes >> 20
    );
    let mut report = Report::new(method).unwrap();
    stream_figures(&mut report, plan.bytes, tcp);
    let per_packet =
        |sums: &Sums| float(median(&sums.instructions).saturating_sub(idle)) / f64::from(plan.packets);
    let cases = || Case::ALL.into_iter().zip(sums);
    let cost =
        |wanted: Case| cases().find(|(case, _)| *case == wanted).map(|(_, sums)| per_packet(sums)).unwrap();
    let bare = cost(Case::Bare);
    for (case, sums) in cases() {
        let figure = Figure::alone("UDP", case.name(), per_packet(sums), "instructions/packet");
        report.figures.push(figure.beside(bare));
    }
    for (ours, netem) in [(Case::Loss, Case::NetemLoss), (Case::Delay, Case::NetemDelay)] {
        let figure = Figure::alone("beside tc netem", ours.name(), cost(ours), "instructions/packet");
        report.figures.push(figure.beside(cost(netem)));
    }
    delay_figures(&mut report, "delay error", sums, |sums| &sums.under_way);
    delay_figures(&mut report, "delay error of packets that are alone", sums, |sums| &sums.alone);
    report
}

fn stream_figures(report: &mut Report, bytes: u64, tcp: &[Vec<u64>; STREAMS.len()]) {
    let per_byte = |index: usize| float(median(&tcp[index])) / float(bytes);
    let first = |is_late| STREAMS.iter().position(|(case, _)| case.is_late() == is_late).unwrap();
    for (index, (case, name)) in STREAMS.into_iter().enumerate() {
        let group = if case.is_late() { "TCP under delay" } else { "TCP" };
        let figure = Figure::alone(group, name, per_byte(index), "instructions/byte");
        report.figures.push(figure.beside(per_byte(first(case.is_late()))));
    }
    let ratio = per_byte(1) / per_byte(0);
    report.aims.push(Aim::at_most("TCP: instructions a byte, hooks and no match ÷ bare", ratio, "", AIM_TCP));
}

/// How far from what was asked a delay is, beside the time that a packet takes anyway.
fn delay_figures(
    report: &mut Report,
    group: &str,
    sums: &[Sums; Case::ALL.len()],
    under_way: fn(&Sums) -> &Vec<u64>,
) {
    let usual = median(under_way(&sums[0]));
    let asked = u64::try_from(DELAY.as_nanos()).unwrap_or(u64::MAX);
    let errors =
        |sums: &Sums| -> Vec<u64> { under_way(sums).iter().map(|ns| ns.abs_diff(usual + asked)).collect() };
    let late: Vec<(Case, Vec<u64>)> = Case::ALL
        .into_iter()
        .zip(sums)
        .filter(|(case, _)| case.is_late())
        .map(|(case, sums)| (case, errors(sums)))
        .collect();
    for (word, per_mille) in [("p50", 500), ("p99", 990)] {
        let values: Vec<f64> =
            late.iter().map(|(_, errors)| float(quantile(errors, per_mille)) / 1e3).collect();
        for ((case, _), value) in late.iter().zip(&values) {
            let name = format!("{}, {word}", case.name());
            report.figures.push(Figure::alone(group, &name, *value, "µs").beside(values[0]));
        }
        let name = format!("{group}, {word}, ≤ netem's");
        report.aims.push(Aim::at_most(&name, values[1], "µs", values[0]));
    }
}
